#include "core/run_args.h"

#include "core/clock.h"

static int
take_timeout(PyObject *value, ScCallArgs *call)
{
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds >= 0.0)) {
        PyErr_Format(PyExc_ValueError,
                     "timeout must be a number of seconds from 0 on, or None "
                     "for no limit, not %R",
                     value);
        return -1;
    }
    int64_t ns = sc_clock_from_seconds(seconds);
    /* Beyond a century it is no limit, and sums with the clock still fit. */
    call->timeout = ns > SC_NEVER / 2 ? SC_NEVER : ns;
    return 0;
}

static int
take_context(PyObject *value, ScCallArgs *call)
{
    if (!PyContext_CheckExact(value)) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context, not %R", value);
        return -1;
    }
    call->context = value;
    return 0;
}

static int
take_keyword(ScState *st, PyObject *name, PyObject *value, ScCallArgs *call)
{
    if (PyUnicode_Compare(name, st->str_timeout) == 0) {
        return value == Py_None ? 0 : take_timeout(value, call);
    }
    if (PyUnicode_Compare(name, st->str_context) == 0) {
        return value == Py_None ? 0 : take_context(value, call);
    }
    if (PyUnicode_Compare(name, st->str_propagate) == 0) {
        int yes = PyObject_IsTrue(value);
        call->propagate = yes > 0;
        return yes < 0 ? -1 : 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "run_sync() has no argument '%U' (it takes timeout, context "
                 "and propagate)",
                 name);
    return -1;
}

int
sc_run_args_parse(ScState *st, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames, ScCallArgs *call)
{
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError,
                     "run_sync() takes one awaitable, not %zd positional "
                     "arguments; pass a coroutine function's arguments to "
                     "it: run_sync(fetch(1, 2))",
                     nargs);
        return -1;
    }
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        if (take_keyword(st, PyTuple_GET_ITEM(kwnames, i), args[nargs + i],
                         call) < 0) {
            return -1;
        }
    }
    return 0;
}
