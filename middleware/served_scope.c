#include "middleware/served_scope.h"

#include <string.h>

#include "core/module.h"

/* A client may send any name, so what is kept of them has an end. */
static const Py_ssize_t MOST_NAMES = 1024;

/* The keys and values that every scope has, in st->served_texts. */
enum {
    T_TYPE,
    T_HTTP,
    T_ASGI,
    T_VERSION,
    T_VERSION_3_0,
    T_SPEC_VERSION,
    T_SPEC_2_4,
    T_HTTP_VERSION,
    T_HTTP_1_1,
    T_METHOD,
    T_SCHEME,
    T_PATH,
    T_QUERY_STRING,
    T_ROOT_PATH,
    T_HEADERS,
    T_CLIENT,
    T_SERVER,
    T_STATE,
    T_EXTENSIONS,
    T_RAW_PATH,
    T_REQUEST,
    E_SCRIPT_NAME,
    E_PATH_INFO,
    E_PROTOCOL,
    E_METHOD,
    E_SCHEME,
    E_QUERY,
    E_ADDRESS,
    E_PORT,
    E_SERVER,
    E_SERVER_PORT,
    E_TARGET,
    E_RAW_TARGET,
    T_EMPTY,
    TEXTS,
};

static const char *const texts[TEXTS] = {
    [T_TYPE] = "type",
    [T_HTTP] = "http",
    [T_ASGI] = "asgi",
    [T_VERSION] = "version",
    [T_VERSION_3_0] = "3.0",
    [T_SPEC_VERSION] = "spec_version",
    [T_SPEC_2_4] = "2.4",
    [T_HTTP_VERSION] = "http_version",
    [T_HTTP_1_1] = "1.1",
    [T_METHOD] = "method",
    [T_SCHEME] = "scheme",
    [T_PATH] = "path",
    [T_QUERY_STRING] = "query_string",
    [T_ROOT_PATH] = "root_path",
    [T_HEADERS] = "headers",
    [T_CLIENT] = "client",
    [T_SERVER] = "server",
    [T_STATE] = "state",
    [T_EXTENSIONS] = "extensions",
    [T_RAW_PATH] = "raw_path",
    [T_REQUEST] = "sidecar.request",
    [E_SCRIPT_NAME] = "SCRIPT_NAME",
    [E_PATH_INFO] = "PATH_INFO",
    [E_PROTOCOL] = "SERVER_PROTOCOL",
    [E_METHOD] = "REQUEST_METHOD",
    [E_SCHEME] = "wsgi.url_scheme",
    [E_QUERY] = "QUERY_STRING",
    [E_ADDRESS] = "REMOTE_ADDR",
    [E_PORT] = "REMOTE_PORT",
    [E_SERVER] = "SERVER_NAME",
    [E_SERVER_PORT] = "SERVER_PORT",
    /* uWSGI's name for it, and gunicorn's. */
    [E_TARGET] = "REQUEST_URI",
    [E_RAW_TARGET] = "RAW_URI",
    [T_EMPTY] = "",
};

static PyObject *
text(ScState *st, int which)
{
    return PyTuple_GET_ITEM(st->served_texts, which);
}

/* -- bytes and text ------------------------------------------------------- */

/* WSGI has bytes in a str of latin-1. */
static PyObject *
bytes_of(PyObject *string)
{
    if (PyUnicode_Check(string) &&
        PyUnicode_KIND(string) == PyUnicode_1BYTE_KIND) {
        return PyBytes_FromStringAndSize(
            (const char *)PyUnicode_1BYTE_DATA(string),
            PyUnicode_GET_LENGTH(string));
    }
    return PyUnicode_AsEncodedString(string, "latin-1", "replace");
}

static PyObject *
rare(const char *function, PyObject *argument)
{
    PyObject *callable =
        sc_state_import("sidecar._serve_asgi_scope", function);
    PyObject *result =
        callable ? PyObject_CallOneArg(callable, argument) : NULL;
    Py_XDECREF(callable);
    return result;
}

static PyObject *
utf_8(PyObject *string)
{
    if (PyUnicode_Check(string) && PyUnicode_IS_ASCII(string)) {
        return Py_NewRef(string);
    }
    return rare("utf_8", string);
}

static PyObject *
raw_path(PyObject *target)
{
    if (!PyUnicode_Check(target) || !PyUnicode_IS_ASCII(target) ||
        PyUnicode_READ_CHAR(target, 0) != '/') {
        return rare("raw_path", target);
    }
    const char *start = (const char *)PyUnicode_1BYTE_DATA(target);
    Py_ssize_t length = PyUnicode_GET_LENGTH(target);
    const char *query = memchr(start, '?', (size_t)length);
    return PyBytes_FromStringAndSize(start, query ? query - start : length);
}

/* -- the request's headers ------------------------------------------------ */

static bool
is_header(PyObject *key, PyObject *value)
{
    if (!PyUnicode_Check(key) || !PyUnicode_Check(value) ||
        !PyUnicode_IS_ASCII(key)) {
        return false;
    }
    const char *name = (const char *)PyUnicode_1BYTE_DATA(key);
    bool prefixed = strncmp(name, "HTTP_", 5) == 0;
    name += prefixed ? 5 : 0;
    if (strcmp(name, "CONTENT_TYPE") == 0 ||
        strcmp(name, "CONTENT_LENGTH") == 0) {
        /* Some servers give them twice; with the prefix it may also have
         * been a client's Content_Type. */
        return !prefixed && PyUnicode_GET_LENGTH(value) > 0;
    }
    return prefixed;
}

/* b"x-name" of "HTTP_X_NAME". */
static PyObject *
make_name(PyObject *key)
{
    const char *name = (const char *)PyUnicode_1BYTE_DATA(key);
    Py_ssize_t skip = strncmp(name, "HTTP_", 5) == 0 ? 5 : 0;
    Py_ssize_t size = PyUnicode_GET_LENGTH(key) - skip;
    PyObject *made = PyBytes_FromStringAndSize(name + skip, size);
    for (Py_ssize_t i = 0; made != NULL && i < size; i++) {
        char *c = PyBytes_AS_STRING(made) + i;
        *c = *c == '_' ? '-' : (char)Py_TOLOWER(*c);
    }
    return made;
}

static PyObject *
name_of(ScState *st, PyObject *key)
{
    PyObject *name = PyDict_GetItemWithError(st->served_names, key);
    if (name != NULL || PyErr_Occurred()) {
        return Py_XNewRef(name);
    }
    name = make_name(key);
    if (name != NULL && PyDict_GET_SIZE(st->served_names) < MOST_NAMES &&
        PyDict_SetItem(st->served_names, key, name) < 0) {
        Py_CLEAR(name);
    }
    return name;
}

static int
append_pair(PyObject *list, PyObject *name, PyObject *value)
{
    PyObject *pair = name && value ? PyTuple_New(2) : NULL;
    if (pair == NULL) {
        Py_XDECREF(name);
        Py_XDECREF(value);
        return -1;
    }
    PyTuple_SET_ITEM(pair, 0, name);
    PyTuple_SET_ITEM(pair, 1, value);
    int rc = PyList_Append(list, pair);
    Py_DECREF(pair);
    return rc;
}

static PyObject *
request_headers(ScState *st, PyObject *environ)
{
    PyObject *list = PyList_New(0), *key, *value;
    Py_ssize_t position = 0;
    while (list != NULL && PyDict_Next(environ, &position, &key, &value)) {
        if (is_header(key, value) &&
            append_pair(list, name_of(st, key), bytes_of(value)) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* -- the scope ------------------------------------------------------------ */

/* Borrowed; NULL where there is none, or an error is set. */
static PyObject *
look_up(ScState *st, PyObject *environ, int key)
{
    return PyDict_GetItemWithError(environ, text(st, key));
}

static PyObject *
look_up_or(ScState *st, PyObject *environ, int key, int otherwise)
{
    PyObject *found = look_up(st, environ, key);
    return found != NULL ? found : text(st, otherwise);
}

/* Steals the value, which may be NULL with an error set. */
static int
put(ScState *st, PyObject *scope, int key, PyObject *value)
{
    if (value == NULL) {
        return -1;
    }
    int rc = PyDict_SetItem(scope, text(st, key), value);
    Py_DECREF(value);
    return rc;
}

/* (host, port), or None for a unix socket's nameless client; `no_port`,
 * stolen, where there is none. */
static PyObject *
address(ScState *st, PyObject *environ, int host_key, int port_key,
        PyObject *no_port)
{
    PyObject *host = look_up(st, environ, host_key);
    PyObject *given = look_up(st, environ, port_key), *pair = NULL;
    if (host == NULL || !PyUnicode_Check(host) ||
        PyUnicode_GET_LENGTH(host) == 0) {
        Py_XDECREF(no_port);
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    PyObject *port = given ? PyNumber_Long(given) : NULL;
    if (port == NULL) {
        PyErr_Clear();
        port = Py_XNewRef(no_port);
    }
    if (port != NULL) {
        pair = PyTuple_Pack(2, host, port);
        Py_DECREF(port);
    }
    Py_XDECREF(no_port);
    return pair;
}

static PyObject *
http_version(ScState *st, PyObject *environ)
{
    PyObject *protocol = look_up(st, environ, E_PROTOCOL);
    if (protocol == NULL || !PyUnicode_Check(protocol) ||
        PyUnicode_GET_LENGTH(protocol) <= 5) {
        return Py_NewRef(text(st, T_HTTP_1_1));
    }
    if (PyUnicode_CompareWithASCIIString(protocol, "HTTP/1.1") == 0) {
        return Py_NewRef(text(st, T_HTTP_1_1));
    }
    return PyUnicode_Substring(protocol, 5, PyUnicode_GET_LENGTH(protocol));
}

static PyObject *
method_of(ScState *st, PyObject *environ)
{
    PyObject *method = look_up_or(st, environ, E_METHOD, T_EMPTY);
    bool upper = PyUnicode_Check(method) && PyUnicode_IS_ASCII(method);
    if (upper) {
        const char *c = (const char *)PyUnicode_1BYTE_DATA(method);
        while (*c != 0 && !Py_ISLOWER(*c)) {
            c++;
        }
        upper = *c == 0;
    }
    return upper ? Py_NewRef(method)
                 : PyObject_CallMethod(method, "upper", NULL);
}

/* As Starlette and Django take it since ASGI 3: the whole path, with the part
 * that root_path names. */
static PyObject *
path_of(ScState *st, PyObject *environ, PyObject *root)
{
    PyObject *info = look_up_or(st, environ, E_PATH_INFO, T_EMPTY);
    if (PyUnicode_GET_LENGTH(root) == 0) {
        return utf_8(info);
    }
    PyObject *whole = PyUnicode_Concat(root, info);
    PyObject *path = whole ? utf_8(whole) : NULL;
    Py_XDECREF(whole);
    return path;
}

static PyObject *
specification(ScState *st)
{
    PyObject *dict = PyDict_New();
    if (dict != NULL && (PyDict_SetItem(dict, text(st, T_VERSION),
                                        text(st, T_VERSION_3_0)) < 0 ||
                         PyDict_SetItem(dict, text(st, T_SPEC_VERSION),
                                        text(st, T_SPEC_2_4)) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

static int
put_target(ScState *st, PyObject *scope, PyObject *environ)
{
    PyObject *target = look_up(st, environ, E_TARGET);
    if (target == NULL || PyObject_Not(target) == 1) {
        target = look_up(st, environ, E_RAW_TARGET);
    }
    if (target == NULL || PyObject_Not(target) == 1) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return put(st, scope, T_RAW_PATH, raw_path(target));
}

PyObject *
sc_served_request(ScState *st, PyObject *environ)
{
    return Py_XNewRef(look_up(st, environ, T_REQUEST));
}

static int
fill(ScState *st, PyObject *scope, PyObject *environ, PyObject *state)
{
    PyObject *root = look_up_or(st, environ, E_SCRIPT_NAME, T_EMPTY);
    PyObject *scheme = look_up_or(st, environ, E_SCHEME, T_HTTP);
    PyObject *query = look_up_or(st, environ, E_QUERY, T_EMPTY);
    PyObject *request = look_up(st, environ, T_REQUEST);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (!PyUnicode_Check(root)) {
        PyErr_Format(PyExc_TypeError, "SCRIPT_NAME is a str, not %R", root);
        return -1;
    }
    if (put(st, scope, T_TYPE, Py_NewRef(text(st, T_HTTP))) < 0 ||
        put(st, scope, T_ASGI, specification(st)) < 0 ||
        put(st, scope, T_HTTP_VERSION, http_version(st, environ)) < 0 ||
        put(st, scope, T_METHOD, method_of(st, environ)) < 0 ||
        put(st, scope, T_SCHEME, Py_NewRef(scheme)) < 0 ||
        put(st, scope, T_PATH, path_of(st, environ, root)) < 0 ||
        put(st, scope, T_QUERY_STRING, bytes_of(query)) < 0 ||
        put(st, scope, T_ROOT_PATH, utf_8(root)) < 0 ||
        put(st, scope, T_HEADERS, request_headers(st, environ)) < 0 ||
        put(st, scope, T_CLIENT,
            address(st, environ, E_ADDRESS, E_PORT, PyLong_FromLong(0))) < 0 ||
        put(st, scope, T_SERVER,
            address(st, environ, E_SERVER, E_SERVER_PORT,
                    Py_NewRef(Py_None))) < 0 ||
        put(st, scope, T_STATE, PyDict_Copy(state)) < 0 ||
        put(st, scope, T_EXTENSIONS, PyDict_New()) < 0 ||
        put_target(st, scope, environ) < 0) {
        return -1;
    }
    return request ? put(st, scope, T_REQUEST, Py_NewRef(request)) : 0;
}

PyObject *
sc_served_scope(ScState *st, PyObject *environ, PyObject *state)
{
    PyObject *scope = PyDict_New();
    if (scope != NULL && fill(st, scope, environ, state) < 0) {
        Py_CLEAR(scope);
    }
    return scope;
}

int
sc_served_scope_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->served_names = PyDict_New();
    st->served_texts = PyTuple_New(TEXTS);
    if (st->served_names == NULL || st->served_texts == NULL) {
        return -1;
    }
    for (int i = 0; i < TEXTS; i++) {
        PyObject *string = PyUnicode_InternFromString(texts[i]);
        if (string == NULL) {
            return -1;
        }
        PyTuple_SET_ITEM(st->served_texts, i, string);
    }
    return 0;
}
