/* Interpreter queue: the native part of the pool of sub-interpreters.  Jobs
 * wait here, first come, first served, for threads that are started on demand
 * up to `workers`, end when they have been idle for a while, and can be sent
 * away all at once: for a fork.
 *
 * It differs from threads.h in what a thread is worth.  There it is cheap and
 * kept; here it owns an interpreter, whose memory is given back, and no fork
 * may find one alive.
 *
 * An idle thread lies on a stack; the one that lay down last is woken first.
 * Where jobs come soon after one another it looks out for the next for a
 * moment before it sleeps.
 *
 * What holds: one mutex guards a queue, for a few instructions; no hook and
 * no job runs under it, and nobody waits for a GIL with it.  While a queue
 * rests (rest, resume) no thread takes a job or is started, and each ends as
 * soon as it is between two jobs; jobs may be pushed, and wait.  The memory
 * belongs to its maker and to each of its threads: the last one frees it.  In
 * the child of a fork it is left alone.  No Python.h.  */
#ifndef SIDECAR_CORE_INTERPRETER_QUEUE_H
#define SIDECAR_CORE_INTERPRETER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded by its owner, who keeps it alive until it was given to `run` or
 * `refuse`, was removed, or has been drained. */
typedef struct ScQueued {
    struct ScQueued *next, *before;
    bool waits; /* under the queue's lock */
} ScQueued;

/* What a thread does, always on that thread, all signals blocked. */
typedef struct {
    /* First.  NULL: it cannot work; one job, if there is one, is refused, and
     * the thread ends. */
    void *(*begin)(void *context);
    void (*run)(void *worker, ScQueued *job);
    void (*refuse)(void *context, ScQueued *job);
    void (*end)(void *worker);
    /* With the queue's memory; on any thread, with or without a GIL. */
    void (*free)(void *context);
} ScQueueWork;

typedef struct ScQueue ScQueue;

enum {
    SC_QUEUE_CLOSED = -1,
    SC_QUEUE_FULL = -2,
    SC_QUEUE_NONE = -3 /* no thread could be started, errno says why */
};

typedef struct {
    size_t threads, idle, queued, running;
} ScQueueStats;

/* `rests`: from the start.  NULL with errno set. */
ScQueue *sc_queue_new(const ScQueueWork *work, void *context, const char *name,
                      unsigned workers, size_t room, int64_t idle_ns,
                      bool rests);

/* 0, or one of the codes above: then the job is still the caller's. */
int sc_queue_push(ScQueue *queue, ScQueued *job);

/* From the job that runs: its place is free, what is left is to tell. */
void sc_queue_free_place(ScQueue *queue);

/* True: it had not begun, and is the caller's again. */
bool sc_queue_remove(ScQueue *queue, ScQueued *job);

/* Take no more jobs; idle threads end, the others after the queue's last. */
void sc_queue_close(ScQueue *queue);

/* All jobs that wait, oldest first, linked by `next`: the caller's again. */
ScQueued *sc_queue_drain(ScQueue *queue);

void sc_queue_rest(ScQueue *queue);
void sc_queue_resume(ScQueue *queue);

/* After close or rest: wait until every thread has ended, at most until that
 * moment.  How many have not.  Without a GIL; not from one of its threads. */
size_t sc_queue_join(ScQueue *queue, int64_t until);

/* Is this thread one of any queue's? */
bool sc_queue_is_here(void);

ScQueueStats sc_queue_stats(ScQueue *queue);

ScQueue *sc_queue_hold(ScQueue *queue);
void sc_queue_let_go(ScQueue *queue);

#endif
