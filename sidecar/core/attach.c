#include "core/attach.h"

int
sc_attach_begin(ScAttach *attach, PyInterpreterState *interp)
{
    attach->tstate = NULL;
    if (sc_is_finalizing()) {
        return -1;
    }
    attach->tstate = PyThreadState_New(interp);
    if (attach->tstate == NULL) {
        return -1;
    }
    PyEval_RestoreThread(attach->tstate);
    return 0;
}

void
sc_attach_pause(ScAttach *attach)
{
    (void)attach;
    PyEval_SaveThread();
}

void
sc_attach_resume(ScAttach *attach)
{
    PyEval_RestoreThread(attach->tstate);
}

void
sc_attach_end(ScAttach *attach)
{
    PyThreadState_Clear(attach->tstate);
    PyThreadState_DeleteCurrent();
    attach->tstate = NULL;
}
