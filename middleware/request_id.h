/* Request id: a UUID of version 7 (RFC 9562) as text.
 *
 * Its random bits come from the thread's pool (entropy.h): no system call in
 * the common case, and two processes never draw from the same bytes.
 *
 * No Python.h; any thread, attached or not, no lock.  */
#ifndef SIDECAR_MIDDLEWARE_REQUEST_ID_H
#define SIDECAR_MIDDLEWARE_REQUEST_ID_H

#include <stdint.h>

#define SC_REQUEST_ID_LENGTH 36

/* Write SC_REQUEST_ID_LENGTH characters, no terminator.  Never fails.
 *
 * Ids made by one thread sort in the order they were made, also within one
 * millisecond and when the clock is set back. */
void sc_request_id_make(char *out);

/* The same, at a moment given: milliseconds since 1970.  For tests. */
void sc_request_id_make_at(char *out, uint64_t milliseconds);

#endif
