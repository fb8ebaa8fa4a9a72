/* ASGI channel: the server's receive and send, as the application has them.
 *
 * Messages pass untouched, the very objects, but for the one that starts a
 * response or accepts a websocket: the application's own message is not
 * changed, a copy of it has the request's id among its headers.  What the
 * server's send returns is what the application awaits.
 *
 * Attached.  */
#ifndef SIDECAR_MIDDLEWARE_ASGI_CHANNEL_H
#define SIDECAR_MIDDLEWARE_ASGI_CHANNEL_H

#include "core/state.h"

/* The server's receive for a request of HTTP: tells of the client's
 * disconnect.  Holds both; a new reference, or NULL with an error set. */
PyObject *sc_asgi_receive_new(ScState *st, PyObject *receive,
                              PyObject *request);

/* The server's send.  `receive` is the former's, which then knows when the
 * response is complete; NULL for a websocket.  Holds all three; a new
 * reference, or NULL with an error set. */
PyObject *sc_asgi_send_new(ScState *st, PyObject *send, PyObject *request,
                           PyObject *receive);

/* The error that is set has left the application of a request of HTTP.  Where
 * it is one that gets an answer (a deadline, an overload) and nothing was sent
 * yet: an awaitable that sends it, and no error is set.  Else NULL, and the
 * error as it was. */
PyObject *sc_asgi_send_late(PyObject *send, bool head);

#endif
