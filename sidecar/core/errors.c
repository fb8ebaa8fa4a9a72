#include "core/errors.h"

#include <stdarg.h>

static PyObject *
class_of(ScState *st, ScErrorCode code)
{
    switch (code) {
    case SC_E_DEADLOCK:
        return st->error_deadlock;
    case SC_E_CLOSED:
        return st->error_closed;
    case SC_E_TIMEOUT:
        return st->error_timeout;
    case SC_E_FORKED:
        return st->error_forked;
    case SC_E_LOOP_OWNED:
        return st->error_loop_owned;
    case SC_E_NO_CALLER:
        return st->error_no_caller;
    case SC_E_DEADLINE:
        return st->error_deadline;
    case SC_E_DISCONNECTED:
        return st->error_disconnected;
    case SC_E_OVERLOADED:
        return st->error_overloaded;
    case SC_E_QUEUE_FULL:
        return st->error_queue_full;
    }
    return st->error_sidecar;
}

static void
raise_numbered(ScState *st, ScErrorCode code, const char *format, va_list args)
{
    PyObject *cls = class_of(st, code);
    PyObject *text = PyUnicode_FromFormatV(format, args);
    PyObject *number = PyObject_GetAttrString(cls, "code");
    if (text != NULL && number != NULL) {
        PyErr_Format(cls, "%U [%U]", text, number);
    }
    Py_XDECREF(text);
    Py_XDECREF(number);
}

PyObject *
sc_error_raise(ScState *st, ScErrorCode code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    raise_numbered(st, code, format, args);
    va_end(args);
    return NULL;
}

PyObject *
sc_error_raise_from(ScState *st, ScErrorCode code, PyObject *cause,
                    const char *format, ...)
{
    va_list args;
    va_start(args, format);
    raise_numbered(st, code, format, args);
    va_end(args);
    PyObject *error = sc_error_take();
    PyException_SetContext(error, Py_XNewRef(cause));
    PyException_SetCause(error, cause);
    sc_error_restore(error);
    return NULL;
}

PyObject *
sc_error_raise_overloaded(ScState *st, ScErrorCode code, const char *limit,
                          const char *format, ...)
{
    va_list args;
    va_start(args, format);
    raise_numbered(st, code, format, args);
    va_end(args);
    PyObject *error = sc_error_take(), *name = PyUnicode_FromString(limit);
    if (name == NULL || PyObject_SetAttrString(error, "limit", name) < 0) {
        PyErr_Clear(); /* the error itself says more */
    }
    Py_XDECREF(name);
    sc_error_restore(error);
    return NULL;
}
