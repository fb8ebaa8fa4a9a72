/* Entropy: random bytes for ids, without a system call in the common case.
 *
 * Each thread keeps a pool of random bytes, filled in blocks by getrandom(2)
 * and thrown away in the child of a fork, so that two processes never draw
 * from the same bytes.  What was given out is wiped from the pool.  Where a
 * sandbox forbids the kernel's sources the clock stands in for them: good
 * enough to tell ids apart, not for secrets.
 *
 * No Python.h; any thread, attached or not, no lock.  */
#ifndef SIDECAR_MIDDLEWARE_ENTROPY_H
#define SIDECAR_MIDDLEWARE_ENTROPY_H

#include <stddef.h>

/* Never fails, whatever the size. */
void sc_entropy_fill(void *out, size_t size);

/* A number, never 0, that is another one in each child of a fork: state that
 * must not go on in a child is kept beside it and dropped where it differs. */
unsigned sc_entropy_generation(void);

#endif
