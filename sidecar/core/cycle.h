/* Cycle: threads that drive one loop and wait, in one of its coroutines or
 * callbacks, for a call on another.
 *
 * While such a thread waits, the loop that it drives stands still.  Where the
 * owner of the loop that it waits for is another such thread, which waits for
 * the first one's, neither ever goes on.  Each of them is listed here before
 * it waits, and follows the list from its call's loop to that loop's owner, to
 * the loop which that one waits for, and so on: the last one to begin finds
 * the way back to itself, and refuses.
 *
 * Who waits without driving anything is not listed.  But it may work for a
 * call (lineage.h: a job that a coroutine awaits) for which one of those
 * threads waits: then it must not wait for a loop that such a thread holds.
 * It looks where somebody is listed; else it pays nothing.
 *
 * The list is the interpreter's, and guarded by the module's critical section
 * (the GIL).  Attached.  */
#ifndef SIDECAR_CORE_CYCLE_H
#define SIDECAR_CORE_CYCLE_H

#include "core/call.h"

typedef struct ScHolder {
    struct ScHolder *next;
    uintptr_t thread;
    ScCall *call; /* what it waits for; a frame of it holds it */
    unsigned generation;
} ScHolder;

/* This thread, which drives a loop, is about to enter the call.  0; or -1 with
 * DeadlockError set: it must not, and is not listed. */
int sc_cycle_enter(ScHolder *holder, ScCall *call);
void sc_cycle_leave(ScHolder *holder);

/* This thread, which drives none, is about to enter the call.  0; or -1 with
 * DeadlockError set. */
int sc_cycle_check(ScCall *call);

static inline bool
sc_cycle_is_possible(ScState *st)
{
    return atomic_load_explicit(&st->holders_count, memory_order_relaxed) > 0;
}

#endif
