/* ASGI coroutine: an awaitable that passes its steps on to another one.
 *
 * What `async def f(...): return await other` is, without a frame: whatever
 * is sent or thrown in goes to the other, whatever that yields goes out, so
 * it works under any library that runs coroutines.  Where it has a request,
 * that is the current one in each step, and in no context after the step, and
 * so is OpenTelemetry's context: the server's is left as the application
 * leaves it.
 *
 * Attached; like a coroutine it is used by one thread at a time.  */
#ifndef SIDECAR_MIDDLEWARE_ASGI_COROUTINE_H
#define SIDECAR_MIDDLEWARE_ASGI_COROUTINE_H

#include "core/await.h"
#include "core/state.h"
#include "middleware/scope.h"

typedef struct ScAsgiCoroutine ScAsgiCoroutine;

/* What one kind of them is for.  Each function but `yielded` and `thrown` is
 * called once, and each but `start` may be NULL. */
typedef struct ScAsgiWork {
    const char *name;
    /* Before the first step, outside of the request: may set scope.  Cannot
     * fail. */
    void (*prepare)(ScAsgiCoroutine *self);
    /* In the first step: 1, and the value to return, where there is nothing to
     * wait for; 0, and `start` is asked; -1 with an error set. */
    int (*at_once)(ScAsgiCoroutine *self, PyObject **value);
    /* In the first step, in the request: the awaitable that does the work, a
     * new reference; NULL with an error set.  Not asked where the coroutine
     * has its `waiting` from the beginning. */
    PyObject *(*start)(ScAsgiCoroutine *self);
    /* The other has returned this value.  No error is set before or after. */
    void (*returned)(ScAsgiCoroutine *self, PyObject *value);
    /* The other has raised, or could not be started, in the request; the error
     * is set.  An awaitable that goes on in its place, a new reference, and no
     * error set; or NULL, and the error as it was. */
    PyObject *(*failed)(ScAsgiCoroutine *self);
    /* A step is over, and the other waits. */
    void (*yielded)(ScAsgiCoroutine *self);
    /* This is about to be thrown into the other.  Sets no error. */
    void (*thrown)(ScAsgiCoroutine *self, PyObject *error);
    /* The last step is over, with a value or an error set: what the coroutine
     * makes of either. */
    ScAwaitResult (*settled)(ScAsgiCoroutine *self, ScAwaitResult result,
                             PyObject **value);
    /* It is over, begun or not; its owner is there still.  Keeps the error
     * that is set. */
    void (*ended)(ScAsgiCoroutine *self);
} ScAsgiWork;

struct ScAsgiCoroutine {
    PyObject_HEAD
    ScState *st; /* The type holds the module, and so the state. */
    const ScAsgiWork *work;
    ScScope scope;     /* context is NULL; empty: none, or over */
    PyObject *otel;    /* what each step enters (opentelemetry.h); or NULL */
    PyObject *owner;   /* strong; whose work it is */
    PyObject *args[3]; /* strong or NULL; the work's */
    PyObject *waiting; /* the other's iterator; NULL: none yet, or over */
    bool head;         /* the work's: it is a request of HEAD */
    bool begun;
    bool running;
    bool over;
};

/* A new one, not begun, without args; holds `owner`.  NULL with an error
 * set. */
ScAsgiCoroutine *sc_asgi_coroutine_new(ScState *st, const ScAsgiWork *work,
                                       PyObject *owner);

#endif
