#include "sidecar.h"

#include <stddef.h>

#include "core/module.h"
#include "core/state.h"
#include "core/support.h"
#include "middleware/inbound_id.h"
#include "middleware/request_id.h"
#include "middleware/scope.h"

#if SIDECAR_REQUEST_ID_LENGTH != SC_REQUEST_ID_LENGTH || \
    SIDECAR_REQUEST_ID_LONGEST != SC_INBOUND_ID_LIMIT || \
    SIDECAR_TRACE_ID_LENGTH != SC_TRACE_ID_LENGTH
#error "sidecar.h and the middleware disagree about the length of an id"
#endif

/* What the capsule holds: the public part first. */
typedef struct {
    Sidecar_API api;
    ScState *st; /* Borrowed: the module holds the capsule. */
} Exported;

struct Sidecar_Request {
    ScScope scope;
    char id[SC_INBOUND_ID_LIMIT + 1];
    char trace_id[SC_TRACE_ID_LENGTH + 1];
};

static int
worker_start(const Sidecar_API *Py_UNUSED(api))
{
    PyObject *started = NULL, *bridge = NULL;
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    if (sidecar != NULL) {
        bridge = PyObject_CallMethod(sidecar, "get_bridge", NULL);
    }
    if (bridge != NULL) {
        started = PyObject_CallMethod(bridge, "start", NULL);
    }
    Py_XDECREF(bridge);
    Py_XDECREF(sidecar);
    Py_XDECREF(started);
    return started != NULL ? 0 : -1;
}

static int
worker_stop(const Sidecar_API *Py_UNUSED(api), double timeout)
{
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    if (sidecar == NULL) {
        return -1;
    }
    PyObject *stopped = PyObject_CallMethod(sidecar, "shutdown", "d", timeout);
    Py_DECREF(sidecar);
    Py_XDECREF(stopped);
    return stopped != NULL ? 0 : -1;
}

static int
worker_stopping(const Sidecar_API *Py_UNUSED(api), double seconds)
{
    PyObject *tell = sc_state_import("sidecar._stopping", "begin");
    PyObject *none = tell ? PyObject_CallFunction(tell, "d", seconds) : NULL;
    Py_XDECREF(tell);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

/* New reference, or NULL: there is none; an error may be set. */
static PyObject *
header_of(Sidecar_Text text)
{
    return text.at
               ? PyUnicode_DecodeLatin1(text.at, (Py_ssize_t)text.length, NULL)
               : NULL;
}

static Sidecar_Request *
begin(const Sidecar_API *api, const ScArrival *arrival)
{
    Sidecar_Request *request = PyMem_Malloc(sizeof(*request));
    if (request == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (sc_scope_begin(((const Exported *)api)->st, &request->scope, arrival) <
        0) {
        PyMem_Free(request);
        return NULL;
    }
    PyObject *id = sc_request_id(request->scope.request);
    size_t length = (size_t)PyUnicode_GET_LENGTH(id);
    memcpy(request->id, PyUnicode_1BYTE_DATA(id), length);
    request->id[length] = '\0';
    request->trace_id[0] = '\0';
    return request;
}

static Sidecar_Request *
request_begin(const Sidecar_API *api)
{
    return begin(api, &(ScArrival){0});
}

static Sidecar_Request *
request_arrive(const Sidecar_API *api, const Sidecar_Arrival *from)
{
    ScState *st = ((const Exported *)api)->st;
    if (from->policy != NULL && !Py_IS_TYPE(from->policy, st->policy_type)) {
        PyErr_Format(PyExc_TypeError,
                     "policy must be a sidecar.Policy, not %R", from->policy);
        return NULL;
    }
    ScPolicy *policy =
        from->policy ? (ScPolicy *)from->policy : sc_policy_default(st);
    bool asks_peer = policy->trust.mode == SC_TRUST_PEERS;
    ScArrival arrival = {
        .policy = policy,
        .peer = asks_peer ? header_of(from->peer) : NULL,
        .id = header_of(from->request_id),
        .traceparent = header_of(from->traceparent),
        .tracestate = header_of(from->tracestate),
        .baggage = header_of(from->baggage),
        .timeout = header_of(from->deadline),
        .connection =
            from->has_connection ? PyLong_FromLong(from->connection) : NULL,
    };
    if (from->size >= sizeof(*from)) {
        arrival.slot = from->slot;
        arrival.timed = from->timed != 0;
        arrival.method = (ScText){from->method.at, from->method.length};
        arrival.path = (ScText){from->path.at, from->path.length};
    }
    Sidecar_Request *request = PyErr_Occurred() ? NULL : begin(api, &arrival);
    Py_XDECREF(arrival.peer);
    Py_XDECREF(arrival.id);
    Py_XDECREF(arrival.traceparent);
    Py_XDECREF(arrival.tracestate);
    Py_XDECREF(arrival.baggage);
    Py_XDECREF(arrival.timeout);
    Py_XDECREF(arrival.connection);
    return request;
}

static int
request_enter(Sidecar_Request *request)
{
    return sc_scope_enter(&request->scope);
}

static void
request_exit(Sidecar_Request *request)
{
    sc_scope_exit(&request->scope);
}

static void
request_end(Sidecar_Request *request)
{
    if (request != NULL) {
        sc_scope_end(&request->scope);
        PyMem_Free(request);
    }
}

static const char *
request_id(Sidecar_Request *request)
{
    return request->id;
}

static const char *
request_trace_id(Sidecar_Request *request)
{
    if (request->trace_id[0] == '\0') {
        const ScTraceContext *trace =
            sc_request_trace((ScRequest *)request->scope.request);
        memcpy(request->trace_id, trace->trace_id, SC_TRACE_ID_LENGTH);
        request->trace_id[SC_TRACE_ID_LENGTH] = '\0';
    }
    return request->trace_id;
}

static int
request_is_left(Sidecar_Request *request)
{
    ScOwner *owner = (ScOwner *)request->scope.request;
    return atomic_load(&owner->verdict) == SC_VERDICT_LEFT;
}

static PyObject *
guard(const Sidecar_API *api, PyObject *application)
{
    return PyObject_CallMethod(((const Exported *)api)->st->module, "_guard",
                               "O", application);
}

static int
bridge_configure(const Sidecar_API *Py_UNUSED(api), PyObject *options)
{
    PyObject *none = sc_support_call("configure_bridge", "(O)", options);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

static PyObject *
request_object(Sidecar_Request *request)
{
    return Py_NewRef(request->scope.request);
}

static int
request_show(Sidecar_Request *request, PyObject *environ)
{
    return sc_request_show(request->scope.request, environ);
}

static unsigned
request_calls(Sidecar_Request *request, double *seconds)
{
    ScOwner *owner = (ScOwner *)request->scope.request;
    *seconds = (double)atomic_load(&owner->waited) / 1e9;
    return atomic_load(&owner->calls);
}

static void
counters(const Sidecar_API *api, long long *values, size_t count)
{
    atomic_ullong *counts = ((const Exported *)api)->st->request_counts;
    for (size_t i = 0; i < count; i++) {
        values[i] = i < SC_COUNTS ? (long long)atomic_load_explicit(
                                        &counts[i], memory_order_relaxed)
                                  : 0;
    }
}

static void
capsule_free(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, SIDECAR_CAPSULE));
}

int
sc_capi_init(PyObject *module)
{
    Exported *exported = PyMem_Malloc(sizeof(*exported));
    if (exported == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *exported = (Exported){
        .api =
            {
                .size = sizeof(Sidecar_API),
                .version = SIDECAR_API_VERSION,
                .worker_start = worker_start,
                .worker_stop = worker_stop,
                .request_begin = request_begin,
                .request_enter = request_enter,
                .request_exit = request_exit,
                .request_end = request_end,
                .request_id = request_id,
                .request_object = request_object,
                .request_arrive = request_arrive,
                .request_trace_id = request_trace_id,
                .request_is_left = request_is_left,
                .guard = guard,
                .bridge_configure = bridge_configure,
                .request_show = request_show,
                .request_calls = request_calls,
                .counters = counters,
                .worker_stopping = worker_stopping,
            },
        .st = sc_state_of_module(module),
    };
    PyObject *capsule =
        PyCapsule_New(&exported->api, SIDECAR_CAPSULE, capsule_free);
    if (capsule == NULL) {
        PyMem_Free(exported);
        return -1;
    }
    int rc = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return rc;
}
