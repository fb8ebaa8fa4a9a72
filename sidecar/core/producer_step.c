#include "core/producer_state.h"

#include "core/support.h"

/* -- its begin ------------------------------------------------------------ */

static int
await_on(ScProducer *self, PyObject *awaitable, ScAwaited what)
{
    if (awaitable == NULL) {
        return -1;
    }
    self->step = sc_await_iter(awaitable);
    self->awaited = what;
    Py_DECREF(awaitable);
    return self->step ? 0 : -1;
}

/* The async iterator of `iterable`, or NULL with TypeError set. */
static PyObject *
iterator_of(PyObject *iterable)
{
    PyAsyncMethods *methods = Py_TYPE(iterable)->tp_as_async;
    if (methods == NULL || methods->am_aiter == NULL) {
        return PyErr_Format(
            PyExc_TypeError,
            "stream() takes an async iterable, or an awaitable of one; it "
            "awaited %.200R, which is none",
            iterable);
    }
    PyObject *iterator = methods->am_aiter(iterable);
    if (iterator == NULL) {
        return NULL;
    }
    methods = Py_TYPE(iterator)->tp_as_async;
    if (methods == NULL || methods->am_anext == NULL) {
        PyErr_Format(PyExc_TypeError,
                     "__aiter__() returned %.200R, which has no __anext__",
                     iterator);
        Py_CLEAR(iterator);
    }
    return iterator;
}

static int
begin_source(ScProducer *self)
{
    PyAsyncMethods *methods = Py_TYPE(self->source)->tp_as_async;
    if (methods == NULL || methods->am_aiter == NULL) {
        PyObject *source = self->source;
        self->source = NULL;
        return await_on(self, source, SC_AWAITS_SOURCE);
    }
    self->iterator = iterator_of(self->source);
    Py_CLEAR(self->source);
    return self->iterator ? 0 : -1;
}

static PyObject *
ignore(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(generator))
{
    Py_RETURN_NONE;
}

static PyMethodDef ignore_def = {"closed_by_its_stream", ignore, METH_O, NULL};

/* The first item of a generator, which remembers the thread's hooks: where it
 * is garbage, its own task closes it (producer_garbage.h), no other one. */
static PyObject *
first_of_generator(PyObject *generator)
{
    PyObject *none = PyCFunction_New(&ignore_def, NULL);
    if (none == NULL) {
        return NULL;
    }
    ScAsyncgenHooks hooks = sc_asyncgen_hooks_swap((ScAsyncgenHooks){0});
    ScAsyncgenHooks ours = {Py_XNewRef(hooks.firstiter), none};
    sc_asyncgen_hooks_swap(ours);
    PyObject *first = Py_TYPE(generator)->tp_as_async->am_anext(generator);
    ours = sc_asyncgen_hooks_swap(hooks);
    Py_XDECREF(ours.firstiter);
    Py_XDECREF(ours.finalizer);
    return first;
}

static int
begin_next(ScProducer *self)
{
    PyObject *iterator = self->iterator, *next;
    self->awaited = SC_AWAITS_ITEM;
    if (!self->hooked && PyAsyncGen_CheckExact(iterator)) {
        self->hooked = true;
        next = first_of_generator(iterator);
    }
    else {
        next = Py_TYPE(iterator)->tp_as_async->am_anext(iterator);
    }
    return await_on(self, next, SC_AWAITS_ITEM);
}

/* iterator.NAME(value): 1; 0 where it has no such method. */
static int
begin_method(ScProducer *self, PyObject *name, PyObject *value, ScAwaited what)
{
    PyObject *method = PyObject_GetAttr(self->iterator, name);
    if (method == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    self->awaited = what;
    PyObject *awaitable = value ? PyObject_CallOneArg(method, value)
                                : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return await_on(self, awaitable, what) < 0 ? -1 : 1;
}

static int
begin_close(ScProducer *self)
{
    int begun = self->iterator ? begin_method(self, self->loop->st->str_aclose,
                                              NULL, SC_AWAITS_CLOSE)
                               : 0;
    if (begun == 0) {
        sc_producer_finish(self, NULL);
    }
    return begun < 0 ? -1 : 0;
}

int
sc_producer_begin_throw(ScProducer *self, PyObject *error)
{
    int begun = self->iterator ? begin_method(self, self->loop->st->str_athrow,
                                              error, SC_AWAITS_ITEM)
                               : 0;
    if (begun == 0) {
        sc_error_restore(Py_NewRef(error));
        return -1;
    }
    return begun < 0 ? -1 : 0;
}

static int
begin_send(ScProducer *self, PyObject *value)
{
    int begun =
        begin_method(self, self->loop->st->str_asend, value, SC_AWAITS_ITEM);
    if (begun == 0) {
        PyErr_Format(PyExc_TypeError,
                     "send() of a stream over %.200R, which has no asend()",
                     self->iterator);
    }
    return begun > 0 ? 0 : -1;
}

int
sc_producer_begin_step(ScProducer *self)
{
    if (self->closing) {
        return begin_close(self);
    }
    if (self->iterator == NULL) {
        return begin_source(self);
    }
    if (self->call != NULL && self->call->request == SC_STEP_SEND) {
        return begin_send(self, self->call->value);
    }
    if (self->call != NULL && self->call->request == SC_STEP_THROW) {
        return sc_producer_begin_throw(self, self->call->value);
    }
    return begin_next(self);
}

/* -- its end -------------------------------------------------------------- */

/* Before 3.11 the task runs in a copy of its own. */
static void
note_changes(ScProducer *self)
{
    if (self->propagate && !SC_TASK_TAKES_CONTEXT) {
        sc_support_tell("note_changes", "(O)", self->context);
    }
}

int
sc_producer_take_value(ScProducer *self, PyObject *value)
{
    ScAwaited awaited = self->awaited;
    self->awaited = SC_AWAITS_NOTHING;
    Py_CLEAR(self->step);
    note_changes(self);
    if (awaited == SC_AWAITS_ITEM) {
        sc_producer_deliver(self, value);
        return 0;
    }
    if (awaited == SC_AWAITS_SOURCE) {
        self->iterator = self->closing ? NULL : iterator_of(value);
        Py_DECREF(value);
        return self->iterator || self->closing ? 0 : -1;
    }
    Py_DECREF(value);
    sc_producer_finish(self, NULL);
    return 0;
}

int
sc_producer_take_error(ScProducer *self)
{
    ScState *st = self->loop->st;
    PyObject *error = sc_error_take();
    bool cancelled = PyErr_GivenExceptionMatches(error, st->cancelled_error);
    if (cancelled) {
        Py_INCREF(error);
    }
    if (PyErr_GivenExceptionMatches(error, PyExc_StopAsyncIteration) &&
        self->awaited == SC_AWAITS_ITEM) {
        Py_CLEAR(error);
    }
    self->awaited = SC_AWAITS_NOTHING;
    note_changes(self);
    sc_producer_finish(self, error);
    if (cancelled) {
        sc_error_restore(error);
    }
    return cancelled ? -1 : 0;
}

/* -- past the task -------------------------------------------------------- */

bool
sc_producer_is_parked(ScProducer *self)
{
    if (self->gate == NULL || self->step != NULL || self->iterator == NULL ||
        self->handed != NULL || self->raised != NULL) {
        return false;
    }
    if (self->propagate && !SC_TASK_TAKES_CONTEXT) {
        return false; /* take_value must run inside the task's context */
    }
    PyObject *done =
        PyObject_CallMethodNoArgs(self->gate, self->loop->st->str_done);
    bool parked = done == Py_False;
    Py_XDECREF(done);
    PyErr_Clear();
    return parked;
}

static ScAwaitResult
step_as_task(ScProducer *self, PyObject **value)
{
    ScState *st = self->loop->st;
    PyObject *marks[] = {(PyObject *)self->loop, self->task};
    PyObject *none = PyObject_Vectorcall(st->enter_task, marks, 2, NULL);
    if (none == NULL) {
        return SC_AWAIT_ERROR;
    }
    Py_DECREF(none);
    ScAwaitResult result = SC_AWAIT_ERROR;
    if (sc_producer_begin_step(self) == 0) {
        PyObject *step = Py_NewRef(self->step);
        result = sc_await_send(st, step, value);
        Py_DECREF(step);
    }
    if (sc_loop_is_dead(self->loop)) {
        return result;
    }
    PyObject *error = sc_error_take();
    none = PyObject_Vectorcall(st->leave_task, marks, 2, NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable(self->task);
    }
    Py_XDECREF(none);
    if (error != NULL) {
        sc_error_restore(error);
    }
    return result;
}

void
sc_producer_step_here(ScProducer *self)
{
    PyObject *value = NULL;
    if (PyContext_Enter(self->task_context) < 0) {
        PyErr_Clear();
        sc_producer_resume(self);
        return;
    }
    ScAwaitResult result = step_as_task(self, &value);
    bool dead = sc_loop_is_dead(self->loop);
    PyObject *error = sc_error_take();
    if (PyContext_Exit(self->task_context) < 0) {
        PyErr_WriteUnraisable(self->task);
    }
    if (dead) {
        /* The child of a fork: all of it is the parent's. */
        Py_XDECREF(value);
        Py_XDECREF(error);
        return;
    }
    if (result == SC_AWAIT_RETURN) {
        sc_producer_take_value(self, value);
        return;
    }
    self->handed = value;
    self->raised = error;
    sc_producer_resume(self);
}
