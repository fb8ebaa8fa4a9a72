/* Delivery: how the ends of jobs come to the loop of their futures.
 *
 * There is one for each event loop, ours or another's, kept as an attribute
 * of the loop.  A thread that ends a job leaves the result there; the first
 * to leave one calls call_soon_threadsafe, and what others leave until that
 * callback runs goes with it: a thousand jobs that end at once do not wake
 * the loop a thousand times.
 *
 * What holds: `sent` is true from the moment that a thread has taken it upon
 * itself to wake the loop until the callback has emptied the list, both in
 * the critical section, so a result that is in the list has a callback on its
 * way.  Where the loop is closed, and refuses it, the list is dropped: who
 * awaited went with the loop.  Futures are touched on their loop only.
 *
 * `expected` counts jobs between their making and their delivery; it is the
 * loop's own thread's.  Everything here is called attached.  */
#ifndef SIDECAR_CORE_DELIVERY_H
#define SIDECAR_CORE_DELIVERY_H

#include <stdbool.h>

#include "core/state.h"

/* The loop's; new reference, or NULL with an error set. */
PyObject *sc_delivery_of(ScState *st, PyObject *loop);

/* On the loop's thread: a job is made, or was made in vain.  True: no other
 * one is on its way. */
bool sc_delivery_expect(PyObject *delivery);
void sc_delivery_forget(PyObject *delivery);

/* From any thread: future.METHOD(value) on the loop, where the future is not
 * done by then; "set_converted" is set_exception() with asyncio's own errors
 * for those of concurrent.futures.  METHOD is interned and the state's. */
void sc_delivery_send(PyObject *delivery, PyObject *loop, PyObject *future,
                      PyObject *method, PyObject *value);

#endif
