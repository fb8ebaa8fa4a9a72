/* Await: what the interpreter's `await` does, from C.
 *
 * An awaitable is turned into the iterator that `await` drives; a step sends
 * or throws into it.  And the other side: what an object tells that is itself
 * awaited, each of whose steps ends in a ScAwaitResult.  Everything here is
 * called attached.  */
#ifndef SIDECAR_CORE_AWAIT_H
#define SIDECAR_CORE_AWAIT_H

#include "core/state.h"

/* As PySendResult. */
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

/* A step's result as the methods `send` and `throw` return it: its end is
 * StopIteration.  Steals *value. */
PyObject *sc_await_tell(ScAwaitResult result, PyObject **value);

#if SC_ITER_SEND
/* The same as the slot `am_send` returns it. */
static inline PySendResult
sc_await_sent(ScAwaitResult result, PyObject **value)
{
    _Static_assert((int)SC_AWAIT_ERROR == (int)PYGEN_ERROR &&
                       (int)SC_AWAIT_RETURN == (int)PYGEN_RETURN &&
                       (int)SC_AWAIT_YIELD == (int)PYGEN_NEXT,
                   "a result is told as it is");
    if (result == SC_AWAIT_ERROR) {
        *value = NULL;
    }
    return (PySendResult)result;
}
#endif

#endif
