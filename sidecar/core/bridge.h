/* Bridge: a loop, its pump, and how they come and go.
 *
 * The C type holds what every call passes through; making the loop, draining
 * it and the public class are Python (sidecar/_bridge.py).  Its start is under
 * a lock that is waited for detached.  The child of a fork finds a bridge that
 * is not started, whatever the parent's was, and a lock that nobody holds.
 * Everything here is called attached.  */
#ifndef SIDECAR_CORE_BRIDGE_H
#define SIDECAR_CORE_BRIDGE_H

#include "core/loop.h"
#include "core/state.h"

/* New reference to the loop of a sidecar.Sidecar, started where it is not; or
 * NULL with an error set: it was shut down. */
ScLoop *sc_bridge_loop(PyObject *bridge);

/* What its calls get that name none, in ns. */
void sc_bridge_limits(PyObject *bridge, int64_t *timeout, int64_t *cleanup);

/* What a call holds of a bridge that allows so many at a time. */
typedef struct {
    bool taken;
    unsigned generation; /* of the process that took it */
} ScPlace;

/* Take one, if there is a cap: 0, or -1 with Overloaded set, counted.  And
 * give it back, once or more often. */
int sc_bridge_admit(PyObject *bridge, ScPlace *place);
void sc_bridge_release(PyObject *bridge, ScPlace *place);

/* run_sync(awaitable, *, timeout=None, context=None) on this interpreter's
 * own bridge, in vectorcall's form (nargs without the offset bit). */
PyObject *sc_run_sync(ScState *st, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames);

#endif
