/* Task list: asyncio.all_tasks() for a loop that changes threads.
 *
 * From 3.14 on asyncio keeps its tasks in lists, one for each thread, and on
 * the thread that runs the loop all_tasks() looks into that thread's list
 * only.  A bridge's loop changes threads while its tasks live.  So a driver
 * that leaves shares the tasks that were made in its turn and still live: it
 * adds them to the set in which asyncio keeps what hangs on no thread, which
 * all_tasks() always looks into.  A call that ends in the turn in which it
 * began costs nothing.
 *
 * loop->unlisted counts tasks that were made in this turn and have not ended;
 * loop->tenure tells the turns apart in which there were such.  Both are the
 * owner's.  Before 3.14 there is nothing to do.  */
#ifndef SIDECAR_CORE_TASK_LIST_H
#define SIDECAR_CORE_TASK_LIST_H

#include "core/loop.h"

#if SC_TASK_ON_THREAD

/* A task was made on the loop; what to hand to _ended once it is over.  Made
 * by another thread than the owner, it is shared at once. */
unsigned sc_task_list_begun(ScLoop *loop, PyObject *task);

void sc_task_list_ended(ScLoop *loop, unsigned tenure);

/* The owner is about to leave; its marks are still set (loop_run.h).  Keeps
 * the error that is set, or sets what a signal's handler raised meanwhile. */
void sc_task_list_share(ScLoop *loop);

/* Share one task, whatever thread made it. */
void sc_task_list_add(ScState *st, PyObject *task);

#else

static inline unsigned
sc_task_list_begun(ScLoop *Py_UNUSED(loop), PyObject *Py_UNUSED(task))
{
    return 0;
}

static inline void
sc_task_list_ended(ScLoop *Py_UNUSED(loop), unsigned Py_UNUSED(tenure))
{
}

static inline void
sc_task_list_share(ScLoop *Py_UNUSED(loop))
{
}

static inline void
sc_task_list_add(ScState *Py_UNUSED(st), PyObject *Py_UNUSED(task))
{
}

#endif
#endif
