#include "middleware/request.h"

#include <pthread.h>
#include <stddef.h>
#include <structmember.h>

#include "core/bridge.h"
#include "core/clock.h"
#include "core/module.h"
#include "middleware/inbound_id.h"
#include "middleware/opentelemetry.h"
#include "middleware/request_id.h"

/* -- arrival -------------------------------------------------------------- */

void
sc_request_count(ScState *st, ScCount what, uint64_t more)
{
    atomic_fetch_add_explicit(&st->request_counts[what], more,
                              memory_order_relaxed);
}

bool
sc_request_text(PyObject *value, ScText *text)
{
    if (!PyUnicode_Check(value) || !PyUnicode_IS_ASCII(value)) {
        return false;
    }
    text->at = (const char *)PyUnicode_1BYTE_DATA(value);
    text->length = (size_t)PyUnicode_GET_LENGTH(value);
    return true;
}

static bool
is_trusted(const ScPolicy *policy, PyObject *peer)
{
    ScText address = {NULL, 0};
    switch (policy->trust.mode) {
    case SC_TRUST_UNTRUSTED:
        return false;
    case SC_TRUST_ALWAYS:
        return true;
    case SC_TRUST_PEERS:
        break;
    }
    return peer != NULL && sc_request_text(peer, &address) &&
           sc_trust_match(&policy->trust, address);
}

static PyObject *
make_id(void)
{
    PyObject *id = PyUnicode_New(SC_REQUEST_ID_LENGTH, 127);
    if (id != NULL) {
        sc_request_id_make((char *)PyUnicode_1BYTE_DATA(id));
    }
    return id;
}

/* The inbound id where it is one; NULL: there is none, or an error is set. */
static PyObject *
take_id(ScState *st, PyObject *value)
{
    ScText line = {NULL, 0}, id = {NULL, 0};
    if (!sc_request_text(value, &line) ||
        !sc_inbound_id_parse(&line, 1, &id)) {
        sc_request_count(st, SC_COUNT_BAD_ID, 1);
        return NULL;
    }
    return id.length == line.length && PyUnicode_CheckExact(value)
               ? Py_NewRef(value)
               : PyUnicode_FromStringAndSize(id.at, (Py_ssize_t)id.length);
}

static int
set_id(ScRequest *self, const ScArrival *arrival)
{
    if (arrival->id != NULL) {
        self->received_id = take_id(self->owner.st, arrival->id);
        if (self->received_id == NULL && PyErr_Occurred()) {
            return -1;
        }
    }
    self->id = self->trusted && self->received_id != NULL
                   ? Py_NewRef(self->received_id)
                   : make_id();
    return self->id != NULL ? 0 : -1;
}

/* The configured one, or a trusted header's where that is sooner. */
static void
set_deadline(ScRequest *self, PyObject *timeout)
{
    int64_t left = self->policy->deadline, told;
    ScText text = {NULL, 0};
    if (timeout != NULL && self->trusted) {
        if (sc_request_text(timeout, &text) &&
            sc_policy_parse_timeout(text, &told)) {
            left = told < left ? told : left;
        }
        else {
            sc_request_count(self->owner.st, SC_COUNT_BAD_DEADLINE, 1);
        }
    }
    if (left != SC_NEVER) {
        self->owner.deadline = self->started + left;
    }
}

static ScRequest *
allocate(ScState *st, ScPolicy *policy)
{
    PyTypeObject *type = st->request_type;
    ScRequest *self = (ScRequest *)type->tp_alloc(type, 0);
    if (self != NULL) {
        sc_owner_init(&self->owner, st);
        self->policy = (ScPolicy *)Py_NewRef((PyObject *)policy);
        self->owner.cleanup = policy->cleanup;
    }
    return self;
}

static void
join_board(ScRequest *self, const ScArrival *arrival)
{
    Sidecar_Slot *slot = arrival->slot;
    ScText id = {NULL, 0};
    const ScTraceContext *trace = sc_request_trace(self);
    if (!sc_request_text(self->id, &id) || !sidecar_slot_lock(slot)) {
        return;
    }
    Sidecar_SlotText *text = &slot->text;
    text->started = self->started;
    text->key = (uintptr_t)self;
    text->thread = (uintptr_t)pthread_self();
    sidecar_slot_copy(text->id, sizeof(text->id), id.at, id.length);
    sidecar_slot_copy(text->trace_id, sizeof(text->trace_id), trace->trace_id,
                      SC_TRACE_ID_LENGTH);
    sidecar_slot_copy(text->method, sizeof(text->method), arrival->method.at,
                      arrival->method.length);
    sidecar_slot_copy(text->path, sizeof(text->path), arrival->path.at,
                      arrival->path.length);
    text->called = 0;
    text->call = 0;
    text->line[0] = '\0';
    sidecar_slot_unlock(slot);
    atomic_store(&self->owner.slot, slot);
}

PyObject *
sc_request_new(ScState *st, const ScArrival *arrival)
{
    ScPolicy *policy =
        arrival->policy ? arrival->policy : sc_policy_default(st);
    ScRequest *self = allocate(st, policy);
    if (self == NULL) {
        return NULL;
    }
    sc_request_count(st, SC_COUNT_REQUESTS, 1);
    self->started = sc_clock_now();
    self->trusted = is_trusted(policy, arrival->peer);
    if (set_id(self, arrival) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    set_deadline(self, arrival->timeout);
    self->owner.timed = arrival->timed;
    if (policy->disconnect != SC_DISCONNECT_OFF) {
        self->owner.connection = Py_XNewRef(arrival->connection);
        self->owner.half_closes = policy->disconnect == SC_DISCONNECT_RESET;
    }
    self->traceparent = Py_XNewRef(arrival->traceparent);
    self->inbound_tracestate = Py_XNewRef(arrival->tracestate);
    if (self->trusted) {
        self->inbound_baggage = Py_XNewRef(arrival->baggage);
    }
    if (arrival->slot != NULL) {
        join_board(self, arrival);
    }
    return (PyObject *)self;
}

PyObject *
sc_request_detach(PyObject *request)
{
    ScRequest *from = (ScRequest *)request;
    ScRequest *self = allocate(from->owner.st, from->policy);
    if (self == NULL) {
        return NULL;
    }
    sc_request_trace(from);
    self->owner.detached = true;
    self->id = Py_NewRef(from->id);
    self->received_id = Py_XNewRef(from->received_id);
    self->started = from->started;
    self->trusted = from->trusted;
    self->traced = from->traced;
    self->linked = from->linked;
    self->continued = from->continued;
    self->bridged = from->bridged;
    self->trace = from->trace;
    self->link = from->link;
    self->tracestate = Py_XNewRef(from->tracestate);
    self->inbound_baggage = Py_XNewRef(from->inbound_baggage);
    return (PyObject *)self;
}

PyObject *
sc_request_id(PyObject *request)
{
    return ((ScRequest *)request)->id;
}

int
sc_request_show(PyObject *request, PyObject *environ)
{
    ScRequest *self = (ScRequest *)request;
    if (PyDict_SetItem(environ, self->policy->id_key, self->id) < 0) {
        return -1;
    }
    return PyDict_SetItem(environ, self->owner.st->key_request, request);
}

int
sc_request_is_current(ScState *st, PyObject *object)
{
    if (!Py_IS_TYPE(object, st->request_type)) {
        return 0;
    }
    PyObject *current = NULL;
    if (PyContextVar_Get(st->request_var, NULL, &current) < 0) {
        return -1;
    }
    Py_XDECREF(current);
    return current == object;
}

/* -- its calls --------------------------------------------------------------
 */

/* A copy of this context in which `request` is the current one. */
static PyObject *
context_with(ScState *st, PyObject *request)
{
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return NULL;
    }
    PyObject *token = PyContextVar_Set(st->request_var, request);
    if (PyContext_Exit(context) < 0 || token == NULL) {
        Py_CLEAR(context);
    }
    Py_XDECREF(token);
    return context;
}

typedef PyObject *(*Call)(ScState *st, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);

/* In the name of this request, whichever is the current one. */
static PyObject *
call_as(PyObject *op, Call call, PyObject *const *args, Py_ssize_t nargs,
        PyObject *kwnames)
{
    ScState *st = ((ScOwner *)op)->st;
    int current = sc_request_is_current(st, op);
    if (current != 0) {
        return current < 0 ? NULL : call(st, args, nargs, kwnames);
    }
    PyObject *context = context_with(st, op), *result = NULL;
    if (context != NULL && PyContext_Enter(context) == 0) {
        result = call(st, args, nargs, kwnames);
        PyObject *error = sc_error_take();
        if (PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable(context);
        }
        if (error != NULL) {
            sc_error_restore(error);
        }
    }
    Py_XDECREF(context);
    return result;
}

static PyObject *
request_run_sync(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return call_as(op, sc_run_sync, args, nargs, kwnames);
}

static PyObject *
call_public(const char *name, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *function = sc_state_import("sidecar", name);
    PyObject *result =
        function ? PyObject_Vectorcall(function, args, (size_t)nargs, kwnames)
                 : NULL;
    Py_XDECREF(function);
    return result;
}

static PyObject *
stream(ScState *Py_UNUSED(st), PyObject *const *args, Py_ssize_t nargs,
       PyObject *kwnames)
{
    return call_public("stream", args, nargs, kwnames);
}

static PyObject *
request_stream(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    return call_as(op, stream, args, nargs, kwnames);
}

static PyObject *
submit(ScState *Py_UNUSED(st), PyObject *const *args, Py_ssize_t nargs,
       PyObject *kwnames)
{
    return call_public("submit", args, nargs, kwnames);
}

static PyObject *
request_submit(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    return call_as(op, submit, args, nargs, kwnames);
}

/* The server's side is over before the application's is (sidecar.serve_asgi):
 * its end waits for _release(). */
static PyObject *
request_hold(PyObject *op, PyObject *Py_UNUSED(none))
{
    sc_owner_hold((ScOwner *)op);
    Py_RETURN_NONE;
}

static PyObject *
request_release(PyObject *op, PyObject *Py_UNUSED(none))
{
    sc_owner_release((ScOwner *)op);
    Py_RETURN_NONE;
}

/* For work of another process's request (sidecar._envelope): a context of it,
 * and its end. */
static PyObject *
request_context(PyObject *op, PyObject *Py_UNUSED(none))
{
    return context_with(((ScOwner *)op)->st, op);
}

static PyObject *
request_end(PyObject *op, PyObject *Py_UNUSED(none))
{
    sc_owner_end((ScOwner *)op);
    Py_RETURN_NONE;
}

static PyObject *
request_time_left(ScRequest *self, PyObject *Py_UNUSED(none))
{
    if (self->owner.deadline == SC_NEVER ||
        atomic_load(&self->owner.answered)) {
        Py_RETURN_NONE;
    }
    int64_t left = self->owner.deadline - sc_clock_now();
    return PyFloat_FromDouble(left > 0 ? (double)left / 1e9 : 0.0);
}

/* -- the type ---------------------------------------------------------------
 */

static PyObject *
seconds_or_none(int64_t moment)
{
    if (moment == SC_NEVER) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)moment / 1e9);
}

static PyObject *
get_deadline(ScRequest *self, void *Py_UNUSED(closure))
{
    return seconds_or_none(self->owner.deadline);
}

static PyObject *
get_started(ScRequest *self, void *Py_UNUSED(closure))
{
    return seconds_or_none(self->started);
}

static PyObject *
get_cancelled(ScRequest *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(atomic_load(&self->owner.verdict) !=
                           SC_VERDICT_NONE);
}

static PyObject *
get_received_id(ScRequest *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->received_id ? self->received_id : Py_None);
}

static PyObject *
request_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.Request %U>", ((ScRequest *)op)->id);
}

static int
request_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ScRequest *)op)->owner.connection);
    return 0;
}

static void
request_dealloc(PyObject *op)
{
    ScRequest *self = (ScRequest *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    /* One that could not be begun has no end. */
    sc_owner_leave_board(&self->owner);
    Py_CLEAR(self->owner.connection);
    Py_CLEAR(self->id);
    Py_CLEAR(self->received_id);
    Py_CLEAR(self->traceparent);
    Py_CLEAR(self->inbound_tracestate);
    Py_CLEAR(self->inbound_baggage);
    Py_CLEAR(self->tracestate);
    Py_CLEAR(self->baggage);
    Py_CLEAR(self->baggage_out);
    Py_XDECREF((PyObject *)self->policy);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(run_sync_doc,
             "run_sync($self, awaitable, /, *, timeout=None, context=None, "
             "propagate=False)\n"
             "--\n\n"
             "Run an awaitable on the worker's bridge for this request, and "
             "return its\nresult: as sidecar.run_sync.  It ends with the "
             "request.\n\n"
             "Raises DeadlineExceeded where the request's deadline passes "
             "meanwhile,\nClientDisconnected where its client goes.");

PyDoc_STRVAR(stream_doc, "stream($self, source, /, *args, **kwargs)\n--\n\n"
                         "As sidecar.stream, for this request.");

PyDoc_STRVAR(submit_doc, "submit($self, work, /, *args, **kwargs)\n--\n\n"
                         "As sidecar.submit, for this request: cancelled when "
                         "it ends, unless detach=True.");

PyDoc_STRVAR(time_left_doc,
             "time_left($self, /)\n--\n\n"
             "Seconds until the deadline, 0.0 once it has passed; None: "
             "there is none.");

PyDoc_STRVAR(headers_doc,
             "headers($self, /)\n--\n\n"
             "The headers of an outgoing call made for this request, a new "
             "dict: its id,\ntraceparent with a new parent id, tracestate and "
             "baggage where there are any\n(W3C Trace Context and Baggage).");

static PyMethodDef request_methods[] = {
    {"run_sync", SC_METHOD(request_run_sync), METH_FASTCALL | METH_KEYWORDS,
     run_sync_doc},
    {"stream", SC_METHOD(request_stream), METH_FASTCALL | METH_KEYWORDS,
     stream_doc},
    {"submit", SC_METHOD(request_submit), METH_FASTCALL | METH_KEYWORDS,
     submit_doc},
    {"time_left", SC_METHOD(request_time_left), METH_NOARGS, time_left_doc},
    {"headers", sc_request_headers, METH_NOARGS, headers_doc},
    {"_hold", request_hold, METH_NOARGS, NULL},
    {"_release", request_release, METH_NOARGS, NULL},
    {"_context", request_context, METH_NOARGS, NULL},
    {"_end", request_end, METH_NOARGS, NULL},
    {"_own_trace", sc_request_own_trace, METH_NOARGS, NULL},
    {"_adopt_trace", sc_request_adopt_trace, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef request_members[] = {
    {"id", T_OBJECT_EX, offsetof(ScRequest, id), READONLY,
     "The request's id: a UUID of version 7, or a trusted sender's; as in the "
     "response header X-Request-ID."},
    {"trusted", T_BOOL, offsetof(ScRequest, trusted), READONLY,
     "Whether the policy trusts who sent it."},
    {"detached", T_BOOL, offsetof(ScRequest, owner.detached), READONLY,
     "Whether this is what work sees that outlives the request."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef request_getset[] = {
    {"received_id", (getter)get_received_id, NULL,
     "The id that came in, trusted or not; None: none did, or a bad one.",
     NULL},
    {"started", (getter)get_started, NULL,
     "When it arrived: seconds of time.monotonic().", NULL},
    {"deadline", (getter)get_deadline, NULL,
     "When its time is up: seconds of time.monotonic(), or None.", NULL},
    {"cancelled", (getter)get_cancelled, NULL,
     "Whether it has ended: it is over, its deadline has passed, or its "
     "client has gone.",
     NULL},
    {"trace_id", sc_request_get_trace_id, NULL,
     "The id of its trace: 32 hex digits (W3C Trace Context).", NULL},
    {"span_id", sc_request_get_span_id, NULL,
     "The id of its own span in the trace: 16 hex digits.", NULL},
    {"traceparent", sc_request_get_traceparent, NULL,
     "The header for its own span, as a log or a child may show it; "
     "headers() makes those of outgoing calls.",
     NULL},
    {"tracestate", sc_request_get_tracestate, NULL,
     "The vendors' part of the trace, \"\" where there is none.", NULL},
    {"links", sc_request_get_links, NULL,
     "The traceparent of an inbound trace that was not continued, in a "
     "tuple.",
     NULL},
    {"baggage", sc_request_get_baggage, NULL,
     "What came with a trusted request: a new dict of str (W3C Baggage).",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(request_doc,
             "The request in progress: environ[\"sidecar.request\"], "
             "sidecar.current().");

static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)request_doc},
    {Py_tp_methods, request_methods},
    {Py_tp_members, request_members},
    {Py_tp_getset, request_getset},
    {Py_tp_repr, SC_SLOT(request_repr)},
    {Py_tp_traverse, SC_SLOT(request_traverse)},
    {Py_tp_dealloc, SC_SLOT(request_dealloc)},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "sidecar.Request",
    .basicsize = sizeof(ScRequest),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

int
sc_request_init(PyObject *module)
{
    return sc_type_add(module, &sc_state_of_module(module)->request_type,
                       &request_spec, NULL, "Request");
}
