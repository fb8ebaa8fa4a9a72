/* Errors: the border between the core's codes and Python's exceptions. */
#ifndef SIDECAR_CORE_ERRORS_H
#define SIDECAR_CORE_ERRORS_H

#include "core/state.h"

typedef enum {
    SC_E_DEADLOCK,
    SC_E_CLOSED,
    SC_E_TIMEOUT,
    SC_E_FORKED,
    SC_E_LOOP_OWNED,
    SC_E_NO_CALLER,
    SC_E_DEADLINE,
    SC_E_DISCONNECTED,
    SC_E_OVERLOADED,
    SC_E_QUEUE_FULL,
} ScErrorCode;

/* Raise the exception that belongs to the code, its number at the end of the
 * message, as PyErr_Format does.  Returns NULL. */
PyObject *sc_error_raise(ScState *st, ScErrorCode code, const char *format,
                         ...);

/* As above, with `cause` (stolen) as the exception's __cause__. */
PyObject *sc_error_raise_from(ScState *st, ScErrorCode code, PyObject *cause,
                              const char *format, ...);

/* Overloaded or one of its kind, which says by which limit.  Returns NULL. */
PyObject *sc_error_raise_overloaded(ScState *st, ScErrorCode code,
                                    const char *limit, const char *format,
                                    ...);

#endif
