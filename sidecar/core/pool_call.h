/* Pool call: a function on its way to a worker pool, as a coroutine.
 *
 * It can be awaited in any running asyncio loop, and made a task of.  As with
 * a coroutine nothing happens before its first step: then the job is
 * submitted, and it awaits a future of that loop.  Cancelled before a thread
 * has begun it the job is not run; after that its result is dropped.
 * Attached.  */
#ifndef SIDECAR_CORE_POOL_CALL_H
#define SIDECAR_CORE_POOL_CALL_H

#include "core/job.h"
#include "core/state.h"

/* Pool.call(context, fn, *args, **kwargs), in vectorcall's form.  `places`: of
 * the pool's, one of which was taken for it; or NULL.  Where it fails that is
 * still the caller's. */
PyObject *sc_pool_call(PyObject *pool, PyObject *places, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames);

/* executor.c: put a job into the queue.  0, or -1 with an error set. */
int sc_pool_submit(PyObject *pool, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames, const ScJobTarget *target);

#endif
