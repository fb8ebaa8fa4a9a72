/* Inbound id: a request id that a client or a proxy sent.
 *
 * Taken only as it is: one value of 1 to 128 characters out of letters,
 * digits, '.', '_' and '-'.  Such an id is safe in a header, a log line, a
 * shell and a file name; everything else is for the caller to ignore and to
 * count.  White space around the value is not part of it (RFC 9110, section
 * 5.5); two ids that a server joined by a comma are none.
 *
 * No Python.h; any thread, attached or not; nothing is allocated.  */
#ifndef SIDECAR_MIDDLEWARE_INBOUND_ID_H
#define SIDECAR_MIDDLEWARE_INBOUND_ID_H

#include "middleware/field.h"

#define SC_INBOUND_ID_LIMIT 128

/* True, and `id` is the value within the only line; else false, and `id` is
 * as it was. */
bool sc_inbound_id_parse(const ScText *lines, size_t count, ScText *id);

#endif
