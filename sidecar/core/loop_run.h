/* Loop run: the rounds. Each takes what the inbox, the poller and the timers
 * bring, and runs the handles that are ready.  Attached, on the owner, which
 * sleeps detached.  */
#ifndef SIDECAR_CORE_LOOP_RUN_H
#define SIDECAR_CORE_LOOP_RUN_H

#include "core/loop.h"

/* What a thread was before it drove the loop. */
typedef struct {
    PyObject *running; /* its running loop, or None */
    PyObject *task;    /* 3.14+: its current task, where it had a loop */
    ScAsyncgenHooks hooks;
    ScLoop *outer;    /* what this thread drives otherwise; or NULL */
    int origin_depth; /* of coroutine origin tracking */
} ScMarks;

/* Make this thread look as if it ran the loop: running loop, current task,
 * hooks of async generators.  0, or -1 with an error set and nothing
 * changed. */
int sc_loop_enter(ScLoop *self, ScMarks *marks);

/* Undo it.  Keeps the error that is set; where none is, what a signal's
 * handler raised meanwhile may be set after it. */
void sc_loop_exit(ScLoop *self, ScMarks *marks);

/* The innermost loop whose marks are on this thread; NULL: none's. */
ScLoop *sc_loop_driven_here(void);

/* Put what has come through the inbox into ring and timers; no code of
 * anybody's is run.  0, or -1 without memory. */
int sc_loop_take_inbox(ScLoop *self);

/* Now and then let the interpreter look up, as it does between bytecodes: a
 * loop whose callbacks are C functions would never let another thread run.
 * Attached, on the owner.  0, or -1 with what a signal's handler raised. */
int sc_loop_breathe(ScLoop *self);

/* When the loop has something to do next that nobody tells it of: a timer, a
 * client to watch.  SC_NEVER: nothing. */
int64_t sc_loop_next_due(const ScLoop *self);

/* asyncio's _run_once: one round, which waits where nothing is ready.  0, or
 * -1 with what must leave run_forever. */
int sc_loop_round(ScLoop *self);

typedef enum {
    SC_DRIVE_ERROR = -1, /* this thread was interrupted: an error is set */
    SC_DRIVE_DONE,       /* the call is over */
    SC_DRIVE_YIELD,      /* another call has come: hand over and wait */
    SC_DRIVE_ERRAND,     /* the call has something to do for this thread */
    SC_DRIVE_FORKED,     /* this is a child now: the loop is dead */
} ScDriveResult;

/* A caller's turn: rounds until its own call is over.  Marks set. */
ScDriveResult sc_loop_drive(ScLoop *self, struct ScCall *own);

/* The pump's turn: run what is due, wait for nothing.  Sets marks itself. */
void sc_loop_run_batch(ScLoop *self);

/* A plain loop's run_forever: rounds until it is stopped (loop_forever.c).
 * 0, or -1 with what ended it. */
int sc_loop_run_forever(ScLoop *self);

/* A plain loop's run is over: it looks after signals no more. */
void sc_loop_release_signals(ScLoop *self);

#endif
