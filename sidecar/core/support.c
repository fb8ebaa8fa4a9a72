#include "core/support.h"

#include <stdarg.h>

#include "core/loop.h"

static PyObject *
call(const char *name, const char *format, va_list values)
{
    PyObject *module = PyImport_ImportModule("sidecar._support");
    PyObject *function = NULL, *args = NULL, *result = NULL;
    if (module != NULL) {
        function = PyObject_GetAttrString(module, name);
        args = format ? Py_VaBuildValue(format, values) : PyTuple_New(0);
    }
    if (function != NULL && args != NULL) {
        result = PyObject_Call(function, args, NULL);
    }
    Py_XDECREF(args);
    Py_XDECREF(function);
    Py_XDECREF(module);
    return result;
}

PyObject *
sc_support_call(const char *name, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    PyObject *result = call(name, format, values);
    va_end(values);
    return result;
}

void
sc_support_tell(const char *name, const char *format, ...)
{
    PyObject *before = sc_error_take();
    va_list values;
    va_start(values, format);
    PyObject *result = call(name, format, values);
    va_end(values);
    if (result == NULL) {
        PyErr_WriteUnraisable(NULL);
    }
    Py_XDECREF(result);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

void
sc_support_report(ScLoop *loop, PyObject *handle)
{
    PyObject *error = sc_error_take();
    sc_support_tell("report_failure", "(OOO)", (PyObject *)loop, handle,
                    error);
    Py_XDECREF(error);
}
