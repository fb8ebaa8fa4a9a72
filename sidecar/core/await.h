/* Await: what the interpreter's `await` does, from C.
 *
 * An awaitable is turned into the iterator that `await` drives; a step sends
 * or throws into it.  Everything here is called attached.  */
#ifndef SIDECAR_CORE_AWAIT_H
#define SIDECAR_CORE_AWAIT_H

#include "core/state.h"

typedef enum {
    SC_AWAIT_ERROR = -1, /* an exception is set */
    SC_AWAIT_RETURN,     /* it is over: *value is its result */
    SC_AWAIT_YIELD,      /* it waits: *value is for the task */
} ScAwaitResult;

/* New reference to the iterator, or NULL with TypeError set. */
PyObject *sc_await_iter(PyObject *awaitable);

/* One step; *value is a new reference, or NULL on error. */
ScAwaitResult sc_await_send(ScState *st, PyObject *iter, PyObject **value);
ScAwaitResult sc_await_throw(ScState *st, PyObject *iter, PyObject *error,
                             PyObject **value);

/* The result of a step that came as an object or, NULL, as StopIteration. */
ScAwaitResult sc_await_settle(PyObject *yielded, PyObject **value);

/* For a method `throw(typ[, val[, tb]])`: the exception as one object, a new
 * reference; NULL with TypeError set. */
PyObject *sc_await_thrown(PyObject *const *args, Py_ssize_t nargs);

/* For a method `send`: what PyIter_Send tells as a result code, told by
 * StopIteration instead.  Takes the value over. */
PyObject *sc_await_tell(ScAwaitResult result, PyObject *value);

#endif
