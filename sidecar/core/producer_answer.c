#include "core/producer_state.h"

#include "core/lineage.h"
#include "core/producer_garbage.h"
#include "core/support.h"
#include "core/task_list.h"

/* Steals both. */
static void
answer(ScProducer *self, PyObject *result, PyObject *error)
{
    ScCall *call = self->call;
    self->call = NULL;
    sc_call_settle(call, result, error);
    Py_DECREF((PyObject *)call);
}

/* Its caller may have given up while the loop stood still. */
static void
note_left(ScProducer *self)
{
    if (self->call != NULL && atomic_load(&self->call->abandoned)) {
        self->abandoned = self->closing = true;
        answer(self, NULL, NULL);
    }
}

void
sc_producer_deliver(ScProducer *self, PyObject *item)
{
    note_left(self);
    if (self->closing) {
        Py_DECREF(item);
    }
    else if (self->call != NULL) {
        answer(self, item, NULL);
    }
    else {
        sc_producer_push(self, item);
    }
}

static void
note_end(ScProducer *self, PyObject *error)
{
    if (self->abandoned) {
        sc_support_tell("note_orphan_end", "(OO)", (PyObject *)self,
                        error ? error : Py_None);
    }
}

void
sc_producer_end_lineage(ScProducer *self)
{
    if (self->lineage != NULL) {
        sc_lineage_end(self->lineage);
        Py_CLEAR(self->lineage);
    }
}

PyObject **
sc_producer_lineage(ScProducer *self)
{
    return &self->lineage;
}

ScCall *
sc_producer_call(ScProducer *self)
{
    return self->call;
}

PyObject *
sc_producer_ask_iterator(ScProducer *self, PyObject *name)
{
    PyObject *value =
        self->iterator ? PyObject_GetAttr(self->iterator, name) : NULL;
    if (value == NULL) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return value;
}

bool
sc_producer_is_cancelled(ScProducer *self, PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, self->loop->st->cancelled_error);
}

void
sc_producer_report(ScProducer *self, PyObject *error)
{
    ScState *st = self->loop->st;
    PyObject *text = PyUnicode_FromFormat(
        "%R has failed, and its consumer is gone", (PyObject *)self);
    PyObject *context = text ? Py_BuildValue("{OOOO}", st->str_message, text,
                                             st->str_exception, error)
                             : NULL;
    PyObject *stack[] = {(PyObject *)self->loop, context};
    PyObject *none =
        context ? PyObject_VectorcallMethod(st->str_call_exception_handler,
                                            stack, 2, NULL)
                : NULL;
    if (none == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(none);
    Py_XDECREF(context);
    Py_XDECREF(text);
}

/* What the one who closes it, or nobody, shall hear of its end.  Steals. */
static PyObject *
error_of_closing(ScProducer *self, PyObject *error)
{
    bool cancelled = error != NULL && sc_producer_is_cancelled(self, error);
    if (error == NULL ||
        (self->call != NULL && (!cancelled || self->call->timed_out))) {
        return error;
    }
    if (!cancelled) {
        sc_producer_report(self, error);
    }
    Py_DECREF(error);
    return NULL;
}

void
sc_producer_finish(ScProducer *self, PyObject *error)
{
    note_left(self);
    note_end(self, error);
    if (self->abandoned) {
        Py_CLEAR(error);
    }
    else if (self->closing) {
        error = error_of_closing(self, error);
    }
    PyObject *unused = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->over = true;
    if (self->call == NULL) {
        unused = self->failure;
        self->failure = error;
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(unused);
    if (self->call != NULL && self->call->timed_out) {
        self->code =
            sc_producer_ask_iterator(self, self->loop->st->str_ag_code);
    }
    Py_CLEAR(self->step);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->source);
    sc_producer_leave(self);
    Py_CLEAR(self->task);
    Py_CLEAR(self->sentinel);
    sc_producer_end_lineage(self);
    if (self->call != NULL) {
        bool is_close = self->call->request == SC_STEP_CLOSE;
        answer(self, is_close && error == NULL ? Py_NewRef(Py_None) : NULL,
               error);
    }
    sc_work_end(&self->work);
    if (self->announced) {
        self->announced = false;
        sc_task_list_ended(self->loop, self->tenure);
    }
    sc_producer_count(self);
}
