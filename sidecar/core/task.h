/* Task: what the loop makes for coroutines, and how many of them live.
 *
 * Tasks made on a bridge's loop carry a mark, a done-callback that counts
 * them in drive.tasks until they end or die.  The owner's thread.  */
#ifndef SIDECAR_CORE_TASK_H
#define SIDECAR_CORE_TASK_H

#include "core/loop.h"

/* Methods of the loop: create_task(coro, *, name=None, context=None, ...) and
 * create_future(). */
PyObject *sc_loop_create_task(ScLoop *self, PyObject *const *args,
                              Py_ssize_t nargs, PyObject *kwnames);
PyObject *sc_loop_create_future(ScLoop *self, PyObject *ignored);

/* A task for a call, in `context` itself (3.9, 3.10: in a copy of it), with
 * its first step run at once where tasks can do that and the loop has no task
 * factory.  Marks must be set (loop_run.h).  New reference, or NULL. */
PyObject *sc_task_start(ScLoop *self, PyObject *coro, PyObject *context);

/* A call's task that goes on without its caller: marked as if the loop had
 * been asked to make it.  0, or -1 with an error set. */
int sc_task_adopt(ScLoop *self, PyObject *task, PyObject *context);

/* The mark's task has ended. */
void sc_mark_task_ended(PyObject *mark);

#endif
