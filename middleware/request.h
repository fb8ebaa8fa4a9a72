/* Request: sidecar.Request, what is known of one request and what belongs to
 * it.
 *
 * It is made from what a server tells of the request's arrival, under a
 * policy.  What everybody asks for, the id, is there at once; the trace and
 * the baggage are parsed when they are first asked for, in the request's
 * critical section, from the inbound headers it keeps.
 *
 * Whether the sender is trusted is decided once, at its arrival: who is not
 * gets an id and a trace of ours, and its own are kept as `received_id` and
 * `links`.  What does not parse is ignored and counted; nothing that a client
 * sends is an error.
 *
 * Its base is the owner of all that it begins (core/work.h).  All functions:
 * attached.  */
#ifndef SIDECAR_MIDDLEWARE_REQUEST_H
#define SIDECAR_MIDDLEWARE_REQUEST_H

#include "core/work.h"
#include "middleware/policy.h"
#include "middleware/trace_context.h"

/* What a server tells; borrowed.  Header values are str as WSGI has them
 * (latin-1), several lines of one joined by commas; NULL: there is none. */
typedef struct {
    ScPolicy *policy; /* NULL: the default */
    PyObject *peer;   /* REMOTE_ADDR */
    PyObject *id;
    PyObject *traceparent;
    PyObject *tracestate;
    PyObject *baggage;
    PyObject *timeout;
    PyObject *connection; /* the client's socket, or its descriptor */
    Sidecar_Slot *slot;   /* where it is shown; NULL: nowhere */
    ScText method, path;  /* for the slot */
    bool timed;           /* its calls are */
} ScArrival;

typedef struct {
    ScOwner owner;
    ScPolicy *policy;
    PyObject *id;
    PyObject *received_id; /* or NULL */
    PyObject *traceparent; /* inbound, not parsed yet; or NULL */
    PyObject *inbound_tracestate;
    PyObject *inbound_baggage;
    int64_t started;
    bool trusted;
    bool traced;           /* what follows is there */
    bool linked;           /* an inbound trace was not continued */
    bool continued;        /* it was */
    bool bridged;          /* OpenTelemetry's context is asked first */
    ScTraceContext trace;  /* ours: the span is the request's own */
    ScTraceContext link;   /* the one that came in, of these two */
    PyObject *tracestate;  /* canonical; or NULL */
    PyObject *baggage;     /* dict of str; NULL: not parsed yet */
    PyObject *baggage_out; /* the header to pass on; or NULL */
} ScRequest;

/* New reference, or NULL with an error set. */
PyObject *sc_request_new(ScState *st, const ScArrival *arrival);

/* The same request for work that outlives it: it owns nothing, and has no
 * deadline.  New reference, or NULL with an error set. */
PyObject *sc_request_detach(PyObject *request);

/* The id of a sidecar.Request, borrowed from it: an exact ASCII str. */
PyObject *sc_request_id(PyObject *request);

/* Show it in a WSGI environ.  0, or -1 with an error set. */
int sc_request_show(PyObject *request, PyObject *environ);

/* Whether the object is a request of this module, and the current one: 1, 0,
 * or -1 with an error set. */
int sc_request_is_current(ScState *st, PyObject *object);

/* request_trace.c: parsed where it was not. */
const ScTraceContext *sc_request_trace(ScRequest *self);

/* What it shows of that; each a new reference, or NULL with an error set. */
PyObject *sc_request_get_trace_id(PyObject *request, void *closure);
PyObject *sc_request_get_span_id(PyObject *request, void *closure);
PyObject *sc_request_get_traceparent(PyObject *request, void *closure);
PyObject *sc_request_get_tracestate(PyObject *request, void *closure);
PyObject *sc_request_get_links(PyObject *request, void *closure);
PyObject *sc_request_get_baggage(PyObject *request, void *closure);
PyObject *sc_request_headers(PyObject *request, PyObject *none);

/* Count something (work.h) `more` times. */
void sc_request_count(ScState *st, ScCount what, uint64_t more);

/* The characters of a header's value: of a str of latin-1, borrowed from it.
 * False: it is none, or has characters beyond ASCII. */
bool sc_request_text(PyObject *value, ScText *text);

#endif
