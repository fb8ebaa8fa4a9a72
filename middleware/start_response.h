/* StartResponse: the server's start_response with the request's id added to
 * the headers.  Once the client has gone it starts nothing: it raises
 * ClientDisconnected, once more.  Attached.  */
#ifndef SIDECAR_MIDDLEWARE_START_RESPONSE_H
#define SIDECAR_MIDDLEWARE_START_RESPONSE_H

#include "middleware/request.h"

/* A new callable around `start_response` (held, not stolen); each response
 * it starts carries the request's id exactly once, in place of what the
 * application gave under that header's name.  `method` is the request's, or
 * NULL.  NULL with an error set. */
PyObject *sc_start_response_new(ScState *st, PyObject *start_response,
                                PyObject *request, PyObject *method);

/* Whether the error that is set is one that the middleware answers for the
 * application: the deadline has passed, or it is overloaded. */
bool sc_is_answered(ScState *st);

/* Such an error is set, and nothing of the response was sent yet: start one
 * that says so.  Its body, bytes, the error cleared; or NULL with an error
 * set, this one where it is another one, or where it is too late. */
PyObject *sc_start_response_late(PyObject *started);

/* The same by a start_response of uWSGI's, which replaces what an earlier call
 * of it has set.  `head`: the body is empty. */
PyObject *sc_start_response_late_bare(ScState *st, PyObject *start_response,
                                      PyObject *request, bool head);

/* Whether that is the method of the request; NULL: there is none. */
bool sc_is_head(PyObject *method);

#endif
