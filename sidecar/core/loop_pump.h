/* Loop and pump: the bridge's background thread, as Python sees it.
 *
 * The thread has one thread state of the loop's interpreter, holds a
 * reference to the loop, and starts in an empty context.  It is attached only
 * for its batches.  */
#ifndef SIDECAR_CORE_LOOP_PUMP_H
#define SIDECAR_CORE_LOOP_PUMP_H

#include "core/loop.h"

/* Give a bridge's loop its pump; `name` is the thread's.  Attached.  0, or -1
 * with OSError set. */
int sc_loop_start_pump(ScLoop *self, const char *name);

/* End the pump, detached while it waits, at most until the moment `until`.
 * False: it is stuck in somebody's code, and stays.  Attached. */
bool sc_loop_stop_pump(ScLoop *self, int64_t until);

#endif
