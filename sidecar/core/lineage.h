/* Lineage: which call a coroutine runs for.
 *
 * A call's own task is known by the call that follows it, a stream's by its
 * producer.  The tasks that these make carry it in a context variable, which
 * is set when the first of them is made: calls that make none pay nothing.
 * It names a small object that outlives the call and then names nothing.
 *
 * The owner's; attached, on a bridge's loop.  */
#ifndef SIDECAR_CORE_LINEAGE_H
#define SIDECAR_CORE_LINEAGE_H

#include "core/loop.h"

/* Before the running code makes a task in a copy of its context.  0, or -1
 * with an error set. */
int sc_lineage_mark(ScLoop *loop);

/* The call whose thread waits for what runs now, a new reference.  NULL
 * without an error: nobody waits (any more). */
struct ScCall *sc_lineage_call(ScLoop *loop);

/* Whether a value of the context variable names that call.  Any thread. */
bool sc_lineage_is_of(PyObject *lineage, struct ScCall *call);

/* Its call or producer is over. */
void sc_lineage_end(PyObject *lineage);

#endif
