/* Producer: the async side of a stream.
 *
 * One task runs it, from the stream's first step to its end, so that every
 * step of the generator is in that task and in one context: it is what the
 * task takes for its coroutine.  Between steps it awaits a future of its own,
 * the gate, which the next request opens.  In lockstep the owner takes the
 * step past the parked task, in its name and context, and leaves to it only
 * what is more than an item that is ready.  A request is a call (call.h) of a
 * kind of its own: it is settled by an item, by the generator's exception, or,
 * at its end, by neither.
 *
 * With `room` it reads ahead: items wait in a queue until the consumer takes
 * them or the queue is full.
 *
 * Who may touch it: the owner of the loop.  The queue and the last word (over,
 * failure) are read by the consumer as well, and guarded by the producer's
 * critical section.  It counts among the loop's tasks (drive.tasks) while it
 * can go on and no call waits for it: a parked one is nobody's business.
 * Everything here is called attached.  */
#ifndef SIDECAR_CORE_PRODUCER_H
#define SIDECAR_CORE_PRODUCER_H

#include "core/call.h"
#include "core/loop.h"

typedef struct ScProducer ScProducer;

/* What a call asks of it. */
typedef enum {
    SC_STEP_NEXT,
    SC_STEP_SEND,
    SC_STEP_THROW,
    SC_STEP_CLOSE,
} ScStepKind;

/* New reference; `source` is an async iterable, or an awaitable of one. */
ScProducer *sc_producer_new(ScLoop *loop, PyObject *source, PyObject *context,
                            size_t room, bool propagate, int64_t cleanup);

/* What it iterates, borrowed; NULL: nothing yet. */
PyObject *sc_producer_iterator(ScProducer *self);

/* On the owner: a call begins; cancel what is awaited; the call is left
 * behind, and the generator to its own: it is closed where it yields. */
void sc_producer_begin(ScProducer *self, ScCall *call);
void sc_producer_cancel(ScProducer *self);
void sc_producer_abandon(ScProducer *self);

/* On the owner: the call that waits for its next item, borrowed, or NULL; and
 * where its lineage is kept (lineage.h). */
ScCall *sc_producer_call(ScProducer *self);
PyObject **sc_producer_lineage(ScProducer *self);

/* The consumer, anywhere: an item that is there already (new reference), or
 * NULL.  *wake: enough of them are gone that reading on pays. */
PyObject *sc_producer_pop(ScProducer *self, bool *wake);

/* Nothing comes any more: every request is answered by its last word. */
bool sc_producer_is_over(ScProducer *self);

/* The consumer, anywhere: is it at its end, with no item left?  *error is its
 * last word, a new reference, told once; or NULL. */
bool sc_producer_end(ScProducer *self, PyObject **error);

/* A consumer that is gone: close the generator, which gets `cleanup` ns for
 * it; what it raises goes to the loop's exception handler.  From any thread;
 * keeps the error that is set. */
void sc_producer_drop(ScProducer *self);

/* From any thread: read on. */
void sc_producer_wake(ScProducer *self);

#endif
