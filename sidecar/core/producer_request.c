#include "core/producer_state.h"

#include "core/producer_garbage.h"
#include "core/support.h"

PyObject *
sc_producer_iterator(ScProducer *self)
{
    return self->iterator;
}

void
sc_producer_cancel(ScProducer *self)
{
    if (self->task != NULL && !self->over) {
        PyObject *done =
            PyObject_CallMethodNoArgs(self->task, self->loop->st->str_cancel);
        if (done == NULL) {
            PyErr_WriteUnraisable(self->task);
        }
        Py_XDECREF(done);
    }
}

static void
begin_closing(ScProducer *self)
{
    self->closing = true;
    sc_producer_drop_items(self);
    if (self->task == NULL) {
        /* Nothing was begun; a coroutine is not left "never awaited". */
        if (self->source != NULL && PyCoro_CheckExact(self->source)) {
            sc_call_close_coroutine(self->source);
        }
        sc_producer_finish(self, NULL);
    }
    else if (self->gate != NULL && self->step == NULL) {
        sc_producer_resume(self);
    }
    else {
        sc_producer_cancel(self);
    }
}

/* 0; or -1 with RuntimeError set where somebody is in the context: no step
 * could run, and the call would never end. */
static int
check_context(ScProducer *self)
{
    PyObject *context =
        SC_TASK_TAKES_CONTEXT ? self->context : self->task_context;
    return context == NULL || (PyContext_Enter(context) == 0 &&
                               PyContext_Exit(context) == 0)
               ? 0
               : -1;
}

void
sc_producer_begin(ScProducer *self, ScCall *call)
{
    bool wake = false;
    PyObject *item = NULL;
    if (call->request == SC_STEP_THROW) {
        sc_producer_drop_items(self);
    }
    else if (call->request != SC_STEP_CLOSE) {
        item = sc_producer_pop(self, &wake);
    }
    if (self->call != NULL) {
        /* Its caller has given up, and closing is all that it still gets. */
        self->abandoned = self->closing = true;
    }
    if (item != NULL || self->over || self->abandoned) {
        PyObject *error = NULL;
        if (item == NULL) {
            error = self->failure;
            self->failure = NULL;
        }
        if (item == NULL && call->request == SC_STEP_CLOSE && error == NULL) {
            item = Py_NewRef(Py_None);
        }
        sc_call_settle(call, item, error);
        return;
    }
    if (check_context(self) < 0) {
        sc_call_settle(call, NULL, sc_error_take());
        return;
    }
    self->call = (ScCall *)Py_NewRef((PyObject *)call);
    sc_producer_count(self);
    if (call->request == SC_STEP_CLOSE) {
        begin_closing(self);
    }
    else if (self->room == 0 && self->task_context != NULL &&
             sc_producer_is_parked(self)) {
        sc_producer_step_here(self);
    }
    else {
        sc_producer_resume(self);
    }
}

void
sc_producer_abandon(ScProducer *self)
{
    self->abandoned = self->closing = true;
    Py_CLEAR(self->call);
    sc_producer_count(self);
}

/* Tell the owner, whoever it is: `method` is called on the loop. */
static void
post(ScProducer *self, PyObject *method, PyObject *argument)
{
    ScLoop *loop = self->loop;
    if (sc_loop_is_dead(loop) || loop->closed || sc_is_finalizing()) {
        return;
    }
    PyObject *before = sc_error_take();
    PyObject *bound = PyObject_GetAttr((PyObject *)self, method);
    PyObject *stack[] = {(PyObject *)loop, bound, argument};
    PyObject *handle =
        bound ? PyObject_VectorcallMethod(loop->st->str_call_soon_threadsafe,
                                          stack, 3, NULL)
              : NULL;
    if (handle == NULL) {
        /* Closed at this very moment: what runs on it has ended. */
        PyErr_Clear();
    }
    Py_XDECREF(handle);
    Py_XDECREF(bound);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

void
sc_producer_wake(ScProducer *self)
{
    post(self, self->loop->st->str__resume, Py_None);
}

void
sc_producer_drop(ScProducer *self)
{
    if (!sc_producer_is_over(self)) {
        post(self, self->loop->st->str__drop, Py_None);
    }
}

PyObject *
sc_producer_wake_now(ScProducer *self, PyObject *Py_UNUSED(none))
{
    if (!self->over && self->gate != NULL && sc_producer_is_wanted(self)) {
        sc_producer_resume(self);
        sc_producer_count(self);
    }
    Py_RETURN_NONE;
}

PyObject *
sc_producer_drop_now(ScProducer *self, PyObject *Py_UNUSED(none))
{
    if (self->dropped) {
        Py_RETURN_NONE;
    }
    self->dropped = true;
    if (self->over) {
        if (self->failure != NULL &&
            !sc_producer_is_cancelled(self, self->failure)) {
            sc_producer_report(self, self->failure);
        }
        Py_CLEAR(self->failure);
        Py_RETURN_NONE;
    }
    if (self->found && self->task != NULL) {
        sc_producer_show(self);
    }
    if (self->task != NULL) {
        sc_support_tell("bound_close", "(OOd)", (PyObject *)self->loop,
                        self->task, (double)self->cleanup / 1e9);
    }
    begin_closing(self);
    sc_producer_count(self);
    Py_RETURN_NONE;
}
