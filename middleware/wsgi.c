#include "middleware/wsgi.h"

#include <stddef.h>
#include <structmember.h>

#include "middleware/opentelemetry.h"
#include "middleware/scope.h"
#include "middleware/start_response.h"
#include "middleware/wsgi_body.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ScState *st; /* The type holds the module, and so the state. */
    PyObject *app;
    ScPolicy *policy;
    bool guard; /* the server has made the request: see call_guarded */
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
    PyObject *read;
    int found = PyObject_GetOptionalAttr(result, st->str_read, &read);
    Py_XDECREF(read);
    return found;
}

/* Whether no application code runs when the result is iterated.  1, 0, or -1
 * with an error set. */
static int
is_whole(ScState *st, PyObject *environ, PyObject *result)
{
    if (PyList_CheckExact(result) || PyTuple_CheckExact(result) ||
        PyBytes_CheckExact(result)) {
        return 1;
    }
    return is_wrapped_file(st, environ, result);
}

/* The result as the server may have it.  Steals it; takes the scope over. */
static PyObject *
finish(ScState *st, PyObject *environ, PyObject *result, PyObject *started,
       ScScope *scope)
{
    int whole = result != NULL ? is_whole(st, environ, result) : 1;
    if (whole == 0) {
        PyObject *body = sc_wsgi_body_new(st, result, started, scope);
        Py_SETREF(result, body);
    }
    else if (whole < 0) {
        Py_CLEAR(result);
    }
    sc_scope_end(scope);
    return result;
}

/* One header of the request; *value borrowed, NULL where there is none. */
static int
look_up_one(PyObject *environ, PyObject *key, PyObject **value)
{
    *value = key ? PyDict_GetItemWithError(environ, key) : NULL;
    return *value == NULL && PyErr_Occurred() ? -1 : 0;
}

/* As gunicorn and werkzeug's own server show it. */
static int
look_up_connection(Middleware *self, PyObject *environ, ScArrival *arrival)
{
    ScState *st = self->st;
    PyObject *keys[] = {st->key_gunicorn_socket, st->key_werkzeug_socket};
    for (int i = 0; i < 2 && arrival->connection == NULL; i++) {
        if (look_up_one(environ, keys[i], &arrival->connection) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
look_up(Middleware *self, PyObject *environ, ScArrival *arrival)
{
    ScState *st = self->st;
    ScPolicy *policy = self->policy;
    *arrival = (ScArrival){.policy = policy};
    if (look_up_one(environ, policy->id_key, &arrival->id) < 0 ||
        look_up_one(environ, st->key_traceparent, &arrival->traceparent) < 0) {
        return -1;
    }
    if (arrival->traceparent != NULL &&
        look_up_one(environ, st->key_tracestate, &arrival->tracestate) < 0) {
        return -1;
    }
    if (policy->disconnect != SC_DISCONNECT_OFF &&
        look_up_connection(self, environ, arrival) < 0) {
        return -1;
    }
    if (policy->trust.mode == SC_TRUST_UNTRUSTED) {
        return 0;
    }
    if (look_up_one(environ, st->key_baggage, &arrival->baggage) < 0 ||
        look_up_one(environ, policy->timeout_key, &arrival->timeout) < 0) {
        return -1;
    }
    return look_up_one(environ, st->key_remote_addr, &arrival->peer);
}

/* The answer to a request whose deadline the application let pass, or for
 * which there was no room. */
static PyObject *
answer_late(PyObject *started)
{
    PyObject *body = sc_start_response_late(started);
    PyObject *result = body ? PyList_New(1) : NULL;
    if (result == NULL) {
        Py_XDECREF(body);
        return NULL;
    }
    PyList_SET_ITEM(result, 0, body);
    return result;
}

static PyObject *
call_in_scope(Middleware *self, PyObject *environ, PyObject *start_response)
{
    ScState *st = self->st;
    ScScope scope;
    ScArrival arrival;
    if (look_up(self, environ, &arrival) < 0 ||
        sc_scope_begin(st, &scope, &arrival) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    PyObject *method =
        PyDict_GetItemWithError(environ, st->key_request_method);
    PyErr_Clear();
    PyObject *started =
        sc_start_response_new(st, start_response, scope.request, method);
    if (started != NULL && sc_request_show(scope.request, environ) == 0 &&
        sc_opentelemetry_begin(st, scope.request, environ) == 0) {
        PyObject *app = Py_NewRef(self->app);
        PyObject *args[2] = {environ, started};
        result = PyObject_Vectorcall(app, args, 2, NULL);
        Py_DECREF(app);
    }
    if (result == NULL && started != NULL) {
        result = answer_late(started);
    }
    sc_scope_exit(&scope);
    result = finish(st, environ, result, started, &scope);
    Py_XDECREF(started);
    return result;
}

/* Keeps the error that is set, if one is. */
static bool
is_head(ScState *st, PyObject *environ)
{
    PyObject *error = PyErr_Occurred() ? sc_error_take() : NULL;
    bool head =
        sc_is_head(PyDict_GetItemWithError(environ, st->key_request_method));
    PyErr_Clear();
    if (error != NULL) {
        sc_error_restore(error);
    }
    return head;
}

static PyObject *
finish_guarded(ScState *st, PyObject *const *args, PyObject *request,
               PyObject *result)
{
    int whole = is_whole(st, args[0], result);
    if (whole == 0) {
        PyObject *body = sc_wsgi_body_new_guarded(st, result, args[1], request,
                                                  is_head(st, args[0]));
        Py_SETREF(result, body);
    }
    else if (whole < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* Around an application whose server (the uWSGI plugin) makes the requests and
 * writes nothing once the client has gone: it hears of no such error, and of
 * the deadline's and an overload the answer. */
static PyObject *
call_guarded(Middleware *self, PyObject *const *args)
{
    ScState *st = self->st;
    PyObject *request = PyDict_GetItemWithError(args[0], st->key_request);
    if (request == NULL || sc_opentelemetry_begin(st, request, args[0]) < 0) {
        return NULL;
    }
    /* The application may take it out of the environ. */
    Py_INCREF(request);
    PyObject *result = PyObject_Vectorcall(self->app, args, 2, NULL);
    if (result != NULL) {
        result = finish_guarded(st, args, request, result);
    }
    else if (PyErr_ExceptionMatches(st->error_disconnected)) {
        PyErr_Clear();
        result = PyList_New(0);
    }
    else {
        PyObject *body = sc_start_response_late_bare(st, args[1], request,
                                                     is_head(st, args[0]));
        result = body ? Py_BuildValue("[N]", body) : NULL;
    }
    Py_DECREF(request);
    return result;
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
    if (in_progress && self->guard) {
        return call_guarded(self, args);
    }
    if (in_progress) {
        return PyObject_Vectorcall(self->app, args, 2, NULL);
    }
    return call_in_scope(self, environ, args[1]);
}

static PyObject *
make(PyTypeObject *type, PyObject *app, PyObject *options)
{
    if (!PyCallable_Check(app)) {
        PyErr_Format(PyExc_TypeError,
                     "WSGIMiddleware needs a WSGI application, a callable, "
                     "not %.200s",
                     Py_TYPE(app)->tp_name);
        return NULL;
    }
    ScState *st = sc_state_of_type(type);
    ScPolicy *policy = st ? sc_policy_take(st, options) : NULL;
    if (policy == NULL) {
        return NULL;
    }
    Middleware *self = (Middleware *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF((PyObject *)policy);
    }
    else {
        self->policy = policy;
        self->vectorcall = middleware_call;
        self->st = st;
        self->app = Py_NewRef(app);
    }
    return (PyObject *)self;
}

static PyObject *
middleware_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *app, *options;
    if (sc_policy_arguments("WSGIMiddleware", args, kwargs, &app, &options) <
        0) {
        return NULL;
    }
    PyObject *made = make(type, app, options);
    Py_XDECREF(options);
    Py_DECREF(app);
    return made;
}

static PyObject *
guard(PyObject *module, PyObject *app)
{
    ScState *st = sc_state_of_module(module);
    PyObject *made =
        PyObject_CallOneArg((PyObject *)st->wsgi_middleware_type, app);
    if (made != NULL) {
        ((Middleware *)made)->guard = true;
    }
    return made;
}

static PyMethodDef functions[] = {
    {"_guard", SC_METHOD(guard), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

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
    Py_XDECREF((PyObject *)((Middleware *)op)->policy);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(middleware_doc,
             "WSGIMiddleware(app, **options)\n--\n\n"
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
    st->key_file_wrapper = PyUnicode_InternFromString("wsgi.file_wrapper");
    st->key_traceparent = PyUnicode_InternFromString("HTTP_TRACEPARENT");
    st->key_tracestate = PyUnicode_InternFromString("HTTP_TRACESTATE");
    st->key_baggage = PyUnicode_InternFromString("HTTP_BAGGAGE");
    st->key_remote_addr = PyUnicode_InternFromString("REMOTE_ADDR");
    st->key_request_method = PyUnicode_InternFromString("REQUEST_METHOD");
    st->key_gunicorn_socket = PyUnicode_InternFromString("gunicorn.socket");
    st->key_werkzeug_socket = PyUnicode_InternFromString("werkzeug.socket");
    if (st->key_request == NULL || st->key_file_wrapper == NULL ||
        st->key_traceparent == NULL || st->key_tracestate == NULL ||
        st->key_baggage == NULL || st->key_remote_addr == NULL ||
        st->key_request_method == NULL || st->key_gunicorn_socket == NULL ||
        st->key_werkzeug_socket == NULL) {
        return -1;
    }
    if (sc_type_add(module, &st->wsgi_middleware_type, &middleware_spec, NULL,
                    "WSGIMiddleware") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
