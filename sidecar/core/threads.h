/* Threads: the worker pool's native part.  A bounded queue of jobs, and
 * threads that are started on demand, up to a maximum, and end when they have
 * had nothing to do for a while.
 *
 * A thread that has run out of jobs lies on a stack of idle ones; the one
 * that lay down last is woken first, its caches still warm.  Where jobs come
 * soon after one another it looks out for the next for a moment before it
 * sleeps, for to be woken takes longer than that.  A job that is
 * submitted while fewer than `workers` run wakes one, or starts another; else
 * it waits its turn, first come, first served.
 *
 * A job that blocks because it waits for what other jobs may have to do says
 * so (block, unblock): while it does, its thread is not counted, so that one
 * more may take its place; as many as SC_THREADS_SPARE.  When it goes on, the
 * next thread that comes to the end of its job lies down.
 *
 * A thread that has lain idle for SC_THREADS_KEEP ends.  As the one that lay
 * down last is woken first, slow traffic keeps as many as it needs at a time,
 * and those at the bottom go.  Who picks an idle thread takes it off the stack
 * and sets its word under the lock, and a thread whose time is up decides
 * under the same lock: where its word was set it has been picked, and goes to
 * work; where it was not it takes itself off the stack, after which nobody can
 * pick it.  From there on it leaves: it is counted as alive, so that it is
 * waited for, but not as one that looks into the queue, so that a job that
 * comes now gets another.  No thread leaves while a job is queued; and the
 * last thing it does is to look once more: a job for which no place was left,
 * or no thread could be made, is its own, and it begins anew.
 *
 * All signals are blocked in the threads, and their names show in `ps -L` as
 * NAME-0, NAME-1, ... (15 characters, the number always whole).
 *
 * One mutex guards everything.  It is held for a few instructions; no hook
 * and no job runs under it, so holding the GIL while taking it is fine.  In
 * the child of a fork it may be locked for good: there the whole pool is left
 * alone and a new one made.  No Python.h.  */
#ifndef SIDECAR_CORE_THREADS_H
#define SIDECAR_CORE_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/park.h"

#define SC_THREADS_MAX 1024

/* Most threads beyond `workers` that stand in for blocked ones. */
#define SC_THREADS_SPARE 256

/* How long an idle thread is kept: to start one costs a hundredth of a
 * millisecond or two, but what a job has left in its thread (a connection to a
 * database) may cost more. */
#define SC_THREADS_KEEP (60 * INT64_C(1000000000))

/* Embedded by its owner, who keeps it alive until it has run or has been
 * drained.  `thread` is what begin returned on this thread.  `placed`: whoever
 * submits it sees to the bound, and it is taken though the queue be full. */
typedef struct ScJob {
    struct ScJob *next;
    bool placed;
    void (*run)(struct ScJob *job, void *thread);
} ScJob;

/* What a thread does around its jobs, always on that thread.  Between resume
 * and pause it may run several jobs; it sleeps only when paused. */
typedef struct {
    /* First.  Leaves the thread paused.  NULL: this thread cannot work; it
     * ends, and jobs stay queued for another. */
    void *(*begin)(void *context, unsigned number);
    void (*resume)(void *thread);
    void (*pause)(void *thread);
    /* Last, resumed. */
    void (*end)(void *thread);
} ScThreadsWork;

typedef struct ScThreads ScThreads;

typedef struct {
    size_t threads; /* started and not over */
    size_t idle;
    size_t queued;
} ScThreadsStats;

enum {
    SC_THREADS_CLOSED = -1,
    SC_THREADS_FULL = -2,
    SC_THREADS_NONE = -3 /* no thread could be started, errno says why */
};

/* `workers`: 1 to SC_THREADS_MAX.  `room`: jobs that may wait.  NULL with
 * errno set.  No thread is started yet. */
ScThreads *sc_threads_new(const ScThreadsWork *work, void *context,
                          const char *name, unsigned workers, size_t room);

/* Keep idle threads for so many nanoseconds (SC_NEVER: as long as the pool).
 * Those that sleep already keep to what they were told. */
void sc_threads_keep(ScThreads *threads, int64_t span);

/* The thread that a job was given to, if it was an idle one.  Where it looks
 * out, it sees the job by itself. */
typedef struct {
    bool sleeps, looks_out;
    ScParkWake wake;
} ScSummons;

/* 0, or one of the codes above: then the job is still the caller's.  Whoever
 * submits wakes the one that is summoned, at once: a thread that is woken by
 * one with the GIL finds it taken, and sleeps again. */
int sc_threads_push(ScThreads *threads, ScJob *job, ScSummons *summons);

static inline void
sc_threads_wake(const ScSummons *summons)
{
    if (summons->sleeps) {
        sc_park_wake(summons->wake);
    }
}

/* Both. */
int sc_threads_submit(ScThreads *threads, ScJob *job);

/* Take no more jobs.  What is queued still runs, unless it is drained; the
 * threads end after that. */
void sc_threads_close(ScThreads *threads);

/* All jobs that no thread has begun, oldest first, linked by `next`.  They
 * are the caller's again. */
ScJob *sc_threads_drain(ScThreads *threads);

/* After close: wait until every thread has ended, at most until the moment
 * `until` (SC_NEVER: no limit).  How many have not: they are stuck in a job.
 * May be called again.  Not from a thread of the pool; without the GIL. */
size_t sc_threads_join(ScThreads *threads, int64_t until);

/* Look at each thread that works: visit(begin's result, to), under the lock:
 * it may not call anything that waits. */
void sc_threads_visit(ScThreads *threads,
                      void (*visit)(void *thread, void *to), void *to);

/* The pool whose thread this is; NULL: none's.  In the child of a fork made
 * inside a job it is the parent's, which is not to be used. */
ScThreads *sc_threads_current(void);

/* This thread's job begins to wait, and waits no more.  From the job only. */
void sc_threads_block(ScThreads *threads);
void sc_threads_unblock(ScThreads *threads);

/* Is this thread one of the pool's? */
int sc_threads_is_worker(ScThreads *threads);

/* Let go.  Threads that still run do so to the end of the queue, and the last
 * one frees the memory.  Waits for nothing; any thread, but nobody may use the
 * pool any more.  Jobs that no thread is left to run must be drained first. */
void sc_threads_free(ScThreads *threads);

ScThreadsStats sc_threads_stats(ScThreads *threads);

#endif
