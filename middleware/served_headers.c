#include <string.h>

#include "core/module.h"
#include "middleware/served_scope.h"

static const Py_ssize_t MOST_NAMES = 1024;

/* What PEP 3333 leaves to the server.  How a body ends, and what becomes of
 * the connection, is its own. */
static const char *const hop_by_hop[] = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "te",         "trailer",    "transfer-encoding",  "upgrade",
};

static bool
is_hop_by_hop(const char *name)
{
    for (size_t i = 0; i < sizeof(hop_by_hop) / sizeof(*hop_by_hop); i++) {
        if (strcmp(name, hop_by_hop[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Where a header's line would end, or a program in C would think so. */
static bool
breaks_line(const char *start, Py_ssize_t size)
{
    return memchr(start, '\n', (size_t)size) != NULL ||
           memchr(start, '\r', (size_t)size) != NULL ||
           memchr(start, '\0', (size_t)size) != NULL;
}

static PyObject *
refuse_type(PyObject *given)
{
    return PyErr_Format(
        PyExc_TypeError,
        "names and values of response headers are bytes, not %R", given);
}

/* In lower case; None for a name that is left out. */
static PyObject *
make_name(PyObject *given)
{
    const char *start = PyBytes_AS_STRING(given);
    Py_ssize_t size = PyBytes_GET_SIZE(given);
    if (size == 0 || breaks_line(start, size) ||
        memchr(start, ':', (size_t)size) != NULL ||
        memchr(start, ' ', (size_t)size) != NULL) {
        return PyErr_Format(PyExc_ValueError,
                            "%R is no name of a response header", given);
    }
    PyObject *decoded = PyUnicode_DecodeLatin1(start, size, NULL);
    PyObject *name =
        decoded ? PyObject_CallMethod(decoded, "lower", NULL) : NULL;
    Py_XDECREF(decoded);
    if (name != NULL && PyUnicode_IS_ASCII(name) &&
        is_hop_by_hop((const char *)PyUnicode_1BYTE_DATA(name))) {
        Py_SETREF(name, Py_NewRef(Py_None));
    }
    return name;
}

static PyObject *
name_of(ScState *st, PyObject *given)
{
    if (!PyBytes_CheckExact(given)) {
        return refuse_type(given);
    }
    PyObject *name = PyDict_GetItemWithError(st->served_header_texts, given);
    if (name != NULL || PyErr_Occurred()) {
        return Py_XNewRef(name);
    }
    name = make_name(given);
    if (name != NULL &&
        PyDict_GET_SIZE(st->served_header_texts) < MOST_NAMES &&
        PyDict_SetItem(st->served_header_texts, given, name) < 0) {
        Py_CLEAR(name);
    }
    return name;
}

static PyObject *
value_of(PyObject *name, PyObject *given)
{
    Py_buffer view;
    if (PyUnicode_Check(given) ||
        PyObject_GetBuffer(given, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return refuse_type(given);
    }
    PyObject *value = PyUnicode_DecodeLatin1(view.buf, view.len, NULL);
    bool breaks = breaks_line(view.buf, view.len);
    PyBuffer_Release(&view);
    if (breaks && value != NULL) {
        PyErr_Format(PyExc_ValueError,
                     "the response header %R has a line break or a zero byte "
                     "in its value %R",
                     name, value);
        Py_CLEAR(value);
    }
    return value;
}

/* One header's pair, in which `fast` is a list or a tuple. */
static int
add(ScState *st, PyObject *list, PyObject *fast, bool *has_length)
{
    if (PySequence_Fast_GET_SIZE(fast) != 2) {
        PyErr_Format(PyExc_ValueError,
                     "a response header is a name and a value, not %R", fast);
        return -1;
    }
    PyObject *name = name_of(st, PySequence_Fast_GET_ITEM(fast, 0));
    if (name == NULL || name == Py_None) {
        Py_XDECREF(name);
        return name ? 0 : -1;
    }
    PyObject *value = value_of(name, PySequence_Fast_GET_ITEM(fast, 1));
    PyObject *pair = value ? PyTuple_Pack(2, name, value) : NULL;
    int rc = pair ? PyList_Append(list, pair) : -1;
    if (PyUnicode_CompareWithASCIIString(name, "content-length") == 0) {
        *has_length = true;
    }
    Py_DECREF(name);
    Py_XDECREF(value);
    Py_XDECREF(pair);
    return rc;
}

PyObject *
sc_served_headers(ScState *st, PyObject *headers, bool *has_length)
{
    *has_length = false;
    PyObject *list = PyList_New(0);
    if (list == NULL || headers == NULL || headers == Py_None) {
        return list;
    }
    PyObject *iterator = PyObject_GetIter(headers), *header;
    while (iterator != NULL && (header = PyIter_Next(iterator)) != NULL) {
        PyObject *fast =
            PySequence_Fast(header, "a response header is a name and a value");
        Py_DECREF(header);
        if (fast == NULL || add(st, list, fast, has_length) < 0) {
            Py_CLEAR(iterator);
        }
        Py_XDECREF(fast);
    }
    if (iterator == NULL || PyErr_Occurred()) {
        Py_CLEAR(list);
    }
    Py_XDECREF(iterator);
    return list;
}

int
sc_served_headers_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->served_header_texts = PyDict_New();
    return st->served_header_texts ? 0 : -1;
}
