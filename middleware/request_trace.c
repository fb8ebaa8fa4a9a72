#include "middleware/request.h"

#include "core/clock.h"
#include "middleware/baggage.h"
#include "middleware/opentelemetry.h"

/* -- what came in -----------------------------------------------------------
 */

/* Into our own trace: continued where the sender is trusted, else a new one
 * that links to the sender's. */
static bool
take_traceparent(ScRequest *self)
{
    ScText line = {NULL, 0};
    ScTraceContext inbound;
    ScTraceStatus status = SC_TRACE_ABSENT;
    if (self->traceparent != NULL) {
        status = sc_request_text(self->traceparent, &line)
                     ? sc_traceparent_parse(&line, 1, &inbound)
                     : SC_TRACE_MALFORMED;
    }
    if (status != SC_TRACE_OK && status != SC_TRACE_ABSENT) {
        sc_request_count(self->owner.st, SC_COUNT_BAD_TRACEPARENT, 1);
    }
    if (status == SC_TRACE_OK) {
        self->link = inbound;
        self->continued = self->trusted;
        self->linked = !self->trusted;
    }
    if (self->continued) {
        sc_trace_continue(&inbound, &self->trace);
        return true;
    }
    sc_trace_start(&self->trace, false);
    return false;
}

static void
take_tracestate(ScRequest *self)
{
    ScText line = {NULL, 0};
    char *text =
        self->inbound_tracestate ? PyMem_Malloc(SC_TRACESTATE_LONGEST) : NULL;
    if (text == NULL) {
        return;
    }
    ScTracestate state = {.status = SC_TRACE_KEY};
    if (sc_request_text(self->inbound_tracestate, &line)) {
        /* What level 1 takes, and keys that begin with a digit: as W3C's own
         * harness has it at its strict level 2. */
        state = sc_tracestate_parse(&line, 1, SC_TRACESTATE_DIGIT_FIRST, text,
                                    SC_TRACESTATE_LONGEST);
    }
    if (state.status == SC_TRACE_OK && state.length > 0) {
        self->tracestate =
            PyUnicode_FromStringAndSize(text, (Py_ssize_t)state.length);
        PyErr_Clear();
    }
    else if (state.status != SC_TRACE_OK && state.status != SC_TRACE_ABSENT) {
        sc_request_count(self->owner.st, SC_COUNT_BAD_TRACESTATE, 1);
    }
    PyMem_Free(text);
}

const ScTraceContext *
sc_request_trace(ScRequest *self)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    if (!self->traced) {
        if (take_traceparent(self)) {
            take_tracestate(self);
        }
        self->traced = true;
    }
    Py_END_CRITICAL_SECTION();
    return &self->trace;
}

/* -- what is shown
 * ------------------------------------------------------------ */

PyObject *
sc_request_get_trace_id(PyObject *request, void *Py_UNUSED(closure))
{
    ScRequest *self = (ScRequest *)request;
    PyObject *shown = sc_opentelemetry_shown(self, SC_SHOWN_TRACE_ID);
    return shown ? shown
                 : PyUnicode_FromStringAndSize(
                       sc_request_trace(self)->trace_id, SC_TRACE_ID_LENGTH);
}

PyObject *
sc_request_get_span_id(PyObject *request, void *Py_UNUSED(closure))
{
    ScRequest *self = (ScRequest *)request;
    PyObject *shown = sc_opentelemetry_shown(self, SC_SHOWN_SPAN_ID);
    return shown ? shown
                 : PyUnicode_FromStringAndSize(
                       sc_request_trace(self)->parent_id, SC_SPAN_ID_LENGTH);
}

static PyObject *
text_of(const ScTraceContext *trace)
{
    char text[SC_TRACEPARENT_LENGTH];
    sc_traceparent_write(trace, text);
    return PyUnicode_FromStringAndSize(text, SC_TRACEPARENT_LENGTH);
}

PyObject *
sc_request_get_traceparent(PyObject *request, void *Py_UNUSED(closure))
{
    ScRequest *self = (ScRequest *)request;
    PyObject *shown = sc_opentelemetry_shown(self, SC_SHOWN_TRACEPARENT);
    return shown ? shown : text_of(sc_request_trace(self));
}

static PyObject *
own_tracestate(ScRequest *self)
{
    sc_request_trace(self);
    return self->tracestate ? Py_NewRef(self->tracestate)
                            : PyUnicode_FromString("");
}

PyObject *
sc_request_get_tracestate(PyObject *request, void *Py_UNUSED(closure))
{
    ScRequest *self = (ScRequest *)request;
    PyObject *shown = sc_opentelemetry_shown(self, SC_SHOWN_TRACESTATE);
    return shown ? shown : own_tracestate(self);
}

PyObject *
sc_request_own_trace(PyObject *request, PyObject *Py_UNUSED(none))
{
    ScRequest *self = (ScRequest *)request;
    PyObject *traceparent = text_of(sc_request_trace(self));
    PyObject *tracestate = own_tracestate(self);
    PyObject *parent =
        self->continued ? text_of(&self->link) : Py_NewRef(Py_None);
    PyObject *all = traceparent && tracestate && parent
                        ? PyTuple_Pack(3, traceparent, tracestate, parent)
                        : NULL;
    Py_XDECREF(traceparent);
    Py_XDECREF(tracestate);
    Py_XDECREF(parent);
    return all;
}

PyObject *
sc_request_adopt_trace(PyObject *request, PyObject *args)
{
    ScRequest *self = (ScRequest *)request;
    PyObject *traceparent, *tracestate;
    ScText line = {NULL, 0};
    ScTraceContext given;
    if (!PyArg_ParseTuple(args, "UU:_adopt_trace", &traceparent,
                          &tracestate)) {
        return NULL;
    }
    if (!sc_request_text(traceparent, &line) ||
        sc_traceparent_parse(&line, 1, &given) != SC_TRACE_OK) {
        return PyErr_Format(PyExc_ValueError, "%R is no traceparent",
                            traceparent);
    }
    sc_request_trace(self);
    Py_BEGIN_CRITICAL_SECTION(self);
    bool same =
        memcmp(given.trace_id, self->link.trace_id, SC_TRACE_ID_LENGTH) == 0;
    self->linked = (self->linked || self->continued) && !same;
    self->continued = false;
    self->trace = given;
    Py_XSETREF(self->tracestate, PyUnicode_GET_LENGTH(tracestate) > 0
                                     ? Py_NewRef(tracestate)
                                     : NULL);
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

PyObject *
sc_request_get_links(PyObject *request, void *Py_UNUSED(closure))
{
    ScRequest *self = (ScRequest *)request;
    sc_request_trace(self);
    if (!self->linked) {
        return PyTuple_New(0);
    }
    PyObject *link = text_of(&self->link);
    PyObject *links = link ? PyTuple_Pack(1, link) : NULL;
    Py_XDECREF(link);
    return links;
}

/* -- baggage
 * -------------------------------------------------------------------- */

static int
keep_member(PyObject *items, const ScBaggageMember *member, char *room)
{
    size_t length = sc_baggage_decode(member->value, room);
    PyObject *value =
        PyUnicode_DecodeUTF8(room, (Py_ssize_t)length, "replace");
    PyObject *key = PyUnicode_DecodeASCII(
        member->key.at, (Py_ssize_t)member->key.length, NULL);
    int rc = value && key ? PyDict_SetItem(items, key, value) : -1;
    Py_XDECREF(value);
    Py_XDECREF(key);
    return rc;
}

typedef struct {
    ScBaggage list;
    ScBaggageText out;
    char room[SC_BAGGAGE_LENGTH];
} Baggage;

/* `items` gets its members, *out the header to pass on where there are any. */
static int
parse_baggage(ScRequest *self, ScText line, PyObject *items, PyObject **out)
{
    Baggage *work = PyMem_Calloc(1, sizeof(*work));
    if (work == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    sc_baggage_parse(&line, 1, &work->list);
    unsigned bad = work->list.invalid + work->list.dropped;
    if (bad > 0) {
        sc_request_count(self->owner.st, SC_COUNT_BAD_BAGGAGE, bad);
    }
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < work->list.count; i++) {
        rc = keep_member(items, &work->list.members[i], work->room);
    }
    if (rc == 0 && work->list.count > 0) {
        sc_baggage_put_list(&work->out, &work->list);
        *out = PyUnicode_FromStringAndSize(work->out.text,
                                           (Py_ssize_t)work->out.length);
        rc = *out ? 0 : -1;
    }
    PyMem_Free(work);
    return rc;
}

/* A borrowed dict; NULL with an error set. */
static PyObject *
baggage_of(ScRequest *self)
{
    PyObject *present;
    Py_BEGIN_CRITICAL_SECTION(self);
    present = self->baggage;
    Py_END_CRITICAL_SECTION();
    if (present != NULL) {
        return present;
    }
    PyObject *items = PyDict_New(), *out = NULL;
    ScText line = {NULL, 0};
    int rc = items ? 0 : -1;
    if (rc == 0 && self->inbound_baggage != NULL) {
        if (sc_request_text(self->inbound_baggage, &line)) {
            rc = parse_baggage(self, line, items, &out);
        }
        else {
            sc_request_count(self->owner.st, SC_COUNT_BAD_BAGGAGE, 1);
        }
    }
    if (rc < 0) {
        Py_XDECREF(items);
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->baggage == NULL) {
        self->baggage = items;
        self->baggage_out = out;
        items = out = NULL;
    }
    present = self->baggage;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(items);
    Py_XDECREF(out);
    return present;
}

PyObject *
sc_request_get_baggage(PyObject *request, void *Py_UNUSED(closure))
{
    PyObject *items = baggage_of((ScRequest *)request);
    return items ? PyDict_Copy(items) : NULL;
}

/* -- outgoing calls
 * --------------------------------------------------------------- */

static int
put(PyObject *headers, const char *name, PyObject *value)
{
    return value ? PyDict_SetItemString(headers, name, value) : -1;
}

static int
put_trace(ScRequest *self, PyObject *headers)
{
    ScTraceContext child;
    sc_trace_continue(sc_request_trace(self), &child);
    PyObject *traceparent = text_of(&child);
    int rc = put(headers, "traceparent", traceparent);
    Py_XDECREF(traceparent);
    if (rc == 0 && self->tracestate != NULL) {
        rc = put(headers, "tracestate", self->tracestate);
    }
    return rc;
}

PyObject *
sc_request_headers(PyObject *request, PyObject *Py_UNUSED(none))
{
    ScRequest *self = (ScRequest *)request;
    PyObject *headers = PyDict_New();
    if (headers == NULL ||
        PyDict_SetItem(headers, self->policy->id_header, self->id) < 0 ||
        put_trace(self, headers) < 0 || baggage_of(self) == NULL ||
        (self->baggage_out != NULL &&
         put(headers, "baggage", self->baggage_out) < 0)) {
        Py_CLEAR(headers);
    }
    else {
        sc_opentelemetry_inject(self, headers);
    }
    return headers;
}
