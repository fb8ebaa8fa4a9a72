#include "core/producer.h"

#include <structmember.h>

#include "core/await.h"
#include "core/lineage.h"
#include "core/module.h"
#include "core/support.h"
#include "core/task.h"
#include "core/task_list.h"

/* What is awaited just now. */
typedef enum {
    AWAIT_NOTHING,
    AWAIT_SOURCE, /* an awaitable, for the iterable */
    AWAIT_ITEM,
    AWAIT_CLOSE,
} Awaited;

struct ScProducer {
    PyObject_HEAD
    ScLoop *loop;     /* strong */
    PyObject *source; /* until it is an iterator */
    PyObject *iterator;
    PyObject *name;
    PyObject *code; /* of a generator that is over and has to be named */
    PyObject *context;
    PyObject *task_context; /* where its steps run; NULL: not known yet */
    PyObject *task;         /* from the first request to the end */
    PyObject *gate;         /* parked on it; NULL: not parked */
    PyObject *step;         /* the iterator of what is awaited */
    PyObject *handed; /* by step_here to the task: what it shall wait for */
    PyObject *raised; /* or what the generator raised */
    Awaited awaited;
    ScCall *call; /* strong: who waits for the next item */
    PyObject **items;
    size_t room, slots, first, count;
    int64_t cleanup;   /* ns, once its consumer is gone */
    PyObject *lineage; /* what its coroutines know it by; or NULL */
    PyObject *failure; /* for the consumer's next request */
    bool propagate;
    bool over;
    bool closing;          /* no item is wanted any more */
    bool counted;          /* in drive.tasks */
    bool dropped;          /* its consumer is gone */
    bool hooked;           /* its generator is begun */
    atomic_bool waited;    /* since it was woken: reading ahead pays */
    atomic_bool abandoned; /* its caller went without an answer */
    bool announced;        /* to the list of tasks, in `tenure` */
    unsigned tenure;
};

/* -- the queue ---------------------------------------------------------- */

static bool
is_full(ScProducer *self)
{
    bool full;
    Py_BEGIN_CRITICAL_SECTION(self);
    full = self->count >= self->room;
    Py_END_CRITICAL_SECTION();
    return full;
}

static bool
grow(ScProducer *self)
{
    size_t slots = self->slots * 2;
    PyObject **items = PyMem_Calloc(slots, sizeof(PyObject *));
    if (items == NULL) {
        return false;
    }
    for (size_t i = 0; i < self->count; i++) {
        items[i] = self->items[(self->first + i) % self->slots];
    }
    PyMem_Free(self->items);
    self->items = items;
    self->slots = slots;
    self->first = 0;
    return true;
}

/* Steals the item.  Each time a generator is cancelled while nobody waits, it
 * may yield one more than there is room for. */
static void
push_item(ScProducer *self, PyObject *item)
{
    bool kept;
    Py_BEGIN_CRITICAL_SECTION(self);
    kept = self->count < self->slots || grow(self);
    if (kept) {
        self->items[(self->first + self->count++) % self->slots] = item;
    }
    Py_END_CRITICAL_SECTION();
    if (!kept) {
        PyErr_NoMemory();
        PyErr_WriteUnraisable((PyObject *)self);
        Py_DECREF(item);
    }
}

/* New reference, or NULL.  In the critical section, or with nobody else. */
static PyObject *
take_item(ScProducer *self)
{
    if (self->count == 0) {
        return NULL;
    }
    PyObject *item = self->items[self->first];
    self->first = (self->first + 1) % self->slots;
    self->count--;
    return item;
}

static void
drop_items(ScProducer *self)
{
    PyObject *item;
    do {
        Py_BEGIN_CRITICAL_SECTION(self);
        item = take_item(self);
        Py_END_CRITICAL_SECTION();
        Py_XDECREF(item);
    } while (item != NULL);
}

PyObject *
sc_producer_pop(ScProducer *self, bool *wake)
{
    PyObject *item = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    item = take_item(self);
    if (item != NULL) {
        /* What never waits is read on when the queue is empty, by the
         * consumer's own thread: another one would only take its turn. */
        *wake = self->room > 0 && self->waited && !self->over &&
                self->count == self->room / 2;
    }
    Py_END_CRITICAL_SECTION();
    return item;
}

bool
sc_producer_is_over(ScProducer *self)
{
    bool over;
    Py_BEGIN_CRITICAL_SECTION(self);
    over = self->abandoned ||
           (self->over && self->count == 0 && self->failure == NULL);
    Py_END_CRITICAL_SECTION();
    return over;
}

bool
sc_producer_end(ScProducer *self, PyObject **error)
{
    bool ended;
    *error = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    ended = self->over && self->count == 0;
    if (ended) {
        *error = self->failure;
        self->failure = NULL;
    }
    Py_END_CRITICAL_SECTION();
    return ended;
}

/* -- answers ------------------------------------------------------------ */

/* Does it go on though no call waits for it?  Then the pump drives it. */
static void
count(ScProducer *self)
{
    bool alive = self->task != NULL && self->call == NULL &&
                 self->gate == NULL && !self->over;
    if (alive == self->counted) {
        return;
    }
    self->counted = alive;
    atomic_size_t *tasks = &self->loop->drive->tasks;
    if (alive) {
        atomic_fetch_add_explicit(tasks, 1, memory_order_relaxed);
    }
    else {
        atomic_fetch_sub_explicit(tasks, 1, memory_order_relaxed);
    }
}

/* Steals both. */
static void
answer(ScProducer *self, PyObject *result, PyObject *error)
{
    ScCall *call = self->call;
    self->call = NULL;
    sc_call_settle(call, result, error);
    Py_DECREF((PyObject *)call);
}

/* Its caller may have given up while the loop stood still. */
static void
note_left(ScProducer *self)
{
    if (self->call != NULL && atomic_load(&self->call->abandoned)) {
        self->abandoned = self->closing = true;
        answer(self, NULL, NULL);
    }
}

static void
deliver(ScProducer *self, PyObject *item)
{
    note_left(self);
    if (self->closing) {
        Py_DECREF(item);
    }
    else if (self->call != NULL) {
        answer(self, item, NULL);
    }
    else {
        push_item(self, item);
    }
}

static void
note_end(ScProducer *self, PyObject *error)
{
    if (self->abandoned) {
        sc_support_tell("note_orphan_end", "(OO)", (PyObject *)self,
                        error ? error : Py_None);
    }
}

static void
end_lineage(ScProducer *self)
{
    if (self->lineage != NULL) {
        sc_lineage_end(self->lineage);
        Py_CLEAR(self->lineage);
    }
}

PyObject **
sc_producer_lineage(ScProducer *self)
{
    return &self->lineage;
}

ScCall *
sc_producer_call(ScProducer *self)
{
    return self->call;
}

/* What an async generator knows of itself; None: it is none, or gone. */
static PyObject *
get_of_iterator(ScProducer *self, PyObject *name)
{
    PyObject *value =
        self->iterator ? PyObject_GetAttr(self->iterator, name) : NULL;
    if (value == NULL) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return value;
}

static bool
is_cancelled(ScProducer *self, PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, self->loop->st->cancelled_error);
}

/* Nobody will ever ask for this error. */
static void
report(ScProducer *self, PyObject *error)
{
    ScState *st = self->loop->st;
    PyObject *text = PyUnicode_FromFormat(
        "%R has failed, and its consumer is gone", (PyObject *)self);
    PyObject *context = text ? Py_BuildValue("{OOOO}", st->str_message, text,
                                             st->str_exception, error)
                             : NULL;
    PyObject *stack[] = {(PyObject *)self->loop, context};
    PyObject *none =
        context ? PyObject_VectorcallMethod(st->str_call_exception_handler,
                                            stack, 2, NULL)
                : NULL;
    if (none == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(none);
    Py_XDECREF(context);
    Py_XDECREF(text);
}

/* What the one who closes it, or nobody, shall hear of its end.  Steals. */
static PyObject *
error_of_closing(ScProducer *self, PyObject *error)
{
    bool cancelled = error != NULL && is_cancelled(self, error);
    if (error == NULL ||
        (self->call != NULL && (!cancelled || self->call->timed_out))) {
        return error;
    }
    if (!cancelled) {
        report(self, error);
    }
    Py_DECREF(error);
    return NULL;
}

/* The generator is at its end.  Steals `error`, NULL: it just ended. */
static void
finish(ScProducer *self, PyObject *error)
{
    note_left(self);
    note_end(self, error);
    if (self->abandoned) {
        Py_CLEAR(error);
    }
    else if (self->closing) {
        error = error_of_closing(self, error);
    }
    PyObject *unused = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->over = true;
    if (self->call == NULL) {
        unused = self->failure;
        self->failure = error;
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(unused);
    if (self->call != NULL && self->call->timed_out) {
        self->code = get_of_iterator(self, self->loop->st->str_ag_code);
    }
    Py_CLEAR(self->step);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->source);
    Py_CLEAR(self->task);
    end_lineage(self);
    if (self->call != NULL) {
        bool is_close = self->call->request == SC_STEP_CLOSE;
        answer(self, is_close && error == NULL ? Py_NewRef(Py_None) : NULL,
               error);
    }
    if (self->announced) {
        self->announced = false;
        sc_task_list_ended(self->loop, self->tenure);
    }
    count(self);
}

/* -- steps -------------------------------------------------------------- */

static int
await_on(ScProducer *self, PyObject *awaitable, Awaited what)
{
    if (awaitable == NULL) {
        return -1;
    }
    self->step = sc_await_iter(awaitable);
    self->awaited = what;
    Py_DECREF(awaitable);
    return self->step ? 0 : -1;
}

/* The async iterator of `iterable`, or NULL with TypeError set. */
static PyObject *
iterator_of(PyObject *iterable)
{
    PyAsyncMethods *methods = Py_TYPE(iterable)->tp_as_async;
    if (methods == NULL || methods->am_aiter == NULL) {
        return PyErr_Format(
            PyExc_TypeError,
            "stream() takes an async iterable, or an awaitable of one; it "
            "awaited %.200R, which is none",
            iterable);
    }
    PyObject *iterator = methods->am_aiter(iterable);
    if (iterator == NULL) {
        return NULL;
    }
    methods = Py_TYPE(iterator)->tp_as_async;
    if (methods == NULL || methods->am_anext == NULL) {
        PyErr_Format(PyExc_TypeError,
                     "__aiter__() returned %.200R, which has no __anext__",
                     iterator);
        Py_CLEAR(iterator);
    }
    return iterator;
}

static int
begin_source(ScProducer *self)
{
    PyAsyncMethods *methods = Py_TYPE(self->source)->tp_as_async;
    if (methods == NULL || methods->am_aiter == NULL) {
        PyObject *source = self->source;
        self->source = NULL;
        return await_on(self, source, AWAIT_SOURCE);
    }
    self->iterator = iterator_of(self->source);
    Py_CLEAR(self->source);
    return self->iterator ? 0 : -1;
}

static PyObject *
ignore(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(generator))
{
    Py_RETURN_NONE;
}

static PyMethodDef ignore_def = {"closed_by_its_stream", ignore, METH_O, NULL};

/* The first item of a generator, which remembers the thread's hooks: where it
 * is garbage, its own task closes it (producer_finalize), no other one. */
static PyObject *
first_of_generator(PyObject *generator)
{
    PyObject *none = PyCFunction_New(&ignore_def, NULL);
    if (none == NULL) {
        return NULL;
    }
    ScAsyncgenHooks hooks = sc_asyncgen_hooks_swap((ScAsyncgenHooks){0});
    ScAsyncgenHooks ours = {Py_XNewRef(hooks.firstiter), none};
    sc_asyncgen_hooks_swap(ours);
    PyObject *first = Py_TYPE(generator)->tp_as_async->am_anext(generator);
    ours = sc_asyncgen_hooks_swap(hooks);
    Py_XDECREF(ours.firstiter);
    Py_XDECREF(ours.finalizer);
    return first;
}

static int
begin_next(ScProducer *self)
{
    PyObject *iterator = self->iterator, *next;
    self->awaited = AWAIT_ITEM;
    if (!self->hooked && PyAsyncGen_CheckExact(iterator)) {
        self->hooked = true;
        next = first_of_generator(iterator);
    }
    else {
        next = Py_TYPE(iterator)->tp_as_async->am_anext(iterator);
    }
    return await_on(self, next, AWAIT_ITEM);
}

/* iterator.NAME(value): 1; 0 where it has no such method. */
static int
begin_method(ScProducer *self, PyObject *name, PyObject *value, Awaited what)
{
    PyObject *method = PyObject_GetAttr(self->iterator, name);
    if (method == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    self->awaited = what;
    PyObject *awaitable = value ? PyObject_CallOneArg(method, value)
                                : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return await_on(self, awaitable, what) < 0 ? -1 : 1;
}

static int
begin_close(ScProducer *self)
{
    int begun = self->iterator ? begin_method(self, self->loop->st->str_aclose,
                                              NULL, AWAIT_CLOSE)
                               : 0;
    if (begun == 0) {
        finish(self, NULL);
    }
    return begun < 0 ? -1 : 0;
}

/* Into the generator, at its yield. */
static int
begin_throw(ScProducer *self, PyObject *error)
{
    int begun = self->iterator ? begin_method(self, self->loop->st->str_athrow,
                                              error, AWAIT_ITEM)
                               : 0;
    if (begun == 0) {
        sc_error_restore(Py_NewRef(error));
        return -1;
    }
    return begun < 0 ? -1 : 0;
}

static int
begin_send(ScProducer *self, PyObject *value)
{
    int begun =
        begin_method(self, self->loop->st->str_asend, value, AWAIT_ITEM);
    if (begun == 0) {
        PyErr_Format(PyExc_TypeError,
                     "send() of a stream over %.200R, which has no asend()",
                     self->iterator);
    }
    return begun > 0 ? 0 : -1;
}

/* Is there anything to do? */
static bool
is_wanted(ScProducer *self)
{
    return self->closing || self->call != NULL ||
           (self->room > 0 && !is_full(self));
}

/* Begin what is asked for.  0; -1 with the generator's error set. */
static int
begin_step(ScProducer *self)
{
    if (self->closing) {
        return begin_close(self);
    }
    if (self->iterator == NULL) {
        return begin_source(self);
    }
    if (self->call != NULL && self->call->request == SC_STEP_SEND) {
        return begin_send(self, self->call->value);
    }
    if (self->call != NULL && self->call->request == SC_STEP_THROW) {
        return begin_throw(self, self->call->value);
    }
    return begin_next(self);
}

/* Before 3.11 the task runs in a copy of its own. */
static void
note_changes(ScProducer *self)
{
    if (self->propagate && !SC_TASK_TAKES_CONTEXT) {
        sc_support_tell("note_changes", "(O)", self->context);
    }
}

/* A step has come to its end.  Steals the value. */
static int
take_value(ScProducer *self, PyObject *value)
{
    Awaited awaited = self->awaited;
    self->awaited = AWAIT_NOTHING;
    Py_CLEAR(self->step);
    note_changes(self);
    if (awaited == AWAIT_ITEM) {
        deliver(self, value);
        return 0;
    }
    if (awaited == AWAIT_SOURCE) {
        self->iterator = self->closing ? NULL : iterator_of(value);
        Py_DECREF(value);
        return self->iterator || self->closing ? 0 : -1;
    }
    Py_DECREF(value);
    finish(self, NULL);
    return 0;
}

/* What the generator, or what was to begin a step, has raised ends it.  0; or
 * -1 with CancelledError set, which the task shall end with. */
static int
take_error(ScProducer *self)
{
    ScState *st = self->loop->st;
    PyObject *error = sc_error_take();
    bool cancelled = PyErr_GivenExceptionMatches(error, st->cancelled_error);
    if (cancelled) {
        Py_INCREF(error);
    }
    if (PyErr_GivenExceptionMatches(error, PyExc_StopAsyncIteration) &&
        self->awaited == AWAIT_ITEM) {
        Py_CLEAR(error);
    }
    self->awaited = AWAIT_NOTHING;
    note_changes(self);
    finish(self, error);
    if (cancelled) {
        sc_error_restore(error);
    }
    return cancelled ? -1 : 0;
}

/* In the task: 3.9 and 3.10 give it a copy of the context that is meant. */
static void
note_context(ScProducer *self)
{
    if (self->task_context == NULL) {
        PyObject *here = SC_TASK_TAKES_CONTEXT ? self->context
                                               : PyThreadState_Get()->context;
        self->task_context = Py_XNewRef(here);
    }
}

static ScAwaitResult
park(ScProducer *self, PyObject **value)
{
    ScState *st = self->loop->st;
    note_context(self);
    PyObject *gate = sc_loop_create_future(self->loop, NULL);
    if (gate == NULL ||
        PyObject_SetAttr(gate, st->str__asyncio_future_blocking, Py_True) <
            0) {
        Py_XDECREF(gate);
        return SC_AWAIT_ERROR;
    }
    self->gate = Py_NewRef(gate);
    count(self);
    *value = gate;
    return SC_AWAIT_YIELD;
}

/* What step_here has left to the task.  True: *result is the task's step. */
static bool
take_handed(ScProducer *self, PyObject **thrown, PyObject **value,
            ScAwaitResult *result)
{
    if (self->raised != NULL) {
        /* It is at its end: what was to be thrown comes too late. */
        Py_CLEAR(*thrown);
        sc_error_restore(self->raised);
        self->raised = NULL;
        *result = SC_AWAIT_ERROR;
        return take_error(self) < 0;
    }
    PyObject *waits_for = self->handed;
    self->handed = NULL;
    if (waits_for == NULL || waits_for == Py_None) {
        Py_XDECREF(waits_for);
        return false;
    }
    if (*thrown != NULL) {
        /* As Task.cancel(): by what it waits for, where that can be. */
        PyObject *done =
            PyObject_CallMethodNoArgs(waits_for, self->loop->st->str_cancel);
        int yes = done ? PyObject_IsTrue(done) : 0;
        Py_XDECREF(done);
        PyErr_Clear();
        if (yes <= 0) {
            Py_DECREF(waits_for);
            return false;
        }
        Py_CLEAR(*thrown);
    }
    self->waited = true;
    *value = waits_for;
    *result = SC_AWAIT_YIELD;
    return true;
}

/* The task's step: go on until something is awaited or all is over.  Steals
 * `thrown`; NULL: nothing is. */
static ScAwaitResult
run(ScProducer *self, PyObject *thrown, PyObject **value)
{
    ScState *st = self->loop->st;
    ScAwaitResult handed;
    Py_CLEAR(self->gate);
    if ((self->handed != NULL || self->raised != NULL) &&
        take_handed(self, &thrown, value, &handed)) {
        return handed;
    }
    while (!self->over) {
        if (self->step == NULL && thrown == NULL && !is_wanted(self)) {
            return park(self, value);
        }
        int rc = 0;
        if (self->step == NULL) {
            rc = thrown ? begin_throw(self, thrown) : begin_step(self);
            Py_CLEAR(thrown);
        }
        if (rc == 0 && self->step != NULL) {
            /* It may be given up, and the generator closed, from inside. */
            PyObject *step = Py_NewRef(self->step);
            ScAwaitResult result =
                thrown ? sc_await_throw(st, step, thrown, value)
                       : sc_await_send(st, step, value);
            Py_CLEAR(thrown);
            Py_DECREF(step);
            if (result == SC_AWAIT_YIELD) {
                self->waited = true;
                count(self);
                return result;
            }
            rc = result == SC_AWAIT_RETURN ? take_value(self, *value) : -1;
        }
        if (rc < 0 && take_error(self) < 0) {
            return SC_AWAIT_ERROR;
        }
    }
    Py_XDECREF(thrown);
    *value = Py_NewRef(Py_None);
    return SC_AWAIT_RETURN;
}

/* -- requests ----------------------------------------------------------- */

/* Nobody runs it: make its task, or let it pass the gate. */
static void
resume(ScProducer *self)
{
    ScState *st = self->loop->st;
    if (self->gate != NULL) {
        self->waited = false;
        /* It is done where the task was cancelled meanwhile. */
        PyObject *stack[] = {self->gate, Py_None};
        PyObject *none =
            PyObject_VectorcallMethod(st->str_set_result, stack, 2, NULL);
        if (none == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(none);
        return;
    }
    if (self->task != NULL) {
        return;
    }
    self->loop->starting = (PyObject *)self;
    PyObject *task =
        sc_task_start(self->loop, (PyObject *)self, self->context);
    self->loop->starting = NULL;
    if (sc_loop_is_dead(self->loop)) {
        /* The parent's: it stays as it was. */
        return;
    }
    if (task == NULL) {
        finish(self, sc_error_take());
    }
    else if (self->over) {
        Py_DECREF(task);
    }
    else {
        self->task = task;
        /* It is not lost where it is garbage: see producer_finalize. */
        if (PyObject_SetAttrString(task, "_log_destroy_pending", Py_False) <
            0) {
            PyErr_Clear();
        }
        self->announced = true;
        self->tenure = sc_task_list_begun(self->loop, task);
        count(self);
    }
}

/* -- a step past the task ------------------------------------------------- */

/* Is the task parked for good, until it is let through the gate? */
static bool
is_parked(ScProducer *self)
{
    if (self->gate == NULL || self->step != NULL || self->iterator == NULL ||
        self->handed != NULL || self->raised != NULL) {
        return false;
    }
    if (self->propagate && !SC_TASK_TAKES_CONTEXT) {
        return false; /* take_value must run inside the task's context */
    }
    PyObject *done =
        PyObject_CallMethodNoArgs(self->gate, self->loop->st->str_done);
    bool parked = done == Py_False;
    Py_XDECREF(done);
    PyErr_Clear();
    return parked;
}

static ScAwaitResult
step_as_task(ScProducer *self, PyObject **value)
{
    ScState *st = self->loop->st;
    PyObject *marks[] = {(PyObject *)self->loop, self->task};
    PyObject *none = PyObject_Vectorcall(st->enter_task, marks, 2, NULL);
    if (none == NULL) {
        return SC_AWAIT_ERROR;
    }
    Py_DECREF(none);
    ScAwaitResult result = SC_AWAIT_ERROR;
    if (begin_step(self) == 0) {
        PyObject *step = Py_NewRef(self->step);
        result = sc_await_send(st, step, value);
        Py_DECREF(step);
    }
    if (sc_loop_is_dead(self->loop)) {
        return result;
    }
    PyObject *error = sc_error_take();
    none = PyObject_Vectorcall(st->leave_task, marks, 2, NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable(self->task);
    }
    Py_XDECREF(none);
    if (error != NULL) {
        sc_error_restore(error);
    }
    return result;
}

/* The task is parked: take the step for it, in its context and in its name,
 * which costs half of what it costs to wake it.  What is more than an item
 * that is ready is handed to the task: what it shall wait for, or the end. */
static void
step_here(ScProducer *self)
{
    PyObject *value = NULL;
    if (PyContext_Enter(self->task_context) < 0) {
        PyErr_Clear();
        resume(self);
        return;
    }
    ScAwaitResult result = step_as_task(self, &value);
    bool dead = sc_loop_is_dead(self->loop);
    PyObject *error = sc_error_take();
    if (PyContext_Exit(self->task_context) < 0) {
        PyErr_WriteUnraisable(self->task);
    }
    if (dead) {
        /* The child of a fork: all of it is the parent's. */
        Py_XDECREF(value);
        Py_XDECREF(error);
        return;
    }
    if (result == SC_AWAIT_RETURN) {
        take_value(self, value);
        return;
    }
    self->handed = value;
    self->raised = error;
    resume(self);
}

void
sc_producer_cancel(ScProducer *self)
{
    if (self->task != NULL && !self->over) {
        PyObject *done =
            PyObject_CallMethodNoArgs(self->task, self->loop->st->str_cancel);
        if (done == NULL) {
            PyErr_WriteUnraisable(self->task);
        }
        Py_XDECREF(done);
    }
}

static void
begin_closing(ScProducer *self)
{
    self->closing = true;
    drop_items(self);
    if (self->task == NULL) {
        /* Nothing was begun; a coroutine is not left "never awaited". */
        if (self->source != NULL && PyCoro_CheckExact(self->source)) {
            sc_call_close_coroutine(self->source);
        }
        finish(self, NULL);
    }
    else if (self->gate != NULL && self->step == NULL) {
        resume(self);
    }
    else {
        sc_producer_cancel(self);
    }
}

/* 0; or -1 with RuntimeError set where somebody is in the context: no step
 * could run, and the call would never end. */
static int
check_context(ScProducer *self)
{
    PyObject *context =
        SC_TASK_TAKES_CONTEXT ? self->context : self->task_context;
    return context == NULL || (PyContext_Enter(context) == 0 &&
                               PyContext_Exit(context) == 0)
               ? 0
               : -1;
}

void
sc_producer_begin(ScProducer *self, ScCall *call)
{
    bool wake = false;
    PyObject *item = NULL;
    if (call->request == SC_STEP_THROW) {
        drop_items(self);
    }
    else if (call->request != SC_STEP_CLOSE) {
        item = sc_producer_pop(self, &wake);
    }
    if (self->call != NULL) {
        /* Its caller has given up, and closing is all that it still gets. */
        self->abandoned = self->closing = true;
    }
    if (item != NULL || self->over || self->abandoned) {
        PyObject *error = NULL;
        if (item == NULL) {
            error = self->failure;
            self->failure = NULL;
        }
        if (item == NULL && call->request == SC_STEP_CLOSE && error == NULL) {
            item = Py_NewRef(Py_None);
        }
        sc_call_settle(call, item, error);
        return;
    }
    if (check_context(self) < 0) {
        sc_call_settle(call, NULL, sc_error_take());
        return;
    }
    self->call = (ScCall *)Py_NewRef((PyObject *)call);
    count(self);
    if (call->request == SC_STEP_CLOSE) {
        begin_closing(self);
    }
    else if (self->room == 0 && self->task_context != NULL &&
             is_parked(self)) {
        step_here(self);
    }
    else {
        resume(self);
    }
}

void
sc_producer_abandon(ScProducer *self)
{
    self->abandoned = self->closing = true;
    Py_CLEAR(self->call);
    count(self);
}

/* Tell the owner, whoever it is: `method` is called on the loop. */
static void
post(ScProducer *self, PyObject *method, PyObject *argument)
{
    ScLoop *loop = self->loop;
    if (sc_loop_is_dead(loop) || loop->closed || sc_is_finalizing()) {
        return;
    }
    PyObject *before = sc_error_take();
    PyObject *bound = PyObject_GetAttr((PyObject *)self, method);
    PyObject *stack[] = {(PyObject *)loop, bound, argument};
    PyObject *handle =
        bound ? PyObject_VectorcallMethod(loop->st->str_call_soon_threadsafe,
                                          stack, 3, NULL)
              : NULL;
    if (handle == NULL) {
        /* Closed at this very moment: what runs on it has ended. */
        PyErr_Clear();
    }
    Py_XDECREF(handle);
    Py_XDECREF(bound);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

void
sc_producer_wake(ScProducer *self)
{
    post(self, self->loop->st->str__resume, Py_None);
}

void
sc_producer_drop(ScProducer *self)
{
    if (!sc_producer_is_over(self)) {
        post(self, self->loop->st->str__drop, Py_None);
    }
}

static PyObject *
producer_wake(ScProducer *self, PyObject *Py_UNUSED(none))
{
    if (!self->over && self->gate != NULL && is_wanted(self)) {
        resume(self);
        count(self);
    }
    Py_RETURN_NONE;
}

/* Its consumer is gone. */
static PyObject *
producer_drop(ScProducer *self, PyObject *Py_UNUSED(none))
{
    if (self->dropped) {
        Py_RETURN_NONE;
    }
    self->dropped = true;
    if (self->over) {
        if (self->failure != NULL && !is_cancelled(self, self->failure)) {
            report(self, self->failure);
        }
        Py_CLEAR(self->failure);
        Py_RETURN_NONE;
    }
    if (self->task != NULL) {
        sc_support_tell("bound_close", "(OOd)", (PyObject *)self->loop,
                        self->task, (double)self->cleanup / 1e9);
    }
    begin_closing(self);
    count(self);
    Py_RETURN_NONE;
}

/* -- the coroutine that the task sees ------------------------------------ */

#if SC_ITER_SEND
static PySendResult
producer_am_send(PyObject *self, PyObject *Py_UNUSED(none), PyObject **value)
{
    switch (run((ScProducer *)self, NULL, value)) {
    case SC_AWAIT_RETURN:
        return PYGEN_RETURN;
    case SC_AWAIT_YIELD:
        return PYGEN_NEXT;
    case SC_AWAIT_ERROR:
        break;
    }
    *value = NULL;
    return PYGEN_ERROR;
}
#endif

static PyObject *
producer_send(ScProducer *self, PyObject *Py_UNUSED(none))
{
    PyObject *value = NULL;
    ScAwaitResult result = run(self, NULL, &value);
    return result == SC_AWAIT_ERROR ? NULL : sc_await_tell(result, value);
}

static PyObject *
producer_throw(ScProducer *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *error = sc_await_thrown(args, nargs), *value = NULL;
    if (error == NULL) {
        return NULL;
    }
    ScAwaitResult result = run(self, error, &value);
    return result == SC_AWAIT_ERROR ? NULL : sc_await_tell(result, value);
}

/* A task that could not be made closes its coroutine. */
static PyObject *
producer_close(ScProducer *self, PyObject *Py_UNUSED(none))
{
    if (!self->over && self->task == NULL) {
        self->closing = true;
        finish(self, NULL);
    }
    Py_RETURN_NONE;
}

static PyObject *
producer_await(PyObject *self)
{
    return Py_NewRef(self);
}

/* As a coroutine shows where it is. */
static PyObject *
producer_get_code(ScProducer *self, void *Py_UNUSED(closure))
{
    return self->code ? Py_NewRef(self->code)
                      : get_of_iterator(self, self->loop->st->str_ag_code);
}

static PyObject *
producer_get_frame(ScProducer *self, void *Py_UNUSED(closure))
{
    return get_of_iterator(self, self->loop->st->str_ag_frame);
}

static PyObject *
producer_repr(ScProducer *self)
{
    return PyUnicode_FromFormat("<stream of %U at %p>", self->name, self);
}

/* -- life --------------------------------------------------------------- */

static PyObject *
name_of(ScState *st, PyObject *source)
{
    PyObject *name = PyObject_GetAttr(source, st->str___qualname__);
    if (name == NULL || !PyUnicode_Check(name)) {
        PyErr_Clear();
        Py_XDECREF(name);
        name = PyUnicode_FromString(Py_TYPE(source)->tp_name);
    }
    return name;
}

ScProducer *
sc_producer_new(ScLoop *loop, PyObject *source, PyObject *context, size_t room,
                bool propagate, int64_t cleanup)
{
    PyTypeObject *type = loop->st->producer_type;
    ScProducer *self = (ScProducer *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (ScLoop *)Py_NewRef((PyObject *)loop);
    self->source = Py_NewRef(source);
    self->context = Py_NewRef(context);
    self->room = room;
    self->slots = room ? room : 1;
    self->cleanup = cleanup;
    self->propagate = propagate;
    self->name = name_of(loop->st, source);
    self->items = PyMem_Calloc(self->slots, sizeof(PyObject *));
    if (self->items == NULL) {
        PyErr_NoMemory();
    }
    if (self->items == NULL || self->name == NULL) {
        Py_CLEAR(self->source);
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

static int
producer_traverse(ScProducer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->source);
    Py_VISIT(self->iterator);
    Py_VISIT(self->code);
    Py_VISIT(self->context);
    Py_VISIT(self->task);
    Py_VISIT(self->gate);
    Py_VISIT(self->task_context);
    Py_VISIT(self->handed);
    Py_VISIT(self->raised);
    Py_VISIT(self->step);
    Py_VISIT(self->call);
    Py_VISIT(self->lineage);
    Py_VISIT(self->failure);
    for (size_t i = 0; i < self->count; i++) {
        Py_VISIT(self->items[(self->first + i) % self->slots]);
    }
    return 0;
}

static int
producer_clear(ScProducer *self)
{
    Py_CLEAR(self->task_context);
    Py_CLEAR(self->handed);
    Py_CLEAR(self->raised);
    end_lineage(self);
    Py_CLEAR(self->source);
    Py_CLEAR(self->step);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->code);
    Py_CLEAR(self->context);
    Py_CLEAR(self->task);
    Py_CLEAR(self->gate);
    Py_CLEAR(self->call);
    Py_CLEAR(self->failure);
    if (self->items != NULL) {
        drop_items(self);
    }
    return 0;
}

/* Parked, it is kept by its stream alone.  Where the garbage collector finds
 * both, its generator is not garbage yet: it is closed first. */
static void
producer_finalize(ScProducer *self)
{
    if (self->over || self->task == NULL || sc_is_finalizing()) {
        return;
    }
    PyObject *before = sc_error_take();
    /* The collector has taken it out of all_tasks(), where a shutdown looks.
     */
    PyObject *list = sc_state_import("asyncio.tasks", "_register_task");
    PyObject *none = list ? PyObject_CallOneArg(list, self->task) : NULL;
    if (none == NULL) {
        PyErr_WriteUnraisable(self->task);
    }
    Py_XDECREF(none);
    Py_XDECREF(list);
    sc_producer_drop(self);
    if (before != NULL) {
        sc_error_restore(before);
    }
}

static void
producer_dealloc(ScProducer *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->source != NULL && PyCoro_CheckExact(self->source)) {
        sc_call_close_coroutine(self->source);
    }
    producer_clear(self);
    /* Not before: its stream, or its task, may still ask for it. */
    Py_CLEAR(self->loop);
    Py_CLEAR(self->name);
    PyMem_Free(self->items);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef producer_methods[] = {
    {"send", SC_METHOD(producer_send), METH_O, NULL},
    {"throw", SC_METHOD(producer_throw), METH_FASTCALL, NULL},
    {"close", SC_METHOD(producer_close), METH_NOARGS, NULL},
    {"_resume", SC_METHOD(producer_wake), METH_O, NULL},
    {"_drop", SC_METHOD(producer_drop), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef producer_members[] = {
    {"__name__", T_OBJECT_EX, offsetof(ScProducer, name), READONLY, NULL},
    {"__qualname__", T_OBJECT_EX, offsetof(ScProducer, name), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef producer_getset[] = {
    {"cr_code", (getter)producer_get_code, NULL, NULL, NULL},
    {"cr_frame", (getter)producer_get_frame, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, (void *)"What a stream's task runs."},
    {Py_tp_repr, SC_SLOT(producer_repr)},
    {Py_tp_methods, producer_methods},
    {Py_tp_members, producer_members},
    {Py_tp_getset, producer_getset},
    {Py_am_await, SC_SLOT(producer_await)},
#if SC_ITER_SEND
    {Py_am_send, SC_SLOT(producer_am_send)},
#endif
    {Py_tp_traverse, SC_SLOT(producer_traverse)},
    {Py_tp_clear, SC_SLOT(producer_clear)},
    {Py_tp_finalize, SC_SLOT(producer_finalize)},
    {Py_tp_dealloc, SC_SLOT(producer_dealloc)},
    {0, NULL},
};

static PyType_Spec producer_spec = {
    .name = "sidecar._core.Producer",
    .basicsize = sizeof(ScProducer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = producer_slots,
};

int
sc_producer_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->producer_type, &producer_spec, NULL, NULL);
}
