#include "core/interpreter_message.h"

#if SC_HAS_OWN_GIL

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* From this size on a copy costs more than a share. */
#define LONG 4096
/* Deeper tuples are pickled. */
#define DEPTH 8

enum {
    NONE,
    TRUE,
    FALSE,
    INT,
    FLOAT,
    TEXT,
    LONG_TEXT,
    BYTES,
    LONG_BYTES,
    BYTEARRAY,
    TUPLE,
    BUFFER,
    PAYLOAD,
};

void
sc_message_init(ScMessage *message)
{
    message->data = message->fixed;
    message->size = 0;
    message->room = sizeof(message->fixed);
    message->shares = NULL;
    message->share_count = message->share_room = 0;
}

/* What was written from that point on. */
static void
cut(ScMessage *message, size_t size, size_t share_count)
{
    message->size = size;
    while (message->share_count > share_count) {
        ScShare *share = message->shares[--message->share_count];
        if (share != NULL) {
            sc_share_free(share);
        }
    }
}

void
sc_message_free(ScMessage *message)
{
    cut(message, 0, 0);
    free(message->shares);
    if (message->data != message->fixed) {
        free(message->data);
    }
    sc_message_init(message);
}

/* -- writing -------------------------------------------------------------- */

static char *
reserve(ScMessage *message, size_t size)
{
    if (size > message->room - message->size) {
        size_t room = message->room * 2;
        while (size > room - message->size) {
            room *= 2;
        }
        char *data = message->data == message->fixed
                         ? malloc(room)
                         : realloc(message->data, room);
        if (data == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        if (message->data == message->fixed) {
            memcpy(data, message->fixed, message->size);
        }
        message->data = data;
        message->room = room;
    }
    char *at = message->data + message->size;
    message->size += size;
    return at;
}

static int
put_tag(ScMessage *message, char tag)
{
    char *at = reserve(message, 1);
    if (at == NULL) {
        return -1;
    }
    *at = tag;
    return 0;
}

/* A tag, 8 bytes, and what follows them. */
static int
put_sized(ScMessage *message, char tag, int64_t number, const void *data,
          size_t size)
{
    char *at = reserve(message, 1 + sizeof(number) + size);
    if (at == NULL) {
        return -1;
    }
    *at = tag;
    memcpy(at + 1, &number, sizeof(number));
    if (size > 0) {
        memcpy(at + 1 + sizeof(number), data, size);
    }
    return 0;
}

/* Takes the share over. */
static int
put_share(ScMessage *message, char tag, ScShare *share)
{
    if (share == NULL) {
        return -1;
    }
    if (message->share_count == message->share_room) {
        size_t room = message->share_room ? message->share_room * 2 : 4;
        ScShare **shares =
            realloc(message->shares, room * sizeof(message->shares[0]));
        if (shares == NULL) {
            sc_share_free(share);
            PyErr_NoMemory();
            return -1;
        }
        message->shares = shares;
        message->share_room = room;
    }
    message->shares[message->share_count++] = share;
    return put_sized(message, tag, (int64_t)message->share_count - 1, NULL, 0);
}

/* Kind 1, 2 or 4; 0: ASCII. */
static int
put_text(ScMessage *message, PyObject *text)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    int kind = PyUnicode_IS_ASCII(text) ? 0 : (int)PyUnicode_KIND(text);
    size_t size = (size_t)length * (size_t)(kind ? kind : 1);
    int64_t number = length << 3 | kind;
    if (size < LONG) {
        return put_sized(message, TEXT, number, PyUnicode_DATA(text), size);
    }
    return put_sized(message, LONG_TEXT, number, NULL, 0) < 0
               ? -1
               : put_share(message, LONG_TEXT, sc_share_new_text(text));
}

static int
put_bytes(ScMessage *message, PyObject *bytes)
{
    Py_ssize_t size = PyBytes_GET_SIZE(bytes);
    if (size < LONG) {
        return put_sized(message, BYTES, size, PyBytes_AS_STRING(bytes),
                         (size_t)size);
    }
    return put_share(message, LONG_BYTES, sc_share_new(bytes));
}

static int put(ScMessage *message, PyObject *value, int depth);

static int
put_tuple(ScMessage *message, PyObject *tuple, int depth)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    if (depth == 0) {
        return SC_MESSAGE_NOT_PLAIN;
    }
    int rc = put_sized(message, TUPLE, count, NULL, 0);
    for (Py_ssize_t i = 0; rc == 0 && i < count; i++) {
        rc = put(message, PyTuple_GET_ITEM(tuple, i), depth - 1);
    }
    return rc;
}

static int
put_int(ScMessage *message, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow ? SC_MESSAGE_NOT_PLAIN
                    : put_sized(message, INT, number, NULL, 0);
}

/* A buffer that is not contiguous is left to pickle, which says what it
 * thinks of it. */
static int
put_view(ScMessage *message, PyObject *object)
{
    ScShare *share = sc_share_new(object);
    if (share == NULL && PyErr_ExceptionMatches(PyExc_BufferError)) {
        PyErr_Clear();
        return SC_MESSAGE_NOT_PLAIN;
    }
    return put_share(message, BUFFER, share);
}

static int
put(ScMessage *message, PyObject *value, int depth)
{
    PyTypeObject *type = Py_TYPE(value);
    if (value == Py_None) {
        return put_tag(message, NONE);
    }
    if (type == &PyBool_Type) {
        return put_tag(message, value == Py_True ? TRUE : FALSE);
    }
    if (type == &PyLong_Type) {
        return put_int(message, value);
    }
    if (type == &PyUnicode_Type) {
        return put_text(message, value);
    }
    if (type == &PyBytes_Type) {
        return put_bytes(message, value);
    }
    if (type == &PyTuple_Type) {
        return put_tuple(message, value, depth);
    }
    if (type == &PyFloat_Type) {
        double number = PyFloat_AS_DOUBLE(value);
        int64_t bits;
        memcpy(&bits, &number, sizeof(bits));
        return put_sized(message, FLOAT, bits, NULL, 0);
    }
    if (type == &PyByteArray_Type) {
        /* Copied now: its owner may go on to change it. */
        return put_sized(message, BYTEARRAY, PyByteArray_GET_SIZE(value),
                         PyByteArray_AS_STRING(value),
                         (size_t)PyByteArray_GET_SIZE(value));
    }
    if (type == &PyMemoryView_Type || type == &PyPickleBuffer_Type) {
        return put_view(message, value);
    }
    return SC_MESSAGE_NOT_PLAIN;
}

int
sc_message_put(ScMessage *message, PyObject *value)
{
    size_t size = message->size, share_count = message->share_count;
    int rc = put(message, value, DEPTH);
    if (rc != SC_MESSAGE_DONE) {
        cut(message, size, share_count);
    }
    return rc;
}

int
sc_message_put_dict(ScMessage *message, PyObject *dict)
{
    size_t size = message->size, share_count = message->share_count;
    Py_ssize_t count = dict ? PyDict_GET_SIZE(dict) : 0, at = 0;
    PyObject *key, *value;
    int rc = put_sized(message, TUPLE, count, NULL, 0);
    while (rc == 0 && count > 0 && PyDict_Next(dict, &at, &key, &value)) {
        rc = PyUnicode_CheckExact(key) ? put(message, key, 0)
                                       : SC_MESSAGE_NOT_PLAIN;
        if (rc == 0) {
            rc = put(message, value, DEPTH);
        }
    }
    if (rc != SC_MESSAGE_DONE) {
        cut(message, size, share_count);
    }
    return rc;
}

int
sc_message_put_payload(ScMessage *message, PyObject *bytes)
{
    return put_share(message, PAYLOAD, sc_share_new(bytes));
}

int
sc_message_put_buffer(ScMessage *message, PyObject *object)
{
    return put_share(message, BUFFER, sc_share_new(object));
}

/* -- reading -------------------------------------------------------------- */

static int64_t
get_number(ScReader *reader)
{
    int64_t number;
    memcpy(&number, reader->message->data + reader->at, sizeof(number));
    reader->at += sizeof(number);
    return number;
}

static const char *
get_data(ScReader *reader, size_t size)
{
    const char *data = reader->message->data + reader->at;
    reader->at += size;
    return data;
}

static PyObject *
get_text(ScReader *reader, bool is_long)
{
    static const Py_UCS4 highest[] = {
        [0] = 0x7f, [1] = 0xff, [2] = 0xffff, [4] = 0x10ffff};
    int64_t number = get_number(reader);
    Py_ssize_t length = (Py_ssize_t)(number >> 3);
    int kind = (int)(number & 7);
    size_t size = (size_t)length * (size_t)(kind ? kind : 1);
    const char *data;
    if (is_long) {
        reader->at++;
        data = reader->message->shares[get_number(reader)]->view.buf;
    }
    else {
        data = get_data(reader, size);
    }
    if (length <= 1) {
        /* The empty one, and those of one character, are there already. */
        return PyUnicode_FromKindAndData(kind ? kind : 1, data, length);
    }
    PyObject *text = PyUnicode_New(length, highest[kind]);
    if (text != NULL) {
        memcpy(PyUnicode_DATA(text), data, size);
    }
    return text;
}

static PyObject *
get_tuple(ScReader *reader)
{
    Py_ssize_t count = (Py_ssize_t)get_number(reader);
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *item = sc_message_get(reader);
        if (item == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

static PyObject *
get_buffer(ScReader *reader)
{
    ScShare **share = &reader->message->shares[get_number(reader)];
    if (reader->views == NULL) {
        return sc_share_copy(*share);
    }
    ScShare *taken = *share;
    *share = NULL;
    return sc_share_view(reader->views, taken);
}

PyObject *
sc_message_get(ScReader *reader)
{
    char tag = *get_data(reader, 1);
    int64_t number;
    double real;
    const Py_buffer *view;
    switch (tag) {
    case NONE:
        Py_RETURN_NONE;
    case TRUE:
        Py_RETURN_TRUE;
    case FALSE:
        Py_RETURN_FALSE;
    case INT:
        return PyLong_FromLongLong(get_number(reader));
    case FLOAT:
        number = get_number(reader);
        memcpy(&real, &number, sizeof(real));
        return PyFloat_FromDouble(real);
    case TEXT:
    case LONG_TEXT:
        return get_text(reader, tag == LONG_TEXT);
    case BYTES:
        number = get_number(reader);
        return PyBytes_FromStringAndSize(get_data(reader, (size_t)number),
                                         (Py_ssize_t)number);
    case BYTEARRAY:
        number = get_number(reader);
        return PyByteArray_FromStringAndSize(get_data(reader, (size_t)number),
                                             (Py_ssize_t)number);
    case LONG_BYTES:
        view = &reader->message->shares[get_number(reader)]->view;
        return PyBytes_FromStringAndSize(view->buf, view->len);
    case PAYLOAD:
        view = &reader->message->shares[get_number(reader)]->view;
        return PyMemoryView_FromMemory(view->buf, view->len, PyBUF_READ);
    case TUPLE:
        return get_tuple(reader);
    default:
        return get_buffer(reader);
    }
}

PyObject *
sc_message_get_dict(ScReader *reader)
{
    reader->at++;
    Py_ssize_t count = (Py_ssize_t)get_number(reader);
    PyObject *dict = count ? PyDict_New() : NULL;
    for (Py_ssize_t i = 0; dict != NULL && i < count; i++) {
        PyObject *key = sc_message_get(reader);
        PyObject *value = key ? sc_message_get(reader) : NULL;
        if (value == NULL || PyDict_SetItem(dict, key, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
        Py_XDECREF(key);
    }
    return dict;
}

#endif
