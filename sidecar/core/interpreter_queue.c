#include "core/interpreter_queue.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/park.h"

#define NAME_SIZE 16

/* As in threads.c: how long an idle thread looks out for its next job, where
 * the last SOON_ENOUGH came as soon. */
static const int64_t LOOK_OUT = 50 * INT64_C(1000);

enum { SOON_ENOUGH = 2 };

/* The words of an idle thread's park. */
enum { IDLE_ASLEEP, IDLE_LOOKING_OUT, IDLE_WOKEN };

/* One thread; on its own stack.  Others reach it by the idle stack only. */
typedef struct Thread {
    ScQueue *queue;
    struct Thread *above, *below; /* on the idle stack, under the lock */
    ScPark park;
    int64_t idle_since;
    unsigned soon;
    unsigned number;
} Thread;

struct ScQueue {
    pthread_mutex_t lock;
    pthread_cond_t ended; /* a thread has come to its end */
    const ScQueueWork *work;
    void *context;
    char name[NAME_SIZE];
    /* Everything below is under the lock. */
    ScQueued *oldest, *newest;
    Thread *idle;
    size_t refs;
    size_t idle_count, alive, queued, running, room;
    unsigned workers;
    int64_t idle_ns;
    bool closed, rests;
    bool looks_out;
    uint64_t numbers; /* a bit for each name in use, of the first 64 */
};

static _Thread_local bool is_here, is_counted;

static int
init_sync(ScQueue *queue)
{
    int rc = pthread_mutex_init(&queue->lock, NULL);
    if (rc == 0) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        rc = pthread_cond_init(&queue->ended, &attr);
        pthread_condattr_destroy(&attr);
        if (rc != 0) {
            pthread_mutex_destroy(&queue->lock);
        }
    }
    return rc;
}

static bool
has_processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1;
}

ScQueue *
sc_queue_new(const ScQueueWork *work, void *context, const char *name,
             unsigned workers, size_t room, int64_t idle_ns, bool rests)
{
    ScQueue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL) {
        return NULL;
    }
    int rc = init_sync(queue);
    if (rc != 0) {
        free(queue);
        errno = rc;
        return NULL;
    }
    queue->work = work;
    queue->context = context;
    snprintf(queue->name, sizeof(queue->name), "%s", name);
    queue->refs = 1;
    queue->workers = workers;
    queue->room = room;
    queue->idle_ns = idle_ns;
    queue->rests = rests;
    queue->looks_out = has_processors();
    return queue;
}

ScQueue *
sc_queue_hold(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->refs++;
    pthread_mutex_unlock(&queue->lock);
    return queue;
}

void
sc_queue_let_go(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool last = --queue->refs == 0;
    pthread_mutex_unlock(&queue->lock);
    if (last) {
        pthread_cond_destroy(&queue->ended);
        pthread_mutex_destroy(&queue->lock);
        queue->work->free(queue->context);
        free(queue);
    }
}

/* -- under the lock ------------------------------------------------------- */

static void
take_out(ScQueue *queue, ScQueued *job)
{
    *(job->before ? &job->before->next : &queue->oldest) = job->next;
    *(job->next ? &job->next->before : &queue->newest) = job->before;
    job->next = job->before = NULL;
    job->waits = false;
    queue->queued--;
}

static void
put_in(ScQueue *queue, ScQueued *job)
{
    job->next = NULL;
    job->before = queue->newest;
    *(queue->newest ? &queue->newest->next : &queue->oldest) = job;
    queue->newest = job;
    job->waits = true;
    queue->queued++;
}

static void
leave_idle(ScQueue *queue, Thread *thread)
{
    *(thread->above ? &thread->above->below : &queue->idle) = thread->below;
    if (thread->below != NULL) {
        thread->below->above = thread->above;
    }
    queue->idle_count--;
}

/* The thread is idle no more.  Woken under the lock: it cannot end, and its
 * park with it, before it has taken the lock again. */
static void
rouse(ScQueue *queue, Thread *thread)
{
    leave_idle(queue, thread);
    bool soon = sc_clock_now() - thread->idle_since <= LOOK_OUT;
    thread->soon = soon ? thread->soon + 1 : 0;
    if (atomic_exchange(&thread->park.word, IDLE_WOKEN) == IDLE_ASLEEP) {
        sc_park_wake((ScParkWake){&thread->park.word, thread->park.event_fd});
    }
}

static void
rouse_all(ScQueue *queue)
{
    while (queue->idle != NULL) {
        rouse(queue, queue->idle);
    }
}

static void *thread_main(void *arg);

/* What pthread_create returned. */
static int
start_thread(ScQueue *queue)
{
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t id;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&id, &attr, thread_main, queue);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc == 0) {
        queue->alive++;
        queue->refs++;
    }
    return rc;
}

/* Let one more thread look at the queue, where one may. */
static int
summon(ScQueue *queue)
{
    if (queue->rests) {
        return 0;
    }
    if (queue->idle != NULL) {
        rouse(queue, queue->idle);
        return 0;
    }
    return queue->alive < queue->workers ? start_thread(queue) : 0;
}

/* A thread may take a job, or lie down. */
static bool
goes_on(ScQueue *queue)
{
    return !queue->rests && (!queue->closed || queue->oldest != NULL);
}

/* -- one thread ----------------------------------------------------------- */

static void
look_out(Thread *thread)
{
    int64_t until = thread->idle_since + LOOK_OUT;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&thread->park.word,
                                     memory_order_acquire) == IDLE_WOKEN) {
                return;
            }
            sc_relax();
        }
    } while (sc_clock_now() < until);
    int word = IDLE_LOOKING_OUT;
    atomic_compare_exchange_strong(&thread->park.word, &word, IDLE_ASLEEP);
}

/* Under the lock, which it gives back while the thread is idle.  False: it has
 * been for long enough. */
static bool
lie_down(ScQueue *queue, Thread *thread)
{
    bool looks_out = queue->looks_out && thread->soon >= SOON_ENOUGH;
    atomic_store_explicit(&thread->park.word,
                          looks_out ? IDLE_LOOKING_OUT : IDLE_ASLEEP,
                          memory_order_relaxed);
    thread->idle_since = sc_clock_now();
    int64_t until = queue->idle_ns < SC_NEVER - thread->idle_since
                        ? thread->idle_since + queue->idle_ns
                        : SC_NEVER;
    thread->above = NULL;
    thread->below = queue->idle;
    if (queue->idle != NULL) {
        queue->idle->above = thread;
    }
    queue->idle = thread;
    queue->idle_count++;
    pthread_mutex_unlock(&queue->lock);
    if (looks_out) {
        look_out(thread);
    }
    sc_park_wait(&thread->park, IDLE_ASLEEP, until, -1);
    pthread_mutex_lock(&queue->lock);
    if (atomic_load(&thread->park.word) == IDLE_WOKEN) {
        return true;
    }
    if (sc_clock_now() < until) {
        /* Woken for nothing: it lies down anew. */
        leave_idle(queue, thread);
        return true;
    }
    leave_idle(queue, thread);
    return false;
}

/* Under the lock: until it is time to end. */
static void
work(ScQueue *queue, Thread *thread, void *worker)
{
    while (goes_on(queue)) {
        ScQueued *job = queue->oldest;
        if (job == NULL) {
            if (!lie_down(queue, thread)) {
                return;
            }
            continue;
        }
        take_out(queue, job);
        queue->running++;
        is_counted = true;
        pthread_mutex_unlock(&queue->lock);
        queue->work->run(worker, job);
        pthread_mutex_lock(&queue->lock);
        queue->running -= is_counted;
    }
}

/* Under the lock: where no worker can be had, the oldest job hears of it. */
static void
refuse_one(ScQueue *queue)
{
    ScQueued *job = queue->rests ? NULL : queue->oldest;
    if (job != NULL) {
        take_out(queue, job);
        pthread_mutex_unlock(&queue->lock);
        queue->work->refuse(queue->context, job);
        pthread_mutex_lock(&queue->lock);
    }
}

/* NAME-0, NAME-1, ...: 15 characters, the number always whole. */
static void
take_name(ScQueue *queue, Thread *thread)
{
    char number[NAME_SIZE], name[NAME_SIZE];
    thread->number = 0;
    while (thread->number < 64 && (queue->numbers >> thread->number & 1)) {
        thread->number++;
    }
    if (thread->number < 64) {
        queue->numbers |= UINT64_C(1) << thread->number;
    }
    int digits = snprintf(number, sizeof(number), "-%u", thread->number);
    size_t kept = strnlen(queue->name, sizeof(name) - 1 - (size_t)digits);
    memcpy(name, queue->name, kept);
    memcpy(name + kept, number, (size_t)digits + 1);
    pthread_setname_np(pthread_self(), name);
}

static void *
thread_main(void *arg)
{
    ScQueue *queue = arg;
    Thread thread = {.queue = queue, .park.event_fd = -1};
    is_here = true;
    pthread_mutex_lock(&queue->lock);
    take_name(queue, &thread);
    if (goes_on(queue)) {
        pthread_mutex_unlock(&queue->lock);
        void *worker = queue->work->begin(queue->context);
        pthread_mutex_lock(&queue->lock);
        if (worker != NULL) {
            work(queue, &thread, worker);
            pthread_mutex_unlock(&queue->lock);
            queue->work->end(worker);
            pthread_mutex_lock(&queue->lock);
        }
        else {
            refuse_one(queue);
        }
    }
    queue->alive--;
    if (thread.number < 64) {
        queue->numbers &= ~(UINT64_C(1) << thread.number);
    }
    if (queue->oldest != NULL && queue->alive < queue->workers) {
        /* It came while this one was on its way out. */
        summon(queue);
    }
    pthread_cond_broadcast(&queue->ended);
    pthread_mutex_unlock(&queue->lock);
    sc_queue_let_go(queue);
    return NULL;
}

/* -- for its owner -------------------------------------------------------- */

bool
sc_queue_is_here(void)
{
    return is_here;
}

int
sc_queue_push(ScQueue *queue, ScQueued *job)
{
    int result = 0, error = 0;
    pthread_mutex_lock(&queue->lock);
    size_t free =
        queue->running < queue->workers ? queue->workers - queue->running : 0;
    if (queue->closed) {
        result = SC_QUEUE_CLOSED;
    }
    else if (queue->queued >= queue->room + free) {
        result = SC_QUEUE_FULL;
    }
    else {
        put_in(queue, job);
        error = summon(queue);
        if (error != 0 && queue->alive == 0) {
            take_out(queue, job);
            result = SC_QUEUE_NONE;
        }
    }
    pthread_mutex_unlock(&queue->lock);
    if (result == SC_QUEUE_NONE) {
        errno = error;
    }
    return result;
}

void
sc_queue_free_place(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->running--;
    is_counted = false;
    pthread_mutex_unlock(&queue->lock);
}

bool
sc_queue_remove(ScQueue *queue, ScQueued *job)
{
    pthread_mutex_lock(&queue->lock);
    bool waits = job->waits;
    if (waits) {
        take_out(queue, job);
    }
    pthread_mutex_unlock(&queue->lock);
    return waits;
}

void
sc_queue_close(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    rouse_all(queue);
    pthread_mutex_unlock(&queue->lock);
}

ScQueued *
sc_queue_drain(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    ScQueued *jobs = queue->oldest;
    for (ScQueued *job = jobs; job != NULL; job = job->next) {
        job->waits = false;
    }
    queue->oldest = queue->newest = NULL;
    queue->queued = 0;
    pthread_mutex_unlock(&queue->lock);
    return jobs;
}

void
sc_queue_rest(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->rests = true;
    rouse_all(queue);
    pthread_mutex_unlock(&queue->lock);
}

void
sc_queue_resume(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->rests = false;
    for (size_t i = 0; i < queue->queued && queue->alive < queue->workers;
         i++) {
        if (start_thread(queue) != 0) {
            break;
        }
    }
    pthread_mutex_unlock(&queue->lock);
}

size_t
sc_queue_join(ScQueue *queue, int64_t until)
{
    struct timespec moment = sc_clock_timespec(until > 0 ? until : 0);
    int rc = 0;
    pthread_mutex_lock(&queue->lock);
    while (queue->alive > 0 && rc != ETIMEDOUT) {
        rc = until == SC_NEVER ? pthread_cond_wait(&queue->ended, &queue->lock)
                               : pthread_cond_timedwait(&queue->ended,
                                                        &queue->lock, &moment);
    }
    size_t alive = queue->alive;
    pthread_mutex_unlock(&queue->lock);
    return alive;
}

ScQueueStats
sc_queue_stats(ScQueue *queue)
{
    pthread_mutex_lock(&queue->lock);
    ScQueueStats stats = {.threads = queue->alive,
                          .idle = queue->idle_count,
                          .queued = queue->queued,
                          .running = queue->running};
    pthread_mutex_unlock(&queue->lock);
    return stats;
}
