#include "core/loop_run.h"

#include "core/running_loop.h"

/* asyncio's _check_running. */
static int
check_idle(ScLoop *self)
{
    if (atomic_load(&self->drive->owner) != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "This event loop is already running");
        return -1;
    }
    PyObject *running = sc_running_loop_get(self->st);
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
run_rounds(ScLoop *self)
{
    do {
        if (sc_loop_round(self) < 0 || PyErr_CheckSignals() < 0 ||
            sc_loop_breathe(self) < 0) {
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
    return PyErr_Occurred() ? -1 : rc;
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
