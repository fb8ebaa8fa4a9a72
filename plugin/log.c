/* What log-format can name: %(request_id), %(trace_id).  uWSGI asks as it
 * writes the line: attached to no interpreter, the request ended, its core
 * not yet used again. */
#include "plugin.h"

static bool wants_trace;

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

void
sc_log_register(void)
{
    uwsgi_register_logchunk(SC_TEXT("request_id"), log_request_id, 0);
    uwsgi_register_logchunk(SC_TEXT("trace_id"), log_trace_id, 0);
}

void
sc_log_init(void)
{
    for (struct uwsgi_logchunk *chunk = uwsgi.logchunks; chunk != NULL;
         chunk = chunk->next) {
        wants_trace |= chunk->func == log_trace_id;
    }
}

bool
sc_log_wants_trace(void)
{
    return wants_trace;
}
