#include "core/loop_run.h"

/* Rounds in C pass by the places where the interpreter looks whether another
 * thread wants to run, and callbacks in C do as well.  So the loop looks, as
 * often as CPython's switch interval says by default. */
static const int64_t YIELD_EVERY = 5 * INT64_C(1000000);

/* asyncio's _check_running. */
static int
check_idle(ScLoop *self)
{
    if (atomic_load(&self->drive->owner) != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "This event loop is already running");
        return -1;
    }
    PyObject *running = PyObject_CallNoArgs(self->st->get_running_loop);
    Py_XDECREF(running);
    if (running != NULL && running != Py_None) {
        PyErr_SetString(
            PyExc_RuntimeError,
            "Cannot run the event loop while another loop is running");
        return -1;
    }
    return running ? 0 : -1;
}

/* Debug mode's; set_debug() may have switched it meanwhile. */
static int
track_origins(ScLoop *self, bool on)
{
    ScState *st = self->st;
    PyObject *is_on = PyObject_GetAttr(
        (PyObject *)self, st->str__coroutine_origin_tracking_enabled);
    int before = is_on ? PyObject_IsTrue(is_on) : -1;
    Py_XDECREF(is_on);
    if (before < 0 || before == (int)on) {
        return before < 0 ? -1 : 0;
    }
    PyObject *none = PyObject_CallMethodOneArg(
        (PyObject *)self, st->str__set_coroutine_origin_tracking,
        on ? Py_True : Py_False);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

static int
yield(int64_t *yielded_at, int64_t now)
{
    *yielded_at = now;
    Py_BEGIN_ALLOW_THREADS;
    Py_END_ALLOW_THREADS;
    return Py_MakePendingCalls();
}

static int
run_rounds(ScLoop *self)
{
    int64_t yielded_at = sc_clock_now();
    do {
        if (sc_loop_round(self) < 0 || PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (self->polled_at - yielded_at >= YIELD_EVERY &&
            yield(&yielded_at, self->polled_at) < 0) {
            return -1;
        }
    } while (!self->stopping);
    return 0;
}

static int
run_claimed(ScLoop *self)
{
    ScMarks marks;
    if (track_origins(self, self->debug) < 0 ||
        sc_loop_enter(self, &marks) < 0) {
        return -1;
    }
    int rc = run_rounds(self);
    sc_loop_exit(self, &marks);
    return rc;
}

int
sc_loop_run_forever(ScLoop *self)
{
    if (sc_loop_check_open(self) < 0 || check_idle(self) < 0) {
        return -1;
    }
    sc_drive_claim(self->drive);
    int rc = run_claimed(self);
    self->stopping = false;
    PyObject *error = sc_error_take();
    sc_loop_release_signals(self);
    sc_drive_disclaim(self->drive);
    if (track_origins(self, false) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
    return rc;
}
