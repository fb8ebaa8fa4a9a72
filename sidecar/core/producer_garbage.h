/* Producer, garbage: a stream that the garbage collector finds.
 *
 * A parked producer, its task, its gate and its generator refer to each other;
 * from outside only the stream refers to them.  The loop does not: a
 * generator's own frame may lead to its stream (a method that reads for the
 * object that keeps the stream), and such a stream would never be garbage.
 * Held by its consumer alone, it is: the collector finds all of them at once,
 * and the producer's finalizer has the generator closed, by its own task.
 *
 * That must not begin while the collection still goes through its finalizers,
 * of which it calls one for each of the objects found: without a GIL the
 * generator's would run beside the generator itself, and everywhere those of
 * the objects that the cleanup is about to use would.  So the closing is
 * posted by the sentinel, a small object: it and the producer refer to each
 * other.
 *
 * - Until then it changes nothing: the two are found together.
 * - The finalizer lets go of it.  From then on it refers to itself, and keeps
 *   the producer without telling the collector so.
 * - Finalizers done, the collector looks once more.  The producer, and all
 *   that it leads to, is held from outside, and lives.  The sentinel is not,
 *   and is cleared: it posts the closing, and the loop has the producer.
 *
 * A collection of some objects only, those of a generation or an increment,
 * that has the producer has the sentinel as well: it is the younger one, and
 * each leads to the other.
 *
 * Before any finalizer the collector clears weak references, by which asyncio
 * lists its tasks.  A shutdown at that moment would take the loop for empty:
 * so the loop has a list of the producers that are begun and not over, which
 * refers to them without holding them (`loop->unfinished`).  */
#ifndef SIDECAR_CORE_PRODUCER_GARBAGE_H
#define SIDECAR_CORE_PRODUCER_GARBAGE_H

#include "core/producer.h"

/* On the owner: it has a task now.  Then: it is over, or is taken apart by
 * the collector, on any thread; a second time it does nothing. */
void sc_producer_join(ScProducer *self);
void sc_producer_leave(ScProducer *self);

/* A method of the loop: a list of the tasks of what is in that list. */
PyObject *sc_producer_tasks(ScLoop *loop, PyObject *ignored);

/* Once it has a task: make the sentinel.  Without memory there is none, and
 * what the collector finds is closed at once. */
void sc_producer_make_sentinel(ScProducer *self);

/* The producer's finalizer: only the collector calls it. */
void sc_producer_finalize(ScProducer *self);

/* On the owner: asyncio.all_tasks() shows its task again. */
void sc_producer_show(ScProducer *self);

int sc_producer_sentinel_init(PyObject *module);

#endif
