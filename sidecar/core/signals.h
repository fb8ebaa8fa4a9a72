/* Signals: how the main thread, the only one that runs signal handlers, waits
 * without missing one.
 *
 * A signal may come after the check for pending ones and before the wait, and
 * may be delivered to another thread.  CPython's own handler writes a byte to
 * the wake-up descriptor in either case; for the time of a wait that is a
 * pipe of ours, which the wait polls as well.  What was the wake-up
 * descriptor before (asyncio's, a server's) gets the bytes that came
 * meanwhile.  No signal handler is ever installed.  Attached, main thread
 * only, but for the two questions.  */
#ifndef SIDECAR_CORE_SIGNALS_H
#define SIDECAR_CORE_SIGNALS_H

#include "core/state.h"

typedef struct {
    int before;   /* the wake-up descriptor that was there */
    bool watched; /* ours is there now */
} ScSignalWait;

/* Is this the thread that runs signal handlers?  Any thread, attached, with no
 * error set. */
bool sc_signals_is_main(ScState *st);

/* Make what the waits need; kept until the process forks.  0, or -1 with
 * OSError set. */
int sc_signals_prepare(ScState *st);

/* Before a wait: 0, or -1 with what a pending signal's handler raised. */
int sc_signals_begin(ScState *st, ScSignalWait *wait);

/* After it: run the handlers of what came.  0, or -1 as above. */
int sc_signals_end(ScState *st, ScSignalWait *wait);

/* Beside single waits: while the main thread runs a plain loop, which has the
 * pipe in its epoll set.  From its first wait on the pipe stays the wake-up
 * descriptor; `kept` is the loop's, zeroed at first.  Before each wait: 0, or
 * -1 with what a pending signal's handler raised. */
int sc_signals_keep(ScState *st, ScSignalWait *kept);

/* The pipe has bytes: pass them on. */
void sc_signals_drain(ScState *st);

/* The run is over: back to what was there before, or to what somebody has set
 * meanwhile. */
void sc_signals_release(ScState *st, ScSignalWait *kept);

/* Is the exception that is set a signal handler's, rather than that of the
 * code which the handler interrupted?  Of this thread just now. */
bool sc_signals_have_raised(ScState *st);

/* The module is cleared: close the descriptors. */
void sc_signals_fini(ScState *st);

#endif
