/* The pair of handlers around the Python plugin's own.  uWSGI calls both with
 * the application's interpreter attached. */
#include "plugin.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define VARIABLE "HTTP_X_REQUEST_ID"
#define HEADER "X-Request-ID"
#define HEADER_LINE HEADER ": "
#define LOG_VARIABLE "request_id"

typedef void *(*RequestHandler)(struct wsgi_request *, struct uwsgi_app *);
typedef int (*ResponseHandler)(struct wsgi_request *);

/* One core of uWSGI serves one request at a time. */
typedef struct {
    Sidecar_Request *request; /* owned; NULL: none in progress */
    const Sidecar_API *api;
    /* uWSGI's request variables may point here, until the next request. */
    char id[SIDECAR_REQUEST_ID_LENGTH];
} Core;

/* All of this is the worker's own, made in it after the fork. */
static Core *cores;
/* By application: an application in a sub-interpreter has an API of its own.
 */
static const Sidecar_API **app_apis;
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

/* The API of the interpreter that is attached now. */
static const Sidecar_API *
api_of_app(struct wsgi_request *wsgi_req)
{
    const Sidecar_API **place = &app_apis[wsgi_req->app_id];
    if (*place == NULL) {
        *place = Sidecar_Import();
    }
    return *place;
}

/* What came in under the name of our variable is not adopted: the entries
 * that uWSGI copies to the environ next show our id. */
static void
replace_inbound(struct wsgi_request *wsgi_req, Core *core)
{
    for (int i = 0; i + 1 < wsgi_req->var_cnt; i += 2) {
        struct iovec *name = &wsgi_req->hvec[i];
        if (name->iov_len == sizeof(VARIABLE) - 1 &&
            memcmp(name->iov_base, VARIABLE, name->iov_len) == 0) {
            wsgi_req->hvec[i + 1].iov_base = core->id;
            wsgi_req->hvec[i + 1].iov_len = SIDECAR_REQUEST_ID_LENGTH;
        }
    }
}

static int
fill_environ(PyObject *environ, Core *core)
{
    int rc = -1;
    PyObject *request = core->api->request_object(core->request);
    PyObject *id =
        PyUnicode_FromStringAndSize(core->id, SIDECAR_REQUEST_ID_LENGTH);
    if (id != NULL) {
        rc = PyDict_SetItemString(environ, VARIABLE, id);
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
    char line[sizeof(HEADER_LINE) - 1 + SIDECAR_REQUEST_ID_LENGTH];
    memcpy(line, HEADER_LINE, sizeof(HEADER_LINE) - 1);
    memcpy(line + sizeof(HEADER_LINE) - 1, core->id,
           SIDECAR_REQUEST_ID_LENGTH);
    /* Headers of the application are tested against the list of those to be
     * removed; the additional ones, written last, are not. */
    uwsgi_remove_header(wsgi_req, SC_TEXT(HEADER), sizeof(HEADER) - 1);
    uwsgi_additional_header_add(wsgi_req, line, sizeof(line));
    uwsgi_logvar_add(wsgi_req, SC_TEXT(LOG_VARIABLE), sizeof(LOG_VARIABLE) - 1,
                     core->id, SIDECAR_REQUEST_ID_LENGTH);
}

static void
end_request(Core *core)
{
    if (core->request != NULL) {
        Sidecar_Request *request = core->request;
        core->request = NULL;
        core->api->request_end(request);
    }
}

/* A request that cannot have a scope (no memory, no sidecar in this
 * interpreter) is served without one, and the log says so. */
static bool
begin_request(struct wsgi_request *wsgi_req, Core *core)
{
    end_request(core);
    core->api = api_of_app(wsgi_req);
    if (core->api != NULL) {
        core->request = core->api->request_begin(core->api);
    }
    if (core->request == NULL) {
        PyErr_Print();
        uwsgi_log("[sidecar] a request is served without a scope (the error "
                  "is above)\n");
        return false;
    }
    memcpy(core->id, core->api->request_id(core->request),
           SIDECAR_REQUEST_ID_LENGTH);
    replace_inbound(wsgi_req, core);
    if (fill_environ(wsgi_req->async_environ, core) < 0) {
        PyErr_Print();
    }
    mark_response(wsgi_req, core);
    return true;
}

static void *
handle_request(struct wsgi_request *wsgi_req, struct uwsgi_app *app)
{
    Core *core = &cores[wsgi_req->async_id];
    inside++;
    if (!begin_request(wsgi_req, core)) {
        void *bare = python_request(wsgi_req, app);
        inside--;
        return bare;
    }
    void *result = python_request(wsgi_req, app);
    core->api->request_exit(core->request);
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
    bool entered = core->api->request_enter(core->request) == 0;
    if (!entered) {
        PyErr_Print();
    }
    int rc = python_response(wsgi_req);
    if (entered) {
        core->api->request_exit(core->request);
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
        app_apis = uwsgi_calloc(sizeof(*app_apis) * (size_t)uwsgi.max_apps);
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
