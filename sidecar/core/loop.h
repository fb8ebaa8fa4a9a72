/* Loop: the C part of sidecar.Loop, asyncio's selector loop with its hot
 * paths replaced.  The Python class (sidecar/_loop.py) inherits this type
 * first and asyncio's own loop second.
 *
 * Ring, timers and tasks: the owner's only (drive.h).  A method called off
 * the owner's thread goes through the inbox.  The descriptor table is guarded
 * by the loop's critical section (the GIL, where there is one) instead: a
 * descriptor is closed and its number used again right after
 * _remove_reader(), so that one cannot be put off.
 *
 * A bridge's loop (`bridged`) belongs to a process: in the child of a fork it
 * is dead, which every method sees by the fork generation; it then does
 * nothing, and touches no descriptor, for those are shared with the parent.
 *
 * Everything here is called attached.  */
#ifndef SIDECAR_CORE_LOOP_H
#define SIDECAR_CORE_LOOP_H

#include "core/clock.h"
#include "core/drive.h"
#include "core/fork.h"
#include "core/handle.h"
#include "core/pump.h"
#include "core/signals.h"
#include "core/state.h"
#include "core/timers.h"

struct ScCall;
struct ScProducer;

/* What an op in the inbox asks for. */
enum {
    SC_OP_HANDLE,      /* ScHandle: run it */
    SC_OP_TIMER,       /* ScTimerHandle: queue it, or drop it if cancelled */
    SC_OP_CALL,        /* ScCall: start it */
    SC_OP_CALL_CANCEL, /* ScCall: cancel its task */
};

enum { SC_TIMER_HANDLE, SC_TIMER_CALL };

typedef struct {
    PyObject **items; /* room is a power of two */
    size_t head;
    size_t count;
    size_t room;
} ScRing;

typedef struct {
    PyObject *reader; /* handles; NULL: none */
    PyObject *writer;
    PyObject *fileobj;       /* what it was given as, where that is no int */
    uint32_t events;         /* what epoll watches it for */
    struct ScCall *watching; /* borrowed: its watch is a client's (watch.h) */
} ScIo;

typedef struct ScLoop {
    PyObject_HEAD
    ScState *st;
    ScDrive *drive; /* NULL: closed, or __init__ was never reached */
    ScPump *pump;   /* bridged, started */
    ScRing ring;
    ScTimers timers;
    ScIo *io;
    size_t io_room;
    struct ScCall *finished;     /* calls whose tasks have just ended */
    struct ScCall *watch_wanted; /* calls that want a watch (watch.h) */
    int64_t watch_since;         /* when the first of these came */
    struct ScCall *shown;        /* calls that the board shows */
    int64_t shown_at;            /* when it was last told where they wait */
    bool ran;                    /* they may wait elsewhere since */
    /* Begun, and not over; borrowed; in the critical section. */
    struct ScProducer *unfinished;
    PyObject *asyncgen_first; /* the hooks while it runs; made when needed */
    PyObject *asyncgen_final;
    PyObject *held_task; /* 3.14+, borrowed from the marks of a loop that its
                            thread drives meanwhile: what runs in it */
    PyObject *task_factory; /* NULL: none */
    PyInterpreterState *interp;
    ScSignalWait signals; /* a plain loop's, while the main thread runs it */
    int signal_fd;        /* then in the epoll set; -1: none */
    int64_t polled_at;
    int64_t breathed_at;
    size_t unlisted; /* tasks that only this thread's list has (task.h) */
    unsigned tenure; /* counts the turns that ended with such tasks */
    unsigned generation;
    bool bridged;
    atomic_bool closed; /* any thread looks whether it still pays to send */
    bool stopping;
    bool debug;
    PyObject *starting; /* borrowed: the call, or producer, whose task is
                           being made, and its first step run, just now */
} ScLoop;

static inline bool
sc_loop_is_dead(ScLoop *self)
{
    return self->bridged && self->generation != sc_fork_generation();
}

/* May this thread touch ring and timers?  The owner may; and, as in asyncio,
 * anyone while a plain loop stands still. */
static inline bool
sc_loop_is_mine(ScLoop *self)
{
    return sc_drive_is_owner(self->drive) ||
           (!self->bridged && atomic_load_explicit(&self->drive->owner,
                                                   memory_order_relaxed) == 0);
}

/* 0, or -1 with RuntimeError set: the loop is closed. */
int sc_loop_check_open(ScLoop *self);

/* Queue a handle to run (steals the reference).  0, or -1 without memory. */
int sc_loop_push(ScLoop *self, PyObject *handle);

/* The oldest handle in the ring, or NULL; the caller owns it. */
PyObject *sc_loop_pop(ScLoop *self);

/* Hand an op to the owner; the op owns a reference already. */
void sc_loop_post(ScLoop *self, ScOp *op, int kind);

/* Forget everything that waits to run; close the descriptors.  The loop must
 * have no owner, or be this thread's, or be dead. */
void sc_loop_release(ScLoop *self);

/* When a timer of asyncio's is due: never before loop.time() says so. */
static inline int64_t
sc_timer_due(double when)
{
    int64_t ns = sc_clock_from_seconds(when);
    return ns < SC_NEVER ? ns + 1 : ns;
}

/* The one keyword that the methods below take, `context` (borrowed; NULL: not
 * given), after `least` positional ones.  0, or -1 with TypeError set. */
int sc_loop_parse_context(ScState *st, const char *method,
                          PyObject *const *args, Py_ssize_t nargs,
                          Py_ssize_t least, PyObject *kwnames,
                          PyObject **context);

/* loop_schedule.c: the ring's two ends above, and the methods that fill it. */
PyObject *sc_loop_call_soon(ScLoop *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_loop_call_soon_threadsafe(ScLoop *self, PyObject *const *args,
                                       Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_loop_call_later(ScLoop *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_loop_call_at(ScLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
/* Takes a handle of asyncio's own making: add_signal_handler's. */
PyObject *sc_loop_add_callback(ScLoop *self, PyObject *handle);

/* loop_io.c: methods of the type, and what an event means to it. */
PyObject *sc_loop_add_reader(ScLoop *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_loop_add_writer(ScLoop *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_loop_remove_reader(ScLoop *self, PyObject *fileobj);
PyObject *sc_loop_remove_writer(ScLoop *self, PyObject *fileobj);

/* An event on `fd`: queue the handles it concerns.  0, or -1 without memory.
 * On the owner. */
int sc_loop_io_event(ScLoop *self, int fd, uint32_t events);
/* On the owner: the descriptor is a call's watch; or, NULL, no longer. */
int sc_loop_io_watch(ScLoop *self, int fd, struct ScCall *call);

int sc_loop_io_traverse(ScLoop *self, visitproc visit, void *arg);
void sc_loop_io_clear(ScLoop *self);

#endif
