#include "core/loop.h"

#include <stddef.h>
#include <stdlib.h>

#include "core/call.h"
#include "core/clock.h"
#include "core/loop_run.h"
#include "core/module.h"
#include "core/producer_garbage.h"
#include "core/task.h"
#include "core/task_list.h"

/* -- inbox --------------------------------------------------------------- */

void
sc_loop_post(ScLoop *self, ScOp *op, int kind)
{
    op->kind = kind;
    sc_drive_post(self->drive, op);
}

int
sc_loop_check_open(ScLoop *self)
{
    if (self->closed || self->drive == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    return 0;
}

/* -- life --------------------------------------------------------------- */

static PyObject *
loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
         PyObject *Py_UNUSED(kwargs))
{
    ScState *st = sc_state_of_type(type);
    ScLoop *self = st ? (ScLoop *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->interp = PyThreadState_Get()->interp;
    self->generation = sc_fork_generation();
    self->signal_fd = -1;
    self->drive = PyMem_RawCalloc(1, sizeof(ScDrive));
    if (self->drive == NULL) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    if (sc_drive_init(self->drive) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        PyMem_RawFree(self->drive);
        self->drive = NULL;
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

/* What the inbox still holds owns a reference each. */
static void
drop_inbox(ScLoop *self)
{
    ScOp *op = sc_inbox_take(&self->drive->inbox);
    while (op != NULL) {
        ScOp *next = op->next;
        if (op->kind == SC_OP_CALL || op->kind == SC_OP_CALL_CANCEL) {
            sc_call_drop_op(op);
        }
        else {
            Py_DECREF((PyObject *)sc_handle_of(op));
        }
        op = next;
    }
}

void
sc_loop_release(ScLoop *self)
{
    PyObject *handle;
    while ((handle = sc_loop_pop(self)) != NULL) {
        if (Py_TYPE(handle) == self->st->call_type) {
            sc_call_drop(handle);
        }
        else {
            Py_DECREF(handle);
        }
    }
    ScTimer *timer;
    while ((timer = sc_timers_pop(&self->timers, SC_NEVER)) != NULL) {
        if (timer->kind == SC_TIMER_HANDLE) {
            Py_DECREF((PyObject *)sc_timer_handle_of(timer));
        }
    }
    sc_loop_io_clear(self);
    Py_CLEAR(self->asyncgen_first);
    Py_CLEAR(self->asyncgen_final);
    if (self->drive != NULL) {
        drop_inbox(self);
        if (self->pump != NULL && sc_loop_is_dead(self)) {
            sc_pump_close_inherited(self->pump);
        }
        sc_poller_fini(&self->drive->poller);
    }
}

static int
loop_traverse(ScLoop *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < self->ring.count; i++) {
        ScRing *ring = &self->ring;
        Py_VISIT(ring->items[(ring->head + i) & (ring->room - 1)]);
    }
    for (size_t i = 0; i < self->timers.count; i++) {
        if (self->timers.heap[i]->kind == SC_TIMER_HANDLE) {
            Py_VISIT((PyObject *)sc_timer_handle_of(self->timers.heap[i]));
        }
    }
    Py_VISIT(self->asyncgen_first);
    Py_VISIT(self->asyncgen_final);
    Py_VISIT(self->task_factory);
    return sc_loop_io_traverse(self, visit, arg);
}

static int
loop_clear(ScLoop *self)
{
    Py_CLEAR(self->task_factory);
    sc_loop_release(self);
    return 0;
}

static void
loop_dealloc(ScLoop *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    loop_clear(self);
    PyMem_Free(self->ring.items);
    sc_timers_fini(&self->timers);
    PyMem_Free(self->io);
    if (self->drive != NULL) {
        sc_drive_fini(self->drive);
        PyMem_RawFree(self->drive);
    }
    PyMem_RawFree(self->pump);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* -- rounds, state ------------------------------------------------------- */

static PyObject *
loop_time(ScLoop *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble((double)sc_clock_now() / 1e9);
}

static PyObject *
loop_run_once(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    if (sc_loop_round(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Asyncio's own run_forever: where a subclass has rounds of its own, or
 * somebody has put a function of his own in the place of the one that marks a
 * thread as running a loop. */
static PyObject *
run_by_asyncio(ScLoop *self)
{
    return PyObject_CallMethodOneArg(self->st->asyncio_base_loop,
                                     self->st->str_run_forever,
                                     (PyObject *)self);
}

/* 1, 0, or -1 with an error set. */
static int
runs_in_c(ScLoop *self)
{
    PyObject *round =
        PyObject_GetAttr((PyObject *)self, self->st->str__run_once);
    PyObject *mark =
        round ? sc_state_import("asyncio.events", "_set_running_loop") : NULL;
    int yes = -1;
    if (mark != NULL) {
        yes = mark == self->st->set_running_loop && PyCFunction_Check(round) &&
              PyCFunction_GetFunction(round) == SC_METHOD(loop_run_once);
    }
    Py_XDECREF(mark);
    Py_XDECREF(round);
    return yes;
}

static PyObject *
loop_run_forever(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    int in_c = runs_in_c(self);
    if (in_c == 0) {
        return run_by_asyncio(self);
    }
    if (in_c < 0 || sc_loop_run_forever(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_is_running(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->drive != NULL && !sc_loop_is_dead(self) &&
                           atomic_load(&self->drive->owner) != 0);
}

static PyObject *
loop_is_closed(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->closed || sc_loop_is_dead(self));
}

static PyObject *
loop_release_method(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    self->closed = true;
    sc_loop_release(self);
    Py_RETURN_NONE;
}

static PyObject *
loop_share_task(ScLoop *self, PyObject *task)
{
    sc_task_list_add(self->st, task);
    Py_RETURN_NONE;
}

static PyObject *
loop_is_mine_method(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->drive != NULL && !sc_loop_is_dead(self) &&
                           sc_drive_is_owner(self->drive));
}

static PyObject *
loop_refuse_calls(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    sc_drive_refuse(self->drive);
    Py_RETURN_NONE;
}

static PyObject *
get_calls(ScLoop *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(self->drive ? atomic_load(&self->drive->calls)
                                         : 0);
}

static PyObject *
get_tasks(ScLoop *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(self->drive ? atomic_load(&self->drive->tasks)
                                         : 0);
}

static PyObject *
get_thread_id(ScLoop *self, void *Py_UNUSED(closure))
{
    uintptr_t owner = self->drive ? atomic_load(&self->drive->owner) : 0;
    if (owner == 0 || sc_loop_is_dead(self)) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong((unsigned long)owner);
}

/* asyncio's run_forever says so that it has begun, and ended. */
static int
set_thread_id(ScLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (self->drive == NULL || self->bridged) {
        return 0;
    }
    if (value == NULL || value == Py_None) {
        sc_loop_release_signals(self);
        sc_drive_disclaim(self->drive);
    }
    else {
        sc_drive_claim(self->drive);
    }
    return 0;
}

static PyObject *
get_flag(ScLoop *self, void *closure)
{
    return PyBool_FromLong(*((bool *)self + (intptr_t)closure));
}

static int
set_flag(ScLoop *self, PyObject *value, void *closure)
{
    int truth = value ? PyObject_IsTrue(value) : 0;
    if (truth < 0) {
        return -1;
    }
    *((bool *)self + (intptr_t)closure) = truth;
    return 0;
}

static PyObject *
get_task_factory(ScLoop *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->task_factory ? self->task_factory : Py_None);
}

static int
set_task_factory(ScLoop *self, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(self->task_factory,
               Py_XNewRef(value == Py_None ? NULL : value));
    return 0;
}

#define FAST(name, function, doc)                                     \
    {                                                                 \
        name, SC_METHOD(function), METH_FASTCALL | METH_KEYWORDS, doc \
    }

static PyMethodDef loop_methods[] = {
    FAST("call_soon", sc_loop_call_soon, "asyncio's loop.call_soon()."),
    FAST("call_soon_threadsafe", sc_loop_call_soon_threadsafe,
         "asyncio's loop.call_soon_threadsafe()."),
    FAST("call_later", sc_loop_call_later, "asyncio's loop.call_later()."),
    FAST("call_at", sc_loop_call_at, "asyncio's loop.call_at()."),
    FAST("create_task", sc_loop_create_task, "asyncio's loop.create_task()."),
    {"create_future", SC_METHOD(sc_loop_create_future), METH_NOARGS,
     "asyncio's loop.create_future()."},
    {"time", SC_METHOD(loop_time), METH_NOARGS,
     "The loop's clock: seconds as a float, monotonic."},
    {"is_running", SC_METHOD(loop_is_running), METH_NOARGS,
     "True while a thread runs the loop."},
    {"is_closed", SC_METHOD(loop_is_closed), METH_NOARGS,
     "True once it was closed."},
    {"run_forever", SC_METHOD(loop_run_forever), METH_NOARGS,
     "asyncio's loop.run_forever()."},
    {"_run_once", SC_METHOD(loop_run_once), METH_NOARGS, NULL},
    {"_add_callback", SC_METHOD(sc_loop_add_callback), METH_O, NULL},
    {"_add_callback_signalsafe", SC_METHOD(sc_loop_add_callback), METH_O,
     NULL},
    {"_release", SC_METHOD(loop_release_method), METH_NOARGS, NULL},
    {"_refuse_calls", SC_METHOD(loop_refuse_calls), METH_NOARGS, NULL},
    {"_stream_tasks", SC_METHOD(sc_producer_tasks), METH_NOARGS, NULL},
    {"_share_task", SC_METHOD(loop_share_task), METH_O, NULL},
    {"_is_mine", SC_METHOD(loop_is_mine_method), METH_NOARGS, NULL},
    FAST("_add_reader", sc_loop_add_reader, NULL),
    FAST("_add_writer", sc_loop_add_writer, NULL),
    {"_remove_reader", SC_METHOD(sc_loop_remove_reader), METH_O, NULL},
    {"_remove_writer", SC_METHOD(sc_loop_remove_writer), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *
get_starting(ScLoop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->starting != NULL);
}

#define FLAG(name, field)                               \
    {                                                   \
        name, (getter)get_flag, (setter)set_flag, NULL, \
            (void *)offsetof(ScLoop, field)             \
    }

static PyGetSetDef loop_getset[] = {
    {"_thread_id", (getter)get_thread_id, (setter)set_thread_id, NULL, NULL},
    {"_calls", (getter)get_calls, NULL, NULL, NULL},
    {"_tasks", (getter)get_tasks, NULL, NULL, NULL},
    {"_task_factory", (getter)get_task_factory, (setter)set_task_factory, NULL,
     NULL},
    FLAG("_closed", closed),
    FLAG("_stopping", stopping),
    FLAG("_debug", debug),
    FLAG("_bridged", bridged),
    {"_starting", (getter)get_starting, NULL, NULL, NULL},
    FLAG("_signals_kept", signals.watched),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, (void *)"The C part of sidecar.Loop."},
    {Py_tp_new, SC_SLOT(loop_new)},
    {Py_tp_traverse, SC_SLOT(loop_traverse)},
    {Py_tp_clear, SC_SLOT(loop_clear)},
    {Py_tp_dealloc, SC_SLOT(loop_dealloc)},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "sidecar._core.LoopCore",
    .basicsize = sizeof(ScLoop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};

int
sc_loop_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->loop_type, &loop_spec, NULL, "LoopCore");
}
