/* Threads: the pool runs each job once, starts and keeps threads as promised,
 * and ends within its limits. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "core/park.h"
#include "core/threads.h"

typedef struct {
    atomic_int begun, ended;
    atomic_int refuse; /* how many begins shall fail */
} Counters;

typedef struct {
    Counters *counters;
    unsigned number;
    int resumed;
} Worker;

static void *
begin(void *context, unsigned number)
{
    Counters *counters = context;
    if (atomic_fetch_sub(&counters->refuse, 1) > 0) {
        return NULL;
    }
    Worker *worker = calloc(1, sizeof(*worker));
    worker->counters = counters;
    worker->number = number;
    atomic_fetch_add(&counters->begun, 1);
    return worker;
}

static void
resume(void *thread)
{
    Worker *worker = thread;
    CHECK_EQ(worker->resumed, 0);
    worker->resumed = 1;
}

static void
pause_thread(void *thread)
{
    Worker *worker = thread;
    CHECK_EQ(worker->resumed, 1);
    worker->resumed = 0;
}

static void
end(void *thread)
{
    Worker *worker = thread;
    CHECK_EQ(worker->resumed, 1);
    atomic_fetch_add(&worker->counters->ended, 1);
    free(worker);
}

static const ScThreadsWork work = {begin, resume, pause_thread, end};

typedef struct {
    ScJob base;
    atomic_int runs;
    ScPark *running; /* set to 1 when it runs */
    ScPark *gate;    /* waits while it is 0 */
    int *log;
    int *log_end;
    int number;
} Job;

static void
run(ScJob *base, void *thread)
{
    Job *job = (Job *)base;
    CHECK_EQ(((Worker *)thread)->resumed, 1);
    CHECK_EQ(atomic_fetch_add(&job->runs, 1), 0);
    if (job->log != NULL) {
        job->log[(*job->log_end)++] = job->number;
    }
    if (job->running != NULL) {
        sc_park_set(job->running, 1);
    }
    if (job->gate != NULL) {
        sc_park_wait(job->gate, 0, SC_NEVER, -1);
    }
}

static void
submit(ScThreads *threads, Job *job)
{
    job->base.run = run;
    CHECK_EQ(sc_threads_submit(threads, &job->base), 0);
}

static void
finish(ScThreads *threads, Counters *counters)
{
    sc_threads_close(threads);
    CHECK_EQ(sc_threads_join(threads, SC_NEVER), 0);
    CHECK_EQ(atomic_load(&counters->begun), atomic_load(&counters->ended));
    sc_threads_free(threads);
}

static void
test_started_on_demand_and_kept(void)
{
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 4, 100);
    CHECK_EQ(sc_threads_stats(threads).threads, 0);
    for (int i = 0; i < 500; i++) {
        ScPark running = {.event_fd = -1};
        Job job = {.running = &running};
        submit(threads, &job);
        sc_park_wait(&running, 0, SC_NEVER, -1);
        WAIT_UNTIL(sc_threads_stats(threads).idle == 1);
    }
    CHECK_EQ(atomic_load(&counters.begun), 1);
    finish(threads, &counters);
}

static void
test_maximum_order_and_room(void)
{
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 2, 50);
    ScPark gate = {.event_fd = -1}, running[2];
    Job blockers[2] = {0};
    for (int i = 0; i < 2; i++) {
        running[i] = (ScPark){.event_fd = -1};
        blockers[i] = (Job){.running = &running[i], .gate = &gate};
        submit(threads, &blockers[i]);
        sc_park_wait(&running[i], 0, SC_NEVER, -1);
    }
    Job queued[50] = {0}, extra = {.base = {.run = run}};
    for (int i = 0; i < 50; i++) {
        submit(threads, &queued[i]);
    }
    CHECK_EQ(sc_threads_submit(threads, &extra.base), SC_THREADS_FULL);
    ScThreadsStats stats = sc_threads_stats(threads);
    CHECK_EQ(stats.threads, 2);
    CHECK_EQ(stats.idle, 0);
    CHECK_EQ(stats.queued, 50);
    sc_park_set(&gate, 1);
    finish(threads, &counters);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(atomic_load(&queued[i].runs), 1);
    }
    CHECK_EQ(atomic_load(&extra.runs), 0);
}

static void
test_one_thread_keeps_the_order(void)
{
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 1, 1000);
    static Job jobs[1000];
    static int log[1000];
    int log_end = 0;
    memset(jobs, 0, sizeof(jobs));
    for (int i = 0; i < 1000; i++) {
        jobs[i].log = log;
        jobs[i].log_end = &log_end;
        jobs[i].number = i;
        submit(threads, &jobs[i]);
    }
    finish(threads, &counters);
    CHECK_EQ(log_end, 1000);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(log[i], i);
    }
}

static void
test_stop_with_a_limit(void)
{
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 2, 10);
    ScPark gate = {.event_fd = -1}, running = {.event_fd = -1};
    Job stuck = {.running = &running, .gate = &gate};
    submit(threads, &stuck);
    sc_park_wait(&running, 0, SC_NEVER, -1);
    ScPark running_too = {.event_fd = -1};
    Job stuck_too = {.running = &running_too, .gate = &gate};
    submit(threads, &stuck_too);
    sc_park_wait(&running_too, 0, SC_NEVER, -1);
    Job queued[3] = {0};
    for (int i = 0; i < 3; i++) {
        submit(threads, &queued[i]);
    }
    sc_threads_close(threads);
    Job late = {.base = {.run = run}};
    CHECK_EQ(sc_threads_submit(threads, &late.base), SC_THREADS_CLOSED);
    ScJob *drained = sc_threads_drain(threads);
    for (int i = 0; i < 3; i++, drained = drained->next) {
        CHECK(drained == &queued[i].base);
    }
    CHECK(drained == NULL);
    CHECK(sc_threads_drain(threads) == NULL);
    int64_t before = sc_clock_now();
    CHECK_EQ(sc_threads_join(threads, before + 3 * MILLISECOND), 2);
    CHECK(sc_clock_now() >= before + 3 * MILLISECOND);
    CHECK_EQ(sc_threads_join(threads, before), 2);
    sc_park_set(&gate, 1);
    CHECK_EQ(sc_threads_join(threads, SC_NEVER), 0);
    CHECK_EQ(sc_threads_join(threads, SC_NEVER), 0);
    CHECK_EQ(atomic_load(&queued[0].runs), 0);
    sc_threads_free(threads);
}

static void
test_let_go_while_it_runs(void)
{
    static Counters counters;
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 3, 100);
    static ScPark gate = {.event_fd = -1};
    static ScPark running = {.event_fd = -1};
    static Job stuck, queued[20];
    stuck.running = &running;
    stuck.gate = &gate;
    submit(threads, &stuck);
    sc_park_wait(&running, 0, SC_NEVER, -1);
    for (int i = 0; i < 20; i++) {
        submit(threads, &queued[i]);
    }
    sc_threads_free(threads);
    sc_park_set(&gate, 1);
    WAIT_UNTIL(atomic_load(&counters.ended) == atomic_load(&counters.begun) &&
               atomic_load(&counters.ended) > 0);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(atomic_load(&queued[i].runs), 1);
    }
}

static void
test_a_thread_that_cannot_begin_loses_no_job(void)
{
    Counters counters = {.refuse = 1};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 2, 10);
    Job first = {0}, second = {0};
    submit(threads, &first);
    WAIT_UNTIL(sc_threads_stats(threads).threads == 0);
    CHECK_EQ(sc_threads_stats(threads).queued, 1);
    submit(threads, &second);
    finish(threads, &counters);
    CHECK_EQ(atomic_load(&first.runs), 1);
    CHECK_EQ(atomic_load(&second.runs), 1);
}

static void
ask_who(ScJob *base, void *thread)
{
    (void)thread;
    Job *job = (Job *)base;
    char name[16];
    sigset_t blocked;
    CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof(name)), 0);
    CHECK_EQ(strcmp(name, "a-long-long-n-0"), 0);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &blocked), 0);
    CHECK(sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGALRM));
    job->number = 1;
}

static void
test_names_and_signals(void)
{
    Counters counters = {0};
    ScThreads *threads =
        sc_threads_new(&work, &counters, "a-long-long-name", 1, 1);
    Job job = {.base = {.run = ask_who}};
    CHECK_EQ(sc_threads_submit(threads, &job.base), 0);
    CHECK(!sc_threads_is_worker(threads));
    finish(threads, &counters);
    CHECK_EQ(job.number, 1);
    sigset_t blocked;
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &blocked), 0);
    CHECK(!sigismember(&blocked, SIGINT));
}

enum { SUBMITTERS = 4, EACH = 4000 };

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
        submit(self->threads, &self->jobs[i]);
        if (random_below(&self->seed, 8) == 0) {
            sched_yield();
        }
    }
    return NULL;
}

static void
test_many_submitters(unsigned workers)
{
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", workers,
                                        (size_t)SUBMITTERS * EACH);
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
    finish(threads, &counters);
    CHECK(atomic_load(&counters.begun) <= (int)workers);
    for (int i = 0; i < SUBMITTERS; i++) {
        for (int k = 0; k < EACH; k++) {
            CHECK_EQ(atomic_load(&submitters[i].jobs[k].runs), 1);
        }
        free(submitters[i].jobs);
    }
}

static void
test_bad_sizes(void)
{
    CHECK(sc_threads_new(&work, NULL, "t", 0, 1) == NULL);
    CHECK_EQ(errno, EINVAL);
    CHECK(sc_threads_new(&work, NULL, "t", SC_THREADS_MAX + 1, 1) == NULL);
    CHECK_EQ(errno, EINVAL);
    ScThreads *unused = sc_threads_new(&work, NULL, "t", SC_THREADS_MAX, 1);
    CHECK(unused != NULL);
    sc_threads_free(unused);
}

typedef struct {
    ScJob base;
    ScThreads *threads;
    ScPark *blocked; /* set when it blocks; NULL: it does not */
    ScPark *gate;
    atomic_int *running;
    atomic_int *most;
    atomic_int *done;
} BlockingJob;

static void
run_blocking(ScJob *base, void *thread)
{
    BlockingJob *job = (BlockingJob *)base;
    (void)thread;
    CHECK(sc_threads_current() == job->threads);
    if (job->blocked != NULL) {
        sc_threads_block(job->threads);
        sc_park_set(job->blocked, 1);
        sc_park_wait(job->gate, 0, SC_NEVER, -1);
        sc_threads_unblock(job->threads);
    }
    else {
        int now = atomic_fetch_add(job->running, 1) + 1;
        if (now > atomic_load(job->most)) {
            atomic_store(job->most, now);
        }
        sched_yield();
        atomic_fetch_sub(job->running, 1);
    }
    atomic_fetch_add(job->done, 1);
}

static void
test_a_blocked_job_gives_its_place(void)
{
    enum { DEPTH = 20, MORE = 200 };
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 1, 1000);
    CHECK(sc_threads_current() == NULL);
    atomic_int running = 0, most = 0, done = 0;
    ScPark gates[DEPTH], blocked[DEPTH];
    BlockingJob jobs[DEPTH + MORE];
    for (int i = 0; i < DEPTH + MORE; i++) {
        jobs[i] = (BlockingJob){.base.run = run_blocking,
                                .threads = threads,
                                .running = &running,
                                .most = &most,
                                .done = &done};
    }
    for (int i = 0; i < DEPTH; i++) {
        gates[i] = blocked[i] = (ScPark){.event_fd = -1};
        jobs[i].gate = &gates[i];
        jobs[i].blocked = &blocked[i];
        CHECK_EQ(sc_threads_submit(threads, &jobs[i].base), 0);
        sc_park_wait(&blocked[i], 0, SC_NEVER, -1);
    }
    CHECK_EQ(sc_threads_stats(threads).threads, DEPTH);
    for (int i = DEPTH; i < DEPTH + MORE / 2; i++) {
        CHECK_EQ(sc_threads_submit(threads, &jobs[i].base), 0);
    }
    WAIT_UNTIL(atomic_load(&done) == MORE / 2);
    CHECK_EQ(atomic_load(&most), 1);
    for (int i = 0; i < DEPTH; i++) {
        sc_park_set(&gates[i], 1);
    }
    WAIT_UNTIL(atomic_load(&done) == DEPTH + MORE / 2);
    WAIT_UNTIL(sc_threads_stats(threads).idle == DEPTH + 1);
    /* One at a time again, whoever is woken, and no job is left. */
    for (int i = DEPTH + MORE / 2; i < DEPTH + MORE; i++) {
        CHECK_EQ(sc_threads_submit(threads, &jobs[i].base), 0);
    }
    WAIT_UNTIL(atomic_load(&done) == DEPTH + MORE);
    CHECK_EQ(atomic_load(&most), 1);
    finish(threads, &counters);
}

/* What became of the thread when one more job was pushed, and has run. */
static ScSummons
run_one_more(ScThreads *threads)
{
    Job job = {.base = {.run = run}};
    ScSummons summons;
    CHECK_EQ(sc_threads_push(threads, &job.base, &summons), 0);
    CHECK(!(summons.sleeps && summons.looks_out));
    sc_threads_wake(&summons);
    WAIT_UNTIL(sc_threads_stats(threads).idle == 1);
    CHECK_EQ(atomic_load(&job.runs), 1);
    return summons;
}

static void
test_it_looks_out_where_jobs_come_soon(void)
{
    cpu_set_t set;
    CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    if (CPU_COUNT(&set) < 2) {
        return; /* Nobody can look out while somebody else works. */
    }
    Counters counters = {0};
    ScThreads *threads = sc_threads_new(&work, &counters, "t", 1, 10);
    WAIT_UNTIL(run_one_more(threads).looks_out);
    for (int i = 0; i < 20; i++) {
        int64_t next = sc_clock_now() + MILLISECOND;
        WAIT_UNTIL(sc_clock_now() >= next);
        /* The first one may have been looked out for, in vain. */
        CHECK(run_one_more(threads).sleeps || i == 0);
    }
    finish(threads, &counters);
}

int
main(void)
{
    test_bad_sizes();
    test_started_on_demand_and_kept();
    test_maximum_order_and_room();
    test_one_thread_keeps_the_order();
    test_stop_with_a_limit();
    test_let_go_while_it_runs();
    test_a_thread_that_cannot_begin_loses_no_job();
    test_names_and_signals();
    test_a_blocked_job_gives_its_place();
    test_it_looks_out_where_jobs_come_soon();
    test_many_submitters(1);
    test_many_submitters(5);
    return 0;
}
