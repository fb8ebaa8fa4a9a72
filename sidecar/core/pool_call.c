#include "core/pool_call.h"

#include <stddef.h>
#include <structmember.h>

#include "core/await.h"
#include "core/call.h"
#include "core/errors.h"
#include "core/limit.h"
#include "core/lineage.h"
#include "core/module.h"
#include "core/running_loop.h"
#include "core/support.h"

typedef struct {
    PyVarObject ob_base;
    ScState *st;
    PyObject *pool;    /* NULL: for the caller's thread */
    PyObject *context; /* NULL: a copy of the awaiting one's */
    PyObject *name;
    PyObject *kwnames;
    PyObject *changed; /* the caller's: what it sets there comes back */
    PyObject *future;  /* the caller's: has it run? */
    PyObject *waiting; /* the future's iterator, once it is submitted */
    PyObject *places;  /* where one was taken for it; or NULL */
    Py_ssize_t nargs;  /* with the function; keywords follow */
    bool begun;
    bool over;
    PyObject *args[];
} PoolCall;

static void
clear_arguments(PoolCall *self)
{
    Py_ssize_t count = Py_SIZE(self);
    self->nargs = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_CLEAR(self->args[i]);
    }
    Py_CLEAR(self->kwnames);
    Py_CLEAR(self->context);
}

/* To the thread that waits for what runs now. */
static int
send_errand(PoolCall *self, ScJobTarget *target)
{
    ScState *st = self->st;
    ScLoop *loop = (ScLoop *)target->loop;
    ScCall *call = NULL;
    if (PyObject_TypeCheck(target->loop, st->loop_type) && loop->bridged &&
        !sc_loop_is_dead(loop) && sc_drive_is_owner(loop->drive)) {
        call = sc_lineage_call(loop);
    }
    if (call == NULL) {
        if (!PyErr_Occurred()) {
            sc_error_raise(
                st, SC_E_NO_CALLER,
                "to_caller(%U) in a coroutine for which no thread waits: it "
                "was not begun by run_sync() or a stream's step, or outlived "
                "it; to_async() runs a function on the worker pool",
                self->name);
        }
        return -1;
    }
    self->changed = PyContext_CopyCurrent();
    target->context = self->changed;
    ScJob *job = self->changed ? sc_job_new(st, self->args, self->nargs,
                                            self->kwnames, target)
                               : NULL;
    if (job != NULL) {
        self->future = Py_NewRef(target->future);
        sc_call_send_errand(call, sc_job_errand(job));
    }
    Py_DECREF((PyObject *)call);
    return job ? 0 : -1;
}

static int
submit(PoolCall *self)
{
    ScState *st = self->st;
    PyObject *loop = sc_running_loop_get(st);
    if (loop == Py_None) {
        Py_CLEAR(loop);
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
    }
    PyObject *future =
        loop ? PyObject_CallMethodNoArgs(loop, st->str_create_future) : NULL;
    int rc = -1;
    if (future != NULL && self->context == NULL &&
        PyObject_TypeCheck(loop, st->loop_type) && ((ScLoop *)loop)->bridged &&
        sc_lineage_mark((ScLoop *)loop) < 0) {
        /* What the job does is done for a call: cycle.h. */
        Py_CLEAR(future);
    }
    if (future != NULL) {
        ScJobTarget target = {.future = future,
                              .loop = loop,
                              .context = self->context,
                              .places = self->places};
        Py_CLEAR(self->places); /* the pool has it, which has the object */
        rc = self->pool ? sc_pool_submit(self->pool, self->args, self->nargs,
                                         self->kwnames, &target)
                        : send_errand(self, &target);
        /* The job has its own: what runs now is not held by who waits. */
        clear_arguments(self);
    }
    if (rc == 0) {
        self->waiting = sc_await_iter(future);
        rc = self->waiting ? 0 : -1;
    }
    Py_XDECREF(future);
    Py_XDECREF(loop);
    return rc;
}

static void
end(PoolCall *self)
{
    self->over = true;
    PyObject *places = self->places;
    self->places = NULL;
    if (places != NULL) {
        sc_places_give_back(places);
        Py_DECREF(places);
    }
    Py_CLEAR(self->waiting);
    Py_CLEAR(self->changed);
    Py_CLEAR(self->future);
    clear_arguments(self);
}

static bool
answers_true(PyObject *object, PyObject *method)
{
    PyObject *answer = PyObject_CallMethodNoArgs(object, method);
    bool yes = answer == Py_True;
    Py_XDECREF(answer);
    PyErr_Clear();
    return yes;
}

/* What it set in context variables is set here; not where it was left before
 * its end, and may still be running. */
static void
write_back(PoolCall *self)
{
    if (self->changed == NULL) {
        return;
    }
    PyObject *error = sc_error_take();
    if (answers_true(self->future, self->st->str_done) &&
        !answers_true(self->future, self->st->str_cancelled)) {
        sc_support_tell("write_back", "(O)", self->changed);
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
}

static ScAwaitResult
send(PoolCall *self, PyObject **value)
{
    *value = NULL;
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError,
                        "cannot reuse already awaited coroutine");
        return SC_AWAIT_ERROR;
    }
    if (!self->begun) {
        self->begun = true;
        if (submit(self) < 0) {
            end(self);
            return SC_AWAIT_ERROR;
        }
    }
    ScAwaitResult result = sc_await_send(self->st, self->waiting, value);
    if (result != SC_AWAIT_YIELD) {
        write_back(self);
        end(self);
    }
    return result;
}

#if SC_ITER_SEND
static PySendResult
call_am_send(PyObject *self, PyObject *Py_UNUSED(none), PyObject **value)
{
    return sc_await_sent(send((PoolCall *)self, value), value);
}
#endif

static PyObject *
call_send(PoolCall *self, PyObject *Py_UNUSED(none))
{
    PyObject *value;
    return sc_await_tell(send(self, &value), &value);
}

static PyObject *
call_next(PyObject *self)
{
    return call_send((PoolCall *)self, NULL);
}

static PyObject *
call_throw(PoolCall *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *error = sc_await_thrown(args, nargs), *value = NULL;
    if (error == NULL) {
        return NULL;
    }
    self->begun = true;
    if (self->waiting == NULL) {
        end(self);
        sc_error_restore(error);
        return NULL;
    }
    PyObject *waiting = Py_NewRef(self->waiting);
    ScAwaitResult result = sc_await_throw(self->st, waiting, error, &value);
    Py_DECREF(waiting);
    Py_DECREF(error);
    if (result != SC_AWAIT_YIELD) {
        write_back(self);
        end(self);
    }
    return sc_await_tell(result, &value);
}

/* As a coroutine's: GeneratorExit where it waits. */
static PyObject *
call_close(PoolCall *self, PyObject *Py_UNUSED(ignored))
{
    self->begun = true;
    PyObject *waiting = Py_XNewRef(self->waiting);
    end(self);
    PyObject *none =
        waiting ? PyObject_CallMethodNoArgs(waiting, self->st->str_close)
                : Py_NewRef(Py_None);
    Py_XDECREF(waiting);
    return none;
}

static PyObject *
call_repr(PoolCall *self)
{
    return PyUnicode_FromFormat("<sidecar pool call %U at %p>", self->name,
                                self);
}

/* -- life --------------------------------------------------------------- */

/* args[0] is the function. */
static PyObject *
new_call(ScState *st, PyObject *pool, PyObject *const *args, Py_ssize_t nargs,
         PyObject *kwnames)
{
    Py_ssize_t count = nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    PyTypeObject *type = st->pool_call_type;
    PoolCall *self = (PoolCall *)type->tp_alloc(type, count);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->pool = Py_XNewRef(pool);
    self->kwnames = Py_XNewRef(kwnames);
    self->nargs = nargs;
    for (Py_ssize_t i = 0; i < count; i++) {
        self->args[i] = Py_NewRef(args[i]);
    }
    self->name = PyObject_GetAttr(args[0], st->str___qualname__);
    if (self->name == NULL || !PyUnicode_Check(self->name)) {
        PyErr_Clear();
        Py_XSETREF(self->name, PyObject_Repr(args[0]));
    }
    if (self->name == NULL) {
        self->begun = true;
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

PyObject *
sc_pool_call(PyObject *pool, PyObject *places, PyObject *const *args,
             Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs < 2 || !PyCallable_Check(args[1])) {
        return PyErr_Format(PyExc_TypeError,
                            "a function to run on the pool must be callable, "
                            "not %R",
                            nargs < 2 ? Py_None : args[1]);
    }
    if (args[0] != Py_None && !PyContext_CheckExact(args[0])) {
        return PyErr_Format(PyExc_TypeError,
                            "context must be a contextvars.Context, not %R",
                            args[0]);
    }
    ScState *st = sc_state_of_type(Py_TYPE(pool));
    PyObject *self =
        st ? new_call(st, pool, args + 1, nargs - 1, kwnames) : NULL;
    if (self != NULL && args[0] != Py_None) {
        ((PoolCall *)self)->context = Py_NewRef(args[0]);
    }
    if (self != NULL) {
        ((PoolCall *)self)->places = Py_XNewRef(places);
    }
    return self;
}

static PyObject *
module_to_caller(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    if (nargs < 1 || !PyCallable_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError,
                            "to_caller() takes a function and its arguments, "
                            "not %R",
                            nargs < 1 ? Py_None : args[0]);
    }
    return new_call(sc_state_of_module(module), NULL, args, nargs, kwnames);
}

static int
call_traverse(PoolCall *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->pool);
    Py_VISIT(self->context);
    Py_VISIT(self->changed);
    Py_VISIT(self->future);
    Py_VISIT(self->waiting);
    Py_VISIT(self->places);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) {
        Py_VISIT(self->args[i]);
    }
    return 0;
}

static int
call_clear(PoolCall *self)
{
    end(self);
    Py_CLEAR(self->pool);
    return 0;
}

static void
call_finalize(PoolCall *self)
{
    if (self->begun) {
        return;
    }
    PyObject *before = sc_error_take();
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                         "coroutine '%U' was never awaited", self->name) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (before != NULL) {
        sc_error_restore(before);
    }
}

static void
call_dealloc(PoolCall *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    call_clear(self);
    Py_CLEAR(self->name);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef call_methods[] = {
    {"send", SC_METHOD(call_send), METH_O, NULL},
    {"throw", SC_METHOD(call_throw), METH_FASTCALL, NULL},
    {"close", SC_METHOD(call_close), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef call_members[] = {
    {"__name__", T_OBJECT_EX, offsetof(PoolCall, name), READONLY, NULL},
    {"__qualname__", T_OBJECT_EX, offsetof(PoolCall, name), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)"A function on its way to a worker pool."},
    {Py_tp_repr, SC_SLOT(call_repr)},
    {Py_tp_iter, SC_SLOT(PyObject_SelfIter)},
    {Py_tp_iternext, SC_SLOT(call_next)},
    {Py_tp_methods, call_methods},
    {Py_tp_members, call_members},
    {Py_am_await, SC_SLOT(PyObject_SelfIter)},
#if SC_ITER_SEND
    {Py_am_send, SC_SLOT(call_am_send)},
#endif
    {Py_tp_traverse, SC_SLOT(call_traverse)},
    {Py_tp_clear, SC_SLOT(call_clear)},
    {Py_tp_finalize, SC_SLOT(call_finalize)},
    {Py_tp_dealloc, SC_SLOT(call_dealloc)},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "sidecar._core.PoolCall",
    .basicsize = offsetof(PoolCall, args),
    .itemsize = sizeof(PyObject *),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

static PyMethodDef module_functions[] = {
    {"to_caller", SC_METHOD(module_to_caller), METH_FASTCALL | METH_KEYWORDS,
     "to_caller($module, fn, /, *args, **kwargs)\n--\n\n"
     "A coroutine that runs fn on the very thread that waits in run_sync() "
     "or a\nstream's step for what awaits it; the loop goes on meanwhile.  "
     "What fn sets in\ncontext variables is set here then.  Raises what fn "
     "raises; NoCallerError\nwhere no thread waits."},
    {NULL, NULL, 0, NULL},
};

int
sc_pool_call_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->pool_call_type, &call_spec, NULL, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, module_functions);
}
