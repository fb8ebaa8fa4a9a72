#include "core/loop_pump.h"

#include <pthread.h>

#include "core/attach.h"
#include "core/loop_run.h"
#include "core/support.h"

typedef struct {
    ScLoop *loop; /* strong, the thread's own */
    ScAttach attach;
} PumpContext;

static bool
pump_begin(void *arg)
{
    PumpContext *context = arg;
    if (sc_attach_begin(&context->attach, context->loop->interp) < 0) {
        return false;
    }
    sc_attach_pause(&context->attach);
    return true;
}

/* A coroutine has forked, and this thread is the child's only one.  The drive
 * and all descriptors are the parent's: leave them alone, and end. */
static void
end_in_child(PumpContext *context)
{
    sc_attach_end(&context->attach);
    pthread_exit(NULL);
}

static void
pump_batch(void *arg)
{
    PumpContext *context = arg;
    ScLoop *loop = context->loop;
    sc_attach_resume(&context->attach);
    sc_loop_run_batch(loop);
    if (sc_loop_is_dead(loop)) {
        end_in_child(context);
    }
    sc_drive_leave(loop->drive, loop->ring.count > 0, sc_loop_next_due(loop));
    sc_attach_pause(&context->attach);
}

static void
pump_end(void *arg)
{
    PumpContext *context = arg;
    sc_attach_resume(&context->attach);
    /* Python code may have asked for threading.current_thread() here. */
    sc_support_tell("forget_thread", NULL);
    Py_DECREF((PyObject *)context->loop);
    sc_attach_end(&context->attach);
    PyMem_RawFree(context);
}

static const ScPumpWork pump_work = {
    .begin = pump_begin, .batch = pump_batch, .end = pump_end};

int
sc_loop_start_pump(ScLoop *self, const char *name)
{
    PumpContext *context = PyMem_RawCalloc(1, sizeof(*context));
    ScPump *pump = PyMem_RawCalloc(1, sizeof(*pump));
    if (context == NULL || pump == NULL) {
        PyMem_RawFree(context);
        PyMem_RawFree(pump);
        PyErr_NoMemory();
        return -1;
    }
    context->loop = (ScLoop *)Py_NewRef((PyObject *)self);
    /* Nobody else knows the loop yet.  Own it before the thread is there: it
     * would take a free loop that has something to do. */
    sc_drive_claim(self->drive);
    if (sc_pump_start(pump, self->drive, &pump_work, context, name) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        sc_drive_disclaim(self->drive);
        Py_DECREF((PyObject *)self);
        PyMem_RawFree(context);
        PyMem_RawFree(pump);
        return -1;
    }
    self->pump = pump;
    /* Run what it was born with, and leave it so that from here on whatever
     * comes due finds the pump (drive.h, 2). */
    sc_loop_run_batch(self);
    sc_drive_leave(self->drive, self->ring.count > 0, sc_loop_next_due(self));
    return 0;
}

bool
sc_loop_stop_pump(ScLoop *self, int64_t until)
{
    ScPump *pump = self->pump;
    if (pump == NULL || sc_loop_is_dead(self)) {
        return true;
    }
    if (sc_is_finalizing()) {
        /* A sub-interpreter that nobody ended: its threads can attach no
         * more, so there is nothing to wait for. */
        until = 0;
    }
    bool over;
    PyThreadState *save = PyEval_SaveThread();
    over = sc_pump_stop(pump, until);
    PyEval_RestoreThread(save);
    /* A stuck one lives on with what it uses. */
    self->pump = NULL;
    if (over) {
        PyMem_RawFree(pump);
    }
    return over;
}
