#include "core/future.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

#include "core/clock.h"
#include "core/module.h"
#include "core/park.h"
#include "core/work.h"

typedef enum { PENDING, RUNNING, CANCELLED, NOTIFIED, FINISHED } FutureState;

/* As concurrent.futures' _base.py has them. */
static const char *const state_names[] = {
    "PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"};

typedef struct {
    PyObject_HEAD
    ScState *st;
    _Atomic(FutureState) state; /* written in the critical section */
    bool asked; /* the exception has come to who asked for it */
    PyObject *condition;
    PyObject *waiters;
    PyObject *callbacks;
    PyObject *result;
    PyObject *exception;
    PyObject *what;    /* for the message about an exception that is lost */
    PyObject *request; /* its request's id, or NULL */
    ScWork work;       /* what it is of that request's, or of nobody's */
} Future;

/* concurrent.futures.Future.NAME(self[, value]) */
static PyObject *
base_call(Future *self, PyObject *name, PyObject *value)
{
    PyObject *stack[] = {self->st->base_future, (PyObject *)self, value};
    return PyObject_VectorcallMethod(name, stack, value ? 3 : 2, NULL);
}

/* -- the base class's attributes ------------------------------------------ */

static PyObject *
get_state(Future *self, void *Py_UNUSED(closure))
{
    FutureState state;
    Py_BEGIN_CRITICAL_SECTION(self);
    state = self->state;
    Py_END_CRITICAL_SECTION();
    return PyUnicode_InternFromString(state_names[state]);
}

static int
set_state(Future *self, PyObject *value, void *Py_UNUSED(closure))
{
    const char *text = value ? PyUnicode_AsUTF8(value) : NULL;
    for (FutureState i = PENDING; text != NULL && i <= FINISHED; i++) {
        if (strcmp(text, state_names[i]) == 0) {
            Py_BEGIN_CRITICAL_SECTION(self);
            self->state = i;
            Py_END_CRITICAL_SECTION();
            return 0;
        }
    }
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "%R is no state of a future", value);
    }
    return -1;
}

static PyObject **
field_at(Future *self, void *offset)
{
    return (PyObject **)((char *)self + (uintptr_t)offset);
}

/* The condition, or a list, made when it is first asked for. */
static PyObject *
get_lazy(Future *self, void *offset)
{
    PyObject **field = field_at(self, offset), *made = NULL, *value;
    Py_BEGIN_CRITICAL_SECTION(self);
    value = Py_XNewRef(*field);
    Py_END_CRITICAL_SECTION();
    if (value != NULL) {
        return value;
    }
    made = (uintptr_t)offset == offsetof(Future, condition)
               ? PyObject_CallNoArgs(self->st->threading_condition)
               : PyList_New(0);
    if (made == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (*field == NULL) {
        *field = made;
        made = NULL;
    }
    value = Py_NewRef(*field);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(made);
    return value;
}

static int
set_lazy(Future *self, PyObject *value, void *offset)
{
    PyObject **field = field_at(self, offset), *before;
    Py_BEGIN_CRITICAL_SECTION(self);
    before = *field;
    *field = Py_XNewRef(value);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(before);
    return 0;
}

/* -- its methods ---------------------------------------------------------- */

static PyObject *
future_claim(Future *self, PyObject *Py_UNUSED(ignored))
{
    bool claimed = false;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->condition == NULL && self->state == PENDING) {
        self->state = RUNNING;
        claimed = true;
    }
    Py_END_CRITICAL_SECTION();
    if (!claimed) {
        return base_call(self, self->st->str_set_running_or_notify_cancel,
                         NULL);
    }
    Py_RETURN_TRUE;
}

/* Callbacks are added under the condition: where there is none, there are no
 * callbacks. */
static PyObject *
settle(Future *self, PyObject **field, PyObject *value, PyObject *name)
{
    bool settled = false;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->condition == NULL &&
        (self->state == PENDING || self->state == RUNNING)) {
        *field = Py_NewRef(value);
        self->state = FINISHED;
        settled = true;
    }
    Py_END_CRITICAL_SECTION();
    sc_work_end(&self->work);
    if (!settled) {
        return base_call(self, name, value);
    }
    Py_RETURN_NONE;
}

static PyObject *
future_set_result(Future *self, PyObject *value)
{
    return settle(self, &self->result, value, self->st->str_set_result);
}

static PyObject *
future_set_exception(Future *self, PyObject *value)
{
    return settle(self, &self->exception, value, self->st->str_set_exception);
}

static PyObject *
future_done(Future *self, PyObject *Py_UNUSED(ignored))
{
    bool done;
    Py_BEGIN_CRITICAL_SECTION(self);
    done = self->state >= CANCELLED;
    Py_END_CRITICAL_SECTION();
    return PyBool_FromLong(done);
}

/* The base class's method, by which somebody asks: `asked` where the exception
 * comes to them, raised or returned. */
static PyObject *
ask(Future *self, PyObject *name, PyObject *const *args, Py_ssize_t nargs,
    PyObject *kwnames)
{
    PyObject *stack[4] = {self->st->base_future, (PyObject *)self};
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs + nkw > 1) {
        return PyErr_Format(PyExc_TypeError,
                            "%U() takes one argument, timeout", name);
    }
    if (nargs + nkw == 1) {
        stack[2] = args[0];
    }
    PyObject *value =
        PyObject_VectorcallMethod(name, stack, (size_t)(2 + nargs), kwnames);
    PyObject *error = value ? NULL : sc_error_take();
    if (self->exception != NULL &&
        (error == self->exception || value == self->exception)) {
        self->asked = true;
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
    return value;
}

static PyObject *
future_result(Future *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    PyObject *result = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->state == FINISHED && self->exception == NULL) {
        result = Py_XNewRef(self->result);
    }
    Py_END_CRITICAL_SECTION();
    return result ? result
                  : ask(self, self->st->str_result, args, nargs, kwnames);
}

static PyObject *
future_exception(Future *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return ask(self, self->st->str_exception, args, nargs, kwnames);
}

/* It is this request's, if that owns anything: cancelled with it. */
/* As long as a thread that ends a short job needs to say so.  Another one may
 * do that meanwhile: this looks without the GIL. */
static const int64_t LOOK_OUT = 50 * INT64_C(1000);

static PyObject *
future_look_out(Future *self, PyObject *Py_UNUSED(ignored))
{
    Py_BEGIN_ALLOW_THREADS
    int64_t until = sc_clock_now() + LOOK_OUT;
    do {
        for (int i = 0; i < 32 && self->state < CANCELLED; i++) {
            sc_relax();
        }
    } while (self->state < CANCELLED && sc_clock_now() < until);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(self->state >= CANCELLED);
}

static PyObject *
future_join(Future *self, PyObject *request)
{
    ScOwner *owner = (ScOwner *)request;
    if (!Py_IS_TYPE(request, self->st->request_type)) {
        return PyErr_Format(PyExc_TypeError, "%R is no sidecar.Request",
                            request);
    }
    if (!owner->detached && self->work.owner == NULL &&
        sc_work_begin(&self->work, owner, SC_WORK_FUTURE, (PyObject *)self) <
            0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* -- life ----------------------------------------------------------------- */

static PyObject *
future_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
           PyObject *Py_UNUSED(kwargs))
{
    ScState *st = sc_state_of_type(type);
    Future *self = st ? (Future *)type->tp_alloc(type, 0) : NULL;
    if (self != NULL) {
        self->st = st;
    }
    return (PyObject *)self;
}

/* The base class's would make all that is made on demand here. */
static int
future_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args),
            PyObject *Py_UNUSED(kwargs))
{
    return 0;
}

static int
future_traverse(Future *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->condition);
    Py_VISIT(self->waiters);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->result);
    Py_VISIT(self->exception);
    Py_VISIT(self->what);
    Py_VISIT(self->work.owner);
    return 0;
}

static int
future_clear(Future *self)
{
    Py_CLEAR(self->condition);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->result);
    Py_CLEAR(self->exception);
    Py_CLEAR(self->what);
    Py_CLEAR(self->request);
    sc_work_end(&self->work);
    return 0;
}

static void
future_finalize(Future *self)
{
    if (self->exception == NULL || self->asked) {
        return;
    }
    PyObject *before = sc_error_take();
    PyObject *none = PyObject_CallMethod((PyObject *)self, "_log_lost", NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(none);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

static void
future_dealloc(Future *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    future_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define LAZY(name, field)                               \
    {                                                   \
        name, (getter)get_lazy, (setter)set_lazy, NULL, \
            (void *)offsetof(Future, field)             \
    }

static PyGetSetDef future_getset[] = {
    {"_state", (getter)get_state, (setter)set_state, NULL, NULL},
    LAZY("_condition", condition),
    LAZY("_waiters", waiters),
    LAZY("_done_callbacks", callbacks),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef future_members[] = {
    {"_result", T_OBJECT, offsetof(Future, result), 0, NULL},
    {"_exception", T_OBJECT, offsetof(Future, exception), 0, NULL},
    {"_what", T_OBJECT, offsetof(Future, what), 0, NULL},
    {"_request", T_OBJECT, offsetof(Future, request), 0, NULL},
    {"_asked", T_BOOL, offsetof(Future, asked), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef future_methods[] = {
    {"set_running_or_notify_cancel", SC_METHOD(future_claim), METH_NOARGS,
     NULL},
    {"set_result", SC_METHOD(future_set_result), METH_O, NULL},
    {"set_exception", SC_METHOD(future_set_exception), METH_O, NULL},
    {"done", SC_METHOD(future_done), METH_NOARGS, NULL},
    {"_join", SC_METHOD(future_join), METH_O, NULL},
    {"_look_out", SC_METHOD(future_look_out), METH_NOARGS, NULL},
    {"result", SC_METHOD(future_result), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"exception", SC_METHOD(future_exception), METH_FASTCALL | METH_KEYWORDS,
     NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot future_slots[] = {
    {Py_tp_doc, (void *)"The C part of a submitted call's future."},
    {Py_tp_new, SC_SLOT(future_new)},
    {Py_tp_init, SC_SLOT(future_init)},
    {Py_tp_finalize, SC_SLOT(future_finalize)},
    {Py_tp_dealloc, SC_SLOT(future_dealloc)},
    {Py_tp_traverse, SC_SLOT(future_traverse)},
    {Py_tp_clear, SC_SLOT(future_clear)},
    {Py_tp_getset, future_getset},
    {Py_tp_members, future_members},
    {Py_tp_methods, future_methods},
    {0, NULL},
};

static PyType_Spec future_spec = {
    .name = "sidecar._core.Future",
    .basicsize = sizeof(Future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = future_slots,
};

/* -- what is submitted ------------------------------------------------------
 */

/* True: certainly a function to call, not one that makes a coroutine or an
 * async generator.  To ask inspect costs more than to submit. */
static PyObject *
module_is_plain(PyObject *Py_UNUSED(module), PyObject *work)
{
    const int others =
        CO_COROUTINE | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR;
    bool plain = PyCFunction_CheckExact(work);
    PyObject *function =
        PyMethod_Check(work) ? PyMethod_GET_FUNCTION(work) : work;
    if (PyFunction_Check(function)) {
        PyFunctionObject *python = (PyFunctionObject *)function;
        PyCodeObject *code = (PyCodeObject *)python->func_code;
        /* Marks that say otherwise are attributes. */
        plain = (code->co_flags & others) == 0 &&
                (python->func_dict == NULL ||
                 PyDict_GET_SIZE(python->func_dict) == 0);
    }
    return PyBool_FromLong(plain);
}

static PyMethodDef functions[] = {
    {"_is_plain", SC_METHOD(module_is_plain), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int
sc_future_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->future_type, &future_spec, NULL, "Future") <
        0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
