#include "plugin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The worker that started a bridge.  A mule, or a child of the application's,
 * has another pid, or never came by post_fork. */
static pid_t started_pid;
static const Sidecar_API *main_api;

static void
refuse_import(void)
{
    PyErr_Print();
    PyObject *path = PySys_GetObject("path"); /* borrowed: sys holds it */
    PyObject *text = path != NULL ? PyObject_Repr(path) : NULL;
    const char *shown = text != NULL ? PyUnicode_AsUTF8(text) : NULL;
    uwsgi_log(
        "[sidecar] cannot import sidecar: Python %s of this uWSGI has no "
        "working sidecar package (the error is above). Install it for "
        "this very Python, or name its virtualenv with `virtualenv = "
        "PATH` or its folder with `pythonpath = PATH`. sys.path is %s\n",
        PY_VERSION, shown != NULL ? shown : "unknown");
    exit(1);
}

static void
refuse_options(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    const char *shown = text != NULL ? PyUnicode_AsUTF8(text) : NULL;
    uwsgi_log("[sidecar] the configuration is wrong: %s\n",
              shown != NULL ? shown : "no memory");
    exit(1);
}

static bool
is_given(const char *option)
{
    for (int i = 0; i < uwsgi.exported_opts_cnt; i++) {
        if (strcmp(uwsgi.exported_opts[i]->key, option) == 0) {
            return true;
        }
    }
    return false;
}

/* uWSGI's engines that switch stacks below Python.  gevent's and greenlet's
 * switches Python knows; without an engine requests do not switch at all. */
bool
sc_lifecycle_mixes_contexts(void)
{
    return uwsgi.async > 1 &&
           (is_given("ugreen") || is_given("stackless") || is_given("fiber"));
}

static void
warn_async(void)
{
    if (sc_lifecycle_mixes_contexts()) {
        uwsgi_log("[sidecar] uWSGI switches %d requests on one stack "
                  "(ugreen, stackless, fiber): they get no scope "
                  "(sidecar.current() is None, no X-Request-ID). Use gevent "
                  "or threads\n",
                  uwsgi.async);
    }
}

/* gevent patches the worker after its fork: its bridge starts with the first
 * call, when it is known what is patched. */
static bool
starts_later(void)
{
    return uwsgi.loop != NULL && strcmp(uwsgi.loop, "gevent") == 0;
}

/* What of the spooler's is Python's; harmless where there is none. */
static void
call_spooler(const char *function)
{
    PyObject *module = PyImport_ImportModule("sidecar._uwsgi_spooler");
    PyObject *none =
        module ? PyObject_CallMethod(module, function, NULL) : NULL;
    if (none == NULL) {
        PyErr_Print();
        uwsgi_log("[sidecar] jobs of the spooler do not carry their request "
                  "(the error is above)\n");
    }
    Py_XDECREF(none);
    Py_XDECREF(module);
}

void
sc_lifecycle_spooler(void)
{
    ScAttachment attachment = sc_attachment_begin();
    call_spooler("receive");
    sc_attachment_end(attachment);
}

void
sc_lifecycle_preinit(void)
{
    if (!Py_IsInitialized()) {
        uwsgi_log("[sidecar] this uWSGI runs no Python: load its Python "
                  "plugin (plugin = python3, sidecar), or use a uWSGI with "
                  "Python built in\n");
        exit(1);
    }
    warn_async();
    sc_board_map();
    ScAttachment attachment = sc_attachment_begin();
    main_api = Sidecar_Import();
    if (main_api == NULL) {
        refuse_import();
    }
    PyObject *bridge =
        sc_options_settle() == 0 ? sc_options_bridge_arguments() : NULL;
    if (bridge == NULL || main_api->bridge_configure(main_api, bridge) < 0 ||
        sc_requests_check_policy() < 0 || sc_routes_check() < 0) {
        refuse_options();
    }
    Py_DECREF(bridge);
    if (uwsgi.spoolers != NULL) {
        call_spooler("carry");
    }
    sc_attachment_end(attachment);
}

void
sc_lifecycle_post_fork(void)
{
    ScAttachment attachment = sc_attachment_begin();
    sc_stats_leave();
    sc_board_clear();
    if (!starts_later() && main_api->worker_start(main_api) < 0) {
        PyErr_Print();
        uwsgi_log("[sidecar] worker %d (pid %d) cannot start its bridge (the "
                  "error is above)\n",
                  uwsgi.mywid, (int)getpid());
        exit(1);
    }
    sc_metrics_start(main_api);
    sc_stopping_init(main_api);
    sc_watchdog_start();
    sc_attachment_end(attachment);
    started_pid = getpid();
}

/* Within what the master leaves a worker that it has told to go. */
static double
time_to_stop(void)
{
    double seconds = sc_options.shutdown_timeout;
    time_t mercy = uwsgi.workers[uwsgi.mywid].no_mercy_at;
    if (mercy > 0) {
        double left = (double)(mercy - time(NULL)) - 0.5;
        seconds = left < seconds ? left : seconds;
    }
    return seconds > 0 ? seconds : 0;
}

static void
stop(const Sidecar_API *api)
{
    if (api->worker_stop(api, time_to_stop()) < 0) {
        PyErr_Print();
        uwsgi_log("[sidecar] worker %d (pid %d) could not drain its bridge "
                  "(the error is above)\n",
                  uwsgi.mywid, (int)getpid());
    }
}

static void *
run_stop(void *Py_UNUSED(unused))
{
    ScAttachment attachment = sc_attachment_begin();
    stop(main_api);
    sc_attachment_end(attachment);
    return NULL;
}

/* The C library has already ended what greenlet keeps for this thread: no
 * code that gevent has patched can run here any more. */
static void
stop_on_another_thread(void)
{
    pthread_t thread;
    PyThreadState *save = PyEval_SaveThread();
    if (pthread_create(&thread, NULL, run_stop, NULL) == 0) {
        pthread_join(thread, NULL);
    }
    PyEval_RestoreThread(save);
}

void
sc_lifecycle_atexit(void)
{
    if (started_pid != getpid() || !Py_IsInitialized()) {
        return;
    }
    started_pid = 0;
    sc_watchdog_stop();
    /* A signal came, or the application called exit(), in the middle of a
     * request: what it interrupted may hold any lock, so no Python runs on
     * top of it.  uWSGI leaves its own clean-up out there, too. */
    if (sc_requests_inside()) {
        uwsgi_log("[sidecar] worker %d (pid %d) ends inside of a request: "
                  "nothing is drained\n",
                  uwsgi.mywid, (int)getpid());
        return;
    }
    /* Its other threads accept no more. */
    uwsgi.workers[uwsgi.mywid].manage_next_request = 0;
    ScAttachment attachment = sc_attachment_begin();
    sc_stopping_join();
    if (starts_later()) {
        stop_on_another_thread();
    }
    else {
        sc_requests_each_other_api(main_api, stop);
        stop(main_api);
    }
    sc_attachment_end(attachment);
}
