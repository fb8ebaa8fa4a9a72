/* Traceback: what a user sees of an error is the user's own code.
 *
 * Entries of the package's Python files are taken out of the traceback where
 * an error leaves Sidecar for the caller.  Where coroutines share an error,
 * other threads have the same entries: none is ever changed, and the exception
 * gets copies of those that stay.  Attached.  */
#ifndef SIDECAR_CORE_TRACEBACK_H
#define SIDECAR_CORE_TRACEBACK_H

#include "core/state.h"

void sc_traceback_prune(ScState *st, PyObject *error);

#endif
