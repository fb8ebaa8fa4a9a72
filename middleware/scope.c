#include "middleware/scope.h"

#include "core/module.h"
#include "core/work.h"

int
sc_scope_begin(ScState *st, ScScope *scope, const ScArrival *arrival)
{
    PyObject *token = NULL;
    scope->context = NULL;
    scope->request = sc_request_new(st, arrival);
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
    if (scope->request != NULL) {
        sc_owner_end((ScOwner *)scope->request);
    }
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

/* A copy of this context for work that outlives the request: it sees the
 * detached one. */
static PyObject *
detached_context(PyObject *module, PyObject *Py_UNUSED(unused))
{
    ScState *st = sc_state_of_module(module);
    PyObject *context = PyContext_CopyCurrent(), *request = NULL;
    if (context == NULL ||
        PyContextVar_Get(st->request_var, Py_None, &request) < 0) {
        Py_XDECREF(context);
        return NULL;
    }
    if (Py_IS_TYPE(request, st->request_type)) {
        PyObject *detached = sc_request_detach(request);
        int rc = detached ? PyContext_Enter(context) : -1;
        if (rc == 0) {
            PyObject *token = PyContextVar_Set(st->request_var, detached);
            Py_XDECREF(token);
            rc = PyContext_Exit(context) < 0 || token == NULL ? -1 : 0;
        }
        Py_XDECREF(detached);
        if (rc < 0) {
            Py_CLEAR(context);
        }
    }
    Py_DECREF(request);
    return context;
}

static PyMethodDef scope_functions[] = {
    {"_detached_context", detached_context, METH_NOARGS, NULL},
    {"current", current, METH_NOARGS, current_doc},
    {NULL, NULL, 0, NULL},
};

int
sc_scope_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->request_var = PyContextVar_New("sidecar_request", NULL);
    if (st->request_var == NULL ||
        PyModule_AddObjectRef(module, "_request_var", st->request_var) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, scope_functions);
}
