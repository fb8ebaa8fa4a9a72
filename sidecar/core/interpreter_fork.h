/* Interpreters and os.fork: no CPython up to 3.15 comes through a fork in
 * whose child there is a live sub-interpreter.  So before one all of ours are
 * ended: idle ones at once, busy ones when their job has ended; where that
 * takes too long the fork is refused.
 *
 * A fork has three moments.  The audit event, whose hook may refuse: all
 * queues rest, and stay at rest for the moment, for nobody says when the fork
 * begins.  Python's own hook before the fork, which confirms it.  And its hook
 * in the parent, after which the queues go on, also where the fork failed.
 * An audit hook of somebody else's may refuse after ours has agreed: a rest
 * that nobody confirms ends by itself after GRACE.
 *
 * What holds: one mutex guards the list of queues; it is held for a few
 * instructions, and a queue's own is taken inside it, never the other way
 * round.  Waits are without it and without a GIL.  The child finds an empty
 * list.  */
#ifndef SIDECAR_CORE_INTERPRETER_FORK_H
#define SIDECAR_CORE_INTERPRETER_FORK_H

#include "core/compat.h"
#include "core/interpreter_queue.h"

/* Embedded in a pool; under the list's mutex. */
typedef struct ScForkEntry {
    struct ScForkEntry *next, *before;
    ScQueue *queue;
    int64_t wait_ns; /* for the busy ones */
    /* Append the names of what runs to `text`, which has `room` bytes; under
     * the list's mutex. */
    void (*name_jobs)(struct ScForkEntry *entry, char *text, size_t room);
} ScForkEntry;

/* The hooks, once per process; attached.  0, or -1 with an error set. */
int sc_fork_watch(void);

/* The entry's queue is made here, at rest while a fork is on its way. */
void sc_fork_enter(ScForkEntry *entry, ScQueue *queue);
void sc_fork_leave(ScForkEntry *entry);

/* Before jobs are pushed: end a rest that was never confirmed. */
void sc_fork_check(void);

/* For os.register_at_fork. */
PyObject *sc_fork_before(PyObject *module, PyObject *ignored);
PyObject *sc_fork_after(PyObject *module, PyObject *ignored);

#endif
