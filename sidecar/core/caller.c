#include "core/call.h"

#include "core/clock.h"
#include "core/cycle.h"
#include "core/errors.h"
#include "core/greenlet.h"
#include "core/job.h"
#include "core/loop_run.h"
#include "core/signals.h"
#include "core/support.h"
#include "core/traceback.h"

/* -- turns --------------------------------------------------------------- */

typedef enum {
    TURN_OVER,        /* the call is done */
    TURN_MINE,        /* this thread owns the loop now */
    TURN_WAIT,        /* it does not (any more) */
    TURN_ERRAND,      /* it does not, and has something to do */
    TURN_INTERRUPTED, /* an error is set; ownership as before */
    TURN_FORKED,      /* a child, in which the loop is dead */
    TURN_GIVEN_UP,    /* the loop is stuck, and patience over */
} Turn;

static Turn
drive_turn(ScCall *self, bool fresh)
{
    ScLoop *loop = self->loop;
    ScMarks marks;
    if (sc_loop_enter(loop, &marks) < 0) {
        return TURN_INTERRUPTED;
    }
    if (fresh) {
        if (loop->drive->quiet) {
            loop->polled_at = sc_clock_now();
        }
        sc_call_start(self);
    }
    ScDriveResult result = sc_loop_drive(loop, self);
    sc_loop_exit(loop, &marks);
    switch (result) {
    case SC_DRIVE_DONE:
        sc_drive_leave(loop->drive, loop->ring.count > 0,
                       sc_loop_next_due(loop));
        return TURN_OVER;
    case SC_DRIVE_YIELD:
        sc_drive_requeue(loop->drive, &self->waiter, sc_loop_next_due(loop));
        return TURN_WAIT;
    case SC_DRIVE_ERRAND:
        sc_drive_step_out(loop->drive, &self->waiter, loop->ring.count > 0,
                          sc_loop_next_due(loop));
        return TURN_ERRAND;
    case SC_DRIVE_FORKED:
        PyErr_Clear();
        sc_timers_remove(&loop->timers, &self->timer);
        return TURN_FORKED;
    case SC_DRIVE_ERROR:
        break;
    }
    return TURN_INTERRUPTED;
}

/* Sleep until the word changes or the moment `until`; what sc_park_wait
 * returns, or -1 with an error set. */
static int
sleep_thread(ScCall *self, int64_t until)
{
    ScState *st = self->st;
    ScSignalWait signals;
    bool is_main = self->waiter.park.event_fd >= 0;
    if (is_main && sc_signals_begin(st, &signals) < 0) {
        return -1;
    }
    int why;
    PyThreadState *save = PyEval_SaveThread();
    void *pool = sc_job_wait_begin();
    why =
        sc_drive_wait(&self->waiter, until, is_main ? st->signal_pipe[0] : -1);
    sc_job_wait_end(pool);
    PyEval_RestoreThread(save);
    return is_main && sc_signals_end(st, &signals) < 0 ? -1 : why;
}

/* The same for a greenlet.  No signal wakes it: its hub runs the handlers. */
static int
sleep_greenlet(ScCall *self, int64_t until)
{
    int rc = 0;
    if (atomic_load_explicit(&self->waiter.park.word, memory_order_acquire) ==
        SC_WAITING) {
        void *pool = sc_job_wait_begin();
        rc = sc_greenlet_wait(self->st, self->greenlet, until);
        sc_job_wait_end(pool);
    }
    if (rc < 0) {
        return -1;
    }
    return until <= sc_clock_now() ? SC_PARK_TIMEOUT : SC_PARK_CHANGED;
}

static Turn
wait_turn(ScCall *self)
{
    int64_t until = SC_NEVER;
    if (self->deadline < SC_NEVER - self->cleanup) {
        until = self->deadline + self->cleanup;
    }
    int why = self->greenlet != NULL ? sleep_greenlet(self, until)
                                     : sleep_thread(self, until);
    if (why < 0) {
        return TURN_INTERRUPTED;
    }
    if (self->greenlet != NULL && sc_loop_is_dead(self->loop)) {
        /* Other than a thread, a greenlet lives on in the child of a fork. */
        return TURN_FORKED;
    }
    switch (
        atomic_load_explicit(&self->waiter.park.word, memory_order_acquire)) {
    case SC_DONE:
        return TURN_OVER;
    case SC_PROMOTED:
        return TURN_MINE;
    case SC_SUMMONED:
        return TURN_ERRAND;
    }
    return why == SC_PARK_TIMEOUT ? TURN_GIVEN_UP : TURN_WAIT;
}

/* Run what the call asks of this thread, which owns nothing meanwhile. */
static Turn
run_errands(ScCall *self)
{
    ScLoop *loop = self->loop;
    for (;;) {
        ScOp *errand = sc_inbox_take(&self->errands);
        while (errand != NULL) {
            ScOp *next = errand->next;
            sc_job_run_errand(errand);
            errand = next;
            if (sc_loop_is_dead(loop)) {
                return TURN_FORKED;
            }
        }
        switch (sc_drive_step_in(loop->drive, &self->waiter, &self->errands)) {
        case SC_PROMOTED:
            return TURN_MINE;
        case SC_WAITING:
            return TURN_WAIT;
        case SC_DONE:
            return TURN_OVER;
        }
    }
}

/* Nobody runs them any more; who sent one still waits for it. */
static void
refuse_errands(ScCall *self)
{
    ScOp *errand = sc_inbox_take(&self->errands);
    if (errand == NULL || sc_loop_is_dead(self->loop)) {
        return;
    }
    PyObject *before = sc_error_take();
    sc_error_raise(self->st, SC_E_NO_CALLER,
                   "the thread that waited for this call waits no more");
    PyObject *error = sc_error_take();
    while (errand != NULL) {
        ScOp *next = errand->next;
        sc_job_fail_errand(errand, error);
        errand = next;
    }
    Py_XDECREF(error);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

void
sc_call_send_errand(ScCall *self, ScOp *errand)
{
    sc_inbox_push(&self->errands, errand);
    if (!sc_drive_summon(self->loop->drive, &self->waiter)) {
        refuse_errands(self);
        return;
    }
    sc_greenlet_wake(self->st, self->greenlet);
}

/* The caller wants it cancelled: at once where it owns the loop. */
static void
ask_cancel(ScCall *self, bool mine)
{
    if (mine) {
        sc_call_cancel(self);
    }
    else if (!atomic_exchange(&self->cancel_posted, true)) {
        Py_INCREF((PyObject *)self);
        sc_loop_post(self->loop, &self->cancel_op, SC_OP_CALL_CANCEL);
    }
}

/* The caller goes without an answer, and what runs on is named; or, where the
 * end came at that very moment, with one. */
static Turn
give_up(ScCall *self, bool mine)
{
    ScDrive *drive = self->loop->drive;
    if (!mine) {
        mine = sc_drive_withdraw(drive, &self->waiter);
    }
    if (mine) {
        if (!self->done && self->started) {
            sc_call_make_orphan(self);
        }
        else if (!self->done) {
            /* Its op may still be on the way: it finds the call started. */
            atomic_store(&self->abandoned, true);
            sc_call_start(self);
        }
        sc_drive_leave(drive, self->loop->ring.count > 0,
                       sc_loop_next_due(self->loop));
    }
    else if (atomic_load(&self->waiter.park.word) == SC_DONE) {
        return TURN_OVER;
    }
    else {
        atomic_store(&self->abandoned, true);
    }
    sc_support_tell("note_orphan", "(O)", self->coro);
    return TURN_GIVEN_UP;
}

/* Drive and wait in turns until the call is over.  The first interruption
 * (what a signal handler raised) cancels it and comes back in *interrupt once
 * its cleanup is through; a second one ends that wait. */
static Turn
serve(ScCall *self, bool mine, PyObject **interrupt)
{
    bool fresh = mine;
    for (;;) {
        Turn turn = mine ? drive_turn(self, fresh) : wait_turn(self);
        if (turn == TURN_ERRAND && !PyErr_Occurred()) {
            turn = run_errands(self);
        }
        if ((turn == TURN_WAIT || turn == TURN_ERRAND) && PyErr_Occurred()) {
            mine = false;
            turn = TURN_INTERRUPTED;
        }
        switch (turn) {
        case TURN_OVER:
        case TURN_FORKED:
            if (PyErr_Occurred()) {
                /* At its very end; that of a first one it replaces. */
                Py_XSETREF(*interrupt, sc_error_take());
            }
            return turn;
        case TURN_MINE:
            mine = true;
            fresh = false;
            break;
        case TURN_WAIT:
        case TURN_ERRAND:
            mine = false;
            break;
        case TURN_GIVEN_UP:
            return give_up(self, false);
        case TURN_INTERRUPTED:
            fresh = fresh && !self->started;
            if (*interrupt != NULL) {
                Py_SETREF(*interrupt, sc_error_take());
                return give_up(self, mine);
            }
            *interrupt = sc_error_take();
            ask_cancel(self, mine);
        }
    }
}

/* -- the answer --------------------------------------------------------- */

/* What runs on was left behind: an error is set that says so. */
static void
raise_orphaned(ScCall *self, Turn turn)
{
    double seconds = (double)self->cleanup / 1e9;
    if (turn != TURN_GIVEN_UP) {
        sc_support_tell("note_orphan", "(O)", self->coro);
    }
    PyObject *text =
        sc_support_call("orphan_text", "(Od)", self->coro, seconds);
    if (text != NULL) {
        sc_error_raise(self->st, SC_E_TIMEOUT, "%U", text);
        Py_DECREF(text);
    }
}

/* The request's verdict ends this call: what else it has begun ends, too.
 * Steals `cause`. */
static PyObject *
tell_verdict(ScCall *self, ScVerdict verdict, PyObject *cause)
{
    atomic_store(&self->owner->told, true);
    if (verdict == SC_VERDICT_LATE) {
        sc_owner_strike(self->owner, verdict);
    }
    return sc_owner_raise(self->owner, verdict, self->coro, cause);
}

static PyObject *
raise_timeout(ScCall *self, Turn turn)
{
    ScVerdict verdict = (ScVerdict)atomic_load(&self->verdict);
    if (turn == TURN_GIVEN_UP || self->orphaned) {
        raise_orphaned(self, turn);
        return verdict == SC_VERDICT_NONE
                   ? NULL
                   : tell_verdict(self, verdict, sc_error_take());
    }
    PyObject *cause = self->error;
    self->error = NULL;
    sc_traceback_prune(self->st, cause);
    if (verdict != SC_VERDICT_NONE) {
        return tell_verdict(self, verdict, cause);
    }
    PyObject *text = sc_support_call("timeout_text", "(O)", self->coro);
    if (text == NULL) {
        Py_XDECREF(cause);
    }
    else {
        sc_error_raise_from(self->st, SC_E_TIMEOUT, cause, "%U", text);
        Py_DECREF(text);
    }
    return NULL;
}

/* What the caller gets.  Consumes `interrupt`. */
static PyObject *
answer(ScCall *self, Turn turn, PyObject *interrupt)
{
    if (turn == TURN_FORKED) {
        sc_watch_drop(self);
        Py_XDECREF(interrupt);
        return sc_error_raise(
            self->st, SC_E_FORKED,
            "this process was forked inside the call; its event loop stayed "
            "with the parent, so what is left of the coroutine cannot run");
    }
    if (interrupt != NULL) {
        sc_error_restore(interrupt);
        return NULL;
    }
    if (turn == TURN_GIVEN_UP || self->orphaned) {
        return raise_timeout(self, turn);
    }
    if (self->error == NULL) {
        PyObject *result = self->result;
        self->result = NULL;
        return result;
    }
    if (self->timed_out &&
        (PyErr_GivenExceptionMatches(self->error, self->st->cancelled_error) ||
         PyErr_GivenExceptionMatches(self->error, PyExc_Exception))) {
        return raise_timeout(self, turn);
    }
    PyObject *error = self->error;
    self->error = NULL;
    sc_traceback_prune(self->st, error);
    sc_error_restore(error);
    return NULL;
}

static PyObject *
refuse(ScState *st, ScLoop *loop, PyObject *coro, int request)
{
    PyObject *text = sc_support_call(
        "deadlock_text", "(OOiO)", (PyObject *)loop, coro,
        request != SC_CALL_RUN, loop->held_task ? loop->held_task : Py_None);
    if (text != NULL) {
        sc_error_raise(st, SC_E_DEADLOCK, "%U", text);
        Py_DECREF(text);
    }
    if (request == SC_CALL_RUN) {
        sc_call_close_coroutine(coro);
    }
    Py_DECREF(coro);
    return NULL;
}

/* A call that cannot be made: its coroutine is not left "never awaited". */
static void
drop_unmade(ScCall *call)
{
    sc_work_end(&call->work);
    if (call->request == SC_CALL_RUN) {
        sc_call_close_coroutine(call->coro);
    }
    Py_DECREF((PyObject *)call);
}

/* Consumes the call. */
static PyObject *
run_call(ScLoop *loop, ScCall *call, bool propagate)
{
    bool mine = sc_drive_enter(loop->drive, &call->waiter);
    if (!mine && atomic_load(&call->waiter.park.word) == SC_DONE) {
        drop_unmade(call);
        return sc_error_raise(loop->st, SC_E_CLOSED,
                              "the bridge is being shut down");
    }
    if (!mine) {
        Py_INCREF((PyObject *)call);
        sc_loop_post(loop, &call->start_op, SC_OP_CALL);
    }
    PyObject *interrupt = NULL;
    Turn turn = serve(call, mine, &interrupt);
    refuse_errands(call);
    sc_work_end(&call->work);
    if (propagate) {
        sc_support_tell("write_back", "(O)", call->context);
    }
    PyObject *result = answer(call, turn, interrupt);
    Py_DECREF((PyObject *)call);
    return result;
}

/* On a thread that drives another loop, which stands still meanwhile. */
static PyObject *
run_inside(ScLoop *loop, ScCall *call, bool propagate)
{
    ScHolder holder;
    if (sc_cycle_enter(&holder, call) < 0) {
        drop_unmade(call);
        return NULL;
    }
    Py_INCREF((PyObject *)call);
    PyObject *result = run_call(loop, call, propagate);
    sc_cycle_leave(&holder);
    Py_DECREF((PyObject *)call);
    return result;
}

static PyObject *
make_and_run(ScLoop *loop, const ScCallArgs *args)
{
    ScCall *call = sc_call_new(loop, args);
    if (call == NULL) {
        return NULL;
    }
    if (args->owner != NULL &&
        sc_work_begin(&call->work, args->owner, SC_WORK_CALL, NULL) < 0) {
        drop_unmade(call);
        return NULL;
    }
    if (args->owner != NULL &&
        atomic_load(&args->owner->verdict) == SC_VERDICT_LEFT) {
        /* Given since it was admitted: who gave it may not have seen it. */
        sc_call_strike(call, SC_VERDICT_LEFT);
    }
    if (sc_loop_driven_here() != NULL) {
        return run_inside(loop, call, args->propagate);
    }
    if (sc_cycle_is_possible(loop->st) && sc_cycle_check(call) < 0) {
        drop_unmade(call);
        return NULL;
    }
    return run_call(loop, call, args->propagate);
}

/* In the name of a request, while that lasts. */
static PyObject *
run_owned(ScLoop *loop, const ScCallArgs *args, ScOwner *owner)
{
    ScCallArgs owned = *args;
    int64_t left;
    bool own;
    if (sc_owner_admit(owner, &left, &own) < 0) {
        if (args->request == SC_CALL_RUN) {
            sc_call_close_coroutine(args->coro);
        }
        Py_DECREF(args->coro);
        return NULL;
    }
    if (left < owned.timeout) {
        owned.timeout = left;
        owned.by_deadline = own;
    }
    owned.owner = own ? owner : NULL;
    return make_and_run(loop, &owned);
}

PyObject *
sc_call_run(ScLoop *loop, const ScCallArgs *args)
{
    ScState *st = loop->st;
    if (sc_drive_is_owner(loop->drive)) {
        return refuse(st, loop, args->coro, args->request);
    }
    atomic_fetch_add_explicit(&st->request_counts[SC_COUNT_CALLS], 1,
                              memory_order_relaxed);
    ScOwner *owner = sc_owner_current(st, NULL);
    if (owner == NULL) {
        return make_and_run(loop, args);
    }
    int64_t begun = owner->timed ? sc_clock_now() : 0;
    PyObject *result = run_owned(loop, args, owner);
    atomic_fetch_add_explicit(&owner->calls, 1, memory_order_relaxed);
    if (owner->timed) {
        atomic_fetch_add_explicit(&owner->waited, sc_clock_now() - begun,
                                  memory_order_relaxed);
    }
    Py_DECREF((PyObject *)owner);
    return result;
}
