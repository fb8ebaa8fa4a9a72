/* What uWSGI tells of a request as it arrives, and what is written into its
 * answer. */
#include "plugin.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define HEADER "X-Request-ID"
#define HEADER_LONGEST 256 /* as sidecar.Policy has it */
#define PREFIX "HTTP_"
#define PREFIX_LENGTH (sizeof(PREFIX) - 1)

/* A header as uWSGI names it among the request's variables. */
typedef struct {
    char key[PREFIX_LENGTH + HEADER_LONGEST + 1];
    size_t length; /* 0: none is taken */
} Variable;

typedef enum {
    REQUEST_ID,
    TRACEPARENT,
    TRACESTATE,
    BAGGAGE,
    DEADLINE,
    VARIABLES,
} Wanted;

/* The worker's own, made in it after the fork. */
static Variable wanted[VARIABLES];
/* "X-Request-ID: ", and how much of it is the name. */
static char line_start[HEADER_LONGEST + 3];
static size_t name_length;

/* PEP 3333 and RFC 3875, section 4.1.18. */
static void
want(Wanted which, const char *header)
{
    Variable *variable = &wanted[which];
    int length =
        snprintf(variable->key, sizeof(variable->key), PREFIX "%s", header);
    variable->length = (size_t)length;
    for (char *at = variable->key; *at != '\0'; at++) {
        *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
    }
}

void
sc_arrival_init(void)
{
    const char *header = sc_options.request_id_header != NULL
                             ? sc_options.request_id_header
                             : HEADER;
    snprintf(line_start, sizeof(line_start), "%s: ", header);
    name_length = strlen(header);
    want(REQUEST_ID, header);
    want(TRACEPARENT, "traceparent");
    want(TRACESTATE, "tracestate");
    want(BAGGAGE, "baggage");
    if (sc_options.deadline_header != NULL) {
        want(DEADLINE, sc_options.deadline_header);
    }
}

/* Where each is among the parsed variables; of several the last one, as
 * environ shows it.  NULL: not at all. */
static void
find_variables(struct wsgi_request *wsgi_req, struct iovec **found)
{
    for (int at = 0; at + 1 < wsgi_req->var_cnt; at += 2) {
        const struct iovec *name = &wsgi_req->hvec[at];
        for (int i = 0; i < VARIABLES; i++) {
            if (name->iov_len == wanted[i].length && name->iov_len > 0 &&
                memcmp(name->iov_base, wanted[i].key, name->iov_len) == 0) {
                found[i] = &wsgi_req->hvec[at + 1];
            }
        }
    }
}

static Sidecar_Text
text_of(const struct iovec *value)
{
    Sidecar_Text text = {NULL, 0};
    if (value != NULL) {
        text = (Sidecar_Text){value->iov_base, value->iov_len};
    }
    return text;
}

/* What came in under the name of our variable is not shown, unless it is
 * ours: the entries that uWSGI copies to the environ next show our id. */
static void
replace_inbound(struct wsgi_request *wsgi_req, ScCore *core)
{
    const Variable *id = &wanted[REQUEST_ID];
    for (int at = 0; at + 1 < wsgi_req->var_cnt; at += 2) {
        const struct iovec *name = &wsgi_req->hvec[at];
        if (name->iov_len == id->length &&
            memcmp(name->iov_base, id->key, id->length) == 0) {
            wsgi_req->hvec[at + 1].iov_base = core->id;
            wsgi_req->hvec[at + 1].iov_len = core->id_length;
        }
    }
}

static void
mark_response(struct wsgi_request *wsgi_req, const ScCore *core)
{
    char line[sizeof(line_start) + SIDECAR_REQUEST_ID_LONGEST];
    size_t start = name_length + 2;
    memcpy(line, line_start, start);
    memcpy(line + start, core->id, core->id_length);
    /* Headers of the application are tested against the list of those to be
     * removed; the additional ones, written last, are not. */
    uwsgi_remove_header(wsgi_req, line_start, (uint16_t)name_length);
    uwsgi_additional_header_add(wsgi_req, line,
                                (uint16_t)(start + core->id_length));
}

int
sc_arrival_begin(struct wsgi_request *wsgi_req, ScCore *core)
{
    const Sidecar_API *api = core->app->api;
    struct iovec *found[VARIABLES] = {NULL};
    find_variables(wsgi_req, found);
    PyObject *policy = core->routed == wsgi_req->start_of_request
                           ? sc_route_policy(core->choice, wsgi_req->app_id)
                           : core->app->policy;
    if (policy == NULL) {
        return -1;
    }
    Sidecar_Arrival arrival = {
        .size = sizeof(arrival),
        .policy = policy,
        .peer = {wsgi_req->remote_addr, wsgi_req->remote_addr_len},
        .request_id = text_of(found[REQUEST_ID]),
        .traceparent = text_of(found[TRACEPARENT]),
        .tracestate = text_of(found[TRACESTATE]),
        .baggage = text_of(found[BAGGAGE]),
        .deadline = text_of(found[DEADLINE]),
        .connection = wsgi_req->fd,
        .has_connection = wsgi_req->fd >= 0,
        .slot = sc_board_slot(wsgi_req->async_id),
        .method = {wsgi_req->method, wsgi_req->method_len},
        .path = {wsgi_req->path_info, wsgi_req->path_info_len},
        .timed = sc_log_wants_time(),
    };
    core->request = api->request_arrive(api, &arrival);
    if (core->request == NULL) {
        return -1;
    }
    const char *id = api->request_id(core->request);
    core->id_length = strlen(id);
    memcpy(core->id, id, core->id_length);
    core->trace_id[0] = core->calls[0] = core->ms[0] = '\0';
    core->started = wsgi_req->start_of_request;
    if (found[REQUEST_ID] != NULL) {
        replace_inbound(wsgi_req, core);
    }
    mark_response(wsgi_req, core);
    return 0;
}
