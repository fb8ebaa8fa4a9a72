/* Run args: what run_sync is called with.  Attached. */
#ifndef SIDECAR_CORE_RUN_ARGS_H
#define SIDECAR_CORE_RUN_ARGS_H

#include "core/call.h"

/* run_sync(awaitable, *, timeout=None, context=None) in vectorcall's form:
 * fill in what is given (context borrowed) and leave the rest of *call as it
 * is, its coro too.  0, or -1 with TypeError or ValueError set. */
int sc_run_args_parse(ScState *st, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames, ScCallArgs *call);

#endif
