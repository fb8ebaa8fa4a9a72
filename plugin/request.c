/* The pair of handlers around the Python plugin's own.  uWSGI calls both with
 * the application's interpreter attached. */
#include "plugin.h"

#include <ctype.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEADER "X-Request-ID"
#define HEADER_LONGEST 256 /* as sidecar.Policy has it */
#define LOG_VARIABLE "request_id"
#define TRACE_VARIABLE "trace_id"

typedef void *(*RequestHandler)(struct wsgi_request *, struct uwsgi_app *);
typedef int (*ResponseHandler)(struct wsgi_request *);

/* What belongs to an application's interpreter. */
typedef struct {
    const Sidecar_API *api; /* NULL: not imported yet */
    PyObject *policy;
    struct uwsgi_app guarded; /* uWSGI's own, but for its callable */
} App;

/* Names of the configured headers: as they are sent, and in environ. */
typedef struct {
    char header[HEADER_LONGEST + 1];
    char key[sizeof("HTTP_") + HEADER_LONGEST];
} Name;

/* One core of uWSGI serves one request at a time. */
typedef struct {
    Sidecar_Request *request; /* owned; NULL: none in progress */
    const App *app;
    /* uWSGI's request variables may point here, until the next request. */
    char id[SIDECAR_REQUEST_ID_LONGEST];
    size_t id_length;
} Core;

/* All of this is the worker's own, made in it after the fork. */
static Core *cores;
/* By application: one in a sub-interpreter has an API of its own. */
static App *apps;
static Name id_name, deadline_name;
static RequestHandler python_request;
static ResponseHandler python_response;
/* Set while this thread is in a handler; read in a signal handler, too. */
static _Thread_local volatile sig_atomic_t inside;

bool
sc_requests_inside(void)
{
    bool main_thread = syscall(SYS_gettid) == getpid();
    return inside != 0 ||
           (main_thread &&
            uwsgi.workers[uwsgi.mywid].cores[0].in_request != 0);
}

static PyObject *
make_policy(void)
{
    PyObject *policy = NULL, *none = PyTuple_New(0);
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    PyObject *type =
        sidecar ? PyObject_GetAttrString(sidecar, "Policy") : NULL;
    PyObject *arguments = type ? sc_options_policy_arguments() : NULL;
    if (none != NULL && arguments != NULL) {
        policy = PyObject_Call(type, none, arguments);
    }
    Py_XDECREF(arguments);
    Py_XDECREF(type);
    Py_XDECREF(sidecar);
    Py_XDECREF(none);
    return policy;
}

int
sc_requests_check_policy(void)
{
    PyObject *policy = make_policy();
    Py_XDECREF(policy);
    return policy != NULL ? 0 : -1;
}

/* What belongs to the interpreter that is attached now; NULL with a Python
 * error set. */
static const App *
app_of_request(struct wsgi_request *wsgi_req, struct uwsgi_app *bare)
{
    App *app = &apps[wsgi_req->app_id];
    if (app->api == NULL) {
        const Sidecar_API *api = Sidecar_Import();
        app->guarded = *bare;
        app->policy = api != NULL ? make_policy() : NULL;
        app->guarded.callable =
            app->policy != NULL ? api->guard(api, bare->callable) : NULL;
        app->api = app->guarded.callable != NULL ? api : NULL;
    }
    return app->api != NULL ? app : NULL;
}

/* PEP 3333 and RFC 3875, section 4.1.18. */
static void
set_name(Name *name, const char *header)
{
    snprintf(name->header, sizeof(name->header), "%s", header);
    memcpy(name->key, "HTTP_", 5);
    char *to = name->key + 5;
    for (const char *from = name->header; *from != '\0'; from++) {
        *to++ = *from == '-' ? '_' : (char)toupper((unsigned char)*from);
    }
    *to = '\0';
}

/* The value of a request variable that uWSGI has parsed; of several lines the
 * last one, as environ shows it. */
static Sidecar_Text
variable(struct wsgi_request *wsgi_req, const char *name)
{
    uint16_t length = 0;
    char *value = uwsgi_get_var(wsgi_req, SC_TEXT(name),
                                (uint16_t)strlen(name), &length);
    Sidecar_Text text = {value, length};
    return text;
}

/* What came in under the name of our variable is not shown, unless it is
 * ours: the entries that uWSGI copies to the environ next show our id. */
static void
replace_inbound(struct wsgi_request *wsgi_req, Core *core)
{
    size_t length = strlen(id_name.key);
    for (int i = 0; i + 1 < wsgi_req->var_cnt; i += 2) {
        struct iovec *name = &wsgi_req->hvec[i];
        if (name->iov_len == length &&
            memcmp(name->iov_base, id_name.key, length) == 0) {
            wsgi_req->hvec[i + 1].iov_base = core->id;
            wsgi_req->hvec[i + 1].iov_len = core->id_length;
        }
    }
}

static int
fill_environ(PyObject *environ, Core *core)
{
    int rc = -1;
    PyObject *request = core->app->api->request_object(core->request);
    PyObject *id =
        PyUnicode_FromStringAndSize(core->id, (Py_ssize_t)core->id_length);
    if (id != NULL) {
        rc = PyDict_SetItemString(environ, id_name.key, id);
        if (rc == 0) {
            rc = PyDict_SetItemString(environ, "sidecar.request", request);
        }
    }
    Py_XDECREF(id);
    Py_DECREF(request);
    return rc;
}

static void
mark_response(struct wsgi_request *wsgi_req, Core *core)
{
    char line[HEADER_LONGEST + 2 + SIDECAR_REQUEST_ID_LONGEST + 1];
    int length = snprintf(line, sizeof(line), "%s: %.*s", id_name.header,
                          (int)core->id_length, core->id);
    /* Headers of the application are tested against the list of those to be
     * removed; the additional ones, written last, are not. */
    uwsgi_remove_header(wsgi_req, id_name.header,
                        (uint16_t)strlen(id_name.header));
    uwsgi_additional_header_add(wsgi_req, line, (uint16_t)length);
    uwsgi_logvar_add(wsgi_req, SC_TEXT(LOG_VARIABLE), sizeof(LOG_VARIABLE) - 1,
                     core->id, (uint8_t)core->id_length);
    const char *trace_id = core->app->api->request_trace_id(core->request);
    uwsgi_logvar_add(wsgi_req, SC_TEXT(TRACE_VARIABLE),
                     sizeof(TRACE_VARIABLE) - 1, SC_TEXT(trace_id),
                     SIDECAR_TRACE_ID_LENGTH);
}

static void
end_request(Core *core)
{
    if (core->request != NULL) {
        Sidecar_Request *request = core->request;
        core->request = NULL;
        core->app->api->request_end(request);
    }
}

static Sidecar_Request *
arrive(struct wsgi_request *wsgi_req, const App *app)
{
    Sidecar_Arrival arrival = {
        .size = sizeof(arrival),
        .policy = app->policy,
        .peer = {wsgi_req->remote_addr, wsgi_req->remote_addr_len},
        .request_id = variable(wsgi_req, id_name.key),
        .traceparent = variable(wsgi_req, "HTTP_TRACEPARENT"),
        .tracestate = variable(wsgi_req, "HTTP_TRACESTATE"),
        .baggage = variable(wsgi_req, "HTTP_BAGGAGE"),
        .connection = wsgi_req->fd,
        .has_connection = wsgi_req->fd >= 0,
    };
    if (deadline_name.key[0] != '\0') {
        arrival.deadline = variable(wsgi_req, deadline_name.key);
    }
    return app->api->request_arrive(app->api, &arrival);
}

/* A request that cannot have a scope (no memory, no sidecar in this
 * interpreter) is served without one, and the log says so. */
static bool
begin_request(struct wsgi_request *wsgi_req, struct uwsgi_app *app, Core *core)
{
    end_request(core);
    core->app = app_of_request(wsgi_req, app);
    if (core->app != NULL) {
        core->request = arrive(wsgi_req, core->app);
    }
    if (core->request == NULL) {
        PyErr_Print();
        uwsgi_log("[sidecar] a request is served without a scope (the error "
                  "is above)\n");
        return false;
    }
    const char *id = core->app->api->request_id(core->request);
    core->id_length = strlen(id);
    memcpy(core->id, id, core->id_length);
    replace_inbound(wsgi_req, core);
    if (fill_environ(wsgi_req->async_environ, core) < 0) {
        PyErr_Print();
    }
    mark_response(wsgi_req, core);
    return true;
}

/* To uWSGI the connection is broken, as to us: it writes nothing more. */
static void
hush(struct wsgi_request *wsgi_req, Core *core)
{
    if (core->app->api->request_is_left(core->request)) {
        wsgi_req->write_errors++;
    }
}

static void *
handle_request(struct wsgi_request *wsgi_req, struct uwsgi_app *app)
{
    Core *core = &cores[wsgi_req->async_id];
    inside++;
    if (!begin_request(wsgi_req, app, core)) {
        void *bare = python_request(wsgi_req, app);
        inside--;
        return bare;
    }
    struct uwsgi_app guarded = core->app->guarded;
    void *result = python_request(wsgi_req, &guarded);
    core->app->api->request_exit(core->request);
    hush(wsgi_req, core);
    if (result == NULL) {
        /* Then uWSGI never asks for a response. */
        end_request(core);
    }
    inside--;
    return result;
}

static int
handle_response(struct wsgi_request *wsgi_req)
{
    Core *core = &cores[wsgi_req->async_id];
    if (core->request == NULL) {
        return python_response(wsgi_req);
    }
    inside++;
    bool entered = core->app->api->request_enter(core->request) == 0;
    if (!entered) {
        PyErr_Print();
    }
    int rc = python_response(wsgi_req);
    hush(wsgi_req, core);
    if (entered) {
        core->app->api->request_exit(core->request);
    }
    if (rc == UWSGI_OK) {
        end_request(core);
    }
    inside--;
    return rc;
}

void
sc_requests_init(void)
{
    if (cores == NULL) {
        cores = uwsgi_calloc(sizeof(Core) * (size_t)uwsgi.cores);
        apps = uwsgi_calloc(sizeof(*apps) * (size_t)uwsgi.max_apps);
    }
    set_name(&id_name, sc_options.request_id_header != NULL
                           ? sc_options.request_id_header
                           : HEADER);
    if (sc_options.deadline_header != NULL) {
        set_name(&deadline_name, sc_options.deadline_header);
    }
    /* Exported by the binary, or by the Python plugin: loaded globally. */
    python_request = (__extension__(RequestHandler) dlsym(
        RTLD_DEFAULT, "uwsgi_request_subhandler_wsgi"));
    python_response = (__extension__(ResponseHandler) dlsym(
        RTLD_DEFAULT, "uwsgi_response_subhandler_wsgi"));
    if (python_request == NULL || python_response == NULL) {
        uwsgi_log("[sidecar] this uWSGI's Python plugin exports no WSGI "
                  "handlers: %s\n",
                  dlerror());
        exit(1);
    }
}

/* What the application's handlers are, in the words of its operator. */
static void
wrap_app(struct uwsgi_app *app, int id)
{
    if (app->callable == NULL || app->request_subhandler == handle_request) {
        return;
    }
    if (app->request_subhandler != python_request ||
        app->response_subhandler != python_response) {
        if (app->request_subhandler != NULL && uwsgi.mywid == 1) {
            uwsgi_log("[sidecar] app %d (mountpoint '%.*s') speaks no WSGI: "
                      "it is served without a scope\n",
                      id, app->mountpoint_len, app->mountpoint);
        }
        return;
    }
    app->request_subhandler = handle_request;
    app->response_subhandler = handle_response;
}

/* The first application lives in the main interpreter. */
static void
warn_interpreters(void)
{
    for (int id = 1; id < uwsgi_apps_cnt; id++) {
        if (uwsgi_apps[id].interpreter != uwsgi_apps[0].interpreter &&
            uwsgi_apps[id].callable != NULL) {
            uwsgi_log("[sidecar] app %d (mountpoint '%.*s') runs in a "
                      "sub-interpreter of its own, with a bridge of its own: "
                      "set single-interpreter = true\n",
                      id, uwsgi_apps[id].mountpoint_len,
                      uwsgi_apps[id].mountpoint);
        }
    }
}

void
sc_requests_wrap_apps(void)
{
    if (uwsgi.async > 1) {
        return;
    }
    if (uwsgi.mywid == 1) {
        warn_interpreters();
    }
    for (int id = 0; id < uwsgi_apps_cnt; id++) {
        wrap_app(&uwsgi_apps[id], id);
    }
}
