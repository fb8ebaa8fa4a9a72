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
#include "sidecar_board.h"

extern struct uwsgi_server uwsgi;

/* uWSGI's own headers declare strings of constants as char *. */
#define SC_TEXT(literal) ((char *)(uintptr_t)(literal))

/* --- abi.c ------------------------------------------------------------- */

/* End the process, with the reason logged, where this uWSGI or its Python is
 * not the one the plugin was built for.  From on_load: before Python exists,
 * in the process that reads the configuration. */
void sc_abi_check(void);

/* --- options.c --------------------------------------------------------- */

/* What the plugin itself needs of them, once sc_options_settle has been. */
typedef struct {
    double shutdown_timeout;       /* seconds */
    const char *request_id_header; /* NULL: the default */
    const char *deadline_header;   /* NULL: none */
} ScOptions;

extern ScOptions sc_options;
extern struct uwsgi_option sc_option_table[];

/* Judge the options, those of the environment too, and log what is not at its
 * default.  In the process that reads them, once, attached.  0, or -1 with a
 * Python error set that names what is wrong. */
int sc_options_settle(void);

/* The keyword arguments of sidecar.Policy that the options amount to for the
 * application at a mountpoint (length 0: the only one): a new dict, or NULL
 * with a Python error set.  Attached, to any interpreter. */
PyObject *sc_options_policy_arguments(const char *mountpoint, size_t length);

/* Update such a dict from "deadline=30,trust=always".  -1 with a ValueError
 * that names what is wrong.  Attached. */
int sc_options_parse_overrides(const char *text, PyObject *into);

/* Likewise of sidecar.Sidecar, for the worker's own bridge. */
PyObject *sc_options_bridge_arguments(void);

/* Say so where options are given for a mountpoint that no application has.
 * In each worker, once its applications are loaded; attached or not. */
void sc_options_check_mounts(void);

/* --- attach.c ---------------------------------------------------------- */

typedef struct {
    PyGILState_STATE state;
} ScAttachment;

/* Attach uWSGI's main thread, or one of the plugin's own, to the main
 * interpreter, whether it is attached already or not; each begin has its end.
 * In hooks that stand outside of requests: never in a request handler, which
 * may belong to a sub-interpreter. */
ScAttachment sc_attachment_begin(void);
void sc_attachment_end(ScAttachment attachment);

/* --- lifecycle.c ------------------------------------------------------- */

/* Import sidecar in the process that will fork the workers; ends the process
 * with a message where that fails.  Starts nothing. */
void sc_lifecycle_preinit(void);

/* Whether requests take turns on one thread's stack in ways that Python knows
 * nothing of, so that contexts would get mixed up. */
bool sc_lifecycle_mixes_contexts(void);

/* In a spooler: what it runs has the request that has spooled it. */
void sc_lifecycle_spooler(void);

/* Start the worker's bridge; ends the worker where that fails. */
void sc_lifecycle_post_fork(void);

/* Drain it, in the worker that started it and nowhere else.  Bounded by
 * --sidecar-shutdown-timeout. */
void sc_lifecycle_atexit(void);

/* --- stopping.c -------------------------------------------------------- */

/* In each worker, before the watchdog starts. */
void sc_stopping_init(const Sidecar_API *api);

/* The watchdog's: tell the bridge, once, if the worker was asked to stop.
 * Detached. */
void sc_stopping_look(void);

/* Wait for who tells it; there is none once the watchdog has been stopped.
 * Attached; detaches while it waits. */
void sc_stopping_join(void);

/* --- request.c --------------------------------------------------------- */

/* What belongs to an application's interpreter. */
typedef struct {
    const Sidecar_API *api; /* NULL: not imported yet */
    PyObject *policy;
    struct uwsgi_app guarded;  /* uWSGI's own, but for its callable */
    struct uwsgi_app refusing; /* the same; made when it is needed */
    PyObject *names;           /* see request.c */
} ScApp;

/* The routes that a request has taken: route.c. */
typedef struct ScChoice ScChoice;

/* One core of uWSGI serves one request at a time; what is said of it stays,
 * for the log, until the next one. */
typedef struct {
    Sidecar_Request *request; /* owned; NULL: none in progress */
    ScApp *app;
    uint64_t started; /* its start_of_request */
    uint64_t routed;  /* that of the request whose `choice` this is */
    ScChoice *choice;
    ScChoice *held; /* the request takes up room on its routes; or NULL */
    /* uWSGI's request variables may point here. */
    char id[SIDECAR_REQUEST_ID_LONGEST];
    size_t id_length;
    /* For the log, where it asks. */
    char trace_id[SIDECAR_TRACE_ID_LENGTH];
    char calls[12];
    char ms[24];
} ScCore;

/* That of this request; NULL: this process has none. */
ScCore *sc_requests_core(const struct wsgi_request *wsgi_req);

/* sidecar.Policy(**arguments): new reference, or NULL with a Python error set.
 * Attached. */
PyObject *sc_requests_make_policy(PyObject *arguments);

/* Make the policy that the options ask for, and throw it away: in the process
 * that reads them, attached.  -1 with a Python error set that names what is
 * wrong. */
int sc_requests_check_policy(void);

/* Make the table of requests in progress, one place for each core.  In each
 * worker, once, before it accepts. */
void sc_requests_init(void);

/* Visit the other interpreters' once each, attached to them.  Main thread,
 * attached. */
void sc_requests_each_other_api(const Sidecar_API *main_api,
                                void (*visit)(const Sidecar_API *api));

/* Put the handlers of this plugin around those of every WSGI application that
 * is loaded, and not yet wrapped.  In each worker, attached or not. */
void sc_requests_wrap_apps(void);

/* Whether requests are made by sidecar.WSGIMiddleware, and not by the pair of
 * handlers. */
bool sc_requests_by_middleware(void);

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

/* --- route.c ------------------------------------------------------------ */

/* Make the action known, before uWSGI reads its routes. */
void sc_routes_register(void);

/* Judge what the routes say; attached, in the process that reads them.  0, or
 * -1 with a Python error set that names what is wrong. */
int sc_routes_check(void);

/* What applies to a request of this choice: borrowed, or NULL with a Python
 * error set.  Attached to the application's interpreter. */
PyObject *sc_route_policy(ScChoice *choice, int app_id);

/* Take up room for one more request, on each route that has a limit; false:
 * there is none.  And give it back; NULL is allowed. */
bool sc_route_enter(ScChoice *choice);
void sc_route_leave(ScChoice *choice);

/* --- board.c ------------------------------------------------------------ */

/* In the process that will fork the workers, where it has one. */
void sc_board_map(void);

/* In each worker, first: its slots are free. */
void sc_board_clear(void);

/* This worker's; NULL: there is no board. */
Sidecar_Slot *sc_board_slot(int core);

/* In the master, on any thread: each request that the worker has. */
typedef void (*ScBoardVisit)(int worker, int core,
                             const Sidecar_SlotText *text, void *arg);
void sc_board_each(int worker, ScBoardVisit visit, void *arg);

/* In the master: tell what the worker is doing. */
void sc_board_print(int worker);

/* --- stats.c ------------------------------------------------------------ */

/* Handlers of options. */
void sc_stats_set_address(char *option, char *value, void *target);
void sc_stats_set_anywhere(char *option, char *value, void *target);

/* Listen, where asked to; ends the process where that cannot be.  Before the
 * workers are forked, which then let go of it. */
void sc_stats_bind(void);
void sc_stats_leave(void);

/* In the master, again and again. */
void sc_stats_serve(void);

/* --- metrics.c ---------------------------------------------------------- */

/* Before uWSGI sets its metrics up. */
void sc_metrics_register(void);

/* In each worker; and then, now and again, attached or not. */
void sc_metrics_start(const Sidecar_API *api);
void sc_metrics_update(void);

/* --- watchdog.c --------------------------------------------------------- */

/* In each worker, attached; and before its interpreter goes. */
void sc_watchdog_start(void);
void sc_watchdog_stop(void);

/* --- response.c -------------------------------------------------------- */

/* Send the application's result and give it back, where that takes none of
 * its code; false: the Python plugin's own handler must.  Attached. */
bool sc_response_send(struct wsgi_request *wsgi_req);

/* --- log.c ------------------------------------------------------------- */

/* Make the names known, before uWSGI reads its log-format. */
void sc_log_register(void);

/* Find out what log-format asks for.  In each worker, once. */
void sc_log_init(void);
bool sc_log_wants_time(void);

/* Keep what it asks for, of a request that is about to end.  Attached. */
void sc_log_keep(ScCore *core);

/* Likewise of what the environ shows, once the application has returned: id
 * and trace. */
void sc_log_keep_shown(struct wsgi_request *wsgi_req, ScCore *core,
                       PyObject *environ);

#endif
