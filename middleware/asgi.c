#include "middleware/asgi.h"

#include <stddef.h>
#include <structmember.h>

#include "middleware/asgi_channel.h"
#include "middleware/asgi_coroutine.h"
#include "middleware/asgi_headers.h"
#include "middleware/opentelemetry.h"
#include "middleware/scope.h"
#include "middleware/start_response.h"

enum { SCOPE, RECEIVE, SEND };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ScState *st; /* The type holds the module, and so the state. */
    PyObject *app;
    ScPolicy *policy;
} Middleware;

void
sc_scope_disconnected(ScState *Py_UNUSED(st), PyObject *request)
{
    if (((ScRequest *)request)->policy->disconnect != SC_DISCONNECT_OFF) {
        sc_owner_strike((ScOwner *)request, SC_VERDICT_LEFT);
    }
}

/* -- a request -------------------------------------------------------------
 */

static bool
is_type(ScState *st, PyObject *scope, PyObject *known)
{
    PyObject *type = PyDict_GetItemWithError(scope, st->str_type);
    if (type == NULL || !PyUnicode_Check(type)) {
        PyErr_Clear();
        return false;
    }
    return type == known || PyUnicode_Compare(type, known) == 0;
}

/* A new request, and no context for it: what the application sets in context
 * variables is set where it would be without us. */
static int
begin_scope(ScAsgiCoroutine *self)
{
    ScState *st = self->st;
    ScArrival arrival = {.policy = ((Middleware *)self->owner)->policy};
    if (sc_asgi_arrive(st, self->args[SCOPE], &arrival) == 0) {
        self->scope.request = sc_request_new(st, &arrival);
    }
    sc_asgi_arrived(&arrival);
    return self->scope.request != NULL ? 0 : -1;
}

/* A copy, as the specification wants it; what it holds are the server's
 * objects. */
static PyObject *
scope_with(ScState *st, PyObject *given, PyObject *request)
{
    PyObject *scope = PyDict_Copy(given);
    if (scope == NULL || PyDict_SetItem(scope, st->key_request, request) < 0) {
        Py_XDECREF(scope);
        return NULL;
    }
    if (sc_asgi_show_id(st, scope, request) < 0) {
        /* Iterating what is malformed: the application's to judge. */
        PyErr_Clear();
    }
    return scope;
}

static int
replace_args(ScAsgiCoroutine *self)
{
    ScState *st = self->st;
    PyObject *request = self->scope.request, *receive = NULL, *send = NULL;
    PyObject *scope = scope_with(st, self->args[SCOPE], request);
    bool is_http = is_type(st, self->args[SCOPE], st->str_http);
    if (scope != NULL && is_http) {
        receive = sc_asgi_receive_new(st, self->args[RECEIVE], request);
    }
    if (scope != NULL && (receive != NULL || !is_http)) {
        send = sc_asgi_send_new(st, self->args[SEND], request, receive);
    }
    if (send == NULL) {
        Py_XDECREF(scope);
        Py_XDECREF(receive);
        return -1;
    }
    Py_SETREF(self->args[SCOPE], scope);
    Py_SETREF(self->args[SEND], send);
    if (receive != NULL) {
        Py_SETREF(self->args[RECEIVE], receive);
    }
    return 0;
}

/* A request that cannot have a scope (no memory) is served without one. */
static void
prepare(ScAsgiCoroutine *self)
{
    if (begin_scope(self) < 0 || replace_args(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
        sc_scope_end(&self->scope);
        return;
    }
    self->head = sc_is_head(
        PyDict_GetItemWithError(self->args[SCOPE], self->st->str_method));
    PyErr_Clear();
    self->otel = sc_opentelemetry_begin_asgi(self->st, self->scope.request,
                                             self->args[SCOPE]);
}

static PyObject *
call_app(ScAsgiCoroutine *self)
{
    PyObject *app = Py_NewRef(((Middleware *)self->owner)->app);
    PyObject *args[3] = {self->args[SCOPE], self->args[RECEIVE],
                         self->args[SEND]};
    /* The application's alone from here on; but for the way to answer. */
    Py_CLEAR(self->owner);
    memset(self->args, 0, sizeof(self->args));
    if (self->scope.request != NULL) {
        self->args[SEND] = Py_NewRef(args[SEND]);
    }
    PyObject *awaitable = PyObject_Vectorcall(app, args, 3, NULL);
    for (size_t i = 0; i < 3; i++) {
        Py_DECREF(args[i]);
    }
    Py_DECREF(app);
    return awaitable;
}

static PyObject *
answer(ScAsgiCoroutine *self)
{
    PyObject *send = self->args[SEND];
    if (send == NULL) {
        return NULL;
    }
    self->args[SEND] = NULL;
    PyObject *awaitable = sc_asgi_send_late(send, self->head);
    PyObject *error = awaitable == NULL ? sc_error_take() : NULL;
    Py_DECREF(send);
    if (error != NULL) {
        sc_error_restore(error);
    }
    return awaitable;
}

static const ScAsgiWork serving = {
    .name = "ASGIMiddleware.__call__",
    .prepare = prepare,
    .start = call_app,
    .failed = answer,
};

static PyObject *
serve(Middleware *self, PyObject *const *args)
{
    ScAsgiCoroutine *made =
        sc_asgi_coroutine_new(self->st, &serving, (PyObject *)self);
    if (made != NULL) {
        for (size_t i = 0; i < 3; i++) {
            made->args[i] = Py_NewRef(args[i]);
        }
    }
    return (PyObject *)made;
}

/* -- the call --------------------------------------------------------------
 */

/* Whether a request of ours is in progress for this very scope. */
static int
is_in_progress(ScState *st, PyObject *scope)
{
    PyObject *request = PyDict_GetItemWithError(scope, st->key_request);
    if (request == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return sc_request_is_current(st, request);
}

/* scope["state"]["sidecar"]: this process serves, so the bridge is this
 * worker's.  A server without state gets none: the specification reserves it
 * for those that have it. */
static void
give_bridge(Middleware *self, PyObject *scope)
{
    ScState *st = self->st;
    PyObject *state = PyDict_GetItemWithError(scope, st->str_state);
    if (state != NULL) {
        Py_INCREF(state);
        PyObject *bridge =
            PyObject_CallMethodNoArgs(st->module, st->str_get_bridge);
        if (bridge != NULL) {
            PyObject_SetItem(state, st->str_sidecar, bridge);
            Py_DECREF(bridge);
        }
        Py_DECREF(state);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

/* By position or, as Daphne does, by keyword: borrowed into `bound`.  -1 with
 * TypeError set. */
static int
bind(ScState *st, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
     PyObject **bound)
{
    PyObject *names[3] = {st->str_scope, st->str_receive, st->str_send};
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    int found = 0;
    for (Py_ssize_t i = 0; nargs + nkw == 3 && i < 3; i++) {
        bound[i] = i < nargs ? args[i] : NULL;
        for (Py_ssize_t k = 0; i >= nargs && k < nkw; k++) {
            if (PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, k), names[i]) ==
                0) {
                bound[i] = args[nargs + k];
            }
        }
        found += bound[i] != NULL;
    }
    if (found == 3) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "an ASGI application takes scope, receive and send; %zd "
                 "positional and %zd keyword arguments were given",
                 nargs, nkw);
    return -1;
}

static PyObject *
middleware_call(PyObject *op, PyObject *const *args, size_t nargsf,
                PyObject *kwnames)
{
    Middleware *self = (Middleware *)op;
    ScState *st = self->st;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyObject *bound[3];
    if (bind(st, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    PyObject *scope = bound[SCOPE];
    if (PyDict_Check(scope)) {
        if (is_type(st, scope, st->str_http) ||
            is_type(st, scope, st->str_websocket)) {
            int in_progress = is_in_progress(st, scope);
            if (in_progress < 0) {
                return NULL;
            }
            if (!in_progress) {
                return serve(self, bound);
            }
        }
        else if (is_type(st, scope, st->str_lifespan)) {
            give_bridge(self, scope);
        }
    }
    PyObject *app = Py_NewRef(self->app);
    PyObject *awaitable =
        PyObject_Vectorcall(app, args, (size_t)nargs, kwnames);
    Py_DECREF(app);
    return awaitable;
}

/* -- what servers ask before they call -------------------------------------
 */

/* Servers tell ASGI 3 from ASGI 2 by whether __call__ is a coroutine function,
 * which nothing but a function of Python's is everywhere.  So the attribute is
 * one, bound; calls go by the slot, and through this one if it is called. */
static PyObject *
middleware_get_call(PyObject *op, void *Py_UNUSED(unused))
{
    return PyMethod_New(((Middleware *)op)->st->asgi_face, op);
}

static PyObject *
make_face(void)
{
    static const char source[] =
        "async def __call__(middleware, scope, receive, send):\n"
        "    return await middleware(scope, receive, send)\n";
    PyObject *names = PyDict_New(), *face = NULL;
    if (names == NULL) {
        return NULL;
    }
    PyObject *none = PyRun_String(source, Py_file_input, names, names);
    if (none != NULL) {
        face = Py_XNewRef(PyDict_GetItemString(names, "__call__"));
        Py_DECREF(none);
    }
    Py_DECREF(names);
    return face;
}

/* -- life ------------------------------------------------------------------
 */

static PyObject *
make(PyTypeObject *type, PyObject *app, PyObject *options)
{
    if (!PyCallable_Check(app)) {
        PyErr_Format(PyExc_TypeError,
                     "ASGIMiddleware needs an ASGI application, a callable, "
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
        return NULL;
    }
    self->vectorcall = middleware_call;
    self->st = st;
    self->app = Py_NewRef(app);
    self->policy = policy;
    return (PyObject *)self;
}

static PyObject *
middleware_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *app, *options;
    if (sc_policy_arguments("ASGIMiddleware", args, kwargs, &app, &options) <
        0) {
        return NULL;
    }
    PyObject *made = make(type, app, options);
    Py_DECREF(options);
    Py_DECREF(app);
    return made;
}

static PyObject *
middleware_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.ASGIMiddleware around %R>",
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
             "ASGIMiddleware(app, **options)\n--\n\n"
             "An ASGI 3 application around another, with a request scope "
             "around each call for\nhttp and websocket.\n\n"
             "scope[\"sidecar.request\"] is the request; the response header "
             "x-request-id is its\nid.  In a lifespan's state, where the "
             "server has one, \"sidecar\" is the worker's\nbridge.");

static PyMemberDef middleware_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Middleware, vectorcall),
     READONLY, NULL},
    {"app", T_OBJECT_EX, offsetof(Middleware, app), READONLY,
     "The application inside."},
    {"wrapped", T_OBJECT_EX, offsetof(Middleware, app), READONLY,
     "The application inside."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef face_getset[] = {
    {"__call__", middleware_get_call, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot middleware_slots[] = {
    {Py_tp_call, SC_SLOT(PyVectorcall_Call)},
    {Py_tp_members, middleware_members},
    {Py_tp_repr, SC_SLOT(middleware_repr)},
    {Py_tp_traverse, SC_SLOT(middleware_traverse)},
    {Py_tp_clear, SC_SLOT(middleware_clear)},
    {Py_tp_dealloc, SC_SLOT(middleware_dealloc)},
    {0, NULL},
};

/* What has the slot tp_call gets its __call__ from that; what inherits the
 * slot may have one of its own. */
static PyType_Spec middleware_spec = {
    .name = "sidecar._core.ASGIMiddlewareBase",
    .basicsize = sizeof(Middleware),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | SC_TPFLAGS_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = middleware_slots,
};

static PyType_Slot face_slots[] = {
    {Py_tp_doc, (void *)middleware_doc},
    {Py_tp_new, SC_SLOT(middleware_new)},
    {Py_tp_getset, face_getset},
    {Py_tp_traverse, SC_SLOT(middleware_traverse)},
    {Py_tp_clear, SC_SLOT(middleware_clear)},
    {Py_tp_dealloc, SC_SLOT(middleware_dealloc)},
    {0, NULL},
};

static PyType_Spec face_spec = {
    .name = "sidecar.ASGIMiddleware",
    .basicsize = sizeof(Middleware),
    /* Vectorcall's flag is inherited, where it can be. */
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = face_slots,
};

int
sc_asgi_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->asgi_face = make_face();
    if (st->asgi_face == NULL) {
        return -1;
    }
    if (sc_type_add(module, &st->asgi_middleware_type, &middleware_spec, NULL,
                    NULL) < 0) {
        return -1;
    }
    PyTypeObject *face = NULL;
    int rc =
        sc_type_add(module, &face, &face_spec,
                    (PyObject *)st->asgi_middleware_type, "ASGIMiddleware");
    Py_XDECREF(face);
    return rc;
}
