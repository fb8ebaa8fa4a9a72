/* Job: a Python call on its way through a worker pool, and what the pool's
 * threads do around their jobs.
 *
 * A job is one block of C memory: future, context, callable and arguments in
 * vectorcall's form.  It belongs to the submitter until sc_threads_submit has
 * taken it, then to the thread that runs it or to whoever drains it.  As an
 * errand it belongs to the call that it was sent to (call.h) instead.
 * Everything here is called attached.  */
#ifndef SIDECAR_CORE_JOB_H
#define SIDECAR_CORE_JOB_H

#include "core/inbox.h"
#include "core/state.h"
#include "core/threads.h"

/* The hooks for sc_threads_new; its context is the PyInterpreterState. */
extern const ScThreadsWork sc_job_threads;

/* Who is told the end.  All strong in the job, borrowed here. */
typedef struct {
    PyObject *future;  /* concurrent.futures' or, with a loop, asyncio's */
    PyObject *loop;    /* NULL, or the event loop that the future is of */
    PyObject *context; /* to run in; NULL: a copy of this thread's */
    /* A place was taken there for it (limit.h), which the job has from here
     * on and gives back when it begins; or NULL. */
    PyObject *places;
    bool converts; /* loop.run_in_executor()'s: its errors become asyncio's */
} ScJobTarget;

/* fn and its arguments as vectorcall passes them: args[0] is fn.  NULL with an
 * error set; the place is the caller's then. */
ScJob *sc_job_new(ScState *st, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames, const ScJobTarget *target);

/* Is no other job on its way to its loop? */
bool sc_job_is_alone(const ScJob *job);

/* Around a wait of this thread for what other jobs may have to do: where it is
 * a pool's, another thread may take its place meanwhile.  Attached or not. */
void *sc_job_wait_begin(void);
void sc_job_wait_end(void *pool);

/* A job that no pool took.  Its future is left as it is. */
void sc_job_free(ScJob *job);

/* A job as an errand: an op for a call's inbox, which owns it then.  Run it on
 * this thread; or let it fail with `error`, borrowed. */
ScOp *sc_job_errand(ScJob *job);
void sc_job_run_errand(ScOp *errand);
void sc_job_fail_errand(ScOp *errand, PyObject *error);

/* What the threads of the pool are in the middle of: a list with a text for
 * each job, or NULL with an error set. */
PyObject *sc_job_list_running(ScThreads *threads);

/* End jobs that nobody will run, linked by `next`: their futures are
 * cancelled, and whoever waits for them is told.  NULL does nothing.  The
 * error that is set on entry stays set. */
void sc_job_cancel(ScJob *jobs);

#endif
