#include "core/call.h"

#include <pthread.h>
#include <stddef.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/greenlet.h"
#include "core/lineage.h"
#include "core/loop_run.h"
#include "core/module.h"
#include "core/producer.h"
#include "core/signals.h"
#include "core/support.h"
#include "core/task.h"
#include "core/task_list.h"

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

ScCall *
sc_call_new(ScLoop *loop, const ScCallArgs *args)
{
    ScState *st = loop->st;
    bool is_step = args->request != SC_CALL_RUN;
    PyObject *greenlet = NULL, *context = NULL;
    ScCall *self = NULL;
    bool ready = sc_greenlet_waiter(st, (PyObject *)loop, &greenlet) == 0;
    /* A greenlet's signals are its hub's. */
    bool is_main = ready && greenlet == NULL && sc_signals_is_main(st);
    if (is_main) {
        ready = sc_signals_prepare(st) == 0;
    }
    if (ready && !is_step) {
        context = take_context(args->context);
        ready = context != NULL;
    }
    if (ready) {
        self = PyObject_GC_New(ScCall, st->call_type);
    }
    if (self == NULL) {
        Py_XDECREF(greenlet);
        Py_XDECREF(context);
        if (!is_step) {
            sc_call_close_coroutine(args->coro);
        }
        Py_DECREF(args->coro);
        return NULL;
    }
    self->st = st;
    self->loop = (ScLoop *)Py_NewRef((PyObject *)loop);
    sc_waiter_init(&self->waiter, greenlet != NULL || is_restricted(is_main),
                   is_main ? st->signal_event_fd : -1);
    self->waiter.passive = greenlet != NULL;
    self->greenlet = greenlet;
    self->timer = (ScTimer){.kind = SC_TIMER_CALL};
    self->next_finished = NULL;
    atomic_init(&self->errands.top, NULL);
    self->lineage = NULL;
    self->coro = args->coro;
    self->context = context;
    self->value = Py_XNewRef(args->value);
    self->request = args->request;
    self->task = self->result = self->error = NULL;
    self->deadline =
        args->timeout == SC_NEVER ? SC_NEVER : sc_clock_now() + args->timeout;
    self->cleanup = args->cleanup;
    self->work = (ScWork){0};
    self->watch = (ScWatch){.fd = -1};
    self->owner = (ScOwner *)Py_XNewRef((PyObject *)args->owner);
    atomic_init(&self->verdict,
                args->by_deadline ? SC_VERDICT_LATE : SC_VERDICT_NONE);
    self->ahead = args->ahead;
    atomic_init(&self->abandoned, false);
    atomic_init(&self->cancel_posted, false);
    atomic_init(&self->struck, false);
    self->started = self->cancel_asked = self->ended = self->done =
        self->timed_out = self->orphaned = self->released = false;
    self->early = NULL;
    if (args->told != NULL) {
        *args->told = (ScCall *)Py_NewRef((PyObject *)self);
    }
    return self;
}

static int
call_traverse(ScCall *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->coro);
    Py_VISIT(self->context);
    Py_VISIT(self->value);
    Py_VISIT(self->lineage);
    Py_VISIT(self->task);
    Py_VISIT(self->result);
    Py_VISIT(self->error);
    Py_VISIT(self->early);
    Py_VISIT(self->greenlet);
    Py_VISIT(self->owner);
    Py_VISIT(self->work.owner);
    return 0;
}

static int
call_clear(ScCall *self)
{
    Py_CLEAR(self->coro);
    Py_CLEAR(self->context);
    Py_CLEAR(self->value);
    if (self->lineage != NULL) {
        sc_lineage_end(self->lineage);
        Py_CLEAR(self->lineage);
    }
    Py_CLEAR(self->task);
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    Py_CLEAR(self->early);
    Py_CLEAR(self->greenlet);
    sc_work_end(&self->work);
    sc_watch_drop(self);
    Py_CLEAR(self->owner);
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
    if (self->lineage != NULL) {
        sc_lineage_end(self->lineage);
        Py_CLEAR(self->lineage);
    }
    self->result = result;
    self->error = error;
    self->done = true;
    sc_watch_end(self);
    sc_drive_complete(self->loop->drive, &self->waiter);
    sc_greenlet_wake(self->st, self->greenlet);
}

static bool
is_step(ScCall *self)
{
    return self->request != SC_CALL_RUN;
}

PyObject *
sc_call_runs(ScCall *self)
{
    if (!is_step(self)) {
        return self->coro;
    }
    PyObject *iterator = sc_producer_iterator((ScProducer *)self->coro);
    return iterator ? iterator : self->coro;
}

void
sc_call_settle(ScCall *self, PyObject *result, PyObject *error)
{
    sc_timers_remove(&self->loop->timers, &self->timer);
    if (atomic_load(&self->abandoned)) {
        Py_CLEAR(result);
        Py_CLEAR(error);
    }
    settle(self, result, error);
}

void
sc_call_cancel(ScCall *self)
{
    self->cancel_asked = true;
    if (is_step(self) && self->started && !self->done) {
        sc_producer_cancel((ScProducer *)self->coro);
    }
    else if (self->task != NULL && !self->ended) {
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
    self->tenure = sc_task_list_begun(self->loop, self->task);
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

/* A step that is cancelled before it was begun leaves its generator alone. */
static void
start_step(ScCall *self)
{
    if (self->cancel_asked || atomic_load(&self->abandoned)) {
        PyObject *error = PyObject_CallNoArgs(self->st->cancelled_error);
        sc_call_settle(self, NULL, error ? error : sc_error_take());
        return;
    }
    if (self->deadline != SC_NEVER &&
        sc_timers_add(&self->loop->timers, &self->timer, self->deadline) < 0) {
        PyErr_NoMemory();
        sc_call_settle(self, NULL, sc_error_take());
        return;
    }
    sc_producer_begin((ScProducer *)self->coro, self);
}

static void time_out(ScCall *self);

void
sc_call_start(ScCall *self)
{
    ScLoop *loop = self->loop;
    self->started = true;
    if (self->owner != NULL &&
        (self->owner->peer >= 0 || atomic_load(&self->owner->slot) != NULL)) {
        sc_watch_want(self);
    }
    if (is_step(self)) {
        start_step(self);
        return;
    }
    if (atomic_load(&self->abandoned)) {
        sc_call_close_coroutine(self->coro);
        settle(self, NULL, NULL);
        return;
    }
    loop->starting = (PyObject *)self;
    self->task = sc_task_start(loop, self->coro, self->context);
    loop->starting = NULL;
    if (sc_loop_is_dead(loop)) {
        PyErr_Clear();
        return;
    }
    if (self->task == NULL || follow_task(self) < 0) {
        /* SystemExit or KeyboardInterrupt in an eager first step, or no
         * memory: the task, if there is one, goes with the coroutine. */
        PyObject *error = sc_error_take();
        sc_call_cancel(self);
        Py_CLEAR(self->task);
        sc_call_close_coroutine(self->coro);
        settle(self, NULL, error);
        return;
    }
    if (atomic_load(&self->struck) && self->cancel_asked) {
        /* Before its first step: its cleanup has its bound all the same. */
        self->timed_out = false;
        time_out(self);
    }
    else if (self->cancel_asked) {
        sc_call_cancel(self);
    }
    if (self->early != NULL && !self->ended) {
        PyObject *value = self->early;
        self->early = NULL;
        sc_call_release(self, value);
        Py_DECREF(value);
    }
}

bool
sc_call_is_cancelled(const ScCall *self)
{
    return self->cancel_asked || atomic_load(&self->abandoned);
}

bool
sc_call_release(ScCall *self, PyObject *value)
{
    if (self->done || self->ended || self->early != NULL ||
        sc_call_is_cancelled(self)) {
        return false;
    }
    if (self->task == NULL) {
        /* In its eager first step: sc_call_start knows the task soon. */
        self->early = Py_NewRef(value);
        return true;
    }
    if (sc_task_adopt(self->loop, self->task, self->context) < 0) {
        /* It runs on all the same, but nobody would count it. */
        PyErr_WriteUnraisable(self->task);
    }
    self->released = true;
    sc_timers_remove(&self->loop->timers, &self->timer);
    PyObject_GC_Track((PyObject *)self);
    settle(self, Py_NewRef(value), NULL);
    return true;
}

PyObject *
sc_call_of_start(ScOp *op)
{
    return (PyObject *)OF(ScCall, op, start_op);
}

void
sc_call_drop(PyObject *call)
{
    ScCall *self = (ScCall *)call;
    if (!self->started && self->coro != NULL && !is_step(self)) {
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

void
sc_call_make_orphan(ScCall *self)
{
    ScDrive *drive = self->loop->drive;
    atomic_store(&self->abandoned, true);
    self->orphaned = true;
    if (is_step(self)) {
        sc_producer_abandon((ScProducer *)self->coro);
        sc_call_settle(self, NULL, NULL);
        return;
    }
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
        sc_call_make_orphan(self);
        return;
    }
    self->timed_out = true;
    sc_timers_remove(&self->loop->timers, &self->timer);
    sc_call_cancel(self);
    if (self->cleanup == 0 ||
        sc_timers_add(&self->loop->timers, &self->timer,
                      sc_clock_now() + self->cleanup) < 0) {
        sc_call_make_orphan(self);
    }
}

/* Struck, it has as long as after its time-out; which may have come first. */
static void
take_verdict(ScCall *self)
{
    if (!self->started) {
        self->timed_out = self->cancel_asked = true;
    }
    else if (!self->timed_out) {
        time_out(self);
    }
}

void
sc_call_take_cancel(ScLoop *Py_UNUSED(loop), ScOp *op)
{
    ScCall *self = OF(ScCall, op, cancel_op);
    atomic_store(&self->cancel_posted, false);
    if (atomic_load(&self->struck)) {
        take_verdict(self);
    }
    else if (!self->done) {
        sc_call_cancel(self);
    }
    Py_DECREF((PyObject *)self);
}

void
sc_call_strike(ScCall *self, ScVerdict verdict)
{
    atomic_store(&self->verdict, verdict);
    atomic_store(&self->struck, true);
    if (sc_drive_is_owner(self->loop->drive)) {
        take_verdict(self);
    }
    else if (!atomic_exchange(&self->cancel_posted, true)) {
        Py_INCREF((PyObject *)self);
        sc_loop_post(self->loop, &self->cancel_op, SC_OP_CALL_CANCEL);
    }
}

ScCall *
sc_call_of_work(ScWork *work)
{
    return OF(ScCall, work, work);
}

void
sc_call_turn(ScLoop *Py_UNUSED(loop), PyObject *call)
{
    if (((ScCall *)call)->started) {
        time_out((ScCall *)call);
    }
    else {
        sc_call_start((ScCall *)call);
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
    sc_task_list_ended(loop, self->tenure);
    Py_INCREF(call);
    self->next_finished = loop->finished;
    loop->finished = self;
}

/* True: `expected` is what it ended with. */
static bool
collect(ScCall *self, PyObject *expected)
{
    PyObject *task = self->task, *result = NULL, *error = NULL;
    self->task = NULL;
    sc_timers_remove(&self->loop->timers, &self->timer);
    if (task != NULL) {
        result = PyObject_CallMethodNoArgs(task, self->st->str_result);
        error = result ? NULL : sc_error_take();
        Py_DECREF(task);
    }
    bool met = error != NULL && error == expected;
    if (self->released) {
        Py_XDECREF(result);
        Py_XDECREF(error);
        return met;
    }
    if (!atomic_load(&self->abandoned)) {
        settle(self, result, error);
        return met;
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
    return met;
}

bool
sc_calls_collect(ScLoop *loop, PyObject *expected)
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
    bool met = false;
    while (first != NULL) {
        ScCall *next = first->next_finished;
        first->next_finished = NULL;
        met |= collect(first, expected);
        Py_DECREF((PyObject *)first);
        first = next;
    }
    return met;
}

/* -- the type ------------------------------------------------------------ */

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
