/* Job: a Python call on its way through a worker pool, and what the pool's
 * threads do around their jobs.
 *
 * A job is one block of C memory: future, context, callable and arguments in
 * vectorcall's form.  It belongs to the submitter until sc_threads_submit has
 * taken it, then to the thread that runs it or to whoever drains it.
 * Everything here is called attached.  */
#ifndef SIDECAR_CORE_JOB_H
#define SIDECAR_CORE_JOB_H

#include "core/state.h"
#include "core/threads.h"

/* The hooks for sc_threads_new; its context is the PyInterpreterState. */
extern const ScThreadsWork sc_job_threads;

/* fn and its arguments as vectorcall passes them: args[0] is fn.  *future: a
 * new reference to the concurrent.futures.Future that tells the end.  NULL
 * with an error set. */
ScJob *sc_job_new(ScState *st, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames, PyObject **future);

/* A job that no pool took.  Its future is left as it is. */
void sc_job_free(ScJob *job);

/* End jobs that nobody will run, linked by `next`: their futures are
 * cancelled, and whoever waits for them is told.  NULL does nothing.  The
 * error that is set on entry stays set. */
void sc_job_cancel(ScJob *jobs);

#endif
