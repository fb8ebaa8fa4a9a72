/* Whereabouts: what a coroutine is called, and where it waits.
 *
 * Only attributes of the interpreter's own coroutines, generators, frames and
 * code are looked at: no bytecode is run, so no signal handler is.  Attached;
 * sets no error.  */
#ifndef SIDECAR_CORE_WHEREABOUTS_H
#define SIDECAR_CORE_WHEREABOUTS_H

#include <stddef.h>

#include "core/compat.h"

/* "fetch at /srv/app.py:12", where it is defined; terminated. */
void sc_whereabouts_name(PyObject *coro, char *text, size_t room);

/* "/srv/app.py:15 in fetch", the innermost place that is not asyncio's, and
 * what of asyncio's it awaits; "": it is over, or runs just now. */
void sc_whereabouts_await(PyObject *coro, char *text, size_t room);

#endif
