#include "middleware/asgi_coroutine.h"

#include "core/await.h"
#include "core/module.h"
#include "middleware/opentelemetry.h"

/* -- steps --------------------------------------------------------------- */

/* What a step has set, to be taken back; each a token or NULL. */
typedef struct {
    PyObject *request, *otel;
} Entered;

static Entered
enter(ScAsgiCoroutine *self)
{
    Entered entered = {0};
    if (self->scope.request == NULL) {
        return entered;
    }
    entered.request =
        PyContextVar_Set(self->st->request_var, self->scope.request);
    if (entered.request == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (self->otel != NULL) {
        entered.otel = sc_opentelemetry_enter(self->otel);
        Py_CLEAR(self->otel);
    }
    return entered;
}

/* Keeps the error that is set, if one is. */
static void
leave(ScAsgiCoroutine *self, Entered entered)
{
    if (entered.request == NULL && entered.otel == NULL) {
        return;
    }
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    if (entered.otel != NULL) {
        Py_XSETREF(self->otel, sc_opentelemetry_leave(entered.otel));
    }
    /* Fails where foreign code left another Context on top. */
    if (entered.request != NULL &&
        PyContextVar_Reset(self->st->request_var, entered.request) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(entered.request);
    if (error != NULL) {
        sc_error_restore(error);
    }
}

/* Keeps the error that is set, if one is. */
static void
end(ScAsgiCoroutine *self)
{
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    if (self->work->ended != NULL && !self->over) {
        self->work->ended(self);
    }
    self->begun = self->over = true;
    Py_CLEAR(self->waiting);
    for (size_t i = 0; i < 3; i++) {
        Py_CLEAR(self->args[i]);
    }
    Py_CLEAR(self->owner);
    Py_CLEAR(self->otel);
    sc_scope_end(&self->scope);
    if (error != NULL) {
        sc_error_restore(error);
    }
}

/* A step into the other: unlike asyncio's loops Trio's sends values. */
static ScAwaitResult
pass_on(ScAsgiCoroutine *self, PyObject *sent, PyObject **value)
{
    if (sent == Py_None) {
        return sc_await_send(self->st, self->waiting, value);
    }
    PyObject *yielded =
        PyObject_CallMethodOneArg(self->waiting, self->st->str_send, sent);
    return sc_await_settle(yielded, value);
}

/* As in a coroutine's body: it would be taken for a return. */
static void
replace_stop_iteration(void)
{
    PyObject *stop = sc_error_take();
    PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
    PyObject *error = sc_error_take();
    PyException_SetCause(error, Py_NewRef(stop));
    PyException_SetContext(error, stop);
    sc_error_restore(error);
}

static int
start(ScAsgiCoroutine *self)
{
    if (self->waiting != NULL) {
        return 0;
    }
    PyObject *awaitable = self->work->start(self);
    if (awaitable != NULL) {
        self->waiting = sc_await_iter(awaitable);
        Py_DECREF(awaitable);
    }
    else if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        replace_stop_iteration();
    }
    return self->waiting != NULL ? 0 : -1;
}

/* The first step of what goes on after an error, which is set; if anything
 * does. */
static ScAwaitResult
go_on(ScAsgiCoroutine *self, PyObject **value)
{
    PyObject *awaitable = self->work->failed(self);
    if (awaitable == NULL) {
        return SC_AWAIT_ERROR;
    }
    Py_XSETREF(self->waiting, sc_await_iter(awaitable));
    Py_DECREF(awaitable);
    return self->waiting != NULL
               ? sc_await_send(self->st, self->waiting, value)
               : SC_AWAIT_ERROR;
}

/* -1 with an error set: it cannot make a step now. */
static int
check(ScAsgiCoroutine *self)
{
    if (self->running) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return -1;
    }
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot reuse already awaited coroutine");
        return -1;
    }
    return 0;
}

/* Either `sent` or `thrown`. */
/* The other's step, in the request. */
static ScAwaitResult
step_other(ScAsgiCoroutine *self, PyObject *sent, PyObject *thrown,
           PyObject **value)
{
    const ScAsgiWork *work = self->work;
    if (self->waiting == NULL && work->at_once != NULL) {
        int done = work->at_once(self, value);
        if (done != 0) {
            return done > 0 ? SC_AWAIT_RETURN : SC_AWAIT_ERROR;
        }
    }
    if (start(self) < 0) {
        return SC_AWAIT_ERROR;
    }
    if (thrown == NULL) {
        return pass_on(self, sent, value);
    }
    if (work->thrown != NULL) {
        work->thrown(self, thrown);
    }
    return sc_await_throw(self->st, self->waiting, thrown, value);
}

/* After the last one. */
static ScAwaitResult
finish(ScAsgiCoroutine *self, ScAwaitResult result, PyObject **value)
{
    const ScAsgiWork *work = self->work;
    if (result == SC_AWAIT_RETURN && work->returned != NULL) {
        work->returned(self, *value);
    }
    if (work->settled != NULL) {
        result = work->settled(self, result, value);
    }
    end(self);
    return result;
}

static ScAwaitResult
step(ScAsgiCoroutine *self, PyObject *sent, PyObject *thrown, PyObject **value)
{
    bool first = !self->begun;
    *value = NULL;
    self->begun = self->running = true;
    if (first && self->work->prepare != NULL) {
        self->work->prepare(self);
    }
    Entered entered = enter(self);
    ScAwaitResult result = step_other(self, sent, thrown, value);
    if (result == SC_AWAIT_ERROR && self->work->failed != NULL) {
        result = go_on(self, value);
    }
    leave(self, entered);
    self->running = false;
    if (result != SC_AWAIT_YIELD) {
        return finish(self, result, value);
    }
    if (self->work->yielded != NULL) {
        self->work->yielded(self);
    }
    return result;
}

static ScAwaitResult
send(ScAsgiCoroutine *self, PyObject *sent, PyObject **value)
{
    *value = NULL;
    if (check(self) < 0) {
        return SC_AWAIT_ERROR;
    }
    if (!self->begun && sent != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a "
                                         "just-started coroutine");
        return SC_AWAIT_ERROR;
    }
    /* The step may let go of the last reference but ours. */
    Py_INCREF(self);
    ScAwaitResult result = step(self, sent, NULL, value);
    Py_DECREF(self);
    return result;
}

#if SC_ITER_SEND
static PySendResult
coroutine_am_send(PyObject *op, PyObject *sent, PyObject **value)
{
    return sc_await_sent(send((ScAsgiCoroutine *)op, sent, value), value);
}
#endif

static PyObject *
coroutine_send(PyObject *op, PyObject *sent)
{
    PyObject *value;
    ScAwaitResult result = send((ScAsgiCoroutine *)op, sent, &value);
    return sc_await_tell(result, &value);
}

static PyObject *
coroutine_next(PyObject *op)
{
    return coroutine_send(op, Py_None);
}

static PyObject *
coroutine_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)op;
    PyObject *error = sc_await_thrown(args, nargs), *value = NULL;
    if (error == NULL) {
        return NULL;
    }
    if (check(self) < 0) {
        Py_DECREF(error);
        return NULL;
    }
    if (self->waiting == NULL) {
        /* As into a coroutine before its first line. */
        end(self);
        sc_error_restore(error);
        return NULL;
    }
    Py_INCREF(op);
    ScAwaitResult result = step(self, NULL, error, &value);
    Py_DECREF(error);
    Py_DECREF(op);
    return sc_await_tell(result, &value);
}

/* The other's close(), where it has one. */
static int
close_waiting(ScAsgiCoroutine *self)
{
    PyObject *method = PyObject_GetAttr(self->waiting, self->st->str_close);
    if (method == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    PyObject *none = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

static PyObject *
coroutine_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)op;
    if (self->over) {
        Py_RETURN_NONE;
    }
    if (check(self) < 0) {
        return NULL;
    }
    int rc = 0;
    Py_INCREF(op);
    if (self->waiting != NULL) {
        self->running = true;
        Entered entered = enter(self);
        rc = close_waiting(self);
        leave(self, entered);
        self->running = false;
    }
    end(self);
    Py_DECREF(op);
    return rc == 0 ? Py_NewRef(Py_None) : NULL;
}

/* -- what debuggers and printers of tasks ask ----------------------------- */

/* The other's own, as if there were nothing between: a walk from task to
 * frame shows the application.  Where there is nothing to show the attribute
 * is missing, not None: Trio and asyncio take it for a Python coroutine's
 * then, whose frame they count on. */
static PyObject *
coroutine_get_other(PyObject *op, void *name)
{
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)op;
    if (self->waiting == NULL) {
        PyErr_SetString(PyExc_AttributeError, (const char *)name);
        return NULL;
    }
    PyObject *waiting = Py_NewRef(self->waiting);
    PyObject *found = PyObject_GetAttrString(waiting, (const char *)name);
    Py_DECREF(waiting);
    return found;
}

static PyObject *
coroutine_get_name(PyObject *op, void *name)
{
    PyObject *found = coroutine_get_other(op, name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = PyUnicode_FromString(((ScAsgiCoroutine *)op)->work->name);
    }
    return found;
}

static PyObject *
coroutine_get_running(PyObject *op, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(((ScAsgiCoroutine *)op)->running);
}

static PyObject *
coroutine_get_suspended(PyObject *op, void *Py_UNUSED(unused))
{
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)op;
    return PyBool_FromLong(self->begun && !self->running && !self->over);
}

static PyObject *
coroutine_repr(PyObject *op)
{
    PyObject *name = coroutine_get_name(op, (void *)"__qualname__");
    if (name == NULL) {
        return NULL;
    }
    PyObject *repr = PyUnicode_FromFormat("<%s object %S at %p>",
                                          Py_TYPE(op)->tp_name, name, op);
    Py_DECREF(name);
    return repr;
}

/* -- life ------------------------------------------------------------------
 */

ScAsgiCoroutine *
sc_asgi_coroutine_new(ScState *st, const ScAsgiWork *work, PyObject *owner)
{
    PyTypeObject *type = st->asgi_coroutine_type;
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
        self->work = work;
        self->owner = Py_NewRef(owner);
    }
    return self;
}

/* As a coroutine's: a word on one that was never awaited; one that waits is
 * closed. */
static void
coroutine_finalize(PyObject *op)
{
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)op;
    if (self->over || (!self->begun && self->waiting != NULL)) {
        return; /* The other speaks for itself. */
    }
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    if (!self->begun) {
        if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                             "coroutine '%s' was never awaited",
                             self->work->name) < 0) {
            PyErr_WriteUnraisable(op);
        }
    }
    else {
        PyObject *none = coroutine_close(op, NULL);
        if (none == NULL) {
            PyErr_WriteUnraisable(op);
        }
        Py_XDECREF(none);
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
}

static int
coroutine_traverse(PyObject *op, visitproc visit, void *arg)
{
    ScAsgiCoroutine *self = (ScAsgiCoroutine *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->scope.request);
    Py_VISIT(self->otel);
    Py_VISIT(self->owner);
    for (size_t i = 0; i < 3; i++) {
        Py_VISIT(self->args[i]);
    }
    Py_VISIT(self->waiting);
    return 0;
}

static int
coroutine_clear(PyObject *op)
{
    end((ScAsgiCoroutine *)op);
    return 0;
}

static void
coroutine_dealloc(PyObject *op)
{
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    coroutine_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef coroutine_methods[] = {
    {"send", coroutine_send, METH_O, NULL},
    {"throw", SC_METHOD(coroutine_throw), METH_FASTCALL, NULL},
    {"close", coroutine_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define OTHERS(name)                                          \
    {                                                         \
#name, coroutine_get_other, NULL, NULL, (void *)#name \
    }
#define NAME(name)                                           \
    {                                                        \
#name, coroutine_get_name, NULL, NULL, (void *)#name \
    }

static PyGetSetDef coroutine_getset[] = {
    OTHERS(cr_await),
    OTHERS(cr_code),
    OTHERS(cr_frame),
    NAME(__name__),
    NAME(__qualname__),
    {"cr_running", coroutine_get_running, NULL, NULL, NULL},
    {"cr_suspended", coroutine_get_suspended, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(coroutine_doc,
             "A coroutine that passes its steps on to another one.");

static PyType_Slot coroutine_slots[] = {
    {Py_tp_doc, (void *)coroutine_doc},
    {Py_tp_repr, SC_SLOT(coroutine_repr)},
    {Py_tp_iter, SC_SLOT(PyObject_SelfIter)},
    {Py_tp_iternext, SC_SLOT(coroutine_next)},
    {Py_tp_methods, coroutine_methods},
    {Py_tp_getset, coroutine_getset},
    {Py_am_await, SC_SLOT(PyObject_SelfIter)},
#if SC_ITER_SEND
    {Py_am_send, SC_SLOT(coroutine_am_send)},
#endif
    {Py_tp_traverse, SC_SLOT(coroutine_traverse)},
    {Py_tp_clear, SC_SLOT(coroutine_clear)},
    {Py_tp_finalize, SC_SLOT(coroutine_finalize)},
    {Py_tp_dealloc, SC_SLOT(coroutine_dealloc)},
    {0, NULL},
};

static PyType_Spec coroutine_spec = {
    .name = "sidecar.ASGICoroutine",
    .basicsize = sizeof(ScAsgiCoroutine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = coroutine_slots,
};

int
sc_asgi_coroutine_init(PyObject *module)
{
    return sc_type_add(module,
                       &sc_state_of_module(module)->asgi_coroutine_type,
                       &coroutine_spec, NULL, NULL);
}
