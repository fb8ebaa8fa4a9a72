/* OpenTelemetry: where its API is loaded, its context is asked first.
 *
 * Nothing is imported on its account: a request looks once, at its beginning,
 * whether somebody has.  What is done then is Python's
 * (sidecar/_opentelemetry.py).  All functions: attached.  */
#ifndef SIDECAR_MIDDLEWARE_OPENTELEMETRY_H
#define SIDECAR_MIDDLEWARE_OPENTELEMETRY_H

#include "middleware/request.h"

/* What sidecar._opentelemetry.shown() is asked for, by these numbers. */
typedef enum {
    SC_SHOWN_TRACE_ID,
    SC_SHOWN_SPAN_ID,
    SC_SHOWN_TRACEPARENT,
    SC_SHOWN_TRACESTATE,
} ScShown;

/* Join the request's trace and OpenTelemetry's, in the request's context,
 * which must be entered; before the application is called.  `environ` is
 * WSGI's, whose trace headers become the request's, or NULL.  What goes wrong
 * there is reported and leaves the request without it; -1, with an error set,
 * for what is no Exception. */
int sc_opentelemetry_begin(ScState *st, PyObject *request, PyObject *environ);

/* The same for a request of ASGI, which has no context: `scope` is a copy, to
 * be changed.  What its steps have to enter, a new reference; NULL, without an
 * error: nothing. */
PyObject *sc_opentelemetry_begin_asgi(ScState *st, PyObject *request,
                                      PyObject *scope);

/* Around each of its steps: a token, a new reference; and, for the token,
 * which is stolen, what the next step has to enter.  NULL, without an error:
 * it went wrong, and was reported. */
PyObject *sc_opentelemetry_enter(PyObject *here);
PyObject *sc_opentelemetry_leave(PyObject *token);

/* What the span that is current here says; a new reference.  NULL: there is
 * none, or the request is not the current one. */
PyObject *sc_opentelemetry_shown(ScRequest *self, ScShown what);

/* Have its propagators write the headers of an outgoing call over ours. */
void sc_opentelemetry_inject(ScRequest *self, PyObject *headers);

/* Methods of Request, for sidecar._opentelemetry: `_own_trace()`, a tuple of
 * traceparent, tracestate, and the traceparent that came in where it is
 * continued, or None; `_adopt_trace(traceparent, tracestate)`, to be called
 * before anybody asks for the trace. */
PyObject *sc_request_own_trace(PyObject *request, PyObject *none);
PyObject *sc_request_adopt_trace(PyObject *request, PyObject *args);

#endif
