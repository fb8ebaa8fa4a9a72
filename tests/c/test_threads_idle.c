/* Idle threads end, and nothing is lost by it; what a pool's threads are doing
 * can be seen; and so many may stand in for blocked ones, no more. */
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "core/park.h"
#include "core/threads.h"

typedef struct {
    atomic_int begun, ended;
    ScPark *ending; /* set by who ends, who then waits for `gate` */
    ScPark *gate;
} Counters;

static void *
begin(void *context, unsigned number)
{
    (void)number;
    Counters *counters = context;
    atomic_fetch_add(&counters->begun, 1);
    return counters;
}

static void
nothing(void *thread)
{
    (void)thread;
}

static void
end(void *thread)
{
    Counters *counters = thread;
    if (counters->gate != NULL) {
        sc_park_set(counters->ending, 1);
        sc_park_wait(counters->gate, 0, SC_NEVER, -1);
    }
    atomic_fetch_add(&counters->ended, 1);
}

static const ScThreadsWork work = {begin, nothing, nothing, end};

typedef struct {
    ScJob base;
    ScThreads *threads;
    ScPark *running; /* set to 1 when it runs, or blocks */
    ScPark *gate;    /* waits while it is 0 */
    bool blocks;     /* while it waits */
    atomic_int runs;
} Job;

static void
run(ScJob *base, void *thread)
{
    Job *job = (Job *)base;
    (void)thread;
    if (job->blocks) {
        sc_threads_block(job->threads);
    }
    if (job->running != NULL) {
        sc_park_set(job->running, 1);
    }
    if (job->gate != NULL) {
        sc_park_wait(job->gate, 0, SC_NEVER, -1);
    }
    if (job->blocks) {
        sc_threads_unblock(job->threads);
    }
    atomic_fetch_add(&job->runs, 1);
}

static void
submit(ScThreads *threads, Job *job)
{
    job->base.run = run;
    job->threads = threads;
    CHECK_EQ(sc_threads_submit(threads, &job->base), 0);
}

/* Submit it, and wait until it runs or blocks. */
static void
begin_job(ScThreads *threads, Job *job, ScPark *running)
{
    *running = (ScPark){.event_fd = -1};
    job->running = running;
    submit(threads, job);
    sc_park_wait(running, 0, SC_NEVER, -1);
}

static void
finish(ScThreads *threads, Counters *counters)
{
    sc_threads_close(threads);
    CHECK_EQ(sc_threads_join(threads, SC_NEVER), 0);
    CHECK_EQ(atomic_load(&counters->begun), atomic_load(&counters->ended));
    sc_threads_free(threads);
}

static ScThreads *
new_pool(Counters *counters, unsigned workers, int64_t keep)
{
    ScThreads *threads = sc_threads_new(&work, counters, "t", workers, 100000);
    CHECK(threads != NULL);
    sc_threads_keep(threads, keep);
    return threads;
}

/* So many threads that lie idle then. */
static void
start_threads(ScThreads *threads, int count)
{
    ScPark gate = {.event_fd = -1}, running[8];
    Job jobs[8] = {0};
    CHECK(count <= 8);
    for (int i = 0; i < count; i++) {
        jobs[i].gate = &gate;
        begin_job(threads, &jobs[i], &running[i]);
    }
    CHECK_EQ(sc_threads_stats(threads).threads, count);
    sc_park_set(&gate, 1);
    for (int i = 0; i < count; i++) {
        WAIT_UNTIL(atomic_load(&jobs[i].runs) == 1);
    }
}

static void
test_idle_threads_end(void)
{
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 4, 5 * MILLISECOND);
    for (int round = 1; round <= 3; round++) {
        start_threads(threads, 4);
        WAIT_UNTIL(sc_threads_stats(threads).threads == 0);
        CHECK_EQ(sc_threads_stats(threads).idle, 0);
        CHECK_EQ(atomic_load(&counters.begun), 4 * round);
        CHECK_EQ(atomic_load(&counters.ended), 4 * round);
    }
    finish(threads, &counters);
}

static void
test_they_are_kept_until_then(void)
{
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 4, 40 * MILLISECOND);
    start_threads(threads, 4);
    WAIT_UNTIL(sc_threads_stats(threads).idle == 4);
    int64_t idle = sc_clock_now();
    WAIT_UNTIL(sc_threads_stats(threads).threads == 0);
    CHECK(sc_clock_now() - idle >= 20 * MILLISECOND);
    sc_threads_keep(threads, SC_NEVER);
    start_threads(threads, 2);
    WAIT_UNTIL(sc_threads_stats(threads).idle == 2);
    int64_t later = sc_clock_now() + 60 * MILLISECOND;
    WAIT_UNTIL(sc_clock_now() >= later);
    CHECK_EQ(sc_threads_stats(threads).threads, 2);
    finish(threads, &counters);
}

static bool
all_idle(ScThreads *threads)
{
    ScThreadsStats stats = sc_threads_stats(threads);
    return stats.idle == stats.threads;
}

/* Slow traffic has one thread all the time; those that it has no need of go.
 */
static void
test_slow_traffic_keeps_its_thread(void)
{
    enum { KEEP = 200 };
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 4, KEEP * MILLISECOND);
    start_threads(threads, 4);
    int64_t longest = 0, last = sc_clock_now();
    while (sc_threads_stats(threads).threads > 1) {
        Job job = {0};
        submit(threads, &job);
        WAIT_UNTIL(atomic_load(&job.runs) == 1 && all_idle(threads));
        int64_t now = sc_clock_now();
        longest = now - last > longest ? now - last : longest;
        last = now;
        int64_t next = now + MILLISECOND;
        WAIT_UNTIL(sc_clock_now() >= next);
    }
    /* Unless this thread was kept off the processor for so long. */
    CHECK(atomic_load(&counters.begun) == 4 ||
          longest > KEEP * MILLISECOND / 2);
    finish(threads, &counters);
}

enum { SUBMITTERS = 3, EACH = 3000 };

typedef struct {
    ScThreads *threads;
    Job *jobs;
    uint32_t seed;
} Submitter;

static void *
submit_many(void *arg)
{
    Submitter *self = arg;
    for (int i = 0; i < EACH; i++) {
        self->jobs[i].blocks = random_below(&self->seed, 4) == 0;
        submit(self->threads, &self->jobs[i]);
        if (random_below(&self->seed, 4) == 0) {
            /* Long enough for threads to lie down, or to be about to end. */
            int64_t until =
                sc_clock_now() + random_below(&self->seed, 100) * 1000;
            while (sc_clock_now() < until) {
                sched_yield();
            }
        }
    }
    return NULL;
}

/* Threads end all the time, in the middle of it.  Every job is waited for: one
 * that nobody looks at is never run, for nothing more comes. */
static void
test_no_job_is_lost(unsigned workers, int64_t keep)
{
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, workers, keep);
    Submitter submitters[SUBMITTERS];
    pthread_t ids[SUBMITTERS];
    for (int i = 0; i < SUBMITTERS; i++) {
        submitters[i] =
            (Submitter){threads, calloc(EACH, sizeof(Job)), (uint32_t)i + 7};
        ids[i] = thread_start(submit_many, &submitters[i]);
    }
    for (int i = 0; i < SUBMITTERS; i++) {
        thread_join(ids[i]);
    }
    for (int i = 0; i < SUBMITTERS; i++) {
        for (int k = 0; k < EACH; k++) {
            WAIT_UNTIL(atomic_load(&submitters[i].jobs[k].runs) == 1);
        }
    }
    WAIT_UNTIL(sc_threads_stats(threads).threads == 0);
    CHECK(atomic_load(&counters.begun) > 1);
    for (int i = 0; i < SUBMITTERS; i++) {
        free(submitters[i].jobs);
    }
    finish(threads, &counters);
}

/* As many as there may be, all blocked: the last one's job waits, and runs
 * when one of them goes on. */
static void
test_the_cap_of_spares(void)
{
    enum { ALL = SC_THREADS_SPARE + 1 };
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 1, SC_NEVER);
    static Job jobs[ALL], waits[3];
    static ScPark gates[ALL], running[ALL];
    for (int i = 0; i < ALL; i++) {
        gates[i] = (ScPark){.event_fd = -1};
        jobs[i] = (Job){.gate = &gates[i], .blocks = true};
        begin_job(threads, &jobs[i], &running[i]);
    }
    for (int i = 0; i < 3; i++) {
        submit(threads, &waits[i]);
    }
    ScThreadsStats stats = sc_threads_stats(threads);
    CHECK_EQ(stats.threads, ALL);
    CHECK_EQ(stats.queued, 3);
    sc_park_set(&gates[5], 1);
    WAIT_UNTIL(atomic_load(&waits[2].runs) == 1);
    CHECK_EQ(atomic_load(&jobs[5].runs), 1);
    CHECK_EQ(sc_threads_stats(threads).threads, ALL);
    for (int i = 0; i < ALL; i++) {
        sc_park_set(&gates[i], 1);
    }
    finish(threads, &counters);
    CHECK_EQ(atomic_load(&counters.begun), ALL);
}

/* The only thread that there is a place for is on its way out when a job
 * comes, and all others are blocked: it comes back. */
static void
test_one_that_leaves_looks_once_more(void)
{
    ScPark ending = {.event_fd = -1}, leave = {.event_fd = -1};
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 1, SC_NEVER);
    static Job jobs[SC_THREADS_SPARE];
    static ScPark gate, running[SC_THREADS_SPARE];
    gate = (ScPark){.event_fd = -1};
    for (int i = 0; i < SC_THREADS_SPARE; i++) {
        jobs[i] = (Job){.gate = &gate, .blocks = true};
        begin_job(threads, &jobs[i], &running[i]);
    }
    counters.ending = &ending;
    counters.gate = &leave;
    sc_threads_keep(threads, MILLISECOND);
    Job last = {0};
    submit(threads, &last);
    sc_park_wait(&ending, 0, SC_NEVER, -1);
    CHECK_EQ(atomic_load(&last.runs), 1);
    Job late = {0};
    submit(threads, &late);
    CHECK_EQ(sc_threads_stats(threads).queued, 1);
    CHECK_EQ(sc_threads_stats(threads).threads, SC_THREADS_SPARE + 1);
    sc_park_set(&leave, 1);
    WAIT_UNTIL(atomic_load(&late.runs) == 1);
    sc_park_set(&gate, 1);
    finish(threads, &counters);
}

typedef struct {
    ScJob base;
    ScThreads *threads;
    ScPark *blocked, *go_on, *goes_on, *gate;
} Resuming;

static void
run_resuming(ScJob *base, void *thread)
{
    Resuming *job = (Resuming *)base;
    (void)thread;
    sc_threads_block(job->threads);
    sc_park_set(job->blocked, 1);
    sc_park_wait(job->go_on, 0, SC_NEVER, -1);
    sc_threads_unblock(job->threads);
    sc_park_set(job->goes_on, 1);
    sc_park_wait(job->gate, 0, SC_NEVER, -1);
}

/* One stood in for a job that has gone on since, and lies idle while another
 * job waits its turn: it stays until that one has run. */
static void
test_none_ends_while_a_job_waits(void)
{
    ScPark parks[4] = {{.event_fd = -1},
                       {.event_fd = -1},
                       {.event_fd = -1},
                       {.event_fd = -1}};
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 1, SC_NEVER);
    Resuming first = {{.run = run_resuming},
                      threads,
                      &parks[0],
                      &parks[1],
                      &parks[2],
                      &parks[3]};
    CHECK_EQ(sc_threads_submit(threads, &first.base), 0);
    sc_park_wait(&parks[0], 0, SC_NEVER, -1);
    /* Not asleep for good yet when the time is set. */
    sc_threads_keep(threads, 200 * MILLISECOND);
    Job other = {0}, waits = {0};
    submit(threads, &other);
    WAIT_UNTIL(atomic_load(&other.runs) == 1 &&
               sc_threads_stats(threads).idle == 1);
    sc_park_set(&parks[1], 1);
    sc_park_wait(&parks[2], 0, SC_NEVER, -1);
    sc_threads_keep(threads, 0);
    submit(threads, &waits);
    int64_t later = sc_clock_now() + 260 * MILLISECOND;
    WAIT_UNTIL(sc_clock_now() >= later);
    ScThreadsStats stats = sc_threads_stats(threads);
    CHECK_EQ(stats.threads, 2);
    CHECK_EQ(stats.queued, 1);
    sc_park_set(&parks[3], 1);
    WAIT_UNTIL(atomic_load(&waits.runs) == 1);
    WAIT_UNTIL(sc_threads_stats(threads).threads == 0);
    finish(threads, &counters);
}

/* Waited for, or left to itself, a thread that is on its way out comes to its
 * end, and so does one that a job of a pool without an owner starts. */
static void
test_the_pool_ends_meanwhile(bool let_go)
{
    static ScPark ending, leave, gate, running;
    static Counters counters;
    static Job stuck, queued;
    ending = leave = gate = (ScPark){.event_fd = -1};
    memset(&counters, 0, sizeof(counters));
    counters.ending = &ending;
    counters.gate = &leave;
    stuck = (Job){.gate = &gate};
    queued = (Job){0};
    ScThreads *threads = new_pool(&counters, 1, MILLISECOND);
    start_threads(threads, 1);
    sc_park_wait(&ending, 0, SC_NEVER, -1);
    begin_job(threads, &stuck, &running);
    CHECK_EQ(sc_threads_stats(threads).threads, 2);
    submit(threads, &queued);
    if (let_go) {
        sc_threads_free(threads);
    }
    else {
        sc_threads_close(threads);
        CHECK_EQ(sc_threads_join(threads, sc_clock_now() + MILLISECOND), 2);
    }
    sc_park_set(&leave, 1);
    sc_park_set(&gate, 1);
    WAIT_UNTIL(atomic_load(&queued.runs) == 1);
    if (!let_go) {
        finish(threads, &counters);
    }
    WAIT_UNTIL(atomic_load(&counters.ended) == atomic_load(&counters.begun));
}

typedef struct {
    ScJob base;
    ScThreads *threads;
    ScPark *gate;
    atomic_int *done;
} Blocker;

static void
run_blocker(ScJob *base, void *thread)
{
    Blocker *job = (Blocker *)base;
    (void)thread;
    sc_park_wait(job->gate, 0, SC_NEVER, -1);
    for (int i = 0; i < 50; i++) {
        sc_threads_block(job->threads);
        sched_yield();
        sc_threads_unblock(job->threads);
    }
    atomic_fetch_add(job->done, 1);
}

/* Its jobs go on blocking after it was let go, and have others start. */
static void
test_jobs_block_in_a_pool_that_was_let_go(void)
{
    enum { JOBS = 40 };
    static Counters counters;
    static ScPark gate;
    static atomic_int done;
    static Blocker jobs[JOBS];
    gate = (ScPark){.event_fd = -1};
    ScThreads *threads = new_pool(&counters, 1, 0);
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = (Blocker){{.run = run_blocker}, threads, &gate, &done};
        CHECK_EQ(sc_threads_submit(threads, &jobs[i].base), 0);
    }
    sc_threads_free(threads);
    sc_park_set(&gate, 1);
    WAIT_UNTIL(atomic_load(&done) == JOBS);
    WAIT_UNTIL(atomic_load(&counters.ended) == atomic_load(&counters.begun));
}

static void
count(void *thread, void *to)
{
    CHECK(thread != NULL);
    (*(int *)to)++;
}

static void
test_threads_can_be_seen(void)
{
    Counters counters = {0};
    ScThreads *threads = new_pool(&counters, 3, 0);
    ScPark gate = {.event_fd = -1}, running[2];
    Job jobs[2] = {{.gate = &gate}, {.gate = &gate}};
    int seen = 0;
    sc_threads_visit(threads, count, &seen);
    CHECK_EQ(seen, 0);
    begin_job(threads, &jobs[0], &running[0]);
    begin_job(threads, &jobs[1], &running[1]);
    sc_threads_visit(threads, count, &seen);
    CHECK_EQ(seen, 2);
    sc_park_set(&gate, 1);
    WAIT_UNTIL(sc_threads_stats(threads).threads == 0);
    sc_threads_visit(threads, count, &seen);
    CHECK_EQ(seen, 2);
    finish(threads, &counters);
}

/* One that has its place is taken though the queue is full. */
static void
test_a_place_is_a_place(void)
{
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 1, 0);
    ScPark gate = {.event_fd = -1}, running;
    Job first = {.gate = &gate}, placed = {.base = {.placed = true}};
    Job refused = {.base = {.run = run}};
    begin_job(threads, &first, &running);
    CHECK_EQ(sc_threads_submit(threads, &refused.base), SC_THREADS_FULL);
    submit(threads, &placed);
    CHECK_EQ(sc_threads_stats(threads).queued, 1);
    sc_park_set(&gate, 1);
    finish(threads, &counters);
    CHECK_EQ(atomic_load(&placed.runs), 1);
    CHECK_EQ(atomic_load(&refused.runs), 0);
}

int
main(void)
{
    test_idle_threads_end();
    test_they_are_kept_until_then();
    test_slow_traffic_keeps_its_thread();
    test_no_job_is_lost(1, 0);
    test_no_job_is_lost(3, 0);
    test_no_job_is_lost(3, 20 * 1000);
    test_no_job_is_lost(2, 60 * 1000);
    test_the_cap_of_spares();
    test_one_that_leaves_looks_once_more();
    test_none_ends_while_a_job_waits();
    test_the_pool_ends_meanwhile(false);
    test_the_pool_ends_meanwhile(true);
    test_jobs_block_in_a_pool_that_was_let_go();
    test_threads_can_be_seen();
    test_a_place_is_a_place();
    return 0;
}
