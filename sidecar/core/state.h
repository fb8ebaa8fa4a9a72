/* State: all that one interpreter's copy of the module holds.  There is no
 * static Python object anywhere: two interpreters share nothing.
 *
 * The lists below make the fields, the interning, the traverse and the clear.
 * Whoever needs a new name, type or import adds one line here.  */
#ifndef SIDECAR_CORE_STATE_H
#define SIDECAR_CORE_STATE_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/compat.h"

/* Interned strings, as st->str_NAME. */
#define SC_STATE_NAMES(X)                 \
    X(_run)                               \
    X(_cancelled)                         \
    X(_coroutine_origin_tracking_enabled) \
    X(_run_once)                          \
    X(_set_coroutine_origin_tracking)     \
    X(run_forever)                        \
    X(_source_traceback)                  \
    X(add_done_callback)                  \
    X(call_exception_handler)             \
    X(cancel)                             \
    X(cancelled)                          \
    X(close)                              \
    X(context)                            \
    X(create_future)                      \
    X(create_task)                        \
    X(done)                               \
    X(eager_start)                        \
    X(exception)                          \
    X(fail)                               \
    X(_callbacks)                         \
    X(fileno)                             \
    X(get_coro)                           \
    X(handle)                             \
    X(loop)                               \
    X(message)                            \
    X(name)                               \
    X(propagate)                          \
    X(read)                               \
    X(result)                             \
    X(set_converted)                      \
    X(set_exception)                      \
    X(set_result)                         \
    X(set_running_or_notify_cancel)       \
    X(settle)                             \
    X(source_traceback)                   \
    X(send)                               \
    X(throw)                              \
    X(aclose)                             \
    X(body)                               \
    X(status)                             \
    X(asend)                              \
    X(athrow)                             \
    X(_asyncio_future_blocking)           \
    X(call_soon_threadsafe)               \
    X(__qualname__)                       \
    X(_drop)                              \
    X(_sidecar_delivery)                  \
    X(_resume)                            \
    X(ag_code)                            \
    X(ag_frame)                           \
    X(wait)                               \
    X(wake)                               \
    X(timeout)                            \
    X(get_bridge)                         \
    X(headers)                            \
    X(client)                             \
    X(http)                               \
    X(lifespan)                           \
    X(method)                             \
    X(more_body)                          \
    X(receive)                            \
    X(scope)                              \
    X(sidecar)                            \
    X(state)                              \
    X(type)                               \
    X(websocket)

/* Types of ours, as st->NAME_type. */
#define SC_STATE_TYPES(X) \
    X(bridge)             \
    X(call)               \
    X(delivery)           \
    X(frameless)          \
    X(future)             \
    X(handle)             \
    X(limit)              \
    X(interpreter_job)    \
    X(interpreter_pool)   \
    X(lineage)            \
    X(loop)               \
    X(mark)               \
    X(places)             \
    X(policy)             \
    X(producer)           \
    X(producer_sentinel)  \
    X(stream)             \
    X(timer_handle)       \
    X(pool)               \
    X(pool_call)          \
    X(request)            \
    X(waiter)             \
    X(wsgi_middleware)    \
    X(wsgi_body)          \
    X(wsgi_sized_body)    \
    X(start_response)     \
    X(asgi_middleware)    \
    X(asgi_coroutine)     \
    X(asgi_receive)       \
    X(asgi_send)          \
    X(served)

/* Imported once, as st->NAME: module, attribute. */
#define SC_STATE_IMPORTS(X)                                         \
    X(asyncio_base_loop, "asyncio", "BaseEventLoop")                \
    X(asyncio_task, "asyncio", "Task")                              \
    X(asyncio_future, "asyncio", "Future")                          \
    X(asyncio_handle, "asyncio", "Handle")                          \
    X(asyncio_timer_handle, "asyncio", "TimerHandle")               \
    X(asyncio_isfuture, "asyncio", "isfuture")                      \
    X(asyncio_all_tasks, "asyncio", "all_tasks")                    \
    X(asyncio_current_task, "asyncio", "current_task")              \
    X(end_sleep, "asyncio.futures", "_set_result_unless_cancelled") \
    X(cancelled_error, "asyncio", "CancelledError")                 \
    X(deque, "collections", "deque")                                \
    X(concurrent_future, "concurrent.futures", "Future")            \
    X(base_future, "concurrent.futures", "Future")                  \
    X(threading_condition, "threading", "Condition")                \
    X(package_folder, "sidecar._support", "PACKAGE_FOLDER")         \
    X(update_wrapper, "functools", "update_wrapper")                \
    X(enter_task, "asyncio.tasks", "_enter_task")                   \
    X(leave_task, "asyncio.tasks", "_leave_task")                   \
    X(breathe, "sidecar._support", "breathe")                       \
    X(get_running_loop, "asyncio", "_get_running_loop")             \
    X(set_running_loop, "asyncio", "_set_running_loop")             \
    X(set_wakeup_fd, "signal", "set_wakeup_fd")                     \
    X(error_sidecar, "sidecar.errors", "SidecarError")              \
    X(error_deadlock, "sidecar.errors", "DeadlockError")            \
    X(error_closed, "sidecar.errors", "BridgeClosedError")          \
    X(error_timeout, "sidecar.errors", "CallTimeoutError")          \
    X(error_forked, "sidecar.errors", "ForkedError")                \
    X(error_loop_owned, "sidecar.errors", "LoopOwnedError")         \
    X(error_no_caller, "sidecar.errors", "NoCallerError")           \
    X(error_deadline, "sidecar.errors", "DeadlineExceeded")         \
    X(error_disconnected, "sidecar.errors", "ClientDisconnected")   \
    X(error_overloaded, "sidecar.errors", "Overloaded")             \
    X(error_queue_full, "sidecar.errors", "QueueFull")

/* Other objects, made by the part that owns them. */
#define SC_STATE_OBJECTS(X)                                                 \
    X(request_var)      /* ContextVar: the request in progress (scope.c) */ \
    X(key_request)      /* "sidecar.request" (wsgi.c) */                    \
    X(key_request_id)   /* "HTTP_X_REQUEST_ID" (wsgi.c) */                  \
    X(default_policy)   /* of requests that come under none (policy.c) */   \
    X(key_file_wrapper) /* of WSGI's environ (wsgi.c) */                    \
    X(key_traceparent)                                                      \
    X(key_tracestate)                                                       \
    X(key_baggage)                                                          \
    X(key_remote_addr)                                                      \
    X(key_request_method)                                                   \
    X(name_opentelemetry) /* its API's module (opentelemetry.c) */          \
    X(key_gunicorn_socket)                                                  \
    X(key_werkzeug_socket)                                                  \
    X(header_request_id) /* "X-Request-ID" (start_response.c) */            \
    X(asgi_header_name)  /* b"x-request-id" (policy.c) */                   \
    X(asgi_face)         /* its __call__'s function (asgi.c) */             \
    X(asgi_start)        /* types of messages (asgi_channel.c) */           \
    X(asgi_body)                                                            \
    X(asgi_pathsend)                                                        \
    X(asgi_disconnect)                                                      \
    X(asgi_accept)                                                          \
    X(asgi_denial)                                                          \
    X(served_texts)        /* what every scope has (served_scope.c) */      \
    X(served_names)        /* of requests' headers, as bytes */             \
    X(served_header_texts) /* and of responses', as str */                  \
    X(served_end)          /* the event of a whole response (served.c) */   \
    X(served_request)      /* "http.request" */                             \
    X(key_running_loop) /* before 3.12 (running_loop.c) */                  \
    X(holder_type)      /* likewise */                                      \
    X(greenlet_hook)    /* how a greenlet waits (greenlet.c) */             \
    X(default_bridge)   /* this interpreter's own bridge (bridge.c) */      \
    X(empty_context)    /* for callbacks that need none (task.c) */         \
    X(lineage_var)      /* ContextVar: whose task this is (lineage.c) */    \
    X(kw_loop)          /* keyword names of calls to Task (task.c) */       \
    X(kw_task)                                                              \
    X(kw_context)                                                           \
    X(swap_current_task)         /* 3.14+: it hangs on the thread           \
                                    (loop_run.c) */                         \
    X(asyncio_threadsafe_handle) /* 3.14+ (handle.c) */                     \
    X(shared_tasks)              /* 3.14+: weak references (task_list.c) */ \
    X(shared_tasks_discard)      /* its method */

enum { SC_REQUEST_COUNTS = 16 };

typedef struct ScState {
#define X(name) PyObject *str_##name;
    SC_STATE_NAMES(X)
#undef X
#define X(name) PyTypeObject *name##_type;
    SC_STATE_TYPES(X)
#undef X
#define X(name, module, attribute) PyObject *name;
    SC_STATE_IMPORTS(X)
#undef X
#define X(name) PyObject *name;
    SC_STATE_OBJECTS(X)
#undef X
    /* Borrowed: the module owns the state. */
    PyObject *module;
    /* Where signals wake the main thread's waits (signals.c); -1: unmade. */
    int signal_pipe[2];
    int signal_event_fd;
    int signal_before; /* what a running loop's pipe replaces; -1: nothing */
    unsigned signal_fds_generation; /* of the process that made them */
    atomic_uint main_thread_generation;
    _Atomic(uintptr_t) main_thread;
    struct ScHolder *holders; /* threads that drive and wait (cycle.h) */
    atomic_size_t holders_count;
    int holder_pid; /* running_loop.c */
    unsigned holder_generation;
    atomic_ullong request_counts[SC_REQUEST_COUNTS]; /* request.h */
    bool exiting; /* no bridge is made any more */
} ScState;

int sc_state_init(PyObject *module);
int sc_state_traverse(PyObject *module, visitproc visit, void *arg);
int sc_state_clear(PyObject *module);

/* The state of the module that made `type` or one of its bases; NULL with an
 * error set.  Cold paths only: objects keep the pointer. */
ScState *sc_state_of_type(PyTypeObject *type);

static inline ScState *
sc_state_of_module(PyObject *module)
{
    return (ScState *)PyModule_GetState(module);
}

/* module.attribute; a new reference, or NULL. */
PyObject *sc_state_import(const char *module, const char *attribute);

/* Make a heap type of the module with `base` (NULL: object), keep it in *slot
 * and, where `name` is not NULL, publish it. */
int sc_type_add(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
                PyObject *base, const char *name);

#endif
