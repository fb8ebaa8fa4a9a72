/* sidecar.h: Sidecar's C interface, for server plugins and extensions.
 *
 *     const Sidecar_API *api = Sidecar_Import();
 *     if (api == NULL) {
 *         return NULL;               // the Python error says why
 *     }
 *     Sidecar_Request *request = api->request_begin(api);
 *
 * The API is one struct of functions in the capsule `sidecar._core._C_API`.
 * It belongs to the interpreter that was attached when it was imported, and
 * lives as long as that interpreter's `sidecar._core`: import it once in each
 * interpreter, and again in each process that forked before the import.
 *
 * Attached means: the calling thread holds a thread state of the API's own
 * interpreter, and the GIL where there is one.  C11 and C++11.  */
#ifndef SIDECAR_H
#define SIDECAR_H

#include <Python.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SIDECAR_CAPSULE "sidecar._core._C_API"

/* Changes only when an old caller could no longer use the struct.  What is
 * added goes to its end: see SIDECAR_API_HAS. */
#define SIDECAR_API_VERSION 1

/* Characters of a request id that Sidecar makes, and of the longest that it
 * takes over from a trusted sender. */
#define SIDECAR_REQUEST_ID_LENGTH 36
#define SIDECAR_REQUEST_ID_LONGEST 128

#define SIDECAR_TRACE_ID_LENGTH 32

/* One request in progress.  Used by one thread at a time. */
typedef struct Sidecar_Request Sidecar_Request;

/* Bytes of the server's, valid during the call; `at` NULL: there are none. */
typedef struct Sidecar_Text {
    const char *at;
    size_t length;
} Sidecar_Text;

/* What a server knows of a request as it arrives.  Begin with all zeros, then
 * `size`, the rest as far as it is known.  Headers are values as they came;
 * the lines of one that came several times are joined by commas. */
typedef struct Sidecar_Arrival {
    size_t size;       /* sizeof(Sidecar_Arrival) */
    PyObject *policy;  /* a sidecar.Policy; NULL: the default */
    Sidecar_Text peer; /* the client's address */
    Sidecar_Text request_id;
    Sidecar_Text traceparent;
    Sidecar_Text tracestate;
    Sidecar_Text baggage;
    Sidecar_Text deadline; /* the policy's deadline_header */
    int connection;        /* the client's descriptor, if has_connection */
    int has_connection;
    struct Sidecar_Slot *slot; /* sidecar_board.h; NULL: it is not shown */
    Sidecar_Text method;       /* for the slot */
    Sidecar_Text path;
    int timed; /* request_calls shall tell how long its calls took */
} Sidecar_Arrival;

/* What is counted in each process, in the order of `counters`. */
#define SIDECAR_COUNTER_NAMES                                     \
    "requests", "bad_ids", "bad_traceparents", "bad_tracestates", \
        "bad_baggage", "bad_deadlines", "late", "left", "calls", "refused"

typedef struct Sidecar_API {
    /* sizeof(Sidecar_API) and SIDECAR_API_VERSION of the Sidecar at hand. */
    size_t size;
    int version;

    /* Start the worker's bridge: call it in each worker, after the fork.
     * Attached.  0, or -1 with a Python error set. */
    int (*worker_start)(const struct Sidecar_API *api);

    /* Drain and stop it: refuse new calls, cancel those that run, wait up to
     * `timeout` seconds.  Harmless where nothing was started.  Attached;
     * detaches while it waits.  0, or -1 with a Python error set. */
    int (*worker_stop)(const struct Sidecar_API *api, double timeout);

    /* Make a request, with an id of its own, and enter it.  Attached.  The
     * caller owns it until request_end.  NULL with a Python error set. */
    Sidecar_Request *(*request_begin)(const struct Sidecar_API *api);

    /* Application code of the request runs between an enter and an exit:
     * there it is sidecar.current(), and what is set in context variables
     * stays in the request.  Any thread, attached.  Enter: 0, or -1 with a
     * Python error set, where it is entered already.  Exit keeps the Python
     * error that is set, if one is. */
    int (*request_enter)(Sidecar_Request *request);
    void (*request_exit)(Sidecar_Request *request);

    /* The request is over, exited before.  Frees it; NULL is allowed.
     * Attached.  Keeps the Python error that is set, if one is. */
    void (*request_end)(Sidecar_Request *request);

    /* Its id, terminated; valid until request_end.  Attached or not. */
    const char *(*request_id)(Sidecar_Request *request);

    /* Its sidecar.Request, for environ["sidecar.request"]: a new reference.
     * Attached.  Cannot fail. */
    PyObject *(*request_object)(Sidecar_Request *request);

    /* As request_begin, with what the server knows.  Nothing that a client
     * sends is an error.  Attached.  NULL with a Python error set. */
    Sidecar_Request *(*request_arrive)(const struct Sidecar_API *api,
                                       const Sidecar_Arrival *arrival);

    /* The id of its trace, terminated; valid until request_end.  Attached. */
    const char *(*request_trace_id)(Sidecar_Request *request);

    /* Whether its client has gone: nothing needs to be written any more.
     * Attached or not. */
    int (*request_is_left)(Sidecar_Request *request);

    /* An application whose requests the server makes, guarded: what a request
     * that is late or left raises does not reach the server.  A new
     * reference, or NULL with a Python error set.  Attached. */
    PyObject *(*guard)(const struct Sidecar_API *api, PyObject *application);

    /* Keyword arguments of sidecar.Sidecar, a dict, for the bridges that
     * worker_start will start, here and in children.  Attached.  0, or -1 with
     * a Python error set that names what is wrong. */
    int (*bridge_configure)(const struct Sidecar_API *api, PyObject *options);

    /* Show it in a WSGI environ, a dict: as sidecar.request, and its id under
     * the header of its policy.  Attached.  0, or -1 with a Python error
     * set. */
    int (*request_show)(Sidecar_Request *request, PyObject *environ);

    /* How many calls were made in its name so far (run_sync, and each item of
     * a stream), and, where it is timed, how many seconds its threads spent in
     * them.  Attached or not. */
    unsigned (*request_calls)(Sidecar_Request *request, double *seconds);

    /* What was counted so far, the first `count` of SIDECAR_COUNTER_NAMES: 0
     * where this Sidecar has none.  Attached or not, as long as the
     * interpreter lives. */
    void (*counters)(const struct Sidecar_API *api, long long *values,
                     size_t count);

    /* The server has asked the worker to stop, and lets its requests end:
     * what runs in the background is told (sidecar.stopping).  In `seconds`,
     * if that is not negative, it is cancelled: the server will end the worker
     * soon then, whatever it does.  Once; harmless where nothing was started.
     * Attached.  0, or -1 with a Python error set. */
    int (*worker_stopping)(const struct Sidecar_API *api, double seconds);
} Sidecar_API;

/* Whether the Sidecar at hand has a function that this header names. */
#define SIDECAR_API_HAS(api, function) \
    ((api)->size >= offsetof(Sidecar_API, function) + sizeof((api)->function))

/* The API of the attached interpreter; NULL with a Python error set.
 * Attached. */
static inline const Sidecar_API *
Sidecar_Import(void)
{
    const Sidecar_API *api =
        (const Sidecar_API *)PyCapsule_Import(SIDECAR_CAPSULE, 0);
    if (api == NULL) {
        return NULL;
    }
    if (api->version != SIDECAR_API_VERSION ||
        api->size < sizeof(Sidecar_API)) {
        PyErr_Format(PyExc_ImportError,
                     "built for version %d of Sidecar's C interface (%zu "
                     "bytes); the installed Sidecar has version %d (%zu "
                     "bytes): build it again",
                     SIDECAR_API_VERSION, sizeof(Sidecar_API), api->version,
                     api->size);
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
