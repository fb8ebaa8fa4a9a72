/* ASGIMiddleware: an ASGI application with a request scope around each call.
 *
 * For http and websocket.  A lifespan gets the worker's bridge into its state
 * and passes, as every other kind of scope does, and as a request does that
 * is in progress already (an application mounted in another).
 *
 * Nothing here knows an event loop: asyncio's, uvloop's and Trio's servers
 * are alike.
 *
 * The module parts are declared in core/module.h.  */
#ifndef SIDECAR_MIDDLEWARE_ASGI_H
#define SIDECAR_MIDDLEWARE_ASGI_H

#include "core/module.h"
#include "core/state.h"

/* The client of a request of HTTP has gone before its response was complete:
 * called once, attached, on the server's thread, within the application's own
 * await of receive(), in the request's context.  Keeps no error set. */
void sc_scope_disconnected(ScState *st, PyObject *request);

#endif
