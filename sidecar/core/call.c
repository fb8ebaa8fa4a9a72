#include "core/call.h"

#include <pthread.h>
#include <stddef.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/loop_run.h"
#include "core/module.h"
#include "core/signals.h"
#include "core/support.h"
#include "core/task.h"

#define OF(type, pointer, field) \
    ((type *)((char *)(pointer)-offsetof(type, field)))

/* A thread with less stack than this drives its own call only. */
static const size_t SMALL_STACK = 256 * 1024;

/* -- making ------------------------------------------------------------- */

PyObject *
sc_call_coroutine(PyObject *awaitable)
{
    if (PyCoro_CheckExact(awaitable)) {
        return Py_NewRef(awaitable);
    }
    return sc_support_call("coroutine_of", "(O)", awaitable);
}

void
sc_call_close_coroutine(PyObject *coro)
{
    PyObject *before = sc_error_take();
    PyObject *none = PyObject_CallMethod(coro, "close", NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable(coro);
    }
    Py_XDECREF(none);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

static bool
stack_is_small(void)
{
    static _Thread_local char known; /* 0: not looked yet */
    if (known == 0) {
        pthread_attr_t attr;
        size_t size = SMALL_STACK;
        if (pthread_getattr_np(pthread_self(), &attr) == 0) {
            pthread_attr_getstacksize(&attr, &size);
            pthread_attr_destroy(&attr);
        }
        known = size < SMALL_STACK ? 2 : 1;
    }
    return known == 2;
}

/* A thread on which an exception may land that is not the coroutine's (a
 * signal handler's), or which is no place for somebody else's code. */
static bool
is_restricted(bool is_main)
{
    PyThreadState *tstate = PyThreadState_Get();
    return is_main || sc_thread_is_traced(tstate) ||
           sc_thread_is_deep(tstate) || stack_is_small();
}

/* The caller's context, or the one given, which must not be entered now: no
 * step could run in it, and the call would never end. */
static PyObject *
take_context(PyObject *given)
{
    if (given == NULL) {
        return PyContext_CopyCurrent();
    }
    if (PyContext_Enter(given) < 0 || PyContext_Exit(given) < 0) {
        return NULL;
    }
    return Py_NewRef(given);
}

static ScCall *
call_new(ScLoop *loop, const ScCallArgs *args)
{
    ScState *st = loop->st;
    bool is_main = sc_signals_is_main(st);
    PyObject *context = NULL;
    ScCall *self = NULL;
    if (!is_main || sc_signals_prepare(st) == 0) {
        context = take_context(args->context);
    }
    if (context != NULL) {
        self = PyObject_GC_New(ScCall, st->call_type);
    }
    if (self == NULL) {
        Py_XDECREF(context);
        sc_call_close_coroutine(args->coro);
        Py_DECREF(args->coro);
        return NULL;
    }
    self->st = st;
    self->loop = (ScLoop *)Py_NewRef((PyObject *)loop);
    sc_waiter_init(&self->waiter, is_restricted(is_main),
                   is_main ? st->signal_event_fd : -1);
    self->timer = (ScTimer){.kind = SC_TIMER_CALL};
    self->next_finished = NULL;
    self->coro = args->coro;
    self->context = context;
    self->task = self->result = self->error = NULL;
    self->deadline =
        args->timeout == SC_NEVER ? SC_NEVER : sc_clock_now() + args->timeout;
    self->cleanup = args->cleanup;
    atomic_init(&self->abandoned, false);
    atomic_init(&self->cancel_posted, false);
    self->started = self->cancel_asked = self->ended = self->done =
        self->timed_out = self->orphaned = false;
    return self;
}

static int
call_traverse(ScCall *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->coro);
    Py_VISIT(self->context);
    Py_VISIT(self->task);
    Py_VISIT(self->result);
    Py_VISIT(self->error);
    return 0;
}

static int
call_clear(ScCall *self)
{
    Py_CLEAR(self->coro);
    Py_CLEAR(self->context);
    Py_CLEAR(self->task);
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    Py_CLEAR(self->loop);
    return 0;
}

static void
call_dealloc(ScCall *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    call_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* -- on the owner ------------------------------------------------------- */

/* The call is over: its waiter may go.  Steals both. */
static void
settle(ScCall *self, PyObject *result, PyObject *error)
{
    self->result = result;
    self->error = error;
    self->done = true;
    sc_drive_complete(self->loop->drive, &self->waiter);
}

static void
cancel_task(ScCall *self)
{
    self->cancel_asked = true;
    if (self->task != NULL && !self->ended) {
        PyObject *done =
            PyObject_CallMethodNoArgs(self->task, self->st->str_cancel);
        if (done == NULL) {
            PyErr_WriteUnraisable(self->task);
        }
        Py_XDECREF(done);
    }
}

static int
follow_task(ScCall *self)
{
    PyObject *stack[] = {self->task, (PyObject *)self,
                         self->st->empty_context};
    PyObject *none = PyObject_VectorcallMethod(self->st->str_add_done_callback,
                                               stack, 2, self->st->kw_context);
    Py_XDECREF(none);
    if (none == NULL) {
        return -1;
    }
    if (self->deadline != SC_NEVER && !self->ended &&
        sc_timers_add(&self->loop->timers, &self->timer, self->deadline) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void
call_start(ScCall *self)
{
    ScLoop *loop = self->loop;
    self->started = true;
    if (atomic_load(&self->abandoned)) {
        sc_call_close_coroutine(self->coro);
        settle(self, NULL, NULL);
        return;
    }
    self->task = sc_task_start(loop, self->coro, self->context);
    if (sc_loop_is_dead(loop)) {
        PyErr_Clear();
        return;
    }
    if (self->task == NULL || follow_task(self) < 0) {
        /* SystemExit or KeyboardInterrupt in an eager first step, or no
         * memory: the task, if there is one, goes with the coroutine. */
        PyObject *error = sc_error_take();
        cancel_task(self);
        Py_CLEAR(self->task);
        sc_call_close_coroutine(self->coro);
        settle(self, NULL, error);
        return;
    }
    if (self->cancel_asked) {
        cancel_task(self);
    }
}

PyObject *
sc_call_of_start(ScOp *op)
{
    return (PyObject *)OF(ScCall, op, start_op);
}

void
sc_call_take_cancel(ScLoop *Py_UNUSED(loop), ScOp *op)
{
    ScCall *self = OF(ScCall, op, cancel_op);
    atomic_store(&self->cancel_posted, false);
    if (!self->done) {
        cancel_task(self);
    }
    Py_DECREF((PyObject *)self);
}

void
sc_call_drop(PyObject *call)
{
    ScCall *self = (ScCall *)call;
    if (!self->started && self->coro != NULL) {
        sc_call_close_coroutine(self->coro);
    }
    Py_DECREF(call);
}

void
sc_call_drop_op(ScOp *op)
{
    if (op->kind == SC_OP_CALL) {
        sc_call_drop(sc_call_of_start(op));
    }
    else {
        Py_DECREF((PyObject *)OF(ScCall, op, cancel_op));
    }
}

/* The task will outlive its caller's patience: from here on it is a task
 * like any other, and this object only waits to take its result out. */
static void
make_orphan(ScCall *self)
{
    ScDrive *drive = self->loop->drive;
    atomic_store(&self->abandoned, true);
    self->orphaned = true;
    atomic_fetch_add_explicit(&drive->tasks, 1, memory_order_relaxed);
    Py_CLEAR(self->task);
    sc_timers_remove(&self->loop->timers, &self->timer);
    PyObject_GC_Track((PyObject *)self);
    settle(self, NULL, NULL);
}

int
sc_call_timer_due(ScLoop *loop, ScTimer *timer)
{
    /* Behind what is ready, as any timer: a first step that waits there is
     * not cancelled before it was run. */
    ScCall *self = OF(ScCall, timer, timer);
    return sc_loop_push(loop, Py_NewRef((PyObject *)self));
}

static void
time_out(ScCall *self)
{
    if (self->ended || self->done) {
        return;
    }
    if (self->timed_out) {
        make_orphan(self);
        return;
    }
    self->timed_out = true;
    cancel_task(self);
    if (self->cleanup == 0 ||
        sc_timers_add(&self->loop->timers, &self->timer,
                      sc_clock_now() + self->cleanup) < 0) {
        make_orphan(self);
    }
}

void
sc_call_turn(ScLoop *Py_UNUSED(loop), PyObject *call)
{
    if (((ScCall *)call)->started) {
        time_out((ScCall *)call);
    }
    else {
        call_start((ScCall *)call);
    }
}

void
sc_call_task_ended(ScLoop *loop, PyObject *call, PyObject *task)
{
    ScCall *self = (ScCall *)call;
    if (self->ended) {
        return;
    }
    self->ended = true;
    if (self->task == NULL) {
        self->task = Py_XNewRef(task);
    }
    Py_INCREF(call);
    self->next_finished = loop->finished;
    loop->finished = self;
}

static void
collect(ScCall *self)
{
    PyObject *task = self->task, *result = NULL, *error = NULL;
    self->task = NULL;
    sc_timers_remove(&self->loop->timers, &self->timer);
    if (task != NULL) {
        result = PyObject_CallMethodNoArgs(task, self->st->str_result);
        error = result ? NULL : sc_error_take();
        Py_DECREF(task);
    }
    if (!atomic_load(&self->abandoned)) {
        settle(self, result, error);
        return;
    }
    if (self->orphaned) {
        atomic_fetch_sub_explicit(&self->loop->drive->tasks, 1,
                                  memory_order_relaxed);
    }
    else {
        settle(self, NULL, NULL);
    }
    sc_support_tell("note_orphan_end", "(OO)", self->coro,
                    error ? error : Py_None);
    Py_XDECREF(result);
    Py_XDECREF(error);
}

void
sc_calls_collect(ScLoop *loop)
{
    /* In the order they ended, so that waiters wake in it. */
    ScCall *call = loop->finished, *first = NULL;
    loop->finished = NULL;
    while (call != NULL) {
        ScCall *next = call->next_finished;
        call->next_finished = first;
        first = call;
        call = next;
    }
    while (first != NULL) {
        ScCall *next = first->next_finished;
        first->next_finished = NULL;
        collect(first);
        Py_DECREF((PyObject *)first);
        first = next;
    }
}

/* -- in the caller ------------------------------------------------------ */

typedef enum {
    TURN_OVER,        /* the call is done */
    TURN_MINE,        /* this thread owns the loop now */
    TURN_WAIT,        /* it does not (any more) */
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
        call_start(self);
    }
    ScDriveResult result = sc_loop_drive(loop, self);
    sc_loop_exit(loop, &marks);
    switch (result) {
    case SC_DRIVE_DONE:
        sc_drive_leave(loop->drive, loop->ring.count > 0,
                       sc_timers_next(&loop->timers));
        return TURN_OVER;
    case SC_DRIVE_YIELD:
        sc_drive_requeue(loop->drive, &self->waiter,
                         sc_timers_next(&loop->timers));
        return TURN_WAIT;
    case SC_DRIVE_FORKED:
        sc_timers_remove(&loop->timers, &self->timer);
        return TURN_FORKED;
    case SC_DRIVE_ERROR:
        break;
    }
    return TURN_INTERRUPTED;
}

static Turn
wait_turn(ScCall *self)
{
    ScState *st = self->st;
    ScSignalWait signals;
    bool is_main = self->waiter.park.event_fd >= 0;
    int64_t until = SC_NEVER;
    if (self->deadline < SC_NEVER - self->cleanup) {
        until = self->deadline + self->cleanup;
    }
    if (is_main && sc_signals_begin(st, &signals) < 0) {
        return TURN_INTERRUPTED;
    }
    int why;
    PyThreadState *save = PyEval_SaveThread();
    why =
        sc_drive_wait(&self->waiter, until, is_main ? st->signal_pipe[0] : -1);
    PyEval_RestoreThread(save);
    if (is_main && sc_signals_end(st, &signals) < 0) {
        return TURN_INTERRUPTED;
    }
    switch (
        atomic_load_explicit(&self->waiter.park.word, memory_order_acquire)) {
    case SC_DONE:
        return TURN_OVER;
    case SC_PROMOTED:
        return TURN_MINE;
    }
    return why == SC_PARK_TIMEOUT ? TURN_GIVEN_UP : TURN_WAIT;
}

/* The caller wants it cancelled: at once where it owns the loop. */
static void
ask_cancel(ScCall *self, bool mine)
{
    if (mine) {
        cancel_task(self);
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
    PyObject *error = sc_error_take();
    if (!mine) {
        mine = sc_drive_withdraw(drive, &self->waiter);
    }
    if (mine) {
        if (!self->done) {
            make_orphan(self);
        }
        sc_drive_leave(drive, self->loop->ring.count > 0,
                       sc_timers_next(&self->loop->timers));
    }
    else if (atomic_load(&self->waiter.park.word) == SC_DONE) {
        return TURN_OVER;
    }
    else {
        atomic_store(&self->abandoned, true);
    }
    sc_support_tell("note_orphan", "(O)", self->coro);
    if (error != NULL) {
        sc_error_restore(error);
    }
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
        switch (turn) {
        case TURN_OVER:
        case TURN_FORKED:
            return turn;
        case TURN_MINE:
            mine = true;
            fresh = false;
            break;
        case TURN_WAIT:
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

static PyObject *
raise_timeout(ScCall *self, Turn turn)
{
    double seconds = (double)self->cleanup / 1e9;
    if (turn == TURN_GIVEN_UP || self->orphaned) {
        if (turn != TURN_GIVEN_UP) {
            sc_support_tell("note_orphan", "(O)", self->coro);
        }
        PyObject *text =
            sc_support_call("orphan_text", "(Od)", self->coro, seconds);
        if (text != NULL) {
            sc_error_raise(self->st, SC_E_TIMEOUT, "%U", text);
            Py_DECREF(text);
        }
        return NULL;
    }
    PyObject *text = sc_support_call("timeout_text", "(O)", self->coro);
    if (text != NULL) {
        PyObject *cause = self->error;
        self->error = NULL;
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
    sc_error_restore(error);
    return NULL;
}

static PyObject *
refuse(ScState *st, ScLoop *loop, PyObject *coro)
{
    PyObject *text =
        sc_support_call("deadlock_text", "(OO)", (PyObject *)loop, coro);
    if (text != NULL) {
        sc_error_raise(st, SC_E_DEADLOCK, "%U", text);
        Py_DECREF(text);
    }
    sc_call_close_coroutine(coro);
    Py_DECREF(coro);
    return NULL;
}

PyObject *
sc_call_run(ScLoop *loop, const ScCallArgs *args)
{
    ScDrive *drive = loop->drive;
    if (sc_drive_is_owner(drive)) {
        return refuse(loop->st, loop, args->coro);
    }
    ScCall *call = call_new(loop, args);
    if (call == NULL) {
        return NULL;
    }
    bool mine = sc_drive_enter(drive, &call->waiter);
    if (!mine && atomic_load(&call->waiter.park.word) == SC_DONE) {
        sc_call_close_coroutine(call->coro);
        Py_DECREF((PyObject *)call);
        return sc_error_raise(loop->st, SC_E_CLOSED,
                              "the bridge is being shut down");
    }
    if (!mine) {
        Py_INCREF((PyObject *)call);
        sc_loop_post(loop, &call->start_op, SC_OP_CALL);
    }
    PyObject *interrupt = NULL;
    Turn turn = serve(call, mine, &interrupt);
    PyObject *result = answer(call, turn, interrupt);
    Py_DECREF((PyObject *)call);
    return result;
}

static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)"One awaitable on its way through a loop."},
    {Py_tp_traverse, SC_SLOT(call_traverse)},
    {Py_tp_clear, SC_SLOT(call_clear)},
    {Py_tp_dealloc, SC_SLOT(call_dealloc)},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "sidecar._core.Call",
    .basicsize = sizeof(ScCall),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

int
sc_call_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->call_type, &call_spec, NULL, NULL);
}
