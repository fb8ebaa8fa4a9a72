/* WSGIBody: an application's response body, each step of which runs in its
 * request's scope.  Attached.  */
#ifndef SIDECAR_MIDDLEWARE_WSGI_BODY_H
#define SIDECAR_MIDDLEWARE_WSGI_BODY_H

#include "middleware/scope.h"

/* A new iterable around `iterable` (held, not stolen).  Takes the scope over,
 * which must be exited, and leaves *scope empty; ends it in close().
 * `started` is the response's start_response.h: where the deadline passes
 * before the first block, that is an answer which says so.
 *
 * Where the iterable has a length the body has it too, so that a server may
 * see that it is of one block.  NULL with an error set, and then the scope
 * is still the caller's. */
PyObject *sc_wsgi_body_new(ScState *st, PyObject *iterable, PyObject *started,
                           ScScope *scope);

/* The same for a server that runs the steps in the request's scope itself, and
 * ends it (the uWSGI plugin): all that is left is the answer in the place of
 * the first block, by the server's own start_response.  Once the client has
 * gone the body just ends. */
PyObject *sc_wsgi_body_new_guarded(ScState *st, PyObject *iterable,
                                   PyObject *start_response, PyObject *request,
                                   bool head);

#endif
