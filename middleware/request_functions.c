/* What the package asks of all requests: how many there were, and one that
 * arrives by no server.  Attached. */
#include "core/module.h"
#include "middleware/request.h"
#include "sidecar.h"

static PyObject *
request_counts(PyObject *module, PyObject *Py_UNUSED(none))
{
    static const char *const names[SC_COUNTS] = {SIDECAR_COUNTER_NAMES};
    ScState *st = sc_state_of_module(module);
    PyObject *counts = PyDict_New();
    for (size_t i = 0; counts != NULL && i < SC_COUNTS; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(atomic_load_explicit(
            &st->request_counts[i], memory_order_relaxed));
        if (count == NULL ||
            PyDict_SetItemString(counts, names[i], count) < 0) {
            Py_CLEAR(counts);
        }
        Py_XDECREF(count);
    }
    return counts;
}

static PyObject *
count_refused(PyObject *module, PyObject *Py_UNUSED(none))
{
    sc_request_count(sc_state_of_module(module), SC_COUNT_REFUSED, 1);
    Py_RETURN_NONE;
}

static PyObject *
make_request(PyObject *module, PyObject *args)
{
    ScState *st = sc_state_of_module(module);
    PyObject *policy, *texts[4];
    if (!PyArg_ParseTuple(args, "O!OOOO:_make_request", st->policy_type,
                          &policy, &texts[0], &texts[1], &texts[2],
                          &texts[3])) {
        return NULL;
    }
    for (int i = 0; i < 4; i++) {
        texts[i] = texts[i] != Py_None ? texts[i] : NULL;
    }
    ScArrival arrival = {.policy = (ScPolicy *)policy,
                         .id = texts[0],
                         .traceparent = texts[1],
                         .tracestate = texts[2],
                         .baggage = texts[3]};
    return sc_request_new(st, &arrival);
}

static PyMethodDef functions[] = {
    {"_request_counts", SC_METHOD(request_counts), METH_NOARGS, NULL},
    {"_make_request", make_request, METH_VARARGS, NULL},
    {"_count_refused", SC_METHOD(count_refused), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
sc_request_functions_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
