/* The pair of handlers around the Python plugin's own.  uWSGI calls both with
 * the application's interpreter attached. */
#include "plugin.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef void *(*RequestHandler)(struct wsgi_request *, struct uwsgi_app *);
typedef int (*ResponseHandler)(struct wsgi_request *);

/* All of this is the worker's own, made in it after the fork. */
static ScCore *cores;
/* By application: one in a sub-interpreter has an API of its own. */
static ScApp *apps;
static RequestHandler python_request;
static ResponseHandler python_response;
/* Set while this thread is in a handler; read in a signal handler, too. */
static _Thread_local volatile sig_atomic_t inside;

ScCore *
sc_requests_core(const struct wsgi_request *wsgi_req)
{
    return cores != NULL ? &cores[wsgi_req->async_id] : NULL;
}

bool
sc_requests_inside(void)
{
    bool main_thread = syscall(SYS_gettid) == getpid();
    return inside != 0 ||
           (main_thread &&
            uwsgi.workers[uwsgi.mywid].cores[0].in_request != 0);
}

/* For the application at a mountpoint. */
PyObject *
sc_requests_make_policy(PyObject *arguments)
{
    PyObject *policy = NULL, *none = PyTuple_New(0);
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    PyObject *type =
        sidecar ? PyObject_GetAttrString(sidecar, "Policy") : NULL;
    if (none != NULL && type != NULL) {
        policy = PyObject_Call(type, none, arguments);
    }
    Py_XDECREF(type);
    Py_XDECREF(sidecar);
    Py_XDECREF(none);
    return policy;
}

static PyObject *
make_policy(const char *mountpoint, size_t length)
{
    PyObject *arguments = sc_options_policy_arguments(mountpoint, length);
    PyObject *policy = arguments ? sc_requests_make_policy(arguments) : NULL;
    Py_XDECREF(arguments);
    return policy;
}

int
sc_requests_check_policy(void)
{
    PyObject *policy = make_policy("", 0);
    Py_XDECREF(policy);
    return policy != NULL ? 0 : -1;
}

/* uWSGI interns the names of its own entries for each environ anew, and they
 * go with it: kept here, each is looked up and no more.  New reference; NULL
 * with a Python error set. */
static PyObject *
keep_names(void)
{
    static const char *const names[] = {
        "wsgi.input",      "wsgi.file_wrapper", "wsgi.version",
        "wsgi.errors",     "wsgi.run_once",     "wsgi.multithread",
        "wsgi.url_scheme", "wsgi.multiprocess", "uwsgi.version",
        "uwsgi.core",      "uwsgi.node",
    };
    Py_ssize_t count = sizeof(names) / sizeof(names[0]);
    PyObject *kept = PyTuple_New(count);
    for (Py_ssize_t i = 0; kept != NULL && i < count; i++) {
        PyObject *name = PyUnicode_InternFromString(names[i]);
        if (name == NULL) {
            Py_CLEAR(kept);
        }
        else {
            PyTuple_SET_ITEM(kept, i, name);
        }
    }
    return kept;
}

/* New reference; NULL with a Python error set. */
static PyObject *
wrap_in_middleware(PyObject *callable, PyObject *policy)
{
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    PyObject *type =
        sidecar ? PyObject_GetAttrString(sidecar, "WSGIMiddleware") : NULL;
    PyObject *args = Py_BuildValue("(O)", callable);
    PyObject *kwargs = Py_BuildValue("{sO}", "policy", policy);
    PyObject *wrapped =
        type && args && kwargs ? PyObject_Call(type, args, kwargs) : NULL;
    Py_XDECREF(sidecar);
    Py_XDECREF(type);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return wrapped;
}

/* The API of the interpreter that is attached, whose bridge will have the
 * options; the main interpreter's has them from before the fork.  NULL with a
 * Python error set. */
static const Sidecar_API *
import_api(void)
{
    const Sidecar_API *api = Sidecar_Import();
    PyObject *options = api ? sc_options_bridge_arguments() : NULL;
    if (options == NULL || api->bridge_configure(api, options) < 0) {
        api = NULL;
    }
    Py_XDECREF(options);
    return api;
}

/* 0, or -1 with a Python error set. */
static int
make_app(ScApp *made, const struct uwsgi_app *bare)
{
    const Sidecar_API *api = import_api();
    *made = (ScApp){.guarded = *bare};
    made->guarded.callable = NULL;
    made->policy =
        api ? make_policy(bare->mountpoint, bare->mountpoint_len) : NULL;
    made->names = made->policy ? keep_names() : NULL;
    if (made->names != NULL) {
        made->guarded.callable =
            sc_requests_by_middleware()
                ? wrap_in_middleware(bare->callable, made->policy)
                : api->guard(api, bare->callable);
    }
    if (made->guarded.callable == NULL) {
        Py_CLEAR(made->policy);
        Py_CLEAR(made->names);
        return -1;
    }
    made->api = api;
    return 0;
}

/* What belongs to the interpreter that is attached now; NULL with a Python
 * error set.  Two threads may make it at once, each with its first request:
 * what the first has put there is in use, and stays. */
static ScApp *
app_of_request(struct wsgi_request *wsgi_req, struct uwsgi_app *bare)
{
    ScApp *app = &apps[wsgi_req->app_id], made;
    if (app->api == NULL) {
        if (make_app(&made, bare) < 0) {
            return NULL;
        }
        if (app->api == NULL) {
            *app = made;
        }
        else {
            Py_DECREF((PyObject *)made.guarded.callable);
            Py_DECREF(made.policy);
            Py_DECREF(made.names);
        }
    }
    return app;
}

static void
end_request(ScCore *core)
{
    if (core->request != NULL) {
        Sidecar_Request *request = core->request;
        const Sidecar_API *api = core->app->api;
        sc_log_keep(core);
        sc_route_leave(core->held);
        core->held = NULL;
        core->request = NULL;
        api->request_end(request);
    }
}

/* The application where there is room for the request, or what answers that
 * there is none. */
static struct uwsgi_app *
admit(struct wsgi_request *wsgi_req, ScCore *core)
{
    ScApp *app = core->app;
    if (core->routed != wsgi_req->start_of_request) {
        return &app->guarded;
    }
    if (sc_route_enter(core->choice)) {
        core->held = core->choice;
        return &app->guarded;
    }
    if (app->refusing.callable == NULL) {
        PyObject *limits = PyImport_ImportModule("sidecar._limits");
        PyObject *refuse =
            limits ? PyObject_GetAttrString(limits, "refuse_route") : NULL;
        struct uwsgi_app refusing = app->guarded;
        refusing.callable = refuse ? app->api->guard(app->api, refuse) : NULL;
        Py_XDECREF(limits);
        Py_XDECREF(refuse);
        if (app->refusing.callable == NULL) {
            app->refusing = refusing;
        }
    }
    if (app->refusing.callable == NULL) {
        PyErr_Print();
        return &app->guarded;
    }
    return &app->refusing;
}

/* A request that cannot have a scope (no memory, no sidecar in this
 * interpreter) is served without one, and the log says so. */
static bool
begin_request(struct wsgi_request *wsgi_req, struct uwsgi_app *app,
              ScCore *core)
{
    end_request(core);
    core->app = app_of_request(wsgi_req, app);
    if (core->app == NULL || sc_arrival_begin(wsgi_req, core) < 0) {
        PyErr_Print();
        uwsgi_log("[sidecar] a request is served without a scope (the error "
                  "is above)\n");
        return false;
    }
    if (core->app->api->request_show(core->request, wsgi_req->async_environ) <
        0) {
        PyErr_Print();
    }
    return true;
}

/* To uWSGI the connection is broken, as to us: it writes nothing more. */
static void
hush(struct wsgi_request *wsgi_req, ScCore *core)
{
    if (core->app->api->request_is_left(core->request)) {
        wsgi_req->write_errors++;
    }
}

static void *
handle_request(struct wsgi_request *wsgi_req, struct uwsgi_app *app)
{
    ScCore *core = &cores[wsgi_req->async_id];
    inside++;
    if (!begin_request(wsgi_req, app, core)) {
        void *bare = python_request(wsgi_req, app);
        inside--;
        return bare;
    }
    void *result = python_request(wsgi_req, admit(wsgi_req, core));
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
    ScCore *core = &cores[wsgi_req->async_id];
    if (core->request == NULL) {
        return python_response(wsgi_req);
    }
    inside++;
    if (sc_response_send(wsgi_req)) {
        end_request(core);
        inside--;
        return UWSGI_OK;
    }
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
sc_requests_each_other_api(const Sidecar_API *main_api,
                           void (*visit)(const Sidecar_API *api))
{
    for (int id = 0; apps != NULL && id < uwsgi_apps_cnt; id++) {
        const Sidecar_API *api = apps[id].api;
        bool seen = api == NULL || api == main_api;
        for (int earlier = 0; earlier < id && !seen; earlier++) {
            seen = apps[earlier].api == api;
        }
        if (!seen) {
            PyThreadState *here =
                PyThreadState_Swap(uwsgi_apps[id].interpreter);
            visit(api);
            PyThreadState_Swap(here);
        }
    }
}

/* -- async modes ---------------------------------------------------------- */

bool
sc_requests_by_middleware(void)
{
    return uwsgi.async > 1;
}

/* The middleware makes the request, and ends it with the response's close():
 * uWSGI takes such a request up again past its application's handlers. */
static void *
handle_by_middleware(struct wsgi_request *wsgi_req, struct uwsgi_app *bare)
{
    ScApp *app = app_of_request(wsgi_req, bare);
    if (app == NULL) {
        PyErr_Print();
        uwsgi_log("[sidecar] a request is served without a scope (the error "
                  "is above)\n");
        return python_request(wsgi_req, bare);
    }
    PyObject *environ = wsgi_req->async_environ;
    Py_INCREF(environ);
    void *result = python_request(wsgi_req, &app->guarded);
    sc_log_keep_shown(wsgi_req, &cores[wsgi_req->async_id], environ);
    Py_DECREF(environ);
    return result;
}

void
sc_requests_init(void)
{
    if (cores == NULL) {
        cores = uwsgi_calloc(sizeof(*cores) * (size_t)uwsgi.cores);
        apps = uwsgi_calloc(sizeof(*apps) * (size_t)uwsgi.max_apps);
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
    if (app->callable == NULL || app->request_subhandler == handle_request ||
        app->request_subhandler == handle_by_middleware) {
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
    if (sc_requests_by_middleware()) {
        app->request_subhandler = handle_by_middleware;
        return;
    }
    app->request_subhandler = handle_request;
    app->response_subhandler = handle_response;
}

/* asyncio keeps the running loop for the whole process until then. */
#if PY_VERSION_HEX < 0x030C0000
#define UNSAFE ", and before Python 3.12 their event loops get mixed up"
#else
#define UNSAFE ""
#endif

/* The first application lives in the main interpreter. */
static void
warn_interpreters(void)
{
    for (int id = 1; id < uwsgi_apps_cnt; id++) {
        if (uwsgi_apps[id].interpreter != uwsgi_apps[0].interpreter &&
            uwsgi_apps[id].callable != NULL) {
            uwsgi_log("[sidecar] app %d (mountpoint '%.*s') runs in a "
                      "sub-interpreter of its own, with a bridge of its own"
                      "%s: set single-interpreter = true\n",
                      id, uwsgi_apps[id].mountpoint_len,
                      uwsgi_apps[id].mountpoint, UNSAFE);
        }
    }
}

void
sc_requests_wrap_apps(void)
{
    if (sc_lifecycle_mixes_contexts()) {
        return;
    }
    if (uwsgi.mywid == 1) {
        warn_interpreters();
    }
    for (int id = 0; id < uwsgi_apps_cnt; id++) {
        wrap_app(&uwsgi_apps[id], id);
    }
}
