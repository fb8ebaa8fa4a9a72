#include "core/await.h"

PyObject *
sc_await_iter(PyObject *awaitable)
{
    /* A generator that types.coroutine marked is its own iterator. */
    if (PyCoro_CheckExact(awaitable) || PyGen_CheckExact(awaitable)) {
        return Py_NewRef(awaitable);
    }
    PyAsyncMethods *methods = Py_TYPE(awaitable)->tp_as_async;
    if (methods == NULL || methods->am_await == NULL) {
        return PyErr_Format(
            PyExc_TypeError,
            "object %.100s can't be used in 'await' expression",
            Py_TYPE(awaitable)->tp_name);
    }
    PyObject *iter = methods->am_await(awaitable);
    if (iter != NULL && !PyIter_Check(iter) && !PyCoro_CheckExact(iter)) {
        PyErr_Format(PyExc_TypeError,
                     "__await__() returned non-iterator of type '%.100s'",
                     Py_TYPE(iter)->tp_name);
        Py_CLEAR(iter);
    }
    return iter;
}

ScAwaitResult
sc_await_settle(PyObject *yielded, PyObject **value)
{
    *value = yielded;
    if (yielded != NULL) {
        return SC_AWAIT_YIELD;
    }
    PyObject *error = sc_error_take();
    if (error == NULL) {
        /* An iterator may end without a word. */
        *value = Py_NewRef(Py_None);
        return SC_AWAIT_RETURN;
    }
    if (!PyErr_GivenExceptionMatches(error, PyExc_StopIteration)) {
        sc_error_restore(error);
        return SC_AWAIT_ERROR;
    }
    PyObject *result = ((PyStopIterationObject *)error)->value;
    *value = Py_NewRef(result ? result : Py_None);
    Py_DECREF(error);
    return SC_AWAIT_RETURN;
}

ScAwaitResult
sc_await_send(ScState *st, PyObject *iter, PyObject **value)
{
#if SC_ITER_SEND
    (void)st;
    PySendResult result = PyIter_Send(iter, Py_None, value);
    if (result == PYGEN_ERROR) {
        *value = NULL;
    }
    return (ScAwaitResult)result;
#else
    PyObject *yielded =
        PyCoro_CheckExact(iter)
            ? PyObject_CallMethodOneArg(iter, st->str_send, Py_None)
            : Py_TYPE(iter)->tp_iternext(iter);
    return sc_await_settle(yielded, value);
#endif
}

ScAwaitResult
sc_await_throw(ScState *st, PyObject *iter, PyObject *error, PyObject **value)
{
    PyObject *method = PyObject_GetAttr(iter, st->str_throw);
    if (method == NULL) {
        /* As `yield from` does where the iterator cannot take it. */
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            sc_error_restore(Py_NewRef(error));
        }
        *value = NULL;
        return SC_AWAIT_ERROR;
    }
    PyObject *yielded = PyObject_CallOneArg(method, error);
    Py_DECREF(method);
    return sc_await_settle(yielded, value);
}

PyObject *
sc_await_thrown(PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        return PyErr_Format(PyExc_TypeError,
                            "throw() takes 1 to 3 arguments, not %zd", nargs);
    }
    PyObject *error = NULL;
    if (PyExceptionInstance_Check(args[0])) {
        error = Py_NewRef(args[0]);
    }
    else if (!PyExceptionClass_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError,
                            "exceptions must be classes or instances "
                            "deriving from BaseException, not %R",
                            args[0]);
    }
    else if (nargs < 2 || args[1] == Py_None) {
        error = PyObject_CallNoArgs(args[0]);
    }
    else if (PyExceptionInstance_Check(args[1])) {
        error = Py_NewRef(args[1]);
    }
    else {
        error = PyObject_CallOneArg(args[0], args[1]);
    }
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError,
                     "calling %R should have made an exception, not %R",
                     args[0], error);
        Py_CLEAR(error);
    }
    if (error != NULL && nargs > 2 && args[2] != Py_None &&
        PyException_SetTraceback(error, args[2]) < 0) {
        Py_CLEAR(error);
    }
    return error;
}

PyObject *
sc_await_tell(ScAwaitResult result, PyObject **value)
{
    if (result != SC_AWAIT_RETURN) {
        return result == SC_AWAIT_YIELD ? *value : NULL;
    }
    /* By hand: PyErr_SetObject would unpack a tuple. */
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, *value);
    Py_DECREF(*value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}
