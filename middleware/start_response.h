/* StartResponse: the server's start_response with the request's id added to
 * the headers.  Attached.  */
#ifndef SIDECAR_MIDDLEWARE_START_RESPONSE_H
#define SIDECAR_MIDDLEWARE_START_RESPONSE_H

#include "core/state.h"

/* A new callable around `start_response` (held, not stolen); each response
 * it starts carries "X-Request-ID: id" exactly once, in place of what the
 * application gave under that name.  NULL with an error set. */
PyObject *sc_start_response_new(ScState *st, PyObject *start_response,
                                PyObject *id);

#endif
