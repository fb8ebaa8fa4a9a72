#include "core/call.h"
#include "core/clock.h"
#include "core/loop.h"
#include "core/loop_run.h"
#include "core/support.h"
#include "core/task.h"

static int
ring_grow(ScRing *ring)
{
    size_t room = ring->room ? 2 * ring->room : 64;
    PyObject **items = PyMem_Malloc(room * sizeof(PyObject *));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < ring->count; i++) {
        items[i] = ring->items[(ring->head + i) & (ring->room - 1)];
    }
    PyMem_Free(ring->items);
    ring->items = items;
    ring->head = 0;
    ring->room = room;
    return 0;
}

int
sc_loop_push(ScLoop *self, PyObject *handle)
{
    ScRing *ring = &self->ring;
    if (ring->count == ring->room && ring_grow(ring) < 0) {
        Py_DECREF(handle);
        return -1;
    }
    ring->items[(ring->head + ring->count++) & (ring->room - 1)] = handle;
    return 0;
}

PyObject *
sc_loop_pop(ScLoop *self)
{
    ScRing *ring = &self->ring;
    if (ring->count == 0) {
        return NULL;
    }
    PyObject *handle = ring->items[ring->head];
    ring->head = (ring->head + 1) & (ring->room - 1);
    ring->count--;
    return handle;
}

int
sc_loop_parse_context(ScState *st, const char *method, PyObject *const *args,
                      Py_ssize_t nargs, Py_ssize_t least, PyObject *kwnames,
                      PyObject **context)
{
    *context = NULL;
    if (nargs < least) {
        PyErr_Format(PyExc_TypeError,
                     "%s() needs %zd positional arguments at least, not %zd",
                     method, least, nargs);
        return -1;
    }
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (name != st->str_context &&
            PyUnicode_Compare(name, st->str_context) != 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'",
                         method, name);
            return -1;
        }
        *context = args[nargs + i];
    }
    return 0;
}

static int
check_debug(ScLoop *self, const char *method, PyObject *callback,
            bool threadsafe)
{
    if (!self->debug) {
        return 0;
    }
    PyObject *result =
        sc_support_call("check_callback", "(OsOi)", (PyObject *)self, method,
                        callback, (int)threadsafe);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Queue a fresh handle here or send it over; a new reference for the caller
 * comes back. */
static PyObject *
enqueue(ScLoop *self, ScHandle *handle, bool threadsafe)
{
    if (handle == NULL) {
        return NULL;
    }
    Py_INCREF((PyObject *)handle);
    if (threadsafe ? sc_drive_is_owner(self->drive) : sc_loop_is_mine(self)) {
        /* What other threads sent before this runs before it. */
        if ((!sc_inbox_is_empty(&self->drive->inbox) &&
             sc_loop_take_inbox(self) < 0) ||
            sc_loop_push(self, (PyObject *)handle) < 0) {
            Py_DECREF((PyObject *)handle);
            return NULL;
        }
    }
    else {
        sc_loop_post(self, &handle->op, SC_OP_HANDLE);
    }
    return (PyObject *)handle;
}

/* On a dead loop: the callback will not run, and nothing is touched. */
static PyObject *
dead_handle(ScLoop *self, PyObject *callback)
{
    ScHandle *handle = sc_handle_new(self, callback, NULL, 0, NULL);
    if (handle != NULL) {
        sc_handle_cancel(handle);
    }
    return (PyObject *)handle;
}

static PyObject *
schedule(ScLoop *self, const char *method, PyObject *const *args,
         Py_ssize_t nargs, PyObject *kwnames, bool threadsafe)
{
    PyObject *context;
    if (sc_loop_parse_context(self->st, method, args, nargs, 1, kwnames,
                              &context) < 0 ||
        sc_loop_check_open(self) < 0) {
        return NULL;
    }
    if (sc_loop_is_dead(self)) {
        return dead_handle(self, args[0]);
    }
    if (check_debug(self, method, args[0], threadsafe) < 0) {
        return NULL;
    }
    ScHandle *handle =
        sc_handle_new(self, args[0], args + 1, nargs - 1, context);
    if (handle != NULL) {
        handle->holds_off = threadsafe && SC_HANDLES_HOLD_OFF;
    }
    return enqueue(self, handle, threadsafe);
}

PyObject *
sc_loop_call_soon(ScLoop *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    /* A task that ends calls its done-callbacks through here: ours are
     * answered on the spot, without a round of the loop. */
    if (nargs > 0) {
        if (Py_TYPE(args[0]) == self->st->call_type) {
            sc_call_task_ended(self, args[0], nargs > 1 ? args[1] : NULL);
            Py_RETURN_NONE;
        }
        if (Py_TYPE(args[0]) == self->st->mark_type) {
            sc_mark_task_ended(args[0]);
            Py_RETURN_NONE;
        }
    }
    return schedule(self, "call_soon", args, nargs, kwnames, false);
}

PyObject *
sc_loop_call_soon_threadsafe(ScLoop *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames)
{
    return schedule(self, "call_soon_threadsafe", args, nargs, kwnames, true);
}

static PyObject *
schedule_at(ScLoop *self, const char *method, double when,
            PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    if (sc_loop_check_open(self) < 0) {
        return NULL;
    }
    if (sc_loop_is_dead(self)) {
        return dead_handle(self, args[0]);
    }
    if (check_debug(self, method, args[0], false) < 0) {
        return NULL;
    }
    ScTimerHandle *handle =
        sc_timer_handle_new(self, when, args[0], args + 1, nargs - 1, context);
    if (handle == NULL) {
        return NULL;
    }
    Py_INCREF((PyObject *)handle);
    if (!sc_loop_is_mine(self)) {
        atomic_store(&handle->posted, true);
        sc_loop_post(self, &handle->base.op, SC_OP_TIMER);
    }
    else if (sc_timers_add(&self->timers, &handle->timer, sc_timer_due(when)) <
             0) {
        Py_DECREF((PyObject *)handle);
        Py_DECREF((PyObject *)handle);
        return PyErr_NoMemory();
    }
    return (PyObject *)handle;
}

PyObject *
sc_loop_call_at(ScLoop *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    PyObject *context;
    if (sc_loop_parse_context(self->st, "call_at", args, nargs, 2, kwnames,
                              &context) < 0) {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return schedule_at(self, "call_at", when, args + 1, nargs - 1, context);
}

PyObject *
sc_loop_call_later(ScLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    PyObject *context;
    if (sc_loop_parse_context(self->st, "call_later", args, nargs, 2, kwnames,
                              &context) < 0) {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    double delay = PyFloat_AsDouble(args[0]);
    if (delay == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    double when = (double)sc_clock_now() / 1e9 + delay;
    return schedule_at(self, "call_later", when, args + 1, nargs - 1, context);
}

/* A handle of asyncio's own making: add_signal_handler's. */
PyObject *
sc_loop_add_callback(ScLoop *self, PyObject *handle)
{
    if (sc_loop_check_open(self) < 0) {
        return NULL;
    }
    if (sc_loop_is_mine(self)) {
        if (sc_loop_push(self, Py_NewRef(handle)) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    PyObject *run =
        sc_state_import("sidecar._support", "run_unless_cancelled");
    if (run == NULL) {
        return NULL;
    }
    PyObject *queued =
        enqueue(self, sc_handle_new(self, run, &handle, 1, NULL), true);
    Py_DECREF(run);
    Py_XDECREF(queued);
    return queued ? Py_NewRef(Py_None) : NULL;
}
