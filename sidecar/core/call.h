/* Call: one awaitable on its way through a loop, and the thread that waits
 * for it.
 *
 * The caller makes it and, where the loop is free, starts and drives it;
 * else it sends it to the owner and waits, ready to be promoted.  The call is
 * its task's done-callback: the loop's call_soon recognises it and lists it
 * as finished instead of queueing it, so the end of a call costs no round.
 * The owner then takes the task's result out (sc_calls_collect), not sooner:
 * inside the callback the task has not yet noted whether its exception was
 * retrieved.
 *
 * Who may touch it: the owner, from start to done, `watch` among the rest; the
 * waiter before that and after; both, atomically, `abandoned` and
 * `cancel_posted`.  `verdict` and `struck` may be set by any thread, which
 * gives the request its verdict; `work` is the ring's (work.h).  Every op in
 * the inbox, the finished list and the task own a reference.  The garbage
 * collector tracks it only as an orphan, or once its caller was released:
 * before that a caller's frame holds it.  All of it happens attached.  */
#ifndef SIDECAR_CORE_CALL_H
#define SIDECAR_CORE_CALL_H

#include "core/drive.h"
#include "core/loop.h"
#include "core/state.h"
#include "core/timers.h"
#include "core/watch.h"
#include "core/work.h"

typedef struct ScCall ScCall;

struct ScCall {
    PyObject_HEAD
    ScState *st;
    ScLoop *loop; /* strong */
    ScWaiter waiter;
    ScOp start_op;
    ScOp cancel_op;
    ScTimer timer; /* first the time-out, then the end of the cleanup */
    struct ScCall *next_finished;
    ScInbox errands;   /* jobs for the thread that waits (errand.h) */
    PyObject *lineage; /* what its coroutines know it by; or NULL */
    PyObject *coro;    /* a coroutine; of a step: its producer */
    PyObject *context; /* NULL of a step, whose producer has one */
    PyObject *value;   /* a step's, to send or throw; or NULL */
    int request;       /* a step's: ScStepKind (producer.h); or SC_CALL_RUN */
    PyObject *task;    /* NULL before it starts and once its result is out */
    PyObject *result;
    PyObject *error;
    PyObject *greenlet;    /* how the caller waits, or NULL (greenlet.h) */
    int64_t deadline;      /* SC_NEVER: none */
    int64_t cleanup;       /* ns from the deadline until it is given up */
    ScWork work;           /* what it is of the request's, or of nobody's */
    ScOwner *owner;        /* strong: whose deadline it is; or NULL */
    ScWatch watch;         /* of the owner's client */
    atomic_int verdict;    /* of the owner, upon this call: ScVerdict */
    atomic_bool abandoned; /* nobody waits for it any more */
    atomic_bool cancel_posted;
    atomic_bool struck; /* the verdict ends it, not its time-out */
    bool started;
    bool cancel_asked;
    bool ended;      /* the task is over */
    bool done;       /* result or error is here, or it is orphaned */
    bool timed_out;  /* the deadline has cancelled it */
    bool ahead;      /* a step of a stream that reads ahead */
    bool orphaned;   /* it counts as a task now, not as a call */
    bool released;   /* its caller has gone on, its task is any other */
    PyObject *early; /* what to release it with once its task is known */
    unsigned tenure; /* of the loop when the task was made */
};

enum { SC_CALL_RUN = -1 };

typedef struct {
    PyObject *coro;    /* stolen, closed where the call cannot be made */
    PyObject *context; /* borrowed; NULL: a copy of the caller's */
    PyObject *value;   /* borrowed: a step's */
    int request;       /* SC_CALL_RUN, or a step's */
    bool ahead;        /* of a stream that reads ahead */
    bool propagate;    /* what it sets in context variables is set here */
    ScOwner *owner;    /* borrowed; NULL: no request's */
    bool by_deadline;  /* the owner's deadline is its time-out */
    ScCall **told;     /* where a reference to the call goes; or NULL */
    int64_t timeout;   /* ns, SC_NEVER: none */
    int64_t cleanup;   /* ns */
} ScCallArgs;

/* caller.c: run a coroutine on the loop and wait for it: its result, or NULL
 * with what it raised, DeadlockError, CallTimeoutError, ForkedError, or what a
 * signal handler raised meanwhile. */
PyObject *sc_call_run(ScLoop *loop, const ScCallArgs *args);

/* On the owner: have the thread that waits for this call run a job; it owns
 * the job from here on. */
void sc_call_send_errand(ScCall *self, ScOp *errand);

/* From any thread: the request's verdict ends it, as its time-out would. */
void sc_call_strike(ScCall *self, ScVerdict verdict);
ScCall *sc_call_of_work(ScWork *work);

/* A coroutine that awaits `awaitable` (itself where it is one), or NULL with
 * TypeError set. */
PyObject *sc_call_coroutine(PyObject *awaitable);

/* Close a coroutine that will not be run; keeps the error that is set. */
void sc_call_close_coroutine(PyObject *coro);

/* On the owner: its coroutine, or the iterator of a step; borrowed. */
PyObject *sc_call_runs(ScCall *self);

/* On the owner: a step's call is over, with an item, an error or, at the end,
 * neither (NULL without an error set for the caller).  Steals both. */
void sc_call_settle(ScCall *self, PyObject *result, PyObject *error);

/* Between the caller and the call.  New takes args->coro over, and closes it
 * where it fails: NULL with an error set.  The others on the owner: start;
 * cancel its task; leave it to itself, because it will outlive its caller's
 * patience: it is a task like any other then, and this object only waits to
 * take its result out. */
ScCall *sc_call_new(ScLoop *loop, const ScCallArgs *args);
void sc_call_start(ScCall *self);
void sc_call_cancel(ScCall *self);
void sc_call_make_orphan(ScCall *self);

/* On the owner, between the task's steps or in one: its caller goes on with
 * this value, and the task is left to itself, as one that the coroutine had
 * made: the request's, and the bridge's.  False: the caller has its answer, or
 * has been told that it gets none, and the value is dropped. */
bool sc_call_release(ScCall *self, PyObject *value);

/* On the owner: it was cancelled for its caller's sake, by its time-out, its
 * request's verdict or an interruption. */
bool sc_call_is_cancelled(const ScCall *self);

/* What the loop's rounds tell it; on the owner.  A call stands in the ring
 * itself: first to be started, later because its time is out. */
PyObject *sc_call_of_start(ScOp *op);
void sc_call_turn(ScLoop *loop, PyObject *call);
void sc_call_take_cancel(ScLoop *loop, ScOp *op);
int sc_call_timer_due(ScLoop *loop, ScTimer *timer);
void sc_call_task_ended(ScLoop *loop, PyObject *call, PyObject *task);
/* Take the results of finished calls out.  True: one of them ended with the
 * exception `expected` (NULL: none is). */
bool sc_calls_collect(ScLoop *loop, PyObject *expected);

/* In the inbox or the ring of a loop that is being released: it will not
 * run.  Both take over a reference. */
void sc_call_drop_op(ScOp *op);
void sc_call_drop(PyObject *call);

#endif
