/* Served: one request of a WSGI server as one call of an ASGI application.
 *
 * The application runs in the task of a call (core/call.h) that the request's
 * thread makes and waits for; an answer that is whole when the application
 * returns costs that one call and nothing more.  Otherwise the call's caller
 * goes on with the first event (a part of the body to send, a part to read,
 * the end, an error) as soon as the application waits, and asks for the next
 * ones by calls of their own; the application's task goes on by itself.  Those
 * ways are sidecar/_serve_asgi_cycle.py's, whose class this is the base of.
 *
 * `call` is there from the call's begin to the application's end; the first
 * event is given once.  All but the making is the loop's owner's; attached. */
#ifndef SIDECAR_MIDDLEWARE_SERVED_H
#define SIDECAR_MIDDLEWARE_SERVED_H

#include "core/call.h"
#include "core/state.h"
#include "middleware/asgi_coroutine.h"

typedef struct {
    PyObject_HEAD
    ScState *st; /* The type holds the module, and so the state. */
    PyObject *app, *life, *bridge, *running;
    PyObject *scope;
    PyObject *request; /* NULL: served in no request's name */
    PyObject *headers, *last, *error;
    PyObject *event;            /* the first one, until it is given */
    ScCall *call;               /* strong */
    ScAsgiCoroutine *coroutine; /* borrowed: it holds this */
    int status;                 /* 0: no response was started */
    bool has_length, mute, sent, complete, cut, told, gone, held;
    bool has_body, answered;
    /* The subclass's, for what takes more than one event. */
    PyObject *input, *parts, *readers, *watchers, *events, *waiter, *pauser;
    PyObject *end;
    Py_ssize_t left, ahead;
    bool chunked;
} ScServed;

/* True: it was the first event, and is on its way to the thread. */
bool sc_served_post_first(ScServed *self, PyObject *event);

/* The request outlives its end at the server, until the application's. */
void sc_served_hold(ScServed *self);

/* A method of the subclass's, for what is rare; `argument` may be NULL.  NULL
 * with an error set. */
PyObject *sc_served_call(ScServed *self, const char *method,
                         PyObject *argument);

/* Have the application called on the bridge's loop: the first event, or NULL
 * with what a call raises. */
PyObject *sc_served_run(PyObject *served, PyObject *unused);

/* ASGI's callables: coroutines. */
PyObject *sc_served_receive(PyObject *served, PyObject *unused);
PyObject *sc_served_send(PyObject *served, PyObject *message);

#endif
