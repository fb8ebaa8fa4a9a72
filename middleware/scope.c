#include "middleware/scope.h"

#include <stddef.h>
#include <structmember.h>

#include "core/bridge.h"
#include "core/module.h"
#include "middleware/request_id.h"

typedef struct {
    PyObject_HEAD
    ScState *st; /* The type holds the module, and so the state. */
    PyObject *id;
} Request;

static PyObject *
request_new(ScState *st)
{
    PyTypeObject *type = st->request_type;
    Request *self = (Request *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->id = PyUnicode_New(SC_REQUEST_ID_LENGTH, 127);
    if (self->id == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    sc_request_id_make((char *)PyUnicode_1BYTE_DATA(self->id));
    return (PyObject *)self;
}

static PyObject *
request_run_sync(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return sc_run_sync(((Request *)op)->st, args, nargs, kwnames);
}

static PyObject *
request_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.Request %U>", ((Request *)op)->id);
}

static int
request_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
request_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(((Request *)op)->id);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(run_sync_doc,
             "run_sync($self, awaitable, /, *, timeout=None, context=None, "
             "propagate=False)\n"
             "--\n\n"
             "Run an awaitable on the worker's bridge for this request, and "
             "return its\nresult: as sidecar.run_sync.");

static PyMethodDef request_methods[] = {
    {"run_sync", SC_METHOD(request_run_sync), METH_FASTCALL | METH_KEYWORDS,
     run_sync_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef request_members[] = {
    {"id", T_OBJECT_EX, offsetof(Request, id), READONLY,
     "The request's id, a UUID of version 7: as in the response header "
     "X-Request-ID."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(request_doc,
             "The request in progress: environ[\"sidecar.request\"], "
             "sidecar.current().");

static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)request_doc},
    {Py_tp_methods, request_methods},
    {Py_tp_members, request_members},
    {Py_tp_repr, SC_SLOT(request_repr)},
    {Py_tp_traverse, SC_SLOT(request_traverse)},
    {Py_tp_dealloc, SC_SLOT(request_dealloc)},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "sidecar.Request",
    .basicsize = sizeof(Request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

PyObject *
sc_request_id(PyObject *request)
{
    return ((Request *)request)->id;
}

int
sc_request_is_current(ScState *st, PyObject *object)
{
    if (!Py_IS_TYPE(object, st->request_type)) {
        return 0;
    }
    PyObject *current = NULL;
    if (PyContextVar_Get(st->request_var, NULL, &current) < 0) {
        return -1;
    }
    Py_XDECREF(current);
    return current == object;
}

int
sc_scope_begin(ScState *st, ScScope *scope)
{
    PyObject *token = NULL;
    scope->context = NULL;
    scope->request = request_new(st);
    if (scope->request == NULL) {
        goto fail;
    }
    scope->context = PyContext_CopyCurrent();
    if (scope->context == NULL || PyContext_Enter(scope->context) < 0) {
        goto fail;
    }
    token = PyContextVar_Set(st->request_var, scope->request);
    if (token == NULL) {
        sc_scope_exit(scope);
        goto fail;
    }
    Py_DECREF(token);
    return 0;
fail:
    sc_scope_drop(scope);
    return -1;
}

int
sc_scope_enter(const ScScope *scope)
{
    return PyContext_Enter(scope->context);
}

void
sc_scope_exit(const ScScope *scope)
{
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    if (PyContext_Exit(scope->context) < 0) {
        PyErr_WriteUnraisable(scope->context);
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
}

void
sc_scope_end(ScScope *scope)
{
    sc_scope_drop(scope);
}

ScScope
sc_scope_share(const ScScope *scope)
{
    ScScope shared = {Py_XNewRef(scope->request), Py_XNewRef(scope->context)};
    return shared;
}

void
sc_scope_drop(ScScope *scope)
{
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    Py_CLEAR(scope->context);
    Py_CLEAR(scope->request);
    if (error != NULL) {
        sc_error_restore(error);
    }
}

static PyObject *
current(PyObject *module, PyObject *Py_UNUSED(unused))
{
    PyObject *request = NULL;
    ScState *st = sc_state_of_module(module);
    if (PyContextVar_Get(st->request_var, Py_None, &request) < 0) {
        return NULL;
    }
    return request;
}

PyDoc_STRVAR(current_doc,
             "current()\n--\n\n"
             "The request in progress here, a sidecar.Request: in the view, "
             "in coroutines\nit runs, and in tasks these start.  None "
             "outside of a request.");

static PyMethodDef scope_functions[] = {
    {"current", current, METH_NOARGS, current_doc},
    {NULL, NULL, 0, NULL},
};

int
sc_scope_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->request_var = PyContextVar_New("sidecar_request", NULL);
    if (st->request_var == NULL) {
        return -1;
    }
    if (sc_type_add(module, &st->request_type, &request_spec, NULL,
                    "Request") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, scope_functions);
}
