#include "middleware/opentelemetry.h"

#include "core/module.h"

static const char MODULE[] = "sidecar._opentelemetry";

static bool
is_loaded(ScState *st)
{
    PyObject *modules = PyImport_GetModuleDict();
    PyObject *found = PyDict_GetItemWithError(modules, st->name_opentelemetry);
    if (found == NULL) {
        PyErr_Clear();
    }
    return found != NULL && found != Py_None;
}

int
sc_opentelemetry_begin(ScState *st, PyObject *request, PyObject *environ)
{
    ScRequest *self = (ScRequest *)request;
    if (self->bridged || !is_loaded(st)) {
        return 0;
    }
    PyObject *begin = sc_state_import(MODULE, "begin");
    PyObject *result =
        begin ? PyObject_CallFunctionObjArgs(begin, request,
                                             environ ? environ : Py_None, NULL)
              : NULL;
    Py_XDECREF(begin);
    if (result == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_WriteUnraisable(request);
        return 0;
    }
    self->bridged = true;
    Py_DECREF(result);
    return 0;
}

static bool
is_asked_first(ScRequest *self)
{
    if (!self->bridged) {
        return false;
    }
    int current = sc_request_is_current(self->owner.st, (PyObject *)self);
    if (current < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return current > 0;
}

PyObject *
sc_opentelemetry_shown(ScRequest *self, ScShown what)
{
    if (!is_asked_first(self)) {
        return NULL;
    }
    PyObject *function = sc_state_import(MODULE, "shown");
    PyObject *text =
        function ? PyObject_CallFunction(function, "i", (int)what) : NULL;
    Py_XDECREF(function);
    if (text == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    else if (!PyUnicode_CheckExact(text)) {
        Py_CLEAR(text);
    }
    return text;
}

void
sc_opentelemetry_inject(ScRequest *self, PyObject *headers)
{
    if (!is_asked_first(self)) {
        return;
    }
    PyObject *function = sc_state_import(MODULE, "inject");
    PyObject *result =
        function ? PyObject_CallFunctionObjArgs(function, self, headers, NULL)
                 : NULL;
    Py_XDECREF(function);
    if (result == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(result);
}

int
sc_opentelemetry_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->name_opentelemetry = PyUnicode_InternFromString("opentelemetry.trace");
    return st->name_opentelemetry != NULL ? 0 : -1;
}
