/* Running loop: what asyncio takes for this thread's running loop.
 *
 * Before 3.12 asyncio's own function makes a new holder at each change, and
 * asks the kernel for the process's number; at two changes a call that is most
 * of what a call costs.  There the thread's holder is changed in place, once
 * asyncio has made one of the layout that those versions have.  Attached.  */
#ifndef SIDECAR_CORE_RUNNING_LOOP_H
#define SIDECAR_CORE_RUNNING_LOOP_H

#include "core/state.h"

/* New reference, None where there is none; or NULL. */
PyObject *sc_running_loop_get(ScState *st);

/* 0, or -1 with an error set. */
int sc_running_loop_set(ScState *st, PyObject *loop);

#endif
