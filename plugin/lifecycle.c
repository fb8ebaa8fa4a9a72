#include "plugin.h"

#include <stdlib.h>
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

/* The worker's `uwsgi.async > 1` resumes a request past its response handler,
 * so a wrapped request would never be left: nothing is wrapped there. */
static void
warn_async(void)
{
    if (uwsgi.async > 1) {
        uwsgi_log("[sidecar] uWSGI runs %d async cores (gevent or async "
                  "mode): requests there get no scope from the plugin yet "
                  "(sidecar.current() is None, no X-Request-ID). Use threads, "
                  "or sidecar.WSGIMiddleware around the application.\n",
                  uwsgi.async);
    }
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
    ScAttachment attachment = sc_attachment_begin();
    main_api = Sidecar_Import();
    if (main_api == NULL) {
        refuse_import();
    }
    PyObject *bridge = sc_options_bridge_arguments();
    if (bridge == NULL || main_api->bridge_configure(main_api, bridge) < 0 ||
        sc_requests_check_policy() < 0) {
        refuse_options();
    }
    Py_DECREF(bridge);
    sc_attachment_end(attachment);
}

void
sc_lifecycle_post_fork(void)
{
    ScAttachment attachment = sc_attachment_begin();
    if (main_api->worker_start(main_api) < 0) {
        PyErr_Print();
        uwsgi_log("[sidecar] worker %d (pid %d) cannot start its bridge (the "
                  "error is above)\n",
                  uwsgi.mywid, (int)getpid());
        exit(1);
    }
    sc_attachment_end(attachment);
    started_pid = getpid();
}

void
sc_lifecycle_atexit(void)
{
    if (started_pid != getpid() || !Py_IsInitialized()) {
        return;
    }
    started_pid = 0;
    /* A signal came, or the application called exit(), in the middle of a
     * request: what it interrupted may hold any lock, so no Python runs on
     * top of it.  uWSGI leaves its own clean-up out there, too. */
    if (sc_requests_inside()) {
        uwsgi_log("[sidecar] worker %d (pid %d) ends inside of a request: "
                  "nothing is drained\n",
                  uwsgi.mywid, (int)getpid());
        return;
    }
    ScAttachment attachment = sc_attachment_begin();
    if (main_api->worker_stop(main_api, sc_options.shutdown_timeout) < 0) {
        PyErr_Print();
        uwsgi_log("[sidecar] worker %d (pid %d) could not drain its bridge "
                  "(the error is above)\n",
                  uwsgi.mywid, (int)getpid());
    }
    sc_attachment_end(attachment);
}
