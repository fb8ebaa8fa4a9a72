/* Served scope: what a WSGI server says of a request, as ASGI's scope for it,
 * and the headers of ASGI's response as WSGI's.
 *
 * The common request is done here; what is rare (a path that is no ASCII, a
 * request line with a whole URL) is sidecar/_serve_asgi_scope.py's.  Attached,
 * on any thread.  */
#ifndef SIDECAR_MIDDLEWARE_SERVED_SCOPE_H
#define SIDECAR_MIDDLEWARE_SERVED_SCOPE_H

#include "core/state.h"

/* A new dict.  `environ`: WSGI's, a dict; `state`: the lifespan's dict, of
 * which each scope has a copy.  NULL with an error set. */
PyObject *sc_served_scope(ScState *st, PyObject *environ, PyObject *state);

/* The request in whose name it is served, a new reference; NULL without an
 * error set: there is none. */
PyObject *sc_served_request(ScState *st, PyObject *environ);

/* A new list of pairs of str, without what PEP 3333 leaves to the server;
 * `*has_length`: the application has said how long its body is.  `headers`:
 * an iterable of pairs of bytes, or NULL.  NULL with TypeError set for what is
 * no bytes, ValueError for what would end a header's line. */
PyObject *sc_served_headers(ScState *st, PyObject *headers, bool *has_length);

#endif
