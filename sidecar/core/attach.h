/* Attach: how a native thread of ours comes to run Python.
 *
 * The thread keeps one thread state of the interpreter it works for, from
 * begin to end; PyGILState_* would attach to the main interpreter, which may
 * be the wrong one under a server with sub-interpreters.  All four are called
 * on that thread only.  */
#ifndef SIDECAR_CORE_ATTACH_H
#define SIDECAR_CORE_ATTACH_H

#include "core/compat.h"

typedef struct ScAttach {
    PyThreadState *tstate;
} ScAttach;

/* Make the thread state and attach.  0, or -1 without memory or while the
 * interpreter ends (not attached then). */
int sc_attach_begin(ScAttach *attach, PyInterpreterState *interp);

/* Detach and attach again; the thread state stays.  Once the interpreter is
 * being torn down resume does not return, so hold no lock there. */
void sc_attach_pause(ScAttach *attach);
void sc_attach_resume(ScAttach *attach);

/* Attached on entry: clear the thread state and free it. */
void sc_attach_end(ScAttach *attach);

#endif
