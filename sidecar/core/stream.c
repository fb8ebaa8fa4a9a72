#include "core/stream.h"

#include <stddef.h>
#include <structmember.h>

#include "core/await.h"
#include "core/bridge.h"
#include "core/call.h"
#include "core/errors.h"
#include "core/module.h"
#include "core/producer.h"
#include "core/support.h"
#include "core/traceback.h"

typedef struct {
    PyObject_HEAD
    ScState *st;
    PyObject *bridge;
    PyObject *source;     /* until the first step */
    PyObject *context;    /* of every step */
    ScLoop *loop;         /* from the first step on */
    ScProducer *producer; /* as long as there is something to come */
    Py_ssize_t prefetch;
    int64_t cleanup;
    ScPlace place; /* from the first step to the end */
    bool propagate;
    bool over;
    atomic_bool busy; /* a thread is inside a step */
} Stream;

/* -- steps -------------------------------------------------------------- */

static bool
begin(Stream *self)
{
    if (!atomic_exchange(&self->busy, true)) {
        return true;
    }
    PyErr_SetString(PyExc_ValueError,
                    "this stream is being advanced by another thread just "
                    "now; a stream has one consumer at a time");
    return false;
}

static void
end(Stream *self)
{
    atomic_store(&self->busy, false);
}

/* At the first step: the loop, and what runs there. */
static int
start(Stream *self)
{
    ScLoop *loop = sc_bridge_loop(self->bridge);
    if (loop == NULL) {
        return -1;
    }
    if (sc_bridge_admit(self->bridge, &self->place) < 0) {
        Py_DECREF((PyObject *)loop);
        return -1;
    }
    self->loop = loop;
    self->producer = sc_producer_new(loop, self->source, self->context,
                                     (size_t)self->prefetch, self->propagate,
                                     self->cleanup);
    Py_CLEAR(self->source);
    if (self->producer == NULL) {
        sc_bridge_release(self->bridge, &self->place);
    }
    return self->producer ? 0 : -1;
}

static PyObject *
raise_forked(Stream *self)
{
    return sc_error_raise(self->st, SC_E_FORKED,
                          "this stream was begun in the parent process; its "
                          "generator stayed there");
}

/* It is over: nothing more of it runs. */
static void
forget(Stream *self)
{
    self->over = true;
    sc_bridge_release(self->bridge, &self->place);
    if (self->source != NULL && PyCoro_CheckExact(self->source)) {
        sc_call_close_coroutine(self->source);
    }
    Py_CLEAR(self->source);
    if (self->producer != NULL && !sc_loop_is_dead(self->loop)) {
        Py_CLEAR(self->producer);
    }
}

static int
write_back(Stream *self)
{
    if (!self->propagate) {
        return 0;
    }
    PyObject *error = sc_error_take();
    PyObject *none = sc_support_call("write_back", "(O)", self->context);
    Py_XDECREF(none);
    if (error != NULL) {
        if (none == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        sc_error_restore(error);
        return 0;
    }
    return none ? 0 : -1;
}

/* It has ended while nobody waited, by a shutdown, say: no loop is needed to
 * say so. */
static void
tell_end(Stream *self, ScStepKind kind, PyObject *value, PyObject *error)
{
    forget(self);
    if (error == NULL && kind == SC_STEP_THROW) {
        error = Py_NewRef(value);
    }
    if (error != NULL && kind == SC_STEP_CLOSE &&
        PyErr_GivenExceptionMatches(error, self->st->cancelled_error)) {
        Py_CLEAR(error);
    }
    if (error != NULL) {
        sc_traceback_prune(self->st, error);
        sc_error_restore(error);
    }
    write_back(self);
}

/* One step on the loop: an item; NULL with an error set; or NULL alone at the
 * end. */
static PyObject *
step(Stream *self, ScStepKind kind, PyObject *value)
{
    if (self->producer == NULL && start(self) < 0) {
        return NULL;
    }
    if (sc_loop_is_dead(self->loop)) {
        return raise_forked(self);
    }
    PyObject *last_word;
    if (sc_producer_end(self->producer, &last_word)) {
        tell_end(self, kind, value, last_word);
        return NULL;
    }
    ScCallArgs args = {.coro = Py_NewRef((PyObject *)self->producer),
                       .value = value,
                       .request = (int)kind,
                       .ahead = self->prefetch > 0};
    sc_bridge_limits(self->bridge, &args.timeout, &args.cleanup);
    PyObject *item = sc_call_run(self->loop, &args);
    if (write_back(self) < 0) {
        Py_CLEAR(item);
    }
    if (item == NULL && sc_producer_is_over(self->producer)) {
        PyObject *error = sc_error_take();
        forget(self);
        if (error != NULL) {
            sc_error_restore(error);
        }
    }
    return item;
}

static PyObject *
stream_next(Stream *self)
{
    if (!begin(self)) {
        return NULL;
    }
    PyObject *item = NULL;
    if (!self->over) {
        bool wake = false;
        if (self->prefetch > 0 && self->producer != NULL &&
            !sc_loop_is_dead(self->loop)) {
            item = sc_producer_pop(self->producer, &wake);
        }
        if (wake) {
            sc_producer_wake(self->producer);
        }
        if (item == NULL) {
            item = step(self, SC_STEP_NEXT, NULL);
        }
    }
    end(self);
    return item;
}

static int
check_lockstep(Stream *self, const char *method)
{
    if (self->prefetch == 0) {
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "%s() of a stream that reads ahead (prefetch=%zd): its "
                 "generator has gone on already; use prefetch=0",
                 method, self->prefetch);
    return -1;
}

/* For methods: the end is StopIteration. */
static PyObject *
item_or_stop(PyObject *item)
{
    if (item == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return item;
}

static PyObject *
stream_send(Stream *self, PyObject *value)
{
    if (check_lockstep(self, "send") < 0 || !begin(self)) {
        return NULL;
    }
    PyObject *item = NULL;
    if (self->over) {
        /* As a generator's. */
    }
    else if (value == Py_None) {
        item = step(self, SC_STEP_NEXT, NULL);
    }
    else if (self->producer == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "can't send non-None value to a stream that has not "
                        "been begun");
    }
    else {
        item = step(self, SC_STEP_SEND, value);
    }
    end(self);
    return item_or_stop(item);
}

static PyObject *
stream_throw(Stream *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *error = sc_await_thrown(args, nargs), *item = NULL;
    if (error == NULL || check_lockstep(self, "throw") < 0 || !begin(self)) {
        Py_XDECREF(error);
        return NULL;
    }
    if (self->over) {
        sc_error_restore(Py_NewRef(error));
    }
    else {
        item = step(self, SC_STEP_THROW, error);
    }
    Py_DECREF(error);
    end(self);
    return item_or_stop(item);
}

static PyObject *
stream_close(Stream *self, PyObject *Py_UNUSED(ignored))
{
    if (!begin(self)) {
        return NULL;
    }
    bool closed = true;
    if (self->producer == NULL || sc_loop_is_dead(self->loop)) {
        /* Not begun, over, or the parent's. */
        forget(self);
    }
    else if (!self->over) {
        PyObject *none = step(self, SC_STEP_CLOSE, NULL);
        closed = none != NULL || !PyErr_Occurred();
        Py_XDECREF(none);
        if (closed) {
            forget(self);
        }
    }
    end(self);
    if (!closed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

static PyObject *
stream_exit(Stream *self, PyObject *const *Py_UNUSED(args),
            Py_ssize_t Py_UNUSED(nargs))
{
    return stream_close(self, NULL);
}

static PyObject *
stream_repr(Stream *self)
{
    const char *state = self->over       ? "over"
                        : self->producer ? "begun"
                                         : "not begun";
    PyObject *of = self->producer ? (PyObject *)self->producer : self->source;
    return of ? PyUnicode_FromFormat("<sidecar.Stream %s, %R>", state, of)
              : PyUnicode_FromFormat("<sidecar.Stream %s>", state);
}

/* -- life --------------------------------------------------------------- */

PyDoc_STRVAR(
    stream_doc,
    "Stream(bridge, source, prefetch=0, context=None, propagate=False)\n--\n\n"
    "An async iterable as a sync iterator; sidecar.stream() makes it.");

/* A coroutine is not left "never awaited". */
static PyObject *
refuse_source(PyObject *source)
{
    if (PyCoro_CheckExact(source)) {
        sc_call_close_coroutine(source);
    }
    return NULL;
}

static PyObject *
stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"bridge",    (char *)"source",
                            (char *)"prefetch",  (char *)"context",
                            (char *)"propagate", NULL};
    ScState *st = sc_state_of_type(type);
    PyObject *bridge, *source, *context = Py_None;
    Py_ssize_t prefetch = 0;
    int propagate = 0;
    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|nOp:Stream", names,
                                     st->bridge_type, &bridge, &source,
                                     &prefetch, &context, &propagate)) {
        return NULL;
    }
    if (prefetch < 0 || prefetch > PY_SSIZE_T_MAX / 16) {
        PyErr_Format(PyExc_ValueError,
                     "prefetch must be a number of items from 0 on, not %zd",
                     prefetch);
        return refuse_source(source);
    }
    if (context != Py_None && !PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context, not %R", context);
        return refuse_source(source);
    }
    Stream *self = (Stream *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->bridge = Py_NewRef(bridge);
    self->source = Py_NewRef(source);
    self->prefetch = prefetch;
    self->propagate = propagate;
    int64_t timeout;
    sc_bridge_limits(bridge, &timeout, &self->cleanup);
    self->context =
        context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (self->context == NULL) {
        Py_CLEAR(self->source);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int
stream_traverse(Stream *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->bridge);
    Py_VISIT(self->source);
    Py_VISIT(self->context);
    Py_VISIT(self->loop);
    Py_VISIT(self->producer);
    return 0;
}

/* The generator of a stream that goes is closed on its loop.  In a forked
 * child it is the parent's, and kept as it was. */
static int
stream_clear(Stream *self)
{
    if (self->producer != NULL) {
        if (sc_loop_is_dead(self->loop)) {
            self->producer = NULL;
        }
        else if (!self->over) {
            sc_producer_drop(self->producer);
        }
    }
    self->over = true;
    if (self->bridge != NULL) {
        sc_bridge_release(self->bridge, &self->place);
    }
    Py_CLEAR(self->producer);
    Py_CLEAR(self->source);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->bridge);
    return 0;
}

static void
stream_dealloc(Stream *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->source != NULL && PyCoro_CheckExact(self->source)) {
        sc_call_close_coroutine(self->source);
    }
    stream_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef stream_methods[] = {
    {"send", SC_METHOD(stream_send), METH_O,
     "send($self, value, /)\n--\n\n"
     "Send a value into the generator; return its next item."},
    {"throw", SC_METHOD(stream_throw), METH_FASTCALL,
     "throw($self, typ, val=None, tb=None, /)\n--\n\n"
     "Raise an exception in the generator; return its next item."},
    {"close", SC_METHOD(stream_close), METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Close the generator on its loop, and wait for its cleanup."},
    {"__enter__", SC_METHOD(stream_enter), METH_NOARGS, NULL},
    {"__exit__", SC_METHOD(stream_exit), METH_FASTCALL, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, (void *)stream_doc},
    {Py_tp_new, SC_SLOT(stream_new)},
    {Py_tp_iter, SC_SLOT(PyObject_SelfIter)},
    {Py_tp_iternext, SC_SLOT(stream_next)},
    {Py_tp_repr, SC_SLOT(stream_repr)},
    {Py_tp_methods, stream_methods},
    {Py_tp_traverse, SC_SLOT(stream_traverse)},
    {Py_tp_clear, SC_SLOT(stream_clear)},
    {Py_tp_dealloc, SC_SLOT(stream_dealloc)},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "sidecar.Stream",
    .basicsize = sizeof(Stream),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stream_slots,
};

int
sc_stream_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->stream_type, &stream_spec, NULL, "Stream");
}
