#include "core/loop_run.h"

#include <errno.h>

#include "core/call.h"
#include "core/job.h"
#include "core/running_loop.h"
#include "core/support.h"
#include "core/task_list.h"
#include "core/watch.h"

enum { EVENTS = 64 };

/* A driver that is never idle looks at its descriptors this often. */
static const int64_t POLL_EVERY = 50 * INT64_C(1000);

/* CPython's switch interval, as it is by default. */
static const int64_t BREATHE_EVERY = 5 * INT64_C(1000000);

/* What a hand-over costs, about: a driver whose call is done goes on for so
 * long with what is ready, where others wait for just that.  Where most of
 * them do, it goes on for so long for each: who leaves earlier has them all
 * wait for the GIL in turn, only to find the loop handed to one that has yet
 * to get it.  At most CPython's switch interval. */
static const int64_t LINGER = 50 * INT64_C(1000);
static const int64_t LINGER_MOST = 5 * INT64_C(1000000);

/* asyncio.constants.DEBUG_STACK_DEPTH */
enum { DEBUG_STACK_DEPTH = 10 };

/* -- marks -------------------------------------------------------------- */

static int
make_hooks(ScLoop *self)
{
    if (self->asyncgen_first == NULL) {
        self->asyncgen_first = PyObject_GetAttrString(
            (PyObject *)self, "_asyncgen_firstiter_hook");
        self->asyncgen_final = PyObject_GetAttrString(
            (PyObject *)self, "_asyncgen_finalizer_hook");
    }
    return self->asyncgen_first && self->asyncgen_final ? 0 : -1;
}

/* 3.14+: exchange the thread's current task, which belongs to `loop`. */
static PyObject *
swap_task(ScState *st, PyObject *loop, PyObject *task)
{
    if (st->swap_current_task == NULL || loop == Py_None) {
        return Py_NewRef(Py_None);
    }
    PyObject *args[] = {loop, task ? task : Py_None};
    return PyObject_Vectorcall(st->swap_current_task, args, 2, NULL);
}

static _Thread_local ScLoop *driven_here;

ScLoop *
sc_loop_driven_here(void)
{
    return driven_here;
}

int
sc_loop_enter(ScLoop *self, ScMarks *marks)
{
    ScState *st = self->st;
    marks->task = NULL;
    if (make_hooks(self) < 0) {
        return -1;
    }
    marks->running = sc_running_loop_get(st);
    if (marks->running == NULL) {
        return -1;
    }
    marks->task = swap_task(st, marks->running, NULL);
    if (marks->task == NULL || sc_running_loop_set(st, (PyObject *)self) < 0) {
        Py_CLEAR(marks->running);
        Py_CLEAR(marks->task);
        return -1;
    }
    ScAsyncgenHooks ours = {Py_NewRef(self->asyncgen_first),
                            Py_NewRef(self->asyncgen_final)};
    marks->hooks = sc_asyncgen_hooks_swap(ours);
    /* A plain loop's run does it as asyncio's (loop_forever.c). */
    if (self->bridged) {
        PyThreadState *tstate = PyThreadState_Get();
        marks->origin_depth = tstate->coroutine_origin_tracking_depth;
        if (self->debug) {
            tstate->coroutine_origin_tracking_depth = DEBUG_STACK_DEPTH;
        }
    }
    marks->outer = driven_here;
    if (marks->outer != NULL) {
        marks->outer->held_task = marks->task;
    }
    driven_here = self;
    return 0;
}

void
sc_loop_exit(ScLoop *self, ScMarks *marks)
{
    ScState *st = self->st;
    sc_task_list_share(self);
    driven_here = marks->outer;
    if (marks->outer != NULL) {
        marks->outer->held_task = NULL;
    }
    PyObject *error = sc_error_take();
    if (self->bridged) {
        PyThreadState_Get()->coroutine_origin_tracking_depth =
            marks->origin_depth;
    }
    ScAsyncgenHooks ours = sc_asyncgen_hooks_swap(marks->hooks);
    Py_XDECREF(ours.firstiter);
    Py_XDECREF(ours.finalizer);
    if (sc_running_loop_set(st, marks->running) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyObject *mine = swap_task(st, marks->running, marks->task);
    if (mine == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(mine);
    Py_CLEAR(marks->running);
    Py_CLEAR(marks->task);
    if (error != NULL) {
        sc_error_restore(error);
    }
}

/* -- what comes in ------------------------------------------------------ */

static int
take_timer(ScLoop *self, ScTimerHandle *handle)
{
    /* From here on cancel() may post it again. */
    atomic_store(&handle->posted, false);
    if (handle->base.cancelled) {
        if (sc_timers_remove(&self->timers, &handle->timer)) {
            Py_DECREF((PyObject *)handle);
        }
        Py_DECREF((PyObject *)handle);
        return 0;
    }
    if (sc_timer_queued(&handle->timer)) {
        Py_DECREF((PyObject *)handle);
        return 0;
    }
    if (sc_timers_add(&self->timers, &handle->timer,
                      sc_timer_due(handle->when)) < 0) {
        Py_DECREF((PyObject *)handle);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

int
sc_loop_take_inbox(ScLoop *self)
{
    int rc = 0;
    ScOp *op = sc_inbox_take(&self->drive->inbox), *cancels = NULL;
    ScOp **last = &cancels;
    while (op != NULL) {
        ScOp *next = op->next;
        switch (op->kind) {
        case SC_OP_HANDLE:
            rc |= sc_loop_push(self, (PyObject *)sc_handle_of(op));
            break;
        case SC_OP_TIMER:
            rc |= take_timer(self, (ScTimerHandle *)sc_handle_of(op));
            break;
        case SC_OP_CALL:
            rc |= sc_loop_push(self, sc_call_of_start(op));
            break;
        case SC_OP_CALL_CANCEL:
            op->next = NULL;
            *last = op;
            last = &op->next;
            break;
        }
        op = next;
    }
    /* They run Python, which may come here again: what is in the inbox by
     * then must not overtake what this round has taken. */
    while (cancels != NULL) {
        op = cancels;
        cancels = op->next;
        sc_call_take_cancel(self, op);
    }
    return rc;
}

static int
take_events(ScLoop *self, struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;
        if (fd == self->drive->poller.event_fd) {
            continue;
        }
        if (fd == self->signal_fd) {
            sc_signals_drain(self->st);
        }
        else if (sc_loop_io_event(self, fd, events[i].events) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
poll_now(ScLoop *self)
{
    struct epoll_event events[EVENTS];
    if (sc_watch_due(self) <= self->polled_at) {
        sc_watch_look(self);
    }
    int count = sc_poller_wait(&self->drive->poller, events, EVENTS, 0, -1);
    return take_events(self, events, count);
}

int64_t
sc_loop_next_due(const ScLoop *self)
{
    int64_t timer = sc_timers_next(&self->timers);
    int64_t watch = sc_watch_due(self);
    return timer < watch ? timer : watch;
}

/* How long nothing is due: 0 where something is. */
static int64_t
idle_time(ScLoop *self)
{
    if (self->ring.count > 0 || self->stopping) {
        return 0;
    }
    int64_t next = sc_loop_next_due(self);
    if (next == SC_NEVER) {
        return SC_NEVER;
    }
    int64_t left = next - sc_clock_now();
    return left > 0 ? left : 0;
}

/* Who looks for signals while the loop sleeps. */
typedef enum {
    SIGNALS_NONE, /* not the main thread */
    SIGNALS_WAIT, /* this wait, by a second descriptor */
    SIGNALS_KEPT, /* the epoll set itself, as long as the loop runs */
} SignalsHow;

/* A plain loop that the main thread runs keeps the watch from sleep to sleep:
 * to begin and end it costs more than the sleep. */
static int
keep_signals(ScLoop *self)
{
    ScState *st = self->st;
    if (self->signal_fd < 0) {
        if (sc_signals_prepare(st) < 0) {
            return -1;
        }
        int fd = st->signal_pipe[0];
        if (sc_poller_set(&self->drive->poller, fd, 0, EPOLLIN) < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        self->signal_fd = fd;
    }
    return sc_signals_keep(st, &self->signals);
}

void
sc_loop_release_signals(ScLoop *self)
{
    if (self->signal_fd >= 0) {
        sc_poller_set(&self->drive->poller, self->signal_fd, EPOLLIN, 0);
        self->signal_fd = -1;
    }
    sc_signals_release(self->st, &self->signals);
}

static int
begin_signals(ScLoop *self, ScSignalWait *wait, SignalsHow *how)
{
    ScState *st = self->st;
    *how = SIGNALS_NONE;
    if (!sc_signals_is_main(st)) {
        return 0;
    }
    if (!self->bridged && sc_drive_is_owner(self->drive)) {
        *how = SIGNALS_KEPT;
        return keep_signals(self);
    }
    *how = SIGNALS_WAIT;
    return sc_signals_prepare(st) < 0 ? -1 : sc_signals_begin(st, wait);
}

static int
sleep_until_event(ScLoop *self)
{
    ScPoller *poller = &self->drive->poller;
    struct epoll_event events[EVENTS];
    ScSignalWait signals;
    SignalsHow how;
    if (begin_signals(self, &signals, &how) < 0) {
        return -1;
    }
    int signal_fd = how == SIGNALS_WAIT ? self->st->signal_pipe[0] : -1;
    if (sc_watch_due(self) != SC_NEVER &&
        sc_watch_due(self) <= sc_clock_now()) {
        sc_watch_look(self);
    }
    /* Only now: a signal handler may have scheduled something. */
    int64_t timeout = idle_time(self);
    /* Announce, then look: poller.h. */
    atomic_store(&poller->asleep, true);
    if (!sc_inbox_is_empty(&self->drive->inbox)) {
        timeout = 0;
    }
    if (self->bridged) {
        sc_drive_unwatch(self->drive);
    }
    int count;
    PyThreadState *save = PyEval_SaveThread();
    void *pool = sc_job_wait_begin();
    count = sc_poller_wait(poller, events, EVENTS, timeout, signal_fd);
    sc_job_wait_end(pool);
    atomic_store(&poller->asleep, false);
    PyEval_RestoreThread(save);
    if ((how == SIGNALS_WAIT && sc_signals_end(self->st, &signals) < 0) ||
        (how == SIGNALS_KEPT && PyErr_CheckSignals() < 0)) {
        return -1;
    }
    return take_events(self, events, count);
}

static int
take_timers(ScLoop *self, int64_t now)
{
    ScTimer *timer;
    while ((timer = sc_timers_pop(&self->timers, now)) != NULL) {
        int rc =
            timer->kind == SC_TIMER_CALL
                ? sc_call_timer_due(self, timer)
                : sc_loop_push(self, (PyObject *)sc_timer_handle_of(timer));
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

typedef enum {
    GATHER_FULLY, /* look at the descriptors each time; wait */
    GATHER_LAZY,  /* look at them now and then; wait */
    GATHER_NOW,   /* look at them now and then; never wait */
} GatherHow;

/* Fill the ring. */
static int
gather(ScLoop *self, GatherHow how)
{
    if (sc_loop_take_inbox(self) < 0) {
        return -1;
    }
    int64_t now = sc_clock_now();
    if (how == GATHER_NOW || self->ring.count > 0 || self->stopping ||
        sc_timers_next(&self->timers) <= now) {
        if (how == GATHER_FULLY || now - self->polled_at >= POLL_EVERY) {
            self->polled_at = now;
            if (poll_now(self) < 0) {
                return -1;
            }
        }
    }
    else {
        if (sleep_until_event(self) < 0 || sc_loop_take_inbox(self) < 0) {
            return -1;
        }
        now = self->polled_at = sc_clock_now();
    }
    return self->timers.count ? take_timers(self, now) : 0;
}

/* -- what is run -------------------------------------------------------- */

static int
run_foreign(ScLoop *self, PyObject *handle)
{
    PyObject *cancelled = PyObject_GetAttr(handle, self->st->str__cancelled);
    int skip = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (skip != 0) {
        return skip < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_CallMethodNoArgs(handle, self->st->str__run);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int
run_handle(ScLoop *self, PyObject *handle)
{
    PyTypeObject *type = Py_TYPE(handle);
    if (type != self->st->handle_type && type != self->st->timer_handle_type) {
        if (type != self->st->call_type) {
            return run_foreign(self, handle);
        }
        sc_call_turn(self, handle);
        return 0;
    }
    if (((ScHandle *)handle)->cancelled) {
        return 0;
    }
    if (!self->debug) {
        return sc_handle_run((ScHandle *)handle);
    }
    int64_t before = sc_clock_now();
    int rc = sc_handle_run((ScHandle *)handle);
    sc_support_tell("note_duration", "(OOd)", (PyObject *)self, handle,
                    (double)(sc_clock_now() - before) / 1e9);
    return rc;
}

/* By bytecode, not by letting go of the GIL: that hands it over only where a
 * thread's wait for it has lasted a switch interval, and to let go is to begin
 * the interval anew. */
int
sc_loop_breathe(ScLoop *self)
{
    if (self->polled_at - self->breathed_at < BREATHE_EVERY) {
        return 0;
    }
    self->breathed_at = self->polled_at;
    PyObject *none = PyObject_CallNoArgs(self->st->breathe);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

int
sc_loop_round(ScLoop *self)
{
    if (gather(self, GATHER_FULLY) < 0) {
        return -1;
    }
    for (size_t left = self->ring.count; left > 0; left--) {
        PyObject *handle = sc_loop_pop(self);
        if (handle == NULL) {
            break;
        }
        int rc = run_handle(self, handle);
        Py_DECREF(handle);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

/* KeyboardInterrupt, SystemExit, or what a signal's handler raised has left a
 * handle.  Where it ended a call it reaches that call's caller; else, where it
 * may be meant for this thread (`own`), it comes back as -1; else the loop
 * reports it and lives on. */
static int
settle_exit(ScLoop *self, PyObject *handle, struct ScCall *own)
{
    PyObject *error = sc_error_take();
    bool delivered = sc_calls_collect(self, error);
    if (delivered) {
        Py_DECREF(error);
        return 0;
    }
    sc_error_restore(error);
    if (own != NULL && sc_signals_is_main(self->st)) {
        return -1;
    }
    sc_support_report(self, handle);
    return 0;
}

/* Whose turn it is. */
typedef struct {
    struct ScCall *own; /* NULL: the pump's */
    int64_t done_at;    /* 0: its call is not */
    int64_t most;       /* from then on: LINGER for each of who waited */
} Driver;

/* Is the turn over?  A caller leaves when its own call is done, but does not
 * wake a waiter for a few microseconds of work that it can do itself: it
 * lingers while work is ready and a waiter queued, within a limit; and so does
 * the consumer of a stream that reads ahead, whose next item may be what is
 * ready. */
static bool
is_over(ScLoop *self, Driver *driver)
{
    if (driver->own == NULL || !driver->own->done) {
        return false;
    }
    ScDrive *drive = self->drive;
    size_t waiters =
        atomic_load_explicit(&drive->eligible, memory_order_relaxed);
    if (drive->owner_restricted || (waiters == 0 && !driver->own->ahead) ||
        (self->ring.count == 0 && sc_inbox_is_empty(&drive->inbox))) {
        return true;
    }
    int64_t now = sc_clock_now();
    if (driver->done_at == 0) {
        driver->done_at = now;
        driver->most = LINGER * (int64_t)(waiters > 0 ? waiters : 1);
    }
    bool for_most = self->ring.count > waiters / 2;
    int64_t limit = for_most ? driver->most : LINGER;
    return now - driver->done_at >=
           (limit < LINGER_MOST ? limit : LINGER_MOST);
}

/* The handles that are ready now.  SC_DRIVE_YIELD: they have run, or there is
 * a reason to stop; the caller looks which. */
static ScDriveResult
run_ready(ScLoop *self, Driver *driver)
{
    self->ran = true;
    for (size_t left = self->ring.count; left > 0; left--) {
        /* Before each one: what came in may be another's call, which a
         * restricted owner must not start. */
        if (sc_drive_must_yield(self->drive, driver->own == NULL)) {
            return SC_DRIVE_YIELD;
        }
        PyObject *handle = sc_loop_pop(self);
        if (handle == NULL) {
            break;
        }
        int rc = run_handle(self, handle);
        if (sc_loop_is_dead(self)) {
            /* What the coroutine raised in the child goes with it. */
            PyErr_Clear();
            Py_DECREF(handle);
            return SC_DRIVE_FORKED;
        }
        if (rc < 0) {
            rc = settle_exit(self, handle, driver->own);
        }
        else if (self->finished != NULL) {
            sc_calls_collect(self, NULL);
        }
        Py_DECREF(handle);
        if (rc < 0) {
            return SC_DRIVE_ERROR;
        }
        if (is_over(self, driver)) {
            return SC_DRIVE_DONE;
        }
        if (driver->own != NULL && !sc_inbox_is_empty(&driver->own->errands)) {
            break;
        }
    }
    return SC_DRIVE_YIELD;
}

ScDriveResult
sc_loop_drive(ScLoop *self, struct ScCall *own)
{
    Driver driver = {.own = own};
    for (;;) {
        int breath = sc_loop_breathe(self);
        if (sc_loop_is_dead(self)) {
            PyErr_Clear();
            return SC_DRIVE_FORKED;
        }
        if (breath < 0) {
            return SC_DRIVE_ERROR;
        }
        if (self->finished != NULL) {
            sc_calls_collect(self, NULL);
        }
        if (is_over(self, &driver)) {
            return SC_DRIVE_DONE;
        }
        if (!own->done && !sc_inbox_is_empty(&own->errands)) {
            return SC_DRIVE_ERRAND;
        }
        if (sc_drive_must_yield(self->drive, false)) {
            return SC_DRIVE_YIELD;
        }
        if (gather(self, own->done ? GATHER_NOW : GATHER_LAZY) < 0) {
            return SC_DRIVE_ERROR;
        }
        if (self->finished != NULL || self->ring.count == 0) {
            continue;
        }
        ScDriveResult result = run_ready(self, &driver);
        if (result != SC_DRIVE_YIELD) {
            return result;
        }
    }
}

/* -- the pump's turn ---------------------------------------------------- */

static bool
is_due(ScLoop *self)
{
    if (self->ring.count > 0 || !sc_inbox_is_empty(&self->drive->inbox)) {
        return true;
    }
    int64_t next = sc_loop_next_due(self);
    return next != SC_NEVER && next <= sc_clock_now();
}

static void
run_due(ScLoop *self)
{
    Driver pump = {.own = NULL};
    do {
        self->polled_at = sc_clock_now();
        int rc = sc_loop_take_inbox(self) | poll_now(self) |
                 take_timers(self, self->polled_at);
        if (self->finished != NULL) {
            sc_calls_collect(self, NULL);
        }
        if (rc < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        if (run_ready(self, &pump) == SC_DRIVE_FORKED) {
            return;
        }
        if (sc_loop_breathe(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    } while (!sc_drive_must_yield(self->drive, true) && is_due(self));
}

void
sc_loop_run_batch(ScLoop *self)
{
    ScMarks marks;
    if (sc_loop_enter(self, &marks) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
        return;
    }
    run_due(self);
    sc_loop_exit(self, &marks);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}
