/* Work: what a request has begun, and what ends with it.
 *
 * An owner is the core's part of a sidecar.Request (middleware/scope.h).  The
 * calls that threads make in its name, the tasks that coroutines start on
 * bridges' loops and the futures of submit() hang on its ring while they
 * last.  A call made in the name of an owner ends when the owner's time is
 * up, or with its verdict.
 *
 * Who may touch the ring: whoever is in the owner's critical section.  An
 * entry holds its owner, and leaves the ring before its own memory goes: a
 * call when its caller goes on, a task's at the task's end or with it, a
 * future's with it.  So whoever walks the ring finds only what is there; a
 * call may be kept by a reference, which its caller holds too; a task or a
 * future may be just going, and is reached by its weak reference.
 *
 * The verdict is given once, by the first who gives one, and says why what
 * runs is cancelled.  The thread that waits is told it once, by an exception;
 * what it calls afterwards is cleaning up, and gets `cleanup` ns for each
 * call.  Once the owner has ended nothing joins it.
 *
 * Everything here is called attached, from any thread.  */
#ifndef SIDECAR_CORE_WORK_H
#define SIDECAR_CORE_WORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/state.h"
#include "sidecar_board.h"

typedef enum {
    SC_VERDICT_NONE,
    SC_VERDICT_LATE,  /* the deadline has passed */
    SC_VERDICT_LEFT,  /* the client has gone */
    SC_VERDICT_ENDED, /* the response is closed */
} ScVerdict;

/* What is counted, of all requests of this interpreter: state.h. */
typedef enum {
    SC_COUNT_REQUESTS,
    SC_COUNT_BAD_ID,
    SC_COUNT_BAD_TRACEPARENT,
    SC_COUNT_BAD_TRACESTATE,
    SC_COUNT_BAD_BAGGAGE, /* members that were left out */
    SC_COUNT_BAD_DEADLINE,
    SC_COUNT_LATE, /* verdicts */
    SC_COUNT_LEFT,
    SC_COUNT_CALLS,   /* run_sync, and each item of a stream */
    SC_COUNT_REFUSED, /* answered with 503 */
    SC_COUNTS,
} ScCount;

typedef enum { SC_WORK_CALL, SC_WORK_TASK, SC_WORK_FUTURE } ScWorkKind;

typedef struct ScWork {
    struct ScWork *next, *prev; /* NULL: in no ring */
    struct ScOwner *owner;      /* strong while it is in the ring */
    PyObject *reference;        /* weak; NULL of a call */
    ScWorkKind kind;
    bool struck; /* it was cancelled, and is not again */
} ScWork;

typedef struct ScOwner {
    PyObject_HEAD
    ScState *st;          /* the type holds the module, and so the state */
    ScWork ring;          /* its head */
    int64_t deadline;     /* SC_NEVER: none */
    int64_t cleanup;      /* ns */
    PyObject *connection; /* the client's: an int or a socket; or NULL */
    atomic_int peer;      /* its descriptor; -1: none, or not looked yet */
    bool half_closes;     /* the client may close its side, and wait */
    Sidecar_Slot *_Atomic slot; /* on the server's board; or NULL */
    atomic_int verdict;
    atomic_bool told;
    atomic_uint calls;   /* that were made in its name */
    atomic_llong waited; /* ns in them, where `timed` */
    bool timed;
    atomic_bool answered; /* closed while held: no deadline, no client */
    bool held;            /* in the critical section: its end is put off */
    bool put_off;         /* it was */
    bool detached;        /* it owns nothing, and has no end */
} ScOwner;

void sc_owner_init(ScOwner *self, ScState *st);

/* New reference to the one in whose name this thread works, or NULL: none, or
 * none that owns anything any more.  `context`: as seen there; NULL: here.
 * Sets no error. */
ScOwner *sc_owner_current(ScState *st, PyObject *context);

/* As above, or one that owns nothing any more. */
ScOwner *sc_owner_present(ScState *st, PyObject *context);

/* Does it own what is done in its name? */
bool sc_owner_owns(const ScOwner *self);

/* Its deadline has passed. */
bool sc_owner_is_late(const ScOwner *self);

/* Why no call can be made in its name: 0, or -1 with DeadlineExceeded or
 * ClientDisconnected set, once.  `*left`: how long it may take, in ns or
 * SC_NEVER, and `*own`: false where it is cleaning up, and owned by nobody. */
int sc_owner_admit(ScOwner *self, int64_t *left, bool *own);

/* Raise what the verdict says; `what` is the coroutine that was cancelled, or
 * NULL.  `cause` is stolen, and may be NULL.  Returns NULL. */
PyObject *sc_owner_raise(ScOwner *self, ScVerdict verdict, PyObject *what,
                         PyObject *cause);

/* Hang an entry on the ring; of a task or a future `object` is what the entry
 * is part of.  0; 1: the owner has ended, nothing was done; -1 with an error
 * set.  The end of one that is in no ring does nothing. */
int sc_work_begin(ScWork *work, ScOwner *owner, ScWorkKind kind,
                  PyObject *object);
void sc_work_end(ScWork *work);

/* Give the verdict and cancel all there is.  False: there was one. */
bool sc_owner_strike(ScOwner *self, ScVerdict verdict);

/* The response is closed: cancel what is left, wait for its end within
 * `cleanup`, and name what would not end.  Keeps the error that is set.
 *
 * Of one that is held its release does so.  Until then what it has begun goes
 * on, and more may join; but it has no deadline and no client any more. */
void sc_owner_end(ScOwner *self);
void sc_owner_leave_board(ScOwner *self); /* a part of that */
void sc_owner_hold(ScOwner *self);
void sc_owner_release(ScOwner *self);

#endif
