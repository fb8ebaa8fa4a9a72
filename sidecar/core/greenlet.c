#include "core/greenlet.h"

#include "core/clock.h"
#include "core/module.h"

int
sc_greenlet_waiter(ScState *st, PyObject *loop, PyObject **waiter)
{
    *waiter = NULL;
    if (st->greenlet_hook == NULL) {
        return 0;
    }
    PyObject *made = PyObject_CallOneArg(st->greenlet_hook, loop);
    if (made == NULL) {
        return -1;
    }
    if (made == Py_None) {
        Py_DECREF(made);
        return 0;
    }
    *waiter = made;
    return 0;
}

int
sc_greenlet_wait(ScState *st, PyObject *waiter, int64_t until)
{
    PyObject *seconds = Py_NewRef(Py_None);
    if (until != SC_NEVER) {
        int64_t left = until - sc_clock_now();
        Py_SETREF(seconds,
                  PyFloat_FromDouble(left > 0 ? (double)left / 1e9 : 0.0));
        if (seconds == NULL) {
            return -1;
        }
    }
    PyObject *none = PyObject_CallMethodOneArg(waiter, st->str_wait, seconds);
    Py_DECREF(seconds);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

void
sc_greenlet_wake(ScState *st, PyObject *waiter)
{
    if (waiter == NULL) {
        return;
    }
    PyObject *before = sc_error_take();
    PyObject *none = PyObject_CallMethodNoArgs(waiter, st->str_wake);
    if (none == NULL) {
        PyErr_WriteUnraisable(waiter);
    }
    Py_XDECREF(none);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

/* The process is patched for good, so this is never taken back. */
static PyObject *
module_use_greenlets(PyObject *module, PyObject *args)
{
    PyObject *hook, *future;
    if (!PyArg_ParseTuple(args, "OO:_use_greenlets", &hook, &future)) {
        return NULL;
    }
    ScState *st = sc_state_of_module(module);
    Py_BEGIN_CRITICAL_SECTION(module);
    Py_XSETREF(st->greenlet_hook, Py_NewRef(hook));
    Py_XSETREF(st->concurrent_future, Py_NewRef(future));
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

static PyMethodDef module_functions[] = {
    {"_use_greenlets", module_use_greenlets, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
sc_greenlet_init(PyObject *module)
{
    return PyModule_AddFunctions(module, module_functions);
}
