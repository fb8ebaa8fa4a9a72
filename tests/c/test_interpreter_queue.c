/* The queue of the sub-interpreters' threads: whatever rests, removes and ends
 * in between, each job is run, refused, removed or drained, and just once. */
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "core/interpreter_queue.h"
#include "core/park.h"

enum { PUSHERS = 3, JOBS = 1500, WORKERS = 3 };

typedef struct {
    atomic_int begun, ended, freed, fails;
    atomic_int inside; /* threads with an interpreter, so to speak */
} Context;

typedef struct {
    ScQueued queued; /* first */
    ScPark *gate;    /* runs until it is 1; or NULL */
    atomic_int ran, refused, removed, drained;
} Job;

static void *
begin(void *context)
{
    Context *self = context;
    if (atomic_fetch_sub(&self->fails, 1) > 0) {
        return NULL;
    }
    atomic_fetch_add(&self->begun, 1);
    atomic_fetch_add(&self->inside, 1);
    return self;
}

static void
run(void *worker, ScQueued *queued)
{
    Context *self = worker;
    Job *job = (Job *)queued;
    CHECK(sc_queue_is_here());
    CHECK(atomic_load(&self->inside) <= WORKERS);
    if (job->gate != NULL) {
        sc_park_wait(job->gate, 0, SC_NEVER, -1);
    }
    atomic_fetch_add(&job->ran, 1);
}

static void
refuse(void *context, ScQueued *queued)
{
    (void)context;
    atomic_fetch_add(&((Job *)queued)->refused, 1);
}

static void
end(void *worker)
{
    Context *self = worker;
    atomic_fetch_sub(&self->inside, 1);
    atomic_fetch_add(&self->ended, 1);
}

static void
release(void *context)
{
    atomic_fetch_add(&((Context *)context)->freed, 1);
}

static const ScQueueWork work = {begin, run, refuse, end, release};

static void
finish(ScQueue *queue, Context *context)
{
    sc_queue_close(queue);
    CHECK_EQ(sc_queue_join(queue, SC_NEVER), 0);
    sc_queue_let_go(queue);
    WAIT_UNTIL(atomic_load(&context->freed) == 1);
    CHECK_EQ(atomic_load(&context->begun), atomic_load(&context->ended));
}

/* -- one after another ---------------------------------------------------- */

static void
test_bounds_and_close(void)
{
    Context context = {0};
    ScQueue *queue =
        sc_queue_new(&work, &context, "q", 1, 1, SC_NS_PER_S, false);
    ScPark gate = {.event_fd = -1};
    Job first = {.gate = &gate}, second = {0}, third = {0};
    CHECK_EQ(sc_queue_push(queue, &first.queued), 0);
    WAIT_UNTIL(sc_queue_stats(queue).running == 1);
    CHECK_EQ(sc_queue_push(queue, &second.queued), 0);
    CHECK_EQ(sc_queue_push(queue, &third.queued), SC_QUEUE_FULL);
    CHECK(!sc_queue_remove(queue, &first.queued));
    CHECK(sc_queue_remove(queue, &second.queued));
    CHECK(!sc_queue_remove(queue, &second.queued));
    CHECK_EQ(sc_queue_push(queue, &third.queued), 0);
    CHECK(sc_queue_drain(queue) == &third.queued);
    sc_park_set(&gate, 1);
    sc_queue_close(queue);
    CHECK_EQ(sc_queue_push(queue, &second.queued), SC_QUEUE_CLOSED);
    finish(queue, &context);
    CHECK_EQ(atomic_load(&first.ran), 1);
    CHECK_EQ(atomic_load(&second.ran) + atomic_load(&third.ran), 0);
}

static void
test_jobs_wait_through_a_rest(void)
{
    Context context = {0};
    ScQueue *queue =
        sc_queue_new(&work, &context, "q", 2, 10, SC_NS_PER_S, true);
    Job jobs[3] = {0};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sc_queue_push(queue, &jobs[i].queued), 0);
    }
    CHECK_EQ(sc_queue_stats(queue).threads, 0);
    sc_queue_resume(queue);
    for (int i = 0; i < 3; i++) {
        WAIT_UNTIL(atomic_load(&jobs[i].ran) == 1);
    }
    sc_queue_rest(queue);
    CHECK_EQ(sc_queue_join(queue, SC_NEVER), 0);
    CHECK_EQ(atomic_load(&context.inside), 0);
    finish(queue, &context);
}

/* One job is refused for each thread that cannot begin; the next has another
 * one. */
static void
test_a_thread_that_cannot_begin(void)
{
    Context context = {.fails = 1};
    ScQueue *queue =
        sc_queue_new(&work, &context, "q", 1, 10, SC_NS_PER_S, false);
    Job first = {0}, second = {0};
    CHECK_EQ(sc_queue_push(queue, &first.queued), 0);
    WAIT_UNTIL(atomic_load(&first.refused) == 1);
    CHECK_EQ(sc_queue_push(queue, &second.queued), 0);
    WAIT_UNTIL(atomic_load(&second.ran) == 1);
    finish(queue, &context);
}

static void
test_an_idle_thread_ends(void)
{
    Context context = {0};
    ScQueue *queue =
        sc_queue_new(&work, &context, "q", 1, 1, MILLISECOND, false);
    for (int i = 0; i < 20; i++) {
        Job job = {0};
        CHECK_EQ(sc_queue_push(queue, &job.queued), 0);
        WAIT_UNTIL(atomic_load(&job.ran) == 1);
        WAIT_UNTIL(sc_queue_stats(queue).threads == 0);
    }
    finish(queue, &context);
    CHECK_EQ(atomic_load(&context.begun), 20);
}

/* -- all at once ---------------------------------------------------------- */

typedef struct {
    ScQueue *queue;
    Job *jobs;
    uint32_t seed;
} Pusher;

static void *
push_all(void *arg)
{
    Pusher *self = arg;
    for (int i = 0; i < JOBS; i++) {
        Job *job = &self->jobs[i];
        while (sc_queue_push(self->queue, &job->queued) == SC_QUEUE_FULL) {
            sched_yield();
        }
        if (random_below(&self->seed, 4) == 0 &&
            sc_queue_remove(self->queue, &job->queued)) {
            atomic_fetch_add(&job->removed, 1);
        }
    }
    return NULL;
}

typedef struct {
    ScQueue *queue;
    Context *context;
    atomic_bool over;
} Forker;

/* As before a fork: none is inside when it begins. */
static void *
rest_and_resume(void *arg)
{
    Forker *self = arg;
    while (!atomic_load(&self->over)) {
        sc_queue_rest(self->queue);
        CHECK_EQ(sc_queue_join(self->queue, SC_NEVER), 0);
        CHECK_EQ(atomic_load(&self->context->inside), 0);
        sc_queue_resume(self->queue);
        sched_yield();
    }
    return NULL;
}

static void
test_no_job_is_lost(int64_t idle_ns, uint32_t seed)
{
    static Job jobs[PUSHERS][JOBS];
    Context context = {.fails = (int)(seed % 3)};
    Pusher pushers[PUSHERS];
    pthread_t threads[PUSHERS];
    memset(jobs, 0, sizeof(jobs));
    ScQueue *queue =
        sc_queue_new(&work, &context, "q", WORKERS, 50, idle_ns, false);
    Forker forker = {.queue = queue, .context = &context};
    pthread_t forking = thread_start(rest_and_resume, &forker);
    for (int i = 0; i < PUSHERS; i++) {
        pushers[i] = (Pusher){queue, jobs[i], seed + (uint32_t)i};
        threads[i] = thread_start(push_all, &pushers[i]);
    }
    for (int i = 0; i < PUSHERS; i++) {
        thread_join(threads[i]);
    }
    atomic_store(&forker.over, true);
    thread_join(forking);
    sc_queue_close(queue);
    for (ScQueued *at = sc_queue_drain(queue); at != NULL; at = at->next) {
        atomic_fetch_add(&((Job *)at)->drained, 1);
    }
    finish(queue, &context);
    for (int i = 0; i < PUSHERS * JOBS; i++) {
        Job *job = &jobs[0][0] + i;
        CHECK_EQ(atomic_load(&job->ran) + atomic_load(&job->refused) +
                     atomic_load(&job->removed) + atomic_load(&job->drained),
                 1);
    }
}

int
main(void)
{
    test_bounds_and_close();
    test_jobs_wait_through_a_rest();
    test_a_thread_that_cannot_begin();
    test_an_idle_thread_ends();
    test_no_job_is_lost(SC_NS_PER_S, 1);
    test_no_job_is_lost(20 * 1000, 2);
    test_no_job_is_lost(0, 3);
    return 0;
}
