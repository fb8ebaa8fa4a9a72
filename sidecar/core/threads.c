#include "core/threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/park.h"

#define NAME_SIZE 16

/* About what it costs to put a thread to sleep and to wake it again: so long
 * an idle thread looks out for its next job before it sleeps, if its last ones
 * came as soon, SOON_ENOUGH times in a row.  Else it sleeps at once. */
static const int64_t LOOK_OUT = 50 * INT64_C(1000);

enum { SOON_ENOUGH = 2 };

/* One that may not end, for jobs are queued, sleeps for so long at least. */
static const int64_t STAY = INT64_C(1000000);

enum { SLOT_EMPTY, SLOT_ALIVE, SLOT_ENDED };

/* The words of an idle thread's park. */
enum { IDLE_ASLEEP, IDLE_LOOKING_OUT, IDLE_WOKEN };

/* One thread.  The slots live as long as the pool, so that a waker may touch
 * one whose thread has gone meanwhile. */
typedef struct Slot {
    ScThreads *threads;
    struct Slot *idle_below;
    ScPark park;
    pthread_t id;
    int state;
    bool leaves;        /* under the lock: it ends, for it had nothing to do */
    void *thread;       /* under the lock: begin's result */
    int64_t idle_since; /* under the lock */
    unsigned soon;      /* under the lock: how many times in a row */
} Slot;

struct ScThreads {
    pthread_mutex_t lock;
    pthread_cond_t ended; /* a thread has come to its end */
    const ScThreadsWork *work;
    void *context;
    char name[NAME_SIZE];
    /* Everything below is under the lock. */
    ScJob *oldest, *newest;
    size_t queued, room;
    Slot *idle;
    size_t idle_count;
    size_t alive;
    size_t busy;    /* threads inside a job */
    size_t blocked; /* of these, inside sc_threads_block */
    size_t leaving;
    int64_t keep;
    bool closed;
    bool let_go;    /* sc_threads_free was called: the last thread frees */
    bool looks_out; /* there is a processor to look out on */
    unsigned workers;
    unsigned places; /* slots: workers and spares */
    Slot slots[];
};

static _Thread_local Slot *current_slot;

static int
init_sync(ScThreads *threads)
{
    int rc = pthread_mutex_init(&threads->lock, NULL);
    if (rc == 0) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        rc = pthread_cond_init(&threads->ended, &attr);
        pthread_condattr_destroy(&attr);
        if (rc != 0) {
            pthread_mutex_destroy(&threads->lock);
        }
    }
    return rc;
}

/* More than one? */
static bool
has_processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1;
}

ScThreads *
sc_threads_new(const ScThreadsWork *work, void *context, const char *name,
               unsigned workers, size_t room)
{
    if (workers < 1 || workers > SC_THREADS_MAX) {
        errno = EINVAL;
        return NULL;
    }
    unsigned places = workers + SC_THREADS_SPARE;
    ScThreads *threads = calloc(1, sizeof(*threads) + places * sizeof(Slot));
    if (threads == NULL) {
        return NULL;
    }
    int rc = init_sync(threads);
    if (rc != 0) {
        free(threads);
        errno = rc;
        return NULL;
    }
    threads->looks_out = has_processors();
    threads->work = work;
    threads->context = context;
    snprintf(threads->name, sizeof(threads->name), "%s", name);
    threads->workers = workers;
    threads->places = places;
    threads->room = room;
    threads->keep = SC_THREADS_KEEP;
    for (unsigned i = 0; i < places; i++) {
        threads->slots[i].threads = threads;
        threads->slots[i].park.event_fd = -1;
    }
    return threads;
}

static void
destroy(ScThreads *threads)
{
    pthread_cond_destroy(&threads->ended);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

/* Threads that are neither idle nor blocked nor on their way out.  As long as
 * there are `workers` of them nobody else needs to be woken: each looks into
 * the queue after its job. */
static size_t
running(ScThreads *threads)
{
    return threads->alive - threads->leaving - threads->idle_count -
           threads->blocked;
}

/* Jobs in the queue that a thread is, or will be, on its way to do not wait
 * for room. */
static bool
is_full(ScThreads *threads)
{
    size_t taken = threads->busy - threads->blocked;
    size_t free = taken < threads->workers ? threads->workers - taken : 0;
    return threads->queued >= threads->room + free;
}

static ScJob *
pop_job(ScThreads *threads)
{
    ScJob *job = threads->oldest;
    if (job != NULL) {
        threads->oldest = job->next;
        if (threads->oldest == NULL) {
            threads->newest = NULL;
        }
        threads->queued--;
        job->next = NULL;
    }
    return job;
}

static void
push_job(ScThreads *threads, ScJob *job)
{
    job->next = NULL;
    if (threads->newest != NULL) {
        threads->newest->next = job;
    }
    else {
        threads->oldest = job;
    }
    threads->newest = job;
    threads->queued++;
}

/* The job that was pushed last, and nothing after it. */
static void
unpush_job(ScThreads *threads, ScJob *job)
{
    ScJob **link = &threads->oldest, *before = NULL;
    while (*link != job) {
        before = *link;
        link = &before->next;
    }
    *link = job->next;
    if (threads->newest == job) {
        threads->newest = before;
    }
    threads->queued--;
}

static Slot *
pop_idle(ScThreads *threads)
{
    Slot *slot = threads->idle;
    if (slot != NULL) {
        threads->idle = slot->idle_below;
        threads->idle_count--;
    }
    return slot;
}

/* Off the stack, wherever it lies there. */
static void
unpush_idle(ScThreads *threads, Slot *slot)
{
    Slot **link = &threads->idle;
    while (*link != slot) {
        link = &(*link)->idle_below;
    }
    *link = slot->idle_below;
    threads->idle_count--;
}

/* Without the lock. */
static void
look_out(Slot *slot)
{
    int64_t until = slot->idle_since + LOOK_OUT;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&slot->park.word, memory_order_acquire) ==
                IDLE_WOKEN) {
                return;
            }
            sc_relax();
        }
    } while (sc_clock_now() < until);
    int word = IDLE_LOOKING_OUT;
    atomic_compare_exchange_strong(&slot->park.word, &word, IDLE_ASLEEP);
}

/* Under the lock: its time is up.  False: there is something to do for it. */
static bool
leave(ScThreads *threads, Slot *slot)
{
    if (atomic_load(&slot->park.word) == IDLE_WOKEN) {
        return false;
    }
    unpush_idle(threads, slot);
    slot->leaves = threads->queued == 0;
    threads->leaving += slot->leaves;
    return slot->leaves;
}

/* Under the lock, which it gives back while the thread is idle.  False: it was
 * idle for too long, and ends. */
static bool
lie_down(ScThreads *threads, Slot *slot)
{
    bool looks_out = threads->looks_out && slot->soon >= SOON_ENOUGH;
    atomic_store_explicit(&slot->park.word,
                          looks_out ? IDLE_LOOKING_OUT : IDLE_ASLEEP,
                          memory_order_relaxed);
    slot->idle_since = sc_clock_now();
    slot->idle_below = threads->idle;
    threads->idle = slot;
    threads->idle_count++;
    int64_t keep = threads->keep;
    if (threads->queued > 0 && keep < STAY) {
        keep = STAY;
    }
    int64_t until = keep < SC_NEVER - slot->idle_since
                        ? slot->idle_since + keep
                        : SC_NEVER;
    pthread_mutex_unlock(&threads->lock);
    if (looks_out) {
        look_out(slot);
    }
    int end = sc_park_wait(&slot->park, IDLE_ASLEEP, until, -1);
    pthread_mutex_lock(&threads->lock);
    return end != SC_PARK_TIMEOUT || !leave(threads, slot);
}

/* Under the lock: it is idle no more. */
static ScSummons
rouse(Slot *slot)
{
    bool soon = sc_clock_now() - slot->idle_since <= LOOK_OUT;
    slot->soon = soon ? slot->soon + 1 : 0;
    int word = atomic_exchange(&slot->park.word, IDLE_WOKEN);
    return (ScSummons){.sleeps = word == IDLE_ASLEEP,
                       .looks_out = word == IDLE_LOOKING_OUT,
                       .wake = {&slot->park.word, slot->park.event_fd}};
}

static void
run_jobs(ScThreads *threads, Slot *slot, void *thread)
{
    const ScThreadsWork *work = threads->work;
    bool paused = true;
    pthread_mutex_lock(&threads->lock);
    slot->thread = thread;
    for (;;) {
        /* One that this stood in for may have gone on. */
        bool surplus = !threads->closed && running(threads) > threads->workers;
        ScJob *job = surplus ? NULL : pop_job(threads);
        if (job == NULL && threads->closed) {
            break;
        }
        if (job == NULL && paused) {
            if (!lie_down(threads, slot)) {
                break;
            }
            continue;
        }
        threads->busy += job != NULL;
        pthread_mutex_unlock(&threads->lock);
        bool did = job != NULL;
        if (job == NULL) {
            /* Pausing may take its time: the queue is looked at again. */
            work->pause(thread);
            paused = true;
        }
        else {
            if (paused) {
                work->resume(thread);
                paused = false;
            }
            job->run(job, thread);
        }
        pthread_mutex_lock(&threads->lock);
        threads->busy -= did;
    }
    slot->thread = NULL;
    pthread_mutex_unlock(&threads->lock);
    if (paused) {
        work->resume(thread);
    }
    work->end(thread);
}

static void
set_name(Slot *slot)
{
    ScThreads *threads = slot->threads;
    char number[NAME_SIZE], name[NAME_SIZE];
    int digits = snprintf(number, sizeof(number), "-%u",
                          (unsigned)(slot - threads->slots));
    size_t kept = strnlen(threads->name, sizeof(name) - 1 - (size_t)digits);
    memcpy(name, threads->name, kept);
    memcpy(name + kept, number, (size_t)digits + 1);
    pthread_setname_np(pthread_self(), name);
}

/* Under the lock.  Threads that have ended hold nothing of the pool's, so
 * joining them takes no wait. */
static void
join_ended(ScThreads *threads)
{
    for (unsigned i = 0; i < threads->places; i++) {
        Slot *slot = &threads->slots[i];
        if (slot->state == SLOT_ENDED) {
            pthread_join(slot->id, NULL);
            slot->state = SLOT_EMPTY;
        }
    }
}

/* The last look, under the lock: true, it ends.  What others left behind is
 * given back to the system here, so that at most one is not. */
static bool
is_over(ScThreads *threads, Slot *slot)
{
    bool left = slot->leaves;
    slot->leaves = false;
    threads->leaving -= left;
    if (left && threads->queued > 0 && running(threads) <= threads->workers) {
        return false;
    }
    if (left) {
        join_ended(threads);
    }
    /* Let go, nobody joins it. */
    slot->state = threads->let_go ? SLOT_EMPTY : SLOT_ENDED;
    threads->alive--;
    return true;
}

static void *
thread_main(void *arg)
{
    Slot *slot = arg;
    ScThreads *threads = slot->threads;
    current_slot = slot;
    set_name(slot);
    for (;;) {
        void *thread = threads->work->begin(threads->context,
                                            (unsigned)(slot - threads->slots));
        if (thread != NULL) {
            run_jobs(threads, slot, thread);
        }
        pthread_mutex_lock(&threads->lock);
        if (is_over(threads, slot)) {
            break;
        }
        pthread_mutex_unlock(&threads->lock);
    }
    bool last = threads->let_go && threads->alive == 0;
    pthread_cond_broadcast(&threads->ended);
    pthread_mutex_unlock(&threads->lock);
    if (last) {
        destroy(threads);
    }
    return NULL;
}

/* Under the lock, which it holds throughout: a slot whose thread was made is
 * whole before that thread, or anybody else, can look at it. */
static int
start_thread(ScThreads *threads)
{
    Slot *slot = threads->slots;
    while (slot->state == SLOT_ALIVE) {
        slot++;
    }
    if (slot->state == SLOT_ENDED) {
        /* It has given the lock back for the last time: no wait. */
        pthread_join(slot->id, NULL);
        slot->state = SLOT_EMPTY;
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&slot->id, NULL, thread_main, slot);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        slot->state = SLOT_ALIVE;
        threads->alive++;
        if (threads->let_go) {
            pthread_detach(slot->id);
        }
    }
    return rc;
}

/* Under the lock: let one more thread look at the queue, where one may run.
 * What pthread_create returned. */
static int
summon(ScThreads *threads, ScSummons *summons)
{
    if (running(threads) >= threads->workers) {
        return 0;
    }
    Slot *slot = pop_idle(threads);
    if (slot != NULL) {
        *summons = rouse(slot);
        return 0;
    }
    return threads->alive < threads->places ? start_thread(threads) : 0;
}

void
sc_threads_keep(ScThreads *threads, int64_t span)
{
    pthread_mutex_lock(&threads->lock);
    threads->keep = span;
    pthread_mutex_unlock(&threads->lock);
}

void
sc_threads_visit(ScThreads *threads, void (*visit)(void *thread, void *to),
                 void *to)
{
    pthread_mutex_lock(&threads->lock);
    for (unsigned i = 0; i < threads->places; i++) {
        if (threads->slots[i].thread != NULL) {
            visit(threads->slots[i].thread, to);
        }
    }
    pthread_mutex_unlock(&threads->lock);
}

ScThreads *
sc_threads_current(void)
{
    return current_slot ? current_slot->threads : NULL;
}

void
sc_threads_block(ScThreads *threads)
{
    ScSummons summons = {0};
    pthread_mutex_lock(&threads->lock);
    threads->blocked++;
    if (threads->queued > 0) {
        /* Where no thread can be made, the job waits for those there are. */
        summon(threads, &summons);
    }
    pthread_mutex_unlock(&threads->lock);
    sc_threads_wake(&summons);
}

void
sc_threads_unblock(ScThreads *threads)
{
    pthread_mutex_lock(&threads->lock);
    threads->blocked--;
    pthread_mutex_unlock(&threads->lock);
}

int
sc_threads_push(ScThreads *threads, ScJob *job, ScSummons *summons)
{
    int result = 0, error = 0;
    *summons = (ScSummons){0};
    pthread_mutex_lock(&threads->lock);
    if (threads->closed) {
        result = SC_THREADS_CLOSED;
    }
    else if (!job->placed && is_full(threads)) {
        result = SC_THREADS_FULL;
    }
    else {
        push_job(threads, job);
        error = summon(threads, summons);
        if (error != 0 && threads->alive == 0) {
            unpush_job(threads, job);
            result = SC_THREADS_NONE;
        }
    }
    pthread_mutex_unlock(&threads->lock);
    if (result == SC_THREADS_NONE) {
        errno = error;
    }
    return result;
}

int
sc_threads_submit(ScThreads *threads, ScJob *job)
{
    ScSummons summons;
    int result = sc_threads_push(threads, job, &summons);
    sc_threads_wake(&summons);
    return result;
}

void
sc_threads_close(ScThreads *threads)
{
    pthread_mutex_lock(&threads->lock);
    threads->closed = true;
    for (Slot *slot; (slot = pop_idle(threads)) != NULL;) {
        ScSummons summons = rouse(slot);
        sc_threads_wake(&summons);
    }
    pthread_mutex_unlock(&threads->lock);
}

ScJob *
sc_threads_drain(ScThreads *threads)
{
    pthread_mutex_lock(&threads->lock);
    ScJob *jobs = threads->oldest;
    threads->oldest = threads->newest = NULL;
    threads->queued = 0;
    pthread_mutex_unlock(&threads->lock);
    return jobs;
}

size_t
sc_threads_join(ScThreads *threads, int64_t until)
{
    struct timespec moment = sc_clock_timespec(until > 0 ? until : 0);
    int rc = 0;
    pthread_mutex_lock(&threads->lock);
    while (threads->alive > 0 && rc != ETIMEDOUT) {
        if (until == SC_NEVER) {
            rc = pthread_cond_wait(&threads->ended, &threads->lock);
        }
        else {
            rc = pthread_cond_timedwait(&threads->ended, &threads->lock,
                                        &moment);
        }
    }
    join_ended(threads);
    size_t alive = threads->alive;
    pthread_mutex_unlock(&threads->lock);
    return alive;
}

int
sc_threads_is_worker(ScThreads *threads)
{
    int found = 0;
    pthread_mutex_lock(&threads->lock);
    for (unsigned i = 0; i < threads->places; i++) {
        Slot *slot = &threads->slots[i];
        found |= slot->state == SLOT_ALIVE &&
                 pthread_equal(slot->id, pthread_self());
    }
    pthread_mutex_unlock(&threads->lock);
    return found;
}

void
sc_threads_free(ScThreads *threads)
{
    sc_threads_close(threads);
    pthread_mutex_lock(&threads->lock);
    join_ended(threads);
    for (unsigned i = 0; i < threads->places; i++) {
        if (threads->slots[i].state == SLOT_ALIVE) {
            pthread_detach(threads->slots[i].id);
        }
    }
    threads->let_go = true;
    bool last = threads->alive == 0;
    pthread_mutex_unlock(&threads->lock);
    if (last) {
        destroy(threads);
    }
}

ScThreadsStats
sc_threads_stats(ScThreads *threads)
{
    pthread_mutex_lock(&threads->lock);
    ScThreadsStats stats = {.threads = threads->alive,
                            .idle = threads->idle_count,
                            .queued = threads->queued};
    pthread_mutex_unlock(&threads->lock);
    return stats;
}
