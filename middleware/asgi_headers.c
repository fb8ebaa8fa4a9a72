#include "middleware/asgi_headers.h"

typedef enum { OTHER, REQUEST_ID, MALFORMED } Kind;

static bool
is_name(const char *text, Py_ssize_t length, PyObject *name)
{
    return length == PyBytes_GET_SIZE(name) &&
           PyOS_strnicmp(text, PyBytes_AS_STRING(name), length) == 0;
}

/* By the specification names are bytes; some servers take what is like them,
 * or text. */
static Kind
kind_of_name(PyObject *name, PyObject *known)
{
    Kind kind = MALFORMED;
    if (PyBytes_Check(name)) {
        return is_name(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), known)
                   ? REQUEST_ID
                   : OTHER;
    }
    if (PyUnicode_Check(name)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(name, &length);
        if (text != NULL) {
            kind = is_name(text, length, known) ? REQUEST_ID : OTHER;
        }
    }
    else if (PyObject_CheckBuffer(name)) {
        Py_buffer view;
        if (PyObject_GetBuffer(name, &view, PyBUF_SIMPLE) == 0) {
            kind = is_name(view.buf, view.len, known) ? REQUEST_ID : OTHER;
            PyBuffer_Release(&view);
        }
    }
    PyErr_Clear();
    return kind;
}

/* Takes the list's item at i for a header.  One that may be iterated but once
 * is replaced by a tuple. */
static Kind
kind_of_header(PyObject *list, Py_ssize_t i, PyObject *name)
{
    PyObject *header = PySequence_GetItem(list, i), *pair = NULL;
    if (header == NULL || PyUnicode_Check(header) || PyBytes_Check(header)) {
        PyErr_Clear();
        Py_XDECREF(header);
        return MALFORMED;
    }
    if (PyTuple_CheckExact(header)) {
        pair = Py_NewRef(header);
    }
    else {
        pair = PySequence_Tuple(header);
        if (pair == NULL || (!PyList_CheckExact(header) &&
                             PySequence_SetItem(list, i, pair) < 0)) {
            PyErr_Clear();
        }
    }
    Kind kind = MALFORMED;
    if (pair != NULL && PyTuple_GET_SIZE(pair) == 2) {
        kind = kind_of_name(PyTuple_GET_ITEM(pair, 0), name);
    }
    Py_XDECREF(pair);
    Py_DECREF(header);
    return kind;
}

/* Take all of that name out of the list.  1, or 0: a header is malformed; -1
 * with an error set. */
static int
remove_ids(PyObject *list, PyObject *name)
{
    int rc = 1;
    for (Py_ssize_t i = PyList_GET_SIZE(list) - 1; i >= 0; i--) {
        Kind kind = kind_of_header(list, i, name);
        if (kind == MALFORMED) {
            rc = 0;
        }
        else if (kind == REQUEST_ID &&
                 PyList_SetSlice(list, i, i + 1, NULL) < 0) {
            return -1;
        }
    }
    return rc;
}

static int
append_id(PyObject *list, PyObject *name, PyObject *id)
{
    PyObject *value = sc_asgi_id_value(id);
    PyObject *header = value ? PyTuple_Pack(2, name, value) : NULL;
    Py_XDECREF(value);
    int rc = header ? PyList_Append(list, header) : -1;
    Py_XDECREF(header);
    return rc;
}

static PyObject *
copy_with(ScState *st, PyObject *dict, PyObject *headers)
{
    PyObject *copy = PyDict_Copy(dict);
    if (copy != NULL && PyDict_SetItem(copy, st->str_headers, headers) < 0) {
        Py_CLEAR(copy);
    }
    return copy;
}

/* What has elements that are no headers, as a dict has its keys, is left as
 * it is. */
static bool
can_hold_headers(PyObject *given)
{
    return (Py_TYPE(given)->tp_iter != NULL || PySequence_Check(given)) &&
           !PyDict_Check(given) && !PyUnicode_Check(given) &&
           !PyBytes_Check(given);
}

static bool
can_iterate_again(PyObject *given)
{
    return PyList_Check(given) || PyTuple_Check(given);
}

PyObject *
sc_asgi_id_value(PyObject *id)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(id, &length);
    return text ? PyBytes_FromStringAndSize(text, length) : NULL;
}

PyObject *
sc_asgi_message_with_id(ScState *st, PyObject *message, PyObject *request)
{
    PyObject *id = ((ScRequest *)request)->id;
    PyObject *name = ((ScRequest *)request)->policy->id_name;
    PyObject *given = PyDict_GetItemWithError(message, st->str_headers);
    if (given == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (given != NULL && !can_hold_headers(given)) {
        return Py_NewRef(message);
    }
    Py_XINCREF(given);
    PyObject *list = given ? PySequence_List(given) : PyList_New(0);
    PyObject *made = NULL;
    if (list != NULL) {
        int rc = remove_ids(list, name);
        if (rc == 0 && given != NULL && can_iterate_again(given)) {
            made = Py_NewRef(message);
        }
        else if (rc == 0 || (rc > 0 && append_id(list, name, id) == 0)) {
            made = copy_with(st, message, list);
        }
    }
    Py_XDECREF(list);
    Py_XDECREF(given);
    return made;
}

/* The first of that name shows the id, the others go. */
static int
replace_ids(ScState *st, PyObject *scope, PyObject *list, PyObject *name,
            PyObject *id)
{
    PyObject *found = NULL;
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(list);) {
        if (kind_of_header(list, i, name) != REQUEST_ID) {
            i++;
        }
        else if (found != NULL) {
            rc = PyList_SetSlice(list, i, i + 1, NULL);
        }
        else {
            PyObject *value = sc_asgi_id_value(id);
            found = value ? PyTuple_Pack(2, name, value) : NULL;
            Py_XDECREF(value);
            rc = found ? PySequence_SetItem(list, i++, found) : -1;
        }
    }
    Py_XDECREF(found);
    return rc < 0 ? -1 : PyDict_SetItem(scope, st->str_headers, list);
}

static bool
has_id(PyObject *list, PyObject *name)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        if (kind_of_header(list, i, name) == REQUEST_ID) {
            return true;
        }
    }
    return false;
}

int
sc_asgi_show_id(ScState *st, PyObject *scope, PyObject *request)
{
    PyObject *id = ((ScRequest *)request)->id;
    PyObject *name = ((ScRequest *)request)->policy->id_name;
    PyObject *given = PyDict_GetItemWithError(scope, st->str_headers);
    if (given == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!can_hold_headers(given)) {
        return 0;
    }
    bool again = can_iterate_again(given);
    PyObject *list = PySequence_List(given);
    if (list == NULL) {
        return -1;
    }
    int rc = 0;
    if (!again || has_id(list, name)) {
        rc = replace_ids(st, scope, list, name, id);
    }
    Py_DECREF(list);
    return rc;
}

/* -- what came in -----------------------------------------------------------
 */

/* One more line of a header: they are joined by commas (RFC 9110, section
 * 5.3).  -1 with an error set. */
static int
add_line(PyObject **value, PyObject *line)
{
    PyObject *text = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(line),
                                            PyBytes_GET_SIZE(line), NULL);
    if (text == NULL || *value == NULL) {
        *value = text;
        return text ? 0 : -1;
    }
    PyObject *joined = PyUnicode_FromFormat("%U,%U", *value, text);
    Py_DECREF(text);
    if (joined == NULL) {
        return -1;
    }
    Py_SETREF(*value, joined);
    return 0;
}

static PyObject **
place_of(ScArrival *arrival, PyObject *name)
{
    const ScPolicy *policy = arrival->policy;
    const char *text = PyBytes_AS_STRING(name);
    Py_ssize_t length = PyBytes_GET_SIZE(name);
    if (is_name(text, length, policy->id_name)) {
        return &arrival->id;
    }
    if (policy->timeout_name != NULL &&
        is_name(text, length, policy->timeout_name)) {
        return &arrival->timeout;
    }
    switch (length) {
    case 7:
        return PyOS_strnicmp(text, "baggage", 7) == 0 ? &arrival->baggage
                                                      : NULL;
    case 10:
        return PyOS_strnicmp(text, "tracestate", 10) == 0
                   ? &arrival->tracestate
                   : NULL;
    case 11:
        return PyOS_strnicmp(text, "traceparent", 11) == 0
                   ? &arrival->traceparent
                   : NULL;
    default:
        return NULL;
    }
}

/* Servers give a list of pairs of bytes; what is another thing is left to the
 * application. */
static int
take_header(ScArrival *arrival, PyObject *header)
{
    if (!(PyTuple_Check(header) || PyList_Check(header)) ||
        PySequence_Fast_GET_SIZE(header) != 2) {
        return 0;
    }
    PyObject *name = Py_NewRef(PySequence_Fast_GET_ITEM(header, 0));
    PyObject *line = Py_NewRef(PySequence_Fast_GET_ITEM(header, 1));
    int rc = 0;
    if (PyBytes_Check(name) && PyBytes_Check(line)) {
        PyObject **value = place_of(arrival, name);
        rc = value ? add_line(value, line) : 0;
    }
    Py_DECREF(name);
    Py_DECREF(line);
    return rc;
}

static void
take_peer(ScState *st, PyObject *scope, ScArrival *arrival)
{
    PyObject *client = PyDict_GetItemWithError(scope, st->str_client);
    if (client != NULL && (PyTuple_Check(client) || PyList_Check(client)) &&
        PySequence_Fast_GET_SIZE(client) > 0) {
        arrival->peer = Py_NewRef(PySequence_Fast_GET_ITEM(client, 0));
    }
    PyErr_Clear();
}

int
sc_asgi_arrive(ScState *st, PyObject *scope, ScArrival *arrival)
{
    take_peer(st, scope, arrival);
    PyObject *headers = PyDict_GetItemWithError(scope, st->str_headers);
    if (headers == NULL || !can_iterate_again(headers)) {
        PyErr_Clear();
        return 0;
    }
    Py_INCREF(headers);
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PySequence_Fast_GET_SIZE(headers);
         i++) {
        PyObject *header = Py_NewRef(PySequence_Fast_GET_ITEM(headers, i));
        rc = take_header(arrival, header);
        Py_DECREF(header);
    }
    Py_DECREF(headers);
    return rc;
}

void
sc_asgi_arrived(ScArrival *arrival)
{
    Py_CLEAR(arrival->peer);
    Py_CLEAR(arrival->id);
    Py_CLEAR(arrival->traceparent);
    Py_CLEAR(arrival->tracestate);
    Py_CLEAR(arrival->baggage);
    Py_CLEAR(arrival->timeout);
}
