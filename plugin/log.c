/* What log-format can name: %(request_id), %(trace_id), %(bridge_calls),
 * %(bridge_ms).  uWSGI asks as it writes the line: attached to no interpreter,
 * the request ended, its core not yet used again. */
#include "plugin.h"

#include <stdio.h>
#include <string.h>

typedef ssize_t (*Chunk)(struct wsgi_request *, char **);

static bool wants_id, wants_trace, wants_calls, wants_time;

/* What the core remembers is this request's, not an earlier one's: a file
 * that uWSGI serves itself has no scope. */
static const ScCore *
core_of(struct wsgi_request *wsgi_req)
{
    const ScCore *core = sc_requests_core(wsgi_req);
    return core != NULL && core->started == wsgi_req->start_of_request ? core
                                                                       : NULL;
}

static ssize_t
log_request_id(struct wsgi_request *wsgi_req, char **text)
{
    const ScCore *core = core_of(wsgi_req);
    if (core == NULL) {
        return 0;
    }
    *text = SC_TEXT(core->id);
    return (ssize_t)core->id_length;
}

static ssize_t
log_trace_id(struct wsgi_request *wsgi_req, char **text)
{
    const ScCore *core = core_of(wsgi_req);
    if (core == NULL || core->trace_id[0] == '\0') {
        return 0;
    }
    *text = SC_TEXT(core->trace_id);
    return SIDECAR_TRACE_ID_LENGTH;
}

static ssize_t
log_calls(struct wsgi_request *wsgi_req, char **text)
{
    const ScCore *core = core_of(wsgi_req);
    *text = core != NULL ? SC_TEXT(core->calls) : NULL;
    return core != NULL ? (ssize_t)strlen(core->calls) : 0;
}

static ssize_t
log_ms(struct wsgi_request *wsgi_req, char **text)
{
    const ScCore *core = core_of(wsgi_req);
    *text = core != NULL ? SC_TEXT(core->ms) : NULL;
    return core != NULL ? (ssize_t)strlen(core->ms) : 0;
}

void
sc_log_register(void)
{
    uwsgi_register_logchunk(SC_TEXT("request_id"), log_request_id, 0);
    uwsgi_register_logchunk(SC_TEXT("trace_id"), log_trace_id, 0);
    uwsgi_register_logchunk(SC_TEXT("bridge_calls"), log_calls, 0);
    uwsgi_register_logchunk(SC_TEXT("bridge_ms"), log_ms, 0);
}

static bool
is_asked_for(Chunk function)
{
    struct uwsgi_logchunk *chunk = uwsgi.logchunks;
    while (chunk != NULL && chunk->func != function) {
        chunk = chunk->next;
    }
    return chunk != NULL;
}

void
sc_log_init(void)
{
    wants_id = is_asked_for(log_request_id);
    wants_trace = is_asked_for(log_trace_id);
    wants_calls = is_asked_for(log_calls);
    wants_time = is_asked_for(log_ms);
}

bool
sc_log_wants_time(void)
{
    return wants_time;
}

void
sc_log_keep(ScCore *core)
{
    const Sidecar_API *api = core->app->api;
    if (wants_trace) {
        memcpy(core->trace_id, api->request_trace_id(core->request),
               SIDECAR_TRACE_ID_LENGTH);
    }
    if (wants_calls || wants_time) {
        double seconds;
        unsigned calls = api->request_calls(core->request, &seconds);
        snprintf(core->calls, sizeof(core->calls), "%u", calls);
        snprintf(core->ms, sizeof(core->ms), "%.3f", seconds * 1e3);
    }
}

/* Keeps the error that is set, if one is. */
static size_t
copy_attribute(PyObject *object, const char *name, char *to, size_t room)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    size_t length = 0;
    PyObject *text = PyObject_GetAttrString(object, name);
    Py_ssize_t size = 0;
    const char *from = text ? PyUnicode_AsUTF8AndSize(text, &size) : NULL;
    if (from != NULL && (size_t)size <= room) {
        length = (size_t)size;
        memcpy(to, from, length);
    }
    Py_XDECREF(text);
    PyErr_Restore(type, value, traceback);
    return length;
}

void
sc_log_keep_shown(struct wsgi_request *wsgi_req, ScCore *core,
                  PyObject *environ)
{
    if (!wants_id && !wants_trace) {
        return;
    }
    PyObject *request = PyDict_GetItemString(environ, "sidecar.request");
    core->calls[0] = core->ms[0] = core->trace_id[0] = '\0';
    core->id_length = 0;
    if (request == NULL) {
        return;
    }
    core->started = wsgi_req->start_of_request;
    core->id_length =
        copy_attribute(request, "id", core->id, sizeof(core->id));
    if (wants_trace) {
        copy_attribute(request, "trace_id", core->trace_id,
                       sizeof(core->trace_id));
    }
}
