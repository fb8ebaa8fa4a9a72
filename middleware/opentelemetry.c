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

/* `begin` in Python: its context or None, a new reference; or NULL with an
 * error set, which is reported and cleared where it is an Exception. */
static PyObject *
begin(ScRequest *self, PyObject *carrier)
{
    PyObject *function = sc_state_import(MODULE, "begin");
    PyObject *here =
        function ? PyObject_CallFunctionObjArgs(
                       function, self, carrier ? carrier : Py_None, NULL)
                 : NULL;
    Py_XDECREF(function);
    if (here != NULL) {
        self->bridged = true;
    }
    else if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return here;
}

static PyObject *
call_one(const char *name, PyObject *argument)
{
    PyObject *function = sc_state_import(MODULE, name);
    PyObject *result =
        function ? PyObject_CallOneArg(function, argument) : NULL;
    Py_XDECREF(function);
    if (result == NULL) {
        PyErr_WriteUnraisable(argument);
    }
    return result;
}

int
sc_opentelemetry_begin(ScState *st, PyObject *request, PyObject *environ)
{
    ScRequest *self = (ScRequest *)request;
    if (self->bridged || !is_loaded(st)) {
        return 0;
    }
    PyObject *here = begin(self, environ);
    if (here == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (here != Py_None) {
        /* For good: it is the request's own context. */
        Py_XDECREF(call_one("enter", here));
    }
    Py_DECREF(here);
    return 0;
}

PyObject *
sc_opentelemetry_begin_asgi(ScState *st, PyObject *request, PyObject *scope)
{
    ScRequest *self = (ScRequest *)request;
    if (self->bridged || !is_loaded(st)) {
        return NULL;
    }
    PyObject *here = begin(self, scope);
    if (here == NULL && PyErr_Occurred()) {
        PyErr_WriteUnraisable(request);
    }
    if (here == Py_None) {
        Py_CLEAR(here);
    }
    return here;
}

PyObject *
sc_opentelemetry_enter(PyObject *here)
{
    return call_one("enter", here);
}

PyObject *
sc_opentelemetry_leave(PyObject *token)
{
    PyObject *here = call_one("leave", token);
    Py_DECREF(token);
    return here;
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
