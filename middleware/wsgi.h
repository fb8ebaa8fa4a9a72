/* WSGIMiddleware: a WSGI application with a request scope around each call.
 *
 * For servers that have no plugin of ours.  Where a request of ours is
 * already in progress (under the uWSGI plugin, in an application mounted in
 * another) the call makes none: one request, one id.  Under the plugin it is
 * guarded all the same: what the request's verdict raises, and nobody has
 * handled, is answered here.
 *
 * The module part is declared in core/module.h; there is no C interface. */
#ifndef SIDECAR_MIDDLEWARE_WSGI_H
#define SIDECAR_MIDDLEWARE_WSGI_H

#include "core/module.h"

#endif
