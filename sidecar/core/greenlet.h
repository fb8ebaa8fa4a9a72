/* Greenlet: how a caller waits without blocking its thread, where gevent has
 * patched the interpreter.
 *
 * A hook, once set, is called with the loop at each call; it returns None
 * (this thread waits as any other), or an object of two methods: wait(seconds
 * or None) lets the thread's other greenlets run until wake() was called or
 * the time is over, and raises what is thrown into the greenlet; wake() may be
 * called by any thread, before and after the wait as well.  Either may end for
 * nothing.
 *
 * While a greenlet waits its part of the C stack is copied away, so nothing
 * that another thread touches may be on it.  Such a caller never drives: it
 * would block the other greenlets, and they might call as well, on the very
 * thread that owns the loop.  So where a bridge has lost its pump and leaves
 * calls behind, it ends their waits itself, by an error.  Attached.  */
#ifndef SIDECAR_CORE_GREENLET_H
#define SIDECAR_CORE_GREENLET_H

#include "core/state.h"

/* Ask the hook.  0 and a new reference in *waiter, or NULL there: wait as
 * always.  -1 with an error set: no greenlet may wait here. */
int sc_greenlet_waiter(ScState *st, PyObject *loop, PyObject **waiter);

/* At most until the moment `until` (SC_NEVER: no limit).  0, or -1 with what
 * was thrown into the greenlet. */
int sc_greenlet_wait(ScState *st, PyObject *waiter, int64_t until);

/* After the waiter's word was set.  NULL is fine.  Keeps the error set. */
void sc_greenlet_wake(ScState *st, PyObject *waiter);

#endif
