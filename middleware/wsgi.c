#include "middleware/wsgi.h"

#include <stddef.h>
#include <structmember.h>

#include "middleware/scope.h"
#include "middleware/start_response.h"
#include "middleware/wsgi_body.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ScState *st; /* The type holds the module, and so the state. */
    PyObject *app;
} Middleware;

/* Whether a request of ours is in progress for this very environ. */
static int
is_in_progress(ScState *st, PyObject *environ)
{
    PyObject *request = PyDict_GetItemWithError(environ, st->key_request);
    if (request == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return sc_request_is_current(st, request);
}

static int
fill_environ(ScState *st, PyObject *environ, PyObject *request)
{
    if (PyDict_SetItem(environ, st->key_request_id, sc_request_id(request)) <
        0) {
        return -1;
    }
    return PyDict_SetItem(environ, st->key_request, request);
}

/* Whether the result came from the server's wsgi.file_wrapper, and so must
 * reach the server as it is (it sends such a file by sendfile).  1, 0, or -1
 * with an error set.
 *
 * gunicorn's wrapper is a class.  uWSGI's is a function that returns the file
 * it is given: there, any result that can be read() is left alone. */
static int
is_wrapped_file(ScState *st, PyObject *environ, PyObject *result)
{
    PyObject *wrapper = PyDict_GetItemWithError(environ, st->key_file_wrapper);
    if (wrapper == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyType_Check(wrapper)) {
        return PyObject_TypeCheck(result, (PyTypeObject *)wrapper);
    }
    PyObject *read = PyObject_GetAttr(result, st->str_read);
    if (read == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(read);
    return 1;
}

/* The result as the server may have it.  Steals it; takes the scope over. */
static PyObject *
finish(ScState *st, PyObject *environ, PyObject *result, ScScope *scope)
{
    int whole = 1;
    /* No application code runs when these are iterated. */
    if (result != NULL && !PyList_CheckExact(result) &&
        !PyTuple_CheckExact(result) && !PyBytes_CheckExact(result)) {
        whole = is_wrapped_file(st, environ, result);
    }
    if (whole == 0) {
        PyObject *body = sc_wsgi_body_new(st, result, scope);
        Py_SETREF(result, body);
    }
    else if (whole < 0) {
        Py_CLEAR(result);
    }
    sc_scope_end(scope);
    return result;
}

static PyObject *
call_in_scope(Middleware *self, PyObject *environ, PyObject *start_response)
{
    ScState *st = self->st;
    ScScope scope;
    if (sc_scope_begin(st, &scope) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    PyObject *started = sc_start_response_new(st, start_response,
                                              sc_request_id(scope.request));
    if (started != NULL && fill_environ(st, environ, scope.request) == 0) {
        PyObject *app = Py_NewRef(self->app);
        PyObject *args[2] = {environ, started};
        result = PyObject_Vectorcall(app, args, 2, NULL);
        Py_DECREF(app);
    }
    Py_XDECREF(started);
    sc_scope_exit(&scope);
    return finish(st, environ, result, &scope);
}

static PyObject *
middleware_call(PyObject *op, PyObject *const *args, size_t nargsf,
                PyObject *kwnames)
{
    Middleware *self = (Middleware *)op;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs != 2 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)) {
        PyErr_Format(PyExc_TypeError,
                     "a WSGI application takes environ and start_response, "
                     "positional; %zd positional and %zd keyword arguments "
                     "were given",
                     nargs, kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
        return NULL;
    }
    PyObject *environ = args[0];
    if (!PyDict_Check(environ)) {
        PyErr_Format(PyExc_TypeError, "environ must be a dict, not %.200s",
                     Py_TYPE(environ)->tp_name);
        return NULL;
    }
    int in_progress = is_in_progress(self->st, environ);
    if (in_progress < 0) {
        return NULL;
    }
    if (in_progress) {
        return PyObject_Vectorcall(self->app, args, 2, NULL);
    }
    return call_in_scope(self, environ, args[1]);
}

static PyObject *
middleware_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    char name[] = "app", *keywords[] = {name, NULL};
    PyObject *app;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:WSGIMiddleware",
                                     keywords, &app)) {
        return NULL;
    }
    if (!PyCallable_Check(app)) {
        PyErr_Format(PyExc_TypeError,
                     "WSGIMiddleware needs a WSGI application, a callable, "
                     "not %.200s",
                     Py_TYPE(app)->tp_name);
        return NULL;
    }
    ScState *st = sc_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    Middleware *self = (Middleware *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = middleware_call;
        self->st = st;
        self->app = Py_NewRef(app);
    }
    return (PyObject *)self;
}

static PyObject *
middleware_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.WSGIMiddleware around %R>",
                                ((Middleware *)op)->app);
}

static int
middleware_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Middleware *)op)->app);
    return 0;
}

static int
middleware_clear(PyObject *op)
{
    /* Not to NULL: a cycle may still call us.  A call of None says so. */
    Py_XSETREF(((Middleware *)op)->app, Py_NewRef(Py_None));
    return 0;
}

static void
middleware_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(((Middleware *)op)->app);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(middleware_doc,
             "WSGIMiddleware(app)\n--\n\n"
             "A WSGI application around another, with a request scope around "
             "each call:\na request id, and one context for the call, each "
             "step of the body and its\nclose.\n\n"
             "environ[\"sidecar.request\"] is the request; "
             "environ[\"HTTP_X_REQUEST_ID\"] and the\nresponse header "
             "X-Request-ID are its id.");

static PyMemberDef middleware_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Middleware, vectorcall),
     READONLY, NULL},
    {"app", T_OBJECT_EX, offsetof(Middleware, app), READONLY,
     "The application inside."},
    {"wrapped", T_OBJECT_EX, offsetof(Middleware, app), READONLY,
     "The application inside."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot middleware_slots[] = {
    {Py_tp_doc, (void *)middleware_doc},
    {Py_tp_new, SC_SLOT(middleware_new)},
    {Py_tp_call, SC_SLOT(PyVectorcall_Call)},
    {Py_tp_members, middleware_members},
    {Py_tp_repr, SC_SLOT(middleware_repr)},
    {Py_tp_traverse, SC_SLOT(middleware_traverse)},
    {Py_tp_clear, SC_SLOT(middleware_clear)},
    {Py_tp_dealloc, SC_SLOT(middleware_dealloc)},
    {0, NULL},
};

static PyType_Spec middleware_spec = {
    .name = "sidecar.WSGIMiddleware",
    .basicsize = sizeof(Middleware),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = middleware_slots,
};

int
sc_wsgi_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->key_request = PyUnicode_InternFromString("sidecar.request");
    st->key_request_id = PyUnicode_InternFromString("HTTP_X_REQUEST_ID");
    st->key_file_wrapper = PyUnicode_InternFromString("wsgi.file_wrapper");
    if (st->key_request == NULL || st->key_request_id == NULL ||
        st->key_file_wrapper == NULL) {
        return -1;
    }
    return sc_type_add(module, &st->wsgi_middleware_type, &middleware_spec,
                       NULL, "WSGIMiddleware");
}
