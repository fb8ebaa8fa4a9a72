#include "core/handle.h"

#include <stddef.h>
#include <structmember.h>

#include "core/loop.h"
#include "core/module.h"
#include "core/signals.h"
#include "core/support.h"

/* -- making ------------------------------------------------------------- */

static int
take_args(ScHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    self->nargs = nargs;
    if (nargs <= SC_HANDLE_INLINE) {
        for (Py_ssize_t i = 0; i < nargs; i++) {
            self->args[i] = Py_NewRef(args[i]);
        }
        return 0;
    }
    PyObject *tuple = PyTuple_New(nargs);
    if (tuple == NULL) {
        self->nargs = 0;
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    }
    self->args[0] = tuple;
    return 0;
}

static int
fill(ScHandle *self, ScLoop *loop, PyObject *callback, PyObject *const *args,
     Py_ssize_t nargs, PyObject *context)
{
    self->st = loop->st;
    self->loop = (ScLoop *)Py_NewRef((PyObject *)loop);
    self->callback = Py_NewRef(callback);
    self->args[0] = self->args[1] = NULL;
    self->source_traceback = self->repr = self->weakrefs = NULL;
    atomic_init(&self->cancelled, false);
    self->in_ring = self->holds_off = false;
    self->turn = (ScPark){.event_fd = -1};
    atomic_init(&self->runner, 0);
    self->context = NULL;
    if (take_args(self, args, nargs) < 0) {
        return -1;
    }
    self->context = context != NULL && context != Py_None
                        ? Py_NewRef(context)
                        : PyContext_CopyCurrent();
    if (self->context == NULL) {
        return -1;
    }
    if (loop->debug) {
        self->source_traceback = sc_support_call("source_traceback", NULL);
        return self->source_traceback ? 0 : -1;
    }
    return 0;
}

ScHandle *
sc_handle_new(ScLoop *loop, PyObject *callback, PyObject *const *args,
              Py_ssize_t nargs, PyObject *context)
{
    ScHandle *self = PyObject_GC_New(ScHandle, loop->st->handle_type);
    if (self == NULL) {
        return NULL;
    }
    int rc = fill(self, loop, callback, args, nargs, context);
    PyObject_GC_Track((PyObject *)self);
    if (rc < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

ScTimerHandle *
sc_timer_handle_new(ScLoop *loop, double when, PyObject *callback,
                    PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    ScTimerHandle *self =
        PyObject_GC_New(ScTimerHandle, loop->st->timer_handle_type);
    if (self == NULL) {
        return NULL;
    }
    self->timer = (ScTimer){.kind = SC_TIMER_HANDLE};
    self->when = when;
    atomic_init(&self->posted, false);
    int rc = fill(&self->base, loop, callback, args, nargs, context);
    PyObject_GC_Track((PyObject *)self);
    if (rc < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

static int
handle_traverse(ScHandle *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->args[0]);
    Py_VISIT(self->args[1]);
    Py_VISIT(self->source_traceback);
    return 0;
}

static int
handle_clear(ScHandle *self)
{
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    Py_CLEAR(self->args[0]);
    Py_CLEAR(self->args[1]);
    Py_CLEAR(self->source_traceback);
    Py_CLEAR(self->repr);
    Py_CLEAR(self->loop);
    return 0;
}

static void
handle_dealloc(ScHandle *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    handle_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* -- holding off ---------------------------------------------------------- */

/* While the callback of a handle of call_soon_threadsafe runs, cancel() and
 * cancelled() on other threads wait (asyncio.events._ThreadSafeHandle). */
enum { SC_TURN_NONE, SC_TURN_ON, SC_TURN_AWAITED };

/* How soon a wait in the main thread sees a signal. */
static const int64_t SLICE = 50 * INT64_C(1000000);

static void
begin_turn(ScHandle *self)
{
    atomic_store(&self->runner, sc_thread_self());
    atomic_store(&self->turn.word, SC_TURN_ON);
}

static void
end_turn(ScHandle *self)
{
    if (atomic_exchange(&self->turn.word, SC_TURN_NONE) == SC_TURN_AWAITED) {
        sc_park_wake((ScParkWake){&self->turn.word, -1});
    }
}

/* 0, or -1 with what a signal's handler raised. */
static int
await_turn(ScHandle *self)
{
    for (;;) {
        int turn = SC_TURN_ON;
        if (!atomic_compare_exchange_strong(&self->turn.word, &turn,
                                            SC_TURN_AWAITED) &&
            turn == SC_TURN_NONE) {
            return 0;
        }
        if (atomic_load(&self->runner) == sc_thread_self()) {
            return 0;
        }
        Py_BEGIN_ALLOW_THREADS
        sc_park_wait(&self->turn, SC_TURN_AWAITED, sc_clock_now() + SLICE, -1);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
}

/* -- running ------------------------------------------------------------ */

/* How a sleep ends.  Nothing of Python's runs in here, so that no signal's
 * handler can raise and leave the sleeper waiting for good. */
static PyObject *
end_sleep(ScState *st, PyObject *future, PyObject *result)
{
    PyObject *cancelled = PyObject_CallMethodNoArgs(future, st->str_cancelled);
    if (cancelled != Py_False) {
        return cancelled;
    }
    Py_DECREF(cancelled);
    return PyObject_CallMethodOneArg(future, st->str_set_result, result);
}

static PyObject *
call_with(ScState *st, PyObject *callback, PyObject *const *args,
          Py_ssize_t nargs)
{
    if (callback == st->end_sleep && nargs == 2 &&
        (PyObject *)Py_TYPE(args[0]) == st->asyncio_future) {
        return end_sleep(st, args[0], args[1]);
    }
    if (nargs > SC_HANDLE_INLINE) {
        return PyObject_Call(callback, args[0], NULL);
    }
    PyObject *stack[1 + SC_HANDLE_INLINE] = {NULL, args[0], args[1]};
    return PyObject_Vectorcall(callback, stack + 1,
                               (size_t)nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               NULL);
}

int
sc_handle_run(ScHandle *self)
{
    /* The callback may cancel its own handle: run on references of ours. */
    PyObject *callback, *context, *args[SC_HANDLE_INLINE];
    self->in_ring = false;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->holds_off) {
        begin_turn(self);
    }
    callback = Py_XNewRef(self->callback);
    context = Py_XNewRef(self->context);
    args[0] = Py_XNewRef(self->args[0]);
    args[1] = Py_XNewRef(self->args[1]);
    Py_END_CRITICAL_SECTION();
    PyObject *result = NULL;
    if (callback == NULL || context == NULL) {
        result = Py_NewRef(Py_None);
    }
    else if (PyContext_Enter(context) == 0) {
        result = call_with(self->st, callback, args, self->nargs);
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(result);
        }
    }
    Py_XDECREF(context);
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    Py_XDECREF(callback);
    if (self->holds_off) {
        end_turn(self);
    }
    if (result != NULL) {
        Py_DECREF(result);
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_SystemExit) ||
        PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
        (self->loop->bridged && sc_signals_have_raised(self->st))) {
        return -1;
    }
    sc_support_report(self->loop, (PyObject *)self);
    return 0;
}

static PyObject *
handle_run_method(ScHandle *self, PyObject *Py_UNUSED(ignored))
{
    if (sc_handle_run(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* -- cancelling --------------------------------------------------------- */

/* A cancelled timer leaves the heap: at once on the owner, by the inbox from
 * elsewhere. */
static void
drop_timer(ScTimerHandle *self)
{
    ScLoop *loop = self->base.loop;
    if (loop == NULL || loop->drive == NULL || sc_loop_is_dead(loop)) {
        return;
    }
    if (sc_loop_is_mine(loop)) {
        if (sc_timers_remove(&loop->timers, &self->timer)) {
            Py_DECREF((PyObject *)self);
        }
    }
    else if (!atomic_exchange(&self->posted, true)) {
        Py_INCREF((PyObject *)self);
        sc_loop_post(loop, &self->base.op, SC_OP_TIMER);
    }
}

int
sc_handle_cancel(ScHandle *self)
{
    if (self->cancelled) {
        return 0;
    }
    PyObject *repr = NULL;
    if (self->loop != NULL && self->loop->debug) {
        repr = PyObject_Repr((PyObject *)self);
        if (repr == NULL) {
            return -1;
        }
    }
    PyObject *callback, *args[SC_HANDLE_INLINE];
    Py_BEGIN_CRITICAL_SECTION(self);
    self->cancelled = true;
    callback = self->callback;
    args[0] = self->args[0];
    args[1] = self->args[1];
    self->callback = self->args[0] = self->args[1] = NULL;
    Py_XSETREF(self->repr, repr);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    Py_XDECREF(callback);
    if (Py_TYPE(self) == self->st->timer_handle_type) {
        drop_timer((ScTimerHandle *)self);
    }
    return 0;
}

static PyObject *
handle_cancel_method(ScHandle *self, PyObject *Py_UNUSED(ignored))
{
    /* Dropping the timer may drop the last reference but the caller's. */
    if (await_turn(self) < 0 || sc_handle_cancel(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* -- asyncio's face ----------------------------------------------------- */

static PyObject *
handle_cancelled_method(ScHandle *self, PyObject *Py_UNUSED(ignored))
{
    return await_turn(self) < 0 ? NULL : PyBool_FromLong(self->cancelled);
}

static PyObject *
handle_get_context(ScHandle *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->context);
}

static PyObject *
get_class(ScHandle *self, void *Py_UNUSED(closure))
{
    ScState *st = self->st;
    if (self->holds_off) {
        return Py_NewRef(st->asyncio_threadsafe_handle);
    }
    return Py_NewRef(Py_TYPE(self) == st->timer_handle_type
                         ? st->asyncio_timer_handle
                         : st->asyncio_handle);
}

static PyObject *
get_cancelled(ScHandle *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->cancelled);
}

static PyObject *
get_args(ScHandle *self, void *Py_UNUSED(closure))
{
    if (self->cancelled) {
        Py_RETURN_NONE;
    }
    if (self->nargs > SC_HANDLE_INLINE) {
        return Py_NewRef(self->args[0]);
    }
    PyObject *tuple = PyTuple_New(self->nargs);
    for (Py_ssize_t i = 0; tuple != NULL && i < self->nargs; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(self->args[i]));
    }
    return tuple;
}

static PyObject *
handle_repr_info(ScHandle *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *cls = get_class(self, NULL);
    PyObject *info = PyObject_CallMethod(cls, "_repr_info", "O", self);
    Py_DECREF(cls);
    return info;
}

static PyObject *
handle_repr(ScHandle *self)
{
    return PyObject_CallMethod(self->st->asyncio_handle, "__repr__", "O",
                               self);
}

static PyMethodDef handle_methods[] = {
    {"cancel", SC_METHOD(handle_cancel_method), METH_NOARGS,
     "Do not run the callback any more."},
    {"cancelled", SC_METHOD(handle_cancelled_method), METH_NOARGS,
     "True if it was cancelled."},
    {"get_context", SC_METHOD(handle_get_context), METH_NOARGS,
     "The contextvars.Context the callback runs in."},
    {"_run", SC_METHOD(handle_run_method), METH_NOARGS, NULL},
    {"_repr_info", SC_METHOD(handle_repr_info), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef handle_members[] = {
    {"_callback", T_OBJECT, offsetof(ScHandle, callback), READONLY, NULL},
    {"_context", T_OBJECT, offsetof(ScHandle, context), READONLY, NULL},
    {"_loop", T_OBJECT, offsetof(ScHandle, loop), READONLY, NULL},
    {"_repr", T_OBJECT, offsetof(ScHandle, repr), READONLY, NULL},
    {"_source_traceback", T_OBJECT, offsetof(ScHandle, source_traceback), 0,
     NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ScHandle, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef handle_getset[] = {
    {"__class__", (getter)get_class, NULL, NULL, NULL},
    {"_cancelled", (getter)get_cancelled, NULL, NULL, NULL},
    {"_args", (getter)get_args, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)"A callback that a loop will run: asyncio.Handle."},
    {Py_tp_traverse, SC_SLOT(handle_traverse)},
    {Py_tp_clear, SC_SLOT(handle_clear)},
    {Py_tp_dealloc, SC_SLOT(handle_dealloc)},
    {Py_tp_repr, SC_SLOT(handle_repr)},
    {Py_tp_methods, handle_methods},
    {Py_tp_members, handle_members},
    {Py_tp_getset, handle_getset},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "sidecar._core.Handle",
    .basicsize = sizeof(ScHandle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

/* -- timed -------------------------------------------------------------- */

static PyObject *
timer_when(ScTimerHandle *self, PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(self->when);
}

static PyObject *
timer_get_scheduled(ScTimerHandle *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(sc_timer_queued(&self->timer));
}

static Py_hash_t
timer_hash(ScTimerHandle *self)
{
    PyObject *when = PyFloat_FromDouble(self->when);
    if (when == NULL) {
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(when);
    Py_DECREF(when);
    return hash;
}

static PyObject *
timer_compare(ScTimerHandle *self, PyObject *other, int op)
{
    if (Py_TYPE(other) != Py_TYPE(self)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (op == Py_EQ || op == Py_NE) {
        return PyBool_FromLong(((PyObject *)self == other) == (op == Py_EQ));
    }
    double theirs = ((ScTimerHandle *)other)->when;
    Py_RETURN_RICHCOMPARE(self->when, theirs, op);
}

static PyMethodDef timer_methods[] = {
    {"when", SC_METHOD(timer_when), METH_NOARGS,
     "The moment it is due, in seconds, by loop.time()."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef timer_members[] = {
    {"_when", T_DOUBLE, offsetof(ScTimerHandle, when), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef timer_getset[] = {
    {"_scheduled", (getter)timer_get_scheduled, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, (void *)"A callback for a moment: asyncio.TimerHandle."},
    {Py_tp_traverse, SC_SLOT(handle_traverse)},
    {Py_tp_clear, SC_SLOT(handle_clear)},
    {Py_tp_dealloc, SC_SLOT(handle_dealloc)},
    {Py_tp_hash, SC_SLOT(timer_hash)},
    {Py_tp_richcompare, SC_SLOT(timer_compare)},
    {Py_tp_methods, timer_methods},
    {Py_tp_members, timer_members},
    {Py_tp_getset, timer_getset},
    {0, NULL},
};

static PyType_Spec timer_spec = {
    .name = "sidecar._core.TimerHandle",
    .basicsize = sizeof(ScTimerHandle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = timer_slots,
};

int
sc_handle_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
#if SC_HANDLES_HOLD_OFF
    st->asyncio_threadsafe_handle =
        sc_state_import("asyncio.events", "_ThreadSafeHandle");
    if (st->asyncio_threadsafe_handle == NULL) {
        return -1;
    }
#endif
    if (sc_type_add(module, &st->handle_type, &handle_spec, NULL, "Handle") <
        0) {
        return -1;
    }
    return sc_type_add(module, &st->timer_handle_type, &timer_spec,
                       (PyObject *)st->handle_type, "TimerHandle");
}
