#include "core/producer_state.h"

#include "core/producer_garbage.h"
#include "core/task.h"
#include "core/task_list.h"

/* In the task: 3.9 and 3.10 give it a copy of the context that is meant. */
static void
note_context(ScProducer *self)
{
    if (self->task_context == NULL) {
        PyObject *here = SC_TASK_TAKES_CONTEXT ? self->context
                                               : PyThreadState_Get()->context;
        self->task_context = Py_XNewRef(here);
    }
}

/* 0: *value is what the task shall wait for; or -1. */
static int
park(ScProducer *self, PyObject **value)
{
    ScState *st = self->loop->st;
    note_context(self);
    PyObject *gate = sc_loop_create_future(self->loop, NULL);
    if (gate == NULL ||
        PyObject_SetAttr(gate, st->str__asyncio_future_blocking, Py_True) <
            0) {
        Py_XDECREF(gate);
        return -1;
    }
    self->gate = Py_NewRef(gate);
    sc_producer_count(self);
    *value = gate;
    return 0;
}

/* What step_here has left to the task.  True: *result is the task's step. */
static bool
take_handed(ScProducer *self, PyObject **thrown, PyObject **value,
            ScAwaitResult *result)
{
    if (self->raised != NULL) {
        /* It is at its end: what was to be thrown comes too late. */
        Py_CLEAR(*thrown);
        sc_error_restore(self->raised);
        self->raised = NULL;
        *result = SC_AWAIT_ERROR;
        return sc_producer_take_error(self) < 0;
    }
    PyObject *waits_for = self->handed;
    self->handed = NULL;
    if (waits_for == NULL || waits_for == Py_None) {
        Py_XDECREF(waits_for);
        return false;
    }
    if (*thrown != NULL) {
        /* As Task.cancel(): by what it waits for, where that can be. */
        PyObject *done =
            PyObject_CallMethodNoArgs(waits_for, self->loop->st->str_cancel);
        int yes = done ? PyObject_IsTrue(done) : 0;
        Py_XDECREF(done);
        PyErr_Clear();
        if (yes <= 0) {
            Py_DECREF(waits_for);
            return false;
        }
        Py_CLEAR(*thrown);
    }
    self->waited = true;
    *value = waits_for;
    *result = SC_AWAIT_YIELD;
    return true;
}

ScAwaitResult
sc_producer_run(ScProducer *self, PyObject *thrown, PyObject **value)
{
    ScState *st = self->loop->st;
    ScAwaitResult handed;
    Py_CLEAR(self->gate);
    if ((self->handed != NULL || self->raised != NULL) &&
        take_handed(self, &thrown, value, &handed)) {
        return handed;
    }
    while (!self->over) {
        int rc = 0;
        if (self->step == NULL && thrown == NULL &&
            !sc_producer_is_wanted(self)) {
            rc = park(self, value);
            if (rc == 0) {
                return SC_AWAIT_YIELD;
            }
        }
        else if (self->step == NULL) {
            rc = thrown ? sc_producer_begin_throw(self, thrown)
                        : sc_producer_begin_step(self);
            Py_CLEAR(thrown);
        }
        if (rc == 0 && self->step != NULL) {
            /* It may be given up, and the generator closed, from inside. */
            PyObject *step = Py_NewRef(self->step);
            ScAwaitResult result =
                thrown ? sc_await_throw(st, step, thrown, value)
                       : sc_await_send(st, step, value);
            Py_CLEAR(thrown);
            Py_DECREF(step);
            if (result == SC_AWAIT_YIELD) {
                self->waited = true;
                sc_producer_count(self);
                return result;
            }
            rc = result == SC_AWAIT_RETURN
                     ? sc_producer_take_value(self, *value)
                     : -1;
        }
        if (rc < 0 && sc_producer_take_error(self) < 0) {
            return SC_AWAIT_ERROR;
        }
    }
    Py_XDECREF(thrown);
    *value = Py_NewRef(Py_None);
    return SC_AWAIT_RETURN;
}

/* It ends with the request in whose name its steps run. */
static void
belong(ScProducer *self)
{
    ScOwner *owner = sc_owner_current(self->loop->st, self->context);
    if (owner == NULL) {
        return;
    }
    if (sc_work_begin(&self->work, owner, SC_WORK_TASK, self->task) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_DECREF((PyObject *)owner);
}

void
sc_producer_resume(ScProducer *self)
{
    ScState *st = self->loop->st;
    if (self->gate != NULL) {
        self->waited = false;
        /* It is done where the task was cancelled meanwhile. */
        PyObject *stack[] = {self->gate, Py_None};
        PyObject *none =
            PyObject_VectorcallMethod(st->str_set_result, stack, 2, NULL);
        if (none == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(none);
        return;
    }
    if (self->task != NULL) {
        return;
    }
    self->loop->starting = (PyObject *)self;
    PyObject *task =
        sc_task_start(self->loop, (PyObject *)self, self->context);
    self->loop->starting = NULL;
    if (sc_loop_is_dead(self->loop)) {
        /* The parent's: it stays as it was. */
        return;
    }
    if (task == NULL) {
        sc_producer_finish(self, sc_error_take());
    }
    else if (self->over) {
        Py_DECREF(task);
    }
    else {
        self->task = task;
        belong(self);
        sc_producer_join(self);
        sc_producer_make_sentinel(self);
        /* It is not lost where it is garbage: see producer_garbage.h. */
        if (PyObject_SetAttrString(task, "_log_destroy_pending", Py_False) <
            0) {
            PyErr_Clear();
        }
        self->announced = true;
        self->tenure = sc_task_list_begun(self->loop, task);
        sc_producer_count(self);
    }
}
