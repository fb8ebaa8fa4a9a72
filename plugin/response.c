/* The answers that uWSGI's Python plugin need not look at: lists and tuples of
 * bytes, which run no code and have nothing to close.  It would ask each for
 * its close(), by way of an exception before 3.13, and then some. */
#include "plugin.h"

static bool
is_whole(PyObject *result)
{
    if (!PyList_CheckExact(result) && !PyTuple_CheckExact(result)) {
        return false;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(result);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(PySequence_Fast_GET_ITEM(result, i))) {
            return false;
        }
    }
    return true;
}

static void
send_block(struct wsgi_request *wsgi_req, PyObject *block)
{
    char *text = PyBytes_AS_STRING(block);
    size_t length = (size_t)PyBytes_GET_SIZE(block);
    Py_BEGIN_ALLOW_THREADS
    uwsgi_response_write_body_do(wsgi_req, text, length);
    Py_END_ALLOW_THREADS
}

bool
sc_response_send(struct wsgi_request *wsgi_req)
{
    PyObject *result = wsgi_req->async_result;
    if (wsgi_req->write_errors != 0 || wsgi_req->async_sendfile != NULL ||
        !is_whole(result)) {
        return false;
    }
    /* The application may change its list meanwhile. */
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(result); i++) {
        PyObject *block = PySequence_Fast_GET_ITEM(result, i);
        Py_INCREF(block);
        if (PyBytes_CheckExact(block)) {
            send_block(wsgi_req, block);
        }
        Py_DECREF(block);
        if (wsgi_req->write_errors != 0) {
            /* uWSGI's own handler writes nothing more, and says so as it is
             * configured to. */
            return false;
        }
    }
    Py_DECREF(result);
    return true;
}
