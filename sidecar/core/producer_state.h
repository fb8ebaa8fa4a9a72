/* Producer, inside: what the producer_*.c files share.
 *
 *   producer_queue.c    items that were read ahead
 *   producer_answer.c   what a request is answered with, and the end
 *   producer_step.c     one step of the generator: its begin, its end, and a
 *                       whole one past the parked task
 *   producer_task.c     the task: how it is made and woken, what it runs
 *   producer_request.c  what the consumer, or nobody any more, asks for
 *   producer_garbage.c  what is unfinished, and found by the collector
 *   producer.c          the object, and its face of a coroutine
 *
 * What holds, but for what `producer.h` says:
 *
 * - `source` is there until it is awaited, or asked for its iterator;
 *   `iterator` from then on, `task` from the first request on.  After the end
 *   (`over`) none of them is, nor `step`.
 * - `step` is there while something is awaited; `awaited` says what, also
 *   while a step is only begun: what raises then is of that kind.
 * - Parked is: `gate` is there, and `step` is not.  With `gate` it may hold
 *   what step_here has left to the task (`handed`, `raised`): then the gate
 *   is open, and the task on its way.
 * - `call` is there while somebody waits, and then the queue is empty.
 * - Each function that runs code of others may find the loop dead afterwards:
 *   the code has forked.  All of it is the parent's then.  */
#ifndef SIDECAR_CORE_PRODUCER_STATE_H
#define SIDECAR_CORE_PRODUCER_STATE_H

#include "core/await.h"
#include "core/producer.h"
#include "core/work.h"

/* What is awaited just now. */
typedef enum {
    SC_AWAITS_NOTHING,
    SC_AWAITS_SOURCE, /* an awaitable, for the iterable */
    SC_AWAITS_ITEM,
    SC_AWAITS_CLOSE,
} ScAwaited;

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
    ScAwaited awaited;
    ScCall *call; /* strong: who waits for the next item */
    PyObject **items;
    size_t room, slots, first, count;
    int64_t cleanup;   /* ns, once its consumer is gone */
    PyObject *lineage; /* what its coroutines know it by; or NULL */
    PyObject *failure; /* for the consumer's next request */
    ScWork work;       /* what its task is of a request's */
    bool propagate;
    bool over;
    bool closing;          /* no item is wanted any more */
    bool counted;          /* in drive.tasks */
    bool dropped;          /* its consumer is gone */
    bool hooked;           /* its generator is begun */
    atomic_bool waited;    /* since it was woken: reading ahead pays */
    atomic_bool abandoned; /* its caller went without an answer */
    bool announced;        /* to the list of tasks, in `tenure` */
    bool found;            /* by the garbage collector */
    unsigned tenure;
    PyObject *sentinel; /* producer_garbage.h */
    ScProducer *next;   /* in loop->unfinished, borrowed */
    ScProducer **link;  /* where that list has it; NULL: nowhere */
};

/* -- queue -------------------------------------------------------------- */

static inline bool
sc_producer_is_full(ScProducer *self)
{
    bool full;
    Py_BEGIN_CRITICAL_SECTION(self);
    full = self->count >= self->room;
    Py_END_CRITICAL_SECTION();
    return full;
}

/* Steals the item.  Each time a generator is cancelled while nobody waits, it
 * may yield one more than there is room for. */
void sc_producer_push(ScProducer *self, PyObject *item);

void sc_producer_drop_items(ScProducer *self);

/* -- answers ------------------------------------------------------------ */

/* Does it go on though no call waits for it?  Then the pump drives it. */
static inline void
sc_producer_count(ScProducer *self)
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

/* An item has come.  Steals it. */
void sc_producer_deliver(ScProducer *self, PyObject *item);

/* The generator is at its end.  Steals `error`, NULL: it just ended. */
void sc_producer_finish(ScProducer *self, PyObject *error);

/* An error for which nobody will ever ask. */
void sc_producer_report(ScProducer *self, PyObject *error);

bool sc_producer_is_cancelled(ScProducer *self, PyObject *error);
void sc_producer_end_lineage(ScProducer *self);

/* What an async generator knows of itself; None: it is none, or gone. */
PyObject *sc_producer_ask_iterator(ScProducer *self, PyObject *name);

/* -- steps -------------------------------------------------------------- */

/* Is there anything to do? */
static inline bool
sc_producer_is_wanted(ScProducer *self)
{
    return self->closing || self->call != NULL ||
           (self->room > 0 && !sc_producer_is_full(self));
}

/* Begin what is asked for; or throw into the generator, at its yield.  0; -1
 * with the generator's error set. */
int sc_producer_begin_step(ScProducer *self);
int sc_producer_begin_throw(ScProducer *self, PyObject *error);

/* A step has come to its end.  Steals the value.  As above. */
int sc_producer_take_value(ScProducer *self, PyObject *value);

/* What the generator, or what was to begin a step, has raised ends it.  0; or
 * -1 with CancelledError set, which the task shall end with. */
int sc_producer_take_error(ScProducer *self);

/* Is the task parked for good, until it is let through the gate?  Then the
 * owner may take the step for it, in its context and in its name, which costs
 * half of what it costs to wake it.  What is more than an item that is ready
 * is handed to the task: what it shall wait for, or the end. */
bool sc_producer_is_parked(ScProducer *self);
void sc_producer_step_here(ScProducer *self);

/* -- the task ----------------------------------------------------------- */

/* Nobody runs it: make its task, or let it pass the gate. */
void sc_producer_resume(ScProducer *self);

/* The task's step: go on until something is awaited or all is over.  Steals
 * `thrown`; NULL: nothing is. */
ScAwaitResult sc_producer_run(ScProducer *self, PyObject *thrown,
                              PyObject **value);

/* -- requests ----------------------------------------------------------- */

/* Methods, which the loop calls when they were posted. */
PyObject *sc_producer_wake_now(ScProducer *self, PyObject *none);
PyObject *sc_producer_drop_now(ScProducer *self, PyObject *none);

#endif
