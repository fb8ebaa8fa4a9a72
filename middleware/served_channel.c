#include "core/module.h"
#include "middleware/served.h"
#include "middleware/served_scope.h"

/* -- receive and send ----------------------------------------------------- */

static int
receive_at_once(ScAsgiCoroutine *coroutine, PyObject **value)
{
    ScServed *self = (ScServed *)coroutine->owner;
    ScState *st = self->st;
    if (self->has_body || self->told || self->gone) {
        return 0;
    }
    PyObject *message = PyDict_New();
    PyObject *body = message ? PyBytes_FromStringAndSize(NULL, 0) : NULL;
    if (body == NULL ||
        PyDict_SetItem(message, st->str_type, st->served_request) < 0 ||
        PyDict_SetItem(message, st->str_body, body) < 0 ||
        PyDict_SetItem(message, st->str_more_body, Py_False) < 0) {
        Py_CLEAR(message);
    }
    Py_XDECREF(body);
    self->told = message != NULL;
    *value = message;
    return message ? 1 : -1;
}

static PyObject *
receive_start(ScAsgiCoroutine *coroutine)
{
    return sc_served_call((ScServed *)coroutine->owner, "_receive", NULL);
}

/* As a dict; NULL with an error set. */
static PyObject *
plain(PyObject *message)
{
    if (PyDict_Check(message)) {
        return Py_NewRef(message);
    }
    PyObject *dict = PyDict_New();
    if (dict != NULL && PyDict_Update(dict, message) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* message["status"] into the response; 0, or -1 with an error set. */
static int
take_status(ScServed *self, PyObject *message)
{
    PyObject *given = PyDict_GetItemWithError(message, self->st->str_status);
    if (given == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetObject(PyExc_KeyError, self->st->str_status);
        }
        return -1;
    }
    int overflow = 0;
    long status =
        PyLong_Check(given) ? PyLong_AsLongAndOverflow(given, &overflow) : 0;
    if (status < 200 || status > 999) {
        PyErr_Format(PyExc_ValueError,
                     "the status of a response is a number from 200 to 999, "
                     "not %R",
                     given);
        return -1;
    }
    self->status = (int)status;
    return 0;
}

/* The type that the message has is the one expected: 0, or -1 with an error
 * set. */
static int
expect(ScServed *self, PyObject *message, PyObject *expected)
{
    PyObject *type = PyDict_GetItemWithError(message, self->st->str_type);
    if (type == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetObject(PyExc_KeyError, self->st->str_type);
        }
        return -1;
    }
    int same = PyObject_RichCompareBool(type, expected, Py_EQ);
    if (same == 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "expected the ASGI message %R, but got %R", expected,
                     type);
    }
    return same == 1 ? 0 : -1;
}

static int
start_response(ScServed *self, PyObject *message)
{
    ScState *st = self->st;
    if (expect(self, message, st->asgi_start) < 0) {
        return -1;
    }
    PyObject *given = PyDict_GetItemWithError(message, st->str_headers);
    bool has_length;
    PyObject *headers = given == NULL && PyErr_Occurred()
                            ? NULL
                            : sc_served_headers(st, given, &has_length);
    if (headers == NULL || take_status(self, message) < 0) {
        Py_XDECREF(headers);
        return -1;
    }
    self->has_length = has_length;
    Py_XSETREF(self->headers, headers);
    if (self->status == 204 || self->status == 304) {
        self->mute = true;
    }
    return 1;
}

/* The whole body in one message, as most have it: 1; 0: not so. */
static int
finish_response(ScServed *self, PyObject *message)
{
    ScState *st = self->st;
    PyObject *type = PyDict_GetItemWithError(message, st->str_type);
    PyObject *body = PyDict_GetItemWithError(message, st->str_body);
    PyObject *more = PyDict_GetItemWithError(message, st->str_more_body);
    if (type == NULL || body == NULL || !PyBytes_CheckExact(body) ||
        (more != NULL && more != Py_False) || self->complete || self->cut ||
        self->sent || self->answered || self->readers != NULL ||
        self->watchers != NULL ||
        PyObject_RichCompareBool(type, st->asgi_body, Py_EQ) != 1) {
        return PyErr_Occurred() ? -1 : 0;
    }
    self->complete = self->gone = true;
    Py_XSETREF(self->last, Py_NewRef(body));
    sc_served_post_first(self, st->served_end);
    return 1;
}

static int
send_at_once(ScAsgiCoroutine *coroutine, PyObject **value)
{
    ScServed *self = (ScServed *)coroutine->owner;
    PyObject *message = plain(coroutine->args[0]);
    if (message == NULL) {
        return -1;
    }
    int done = self->status == 0 ? start_response(self, message)
                                 : finish_response(self, message);
    Py_DECREF(message);
    *value = done > 0 ? Py_NewRef(Py_None) : NULL;
    return done;
}

static PyObject *
send_start(ScAsgiCoroutine *coroutine)
{
    return sc_served_call((ScServed *)coroutine->owner, "_send",
                          coroutine->args[0]);
}

static const ScAsgiWork receiving = {
    .name = "receive",
    .at_once = receive_at_once,
    .start = receive_start,
};

static const ScAsgiWork sending = {
    .name = "send",
    .at_once = send_at_once,
    .start = send_start,
};

PyObject *
sc_served_receive(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return (PyObject *)sc_asgi_coroutine_new(((ScServed *)op)->st, &receiving,
                                             op);
}

PyObject *
sc_served_send(PyObject *op, PyObject *message)
{
    ScAsgiCoroutine *made =
        sc_asgi_coroutine_new(((ScServed *)op)->st, &sending, op);
    if (made != NULL) {
        made->args[0] = Py_NewRef(message);
    }
    return (PyObject *)made;
}
