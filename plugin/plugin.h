/* Plugin: the parts of sidecar_plugin.so and what they promise each other.
 *
 * uWSGI calls the hooks; "worker" below is a forked uWSGI worker process (or
 * the only process, without a master).  All state of Sidecar's is
 * behind the capsule (sidecar.h).  */
#ifndef SIDECAR_PLUGIN_H
#define SIDECAR_PLUGIN_H

#include <Python.h>
#include <stdbool.h>
#include <uwsgi.h>

#include "sidecar.h"

extern struct uwsgi_server uwsgi;

/* uWSGI's own headers declare strings of constants as char *. */
#define SC_TEXT(literal) ((char *)(uintptr_t)(literal))

/* --- abi.c ------------------------------------------------------------- */

/* End the process, with the reason logged, where this uWSGI or its Python is
 * not the one the plugin was built for.  From on_load: before Python exists,
 * in the process that reads the configuration. */
void sc_abi_check(void);

/* --- options.c --------------------------------------------------------- */

typedef struct {
    double shutdown_timeout; /* seconds */
    double deadline;         /* seconds; 0: none; < 0: harakiri's */
    double deadline_margin;  /* seconds */
    char *request_id_header; /* these as they were given; NULL: not at all */
    char *trust;
    char *deadline_header;
    char *disconnect;
    int workers; /* these: -1: not given */
    int max_calls;
    int max_queue;
} ScOptions;

extern ScOptions sc_options;
extern struct uwsgi_option sc_option_table[];

/* The keyword arguments of sidecar.Policy that the options amount to: a new
 * dict, or NULL with a Python error set.  Attached. */
PyObject *sc_options_policy_arguments(void);

/* Likewise of sidecar.Sidecar. */
PyObject *sc_options_bridge_arguments(void);

/* --- attach.c ---------------------------------------------------------- */

typedef struct {
    PyGILState_STATE state;
} ScAttachment;

/* Attach uWSGI's main thread to the main interpreter, whether it is attached
 * already or not; each begin has its end.  Main thread only, in hooks that
 * stand outside of requests: never in a request handler, which may belong to
 * a sub-interpreter. */
ScAttachment sc_attachment_begin(void);
void sc_attachment_end(ScAttachment attachment);

/* --- lifecycle.c ------------------------------------------------------- */

/* Import sidecar in the process that will fork the workers; ends the process
 * with a message where that fails.  Starts nothing. */
void sc_lifecycle_preinit(void);

/* Start the worker's bridge; ends the worker where that fails. */
void sc_lifecycle_post_fork(void);

/* Drain it, in the worker that started it and nowhere else.  Bounded by
 * --sidecar-shutdown-timeout. */
void sc_lifecycle_atexit(void);

/* --- request.c --------------------------------------------------------- */

/* What belongs to an application's interpreter. */
typedef struct {
    const Sidecar_API *api; /* NULL: not imported yet */
    PyObject *policy;
    struct uwsgi_app guarded; /* uWSGI's own, but for its callable */
    PyObject *names;          /* see request.c */
} ScApp;

/* One core of uWSGI serves one request at a time; what is said of it stays,
 * for the log, until the next one. */
typedef struct {
    Sidecar_Request *request; /* owned; NULL: none in progress */
    ScApp *app;
    uint64_t started; /* its start_of_request */
    /* uWSGI's request variables may point here. */
    char id[SIDECAR_REQUEST_ID_LONGEST];
    size_t id_length;
    char trace_id[SIDECAR_TRACE_ID_LENGTH]; /* for the log, where it asks */
} ScCore;

/* That of this request; NULL: this process has none. */
const ScCore *sc_requests_core(const struct wsgi_request *wsgi_req);

/* Make the policy that the options ask for, and throw it away: in the process
 * that reads them, attached.  -1 with a Python error set that names what is
 * wrong. */
int sc_requests_check_policy(void);

/* Make the table of requests in progress, one place for each core.  In each
 * worker, once, before it accepts. */
void sc_requests_init(void);

/* Put the handlers of this plugin around those of every WSGI application that
 * is loaded, and not yet wrapped.  In each worker, attached or not. */
void sc_requests_wrap_apps(void);

/* Whether the calling thread is inside of a request: in a signal handler, or
 * in an exit() that the application called. */
bool sc_requests_inside(void);

/* --- arrival.c --------------------------------------------------------- */

/* What to look for in requests, from the options.  In each worker, once. */
void sc_arrival_init(void);

/* Make the request of this core, of what its server knows, and enter it; its
 * answer shows the id.  Attached to the application's interpreter.  0, or -1
 * with a Python error set. */
int sc_arrival_begin(struct wsgi_request *wsgi_req, ScCore *core);

/* --- response.c -------------------------------------------------------- */

/* Send the application's result and give it back, where that takes none of
 * its code; false: the Python plugin's own handler must.  Attached. */
bool sc_response_send(struct wsgi_request *wsgi_req);

/* --- log.c ------------------------------------------------------------- */

/* Make the names known, before uWSGI reads its log-format. */
void sc_log_register(void);

/* Find out what log-format asks for.  In each worker, once. */
void sc_log_init(void);
bool sc_log_wants_trace(void);

#endif
