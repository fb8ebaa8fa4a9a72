/* Scope: one request, from its first line of application code to the last.
 *
 * A scope is a sidecar.Request and one copied Context in which the request
 * is the current one.  Application code of the request (the call, each step
 * of the body, its close) runs between an enter and an exit, on whatever
 * thread the server uses; what it sets in context variables stays in the
 * request, and nothing of it reaches the thread's next request.  ASGI's has
 * no Context (asgi.c): each request runs in a task, which has one.
 *
 * Request holds no Context: the Context holds the Request, and a request
 * must not need the garbage collector to go.
 *
 * All functions: attached.  A scope is used by one thread at a time.  */
#ifndef SIDECAR_MIDDLEWARE_SCOPE_H
#define SIDECAR_MIDDLEWARE_SCOPE_H

#include "middleware/request.h"

/* Embedded in its owner; both NULL when there is no request.  Strong. */
typedef struct ScScope {
    PyObject *request;
    PyObject *context;
} ScScope;

/* Make a new request and enter it.  0; or -1 with an error set, and then the
 * scope is empty and nothing was entered. */
int sc_scope_begin(ScState *st, ScScope *scope, const ScArrival *arrival);

/* Enter again, after an exit.  -1 with an error set where it is entered
 * already, here or on another thread. */
int sc_scope_enter(const ScScope *scope);

/* Leave it.  Keeps the error that is set, if one is.  Cannot fail: where
 * foreign code left another Context on top, that is reported as unraisable. */
void sc_scope_exit(const ScScope *scope);

/* The request is over: must have been exited.  Ends what it has begun
 * (core/work.h), and empties the scope; harmless on an empty one.  Keeps the
 * error that is set, if one is. */
void sc_scope_end(ScScope *scope);

/* A second hold on the same request, for as long as foreign code runs that
 * could end the first; given back by sc_scope_drop, which ends nothing. */
ScScope sc_scope_share(const ScScope *scope);
void sc_scope_drop(ScScope *scope);

#endif
