#include "middleware/served.h"

#include "core/bridge.h"
#include "core/module.h"

/* -- the first event ------------------------------------------------------ */

void
sc_served_hold(ScServed *self)
{
    if (self->request != NULL && !self->held) {
        self->held = true;
        sc_owner_hold((ScOwner *)self->request);
    }
}

/* Let the thread go on with it; the application stands still.  From then on
 * the thread looks for more by itself, while the loop's owner may be another:
 * what it looks into is there before. */
static void
give_event(ScServed *self)
{
    PyObject *event = self->event;
    self->event = NULL;
    if (self->events == NULL) {
        self->events = PyObject_CallNoArgs(self->st->deque);
    }
    if (self->events == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    /* The server ends the request as soon as the thread goes on, but what
     * follows the response is the application's, and of this request. */
    bool holds = self->complete && self->request != NULL && !self->held;
    if (holds) {
        sc_served_hold(self);
    }
    if (!sc_call_release(self->call, event) && holds) {
        self->held = false;
        sc_owner_release((ScOwner *)self->request);
    }
    Py_DECREF(event);
}

/* True: it was the first one. */
bool
sc_served_post_first(ScServed *self, PyObject *event)
{
    if (self->answered) {
        return false;
    }
    self->answered = true;
    self->event = Py_NewRef(event);
    if (self->call != NULL && self->coroutine != NULL &&
        !self->coroutine->running) {
        give_event(self);
    }
    return true;
}

/* The rare ways; NULL with an error set. */
PyObject *
sc_served_call(ScServed *self, const char *name, PyObject *argument)
{
    return argument
               ? PyObject_CallMethod((PyObject *)self, name, "O", argument)
               : PyObject_CallMethod((PyObject *)self, name, NULL);
}

/* -- the application ------------------------------------------------------ */

static PyObject *
serving_start(ScAsgiCoroutine *coroutine)
{
    ScServed *self = (ScServed *)coroutine->owner;
    if (PySet_Add(self->running, (PyObject *)self) < 0) {
        return NULL;
    }
    PyObject *receive =
        PyObject_GetAttr((PyObject *)self, self->st->str_receive);
    PyObject *send =
        receive ? PyObject_GetAttr((PyObject *)self, self->st->str_send)
                : NULL;
    PyObject *awaitable = NULL;
    if (send != NULL) {
        PyObject *stack[] = {NULL, self->scope, receive, send};
        awaitable = PyObject_Vectorcall(
            self->app, stack + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    Py_XDECREF(receive);
    Py_XDECREF(send);
    return awaitable;
}

static void
serving_yielded(ScAsgiCoroutine *coroutine)
{
    ScServed *self = (ScServed *)coroutine->owner;
    if (self->event != NULL && self->call != NULL) {
        give_event(self);
    }
}

/* Nobody takes a response any more where its own thread has gone. */
static void
serving_thrown(ScAsgiCoroutine *coroutine, PyObject *Py_UNUSED(error))
{
    ScServed *self = (ScServed *)coroutine->owner;
    if (self->call != NULL && !self->call->released &&
        sc_call_is_cancelled(self->call)) {
        PyObject *none = sc_served_call(self, "_cut", NULL);
        if (none == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(none);
    }
}

/* What the subclass makes of its end.  0, or -1 with an error set. */
static int
tell_end(ScServed *self, PyObject *error)
{
    if (error == NULL && self->complete) {
        return 0;
    }
    PyObject *none = error ? sc_served_call(self, "_failed", error)
                           : sc_served_call(self, "_incomplete", NULL);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* The event is the call's result, where nobody has had one yet.  What is no
 * Exception is the loop's matter; a cancelled application is told of as an
 * error, but for a call that was itself cancelled. */
static ScAwaitResult
serving_settled(ScAsgiCoroutine *coroutine, ScAwaitResult result,
                PyObject **value)
{
    ScServed *self = (ScServed *)coroutine->owner;
    PyObject *error = result == SC_AWAIT_ERROR ? sc_error_take() : NULL;
    self->coroutine = NULL; /* what comes now is its result, no event */
    Py_CLEAR(*value);
    if (tell_end(self, error) < 0) {
        Py_XDECREF(error);
        return SC_AWAIT_ERROR;
    }
    bool is_cancelled = error != NULL && PyErr_GivenExceptionMatches(
                                             error, self->st->cancelled_error);
    bool is_theirs = error != NULL && !is_cancelled &&
                     !PyErr_GivenExceptionMatches(error, PyExc_Exception);
    if (is_theirs) {
        sc_error_restore(error);
        return SC_AWAIT_ERROR;
    }
    bool released = self->call != NULL && self->call->released;
    if (self->event != NULL) {
        *value = self->event;
        self->event = NULL;
    }
    else if (self->cut && !released) {
        if (is_cancelled) {
            sc_error_restore(error);
        }
        else {
            Py_XDECREF(error);
            PyErr_SetNone(self->st->cancelled_error);
        }
        return SC_AWAIT_ERROR;
    }
    else if (is_cancelled) {
        sc_error_restore(error);
        return SC_AWAIT_ERROR;
    }
    else {
        *value = Py_NewRef(Py_None);
    }
    Py_XDECREF(error);
    return SC_AWAIT_RETURN;
}

static void
serving_ended(ScAsgiCoroutine *coroutine)
{
    ScServed *self = (ScServed *)coroutine->owner;
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    self->coroutine = NULL;
    Py_CLEAR(self->call);
    if (PySet_Discard(self->running, (PyObject *)self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (self->end != NULL) {
        PyObject *none = sc_served_call(self, "_tell_end", NULL);
        if (none == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(none);
    }
    if (self->held) {
        self->held = false;
        sc_owner_release((ScOwner *)self->request);
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
}

static const ScAsgiWork serving = {
    .name = "ASGIApplication",
    .start = serving_start,
    .yielded = serving_yielded,
    .thrown = serving_thrown,
    .settled = serving_settled,
    .ended = serving_ended,
};

static PyObject *
run_on(ScServed *self, ScLoop *loop)
{
    ScCallArgs args = {.request = SC_CALL_RUN, .told = &self->call};
    sc_bridge_limits(self->bridge, &args.timeout, &args.cleanup);
    ScPlace place = {0};
    if (sc_bridge_admit(self->bridge, &place) < 0) {
        return NULL;
    }
    PyObject *event = NULL;
    self->coroutine =
        sc_asgi_coroutine_new(self->st, &serving, (PyObject *)self);
    if (self->coroutine != NULL) {
        args.coro = (PyObject *)self->coroutine;
        event = sc_call_run(loop, &args);
    }
    sc_bridge_release(self->bridge, &place);
    return event;
}

PyObject *
sc_served_run(PyObject *op, PyObject *Py_UNUSED(unused))
{
    ScServed *self = (ScServed *)op;
    ScLoop *loop = sc_bridge_loop(self->bridge);
    PyObject *event = loop ? run_on(self, loop) : NULL;
    Py_XDECREF((PyObject *)loop);
    return event;
}
