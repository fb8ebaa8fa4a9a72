/* Support: the cold paths that are better said in Python (sidecar/_support.py)
 * and are looked up by name when they are needed.  */
#ifndef SIDECAR_CORE_SUPPORT_H
#define SIDECAR_CORE_SUPPORT_H

#include "core/state.h"

struct ScLoop;

/* sidecar._support.NAME(*args), the arguments in Py_BuildValue's format for a
 * tuple ("(OO)"; NULL: none).  New reference, or NULL with an error set. */
PyObject *sc_support_call(const char *name, const char *format, ...);

/* As above for its effect: an error goes to sys.unraisablehook.  The error
 * that is set on entry stays set. */
void sc_support_tell(const char *name, const char *format, ...);

/* Take the error that is set to the loop's exception handler, as the failure
 * of `handle`. */
void sc_support_report(struct ScLoop *loop, PyObject *handle);

#endif
