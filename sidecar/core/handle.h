/* Handle: a callback that a loop will run, and its timed sister.
 *
 * They stand where asyncio.Handle and asyncio.TimerHandle stand (isinstance
 * says yes) and look like them.  A handle is queued at most once, and the
 * queue it is in (ring, heap, inbox) owns a reference.
 *
 * Fields that cancel() and the loop may touch at once are guarded by the
 * handle's critical section (the GIL, where there is one).  */
#ifndef SIDECAR_CORE_HANDLE_H
#define SIDECAR_CORE_HANDLE_H

#include <stdatomic.h>

#include "core/inbox.h"
#include "core/park.h"
#include "core/state.h"
#include "core/timers.h"

struct ScLoop;

/* Arguments up to this many are kept without a tuple. */
#define SC_HANDLE_INLINE 2

typedef struct ScHandle {
    PyObject_HEAD
    ScState *st;
    struct ScLoop *loop; /* strong */
    ScOp op;             /* on its way through the inbox */
    PyObject *callback;  /* NULL once cancelled */
    PyObject *context;
    PyObject *args[SC_HANDLE_INLINE]; /* nargs > 2: args[0] is a tuple */
    Py_ssize_t nargs;
    PyObject *source_traceback; /* debug mode; else NULL */
    PyObject *repr;             /* what it was when it was cancelled */
    PyObject *weakrefs;
    atomic_bool cancelled;
    bool in_ring;   /* a descriptor's: an event that lasts queues it once */
    bool holds_off; /* call_soon_threadsafe's, where asyncio's does it */
    ScPark turn;    /* then: SC_TURN_... */
    _Atomic(uintptr_t) runner; /* the thread whose turn it is */
} ScHandle;

typedef struct ScTimerHandle {
    ScHandle base;
    ScTimer timer;      /* the owner's */
    double when;        /* loop.time() */
    atomic_bool posted; /* its op is in the inbox */
} ScTimerHandle;

/* New references, NULL with an error set.  `context` NULL or None: a
 * copy of the current one. */
ScHandle *sc_handle_new(struct ScLoop *loop, PyObject *callback,
                        PyObject *const *args, Py_ssize_t nargs,
                        PyObject *context);
ScTimerHandle *sc_timer_handle_new(struct ScLoop *loop, double when,
                                   PyObject *callback, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *context);

/* Run it on the loop's owner, inside its context.  A failed callback goes to
 * the loop's exception handler; only SystemExit, KeyboardInterrupt and, on a
 * bridge's loop, what a signal's handler raised come back: -1 with the error
 * set. */
int sc_handle_run(ScHandle *handle);

/* What cancel() does.  Any thread. */
int sc_handle_cancel(ScHandle *handle);

static inline ScTimerHandle *
sc_timer_handle_of(ScTimer *timer)
{
    return (ScTimerHandle *)((char *)timer - offsetof(ScTimerHandle, timer));
}

static inline ScHandle *
sc_handle_of(ScOp *op)
{
    return (ScHandle *)((char *)op - offsetof(ScHandle, op));
}

#endif
