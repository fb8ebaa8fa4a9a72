/* Fork: how a child learns that it is one.
 *
 * A C handler counts the forks this process is away from the start; it runs
 * for every fork(2), a server's own included, where Python's hooks do not.
 * It assumes no GIL and does nothing else.  Whoever owns threads, mutexes or
 * descriptors keeps the generation it made them in, and drops them, without
 * touching what the parent shares, when it meets another one.  */
#ifndef SIDECAR_CORE_FORK_H
#define SIDECAR_CORE_FORK_H

/* Any thread, attached or not. */
unsigned sc_fork_generation(void);

#endif
