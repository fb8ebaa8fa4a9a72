#include <signal.h>
#include <string.h>

#include "model_loop.h"

enum { LIMIT_S = 100 };

static Model *shown;

/* -- when the test hangs ------------------------------------------------- */

static void
say(const char *name, size_t value)
{
    char line[80];
    int length = snprintf(line, sizeof(line), "  %s %zu\n", name, value);
    (void)!write(2, line, (size_t)length);
}

/* No lock: whoever has it may be the one that hangs. */
static void
bark(int number)
{
    (void)number;
    Model *model = shown;
    if (model != NULL) {
        ScDrive *drive = &model->drive;
        say("hangs; owner", atomic_load(&drive->owner));
        say("pump", model->pump.thread_id);
        say("watch", (size_t)model->pump.watch);
        say("asleep", atomic_load(&drive->poller.asleep));
        say("inbox is empty", sc_inbox_is_empty(&drive->inbox));
        say("calls", atomic_load(&drive->calls));
        say("eligible", atomic_load(&drive->eligible));
        say("ring is empty", model->oldest == NULL);
        say("timers", model->timers.count);
        say("ended", atomic_load(&model->ended));
        say("errands sent", atomic_load(&model->errands_sent));
        say("errands run", atomic_load(&model->errands_run));
        say("errands refused", atomic_load(&model->errands_refused));
    }
    abort();
}

/* -- the pump's side ----------------------------------------------------- */

static bool
pump_begin(void *context)
{
    (void)context;
    return true;
}

static void
pump_batch(void *context)
{
    Model *model = context;
    model_come_in(model);
    atomic_fetch_add(&model->batches, 1);
    for (int round = 0; round < 100; round++) {
        model_gather(model, false, false);
        if (model->oldest == NULL) {
            break;
        }
        model_run_ready(model, NULL);
        if (sc_drive_must_yield(&model->drive, true)) {
            break;
        }
    }
    model_leave(model);
}

static void
pump_end(void *context)
{
    (void)context;
}

static const ScPumpWork pump_work = {pump_begin, pump_batch, pump_end};

/* -- the pool's side ----------------------------------------------------- */

static void *
pool_begin(void *context, unsigned number)
{
    (void)number;
    return context;
}

static void
pool_nothing(void *thread)
{
    (void)thread;
}

static const ScThreadsWork pool_work = {pool_begin, pool_nothing, pool_nothing,
                                        pool_nothing};

/* -- the test's side ----------------------------------------------------- */

void
model_init(Model *model, unsigned pool_workers)
{
    memset(model, 0, sizeof(*model));
    shown = model;
    signal(SIGALRM, bark);
    alarm(LIMIT_S);
    model->by_fd = calloc(MODEL_FDS, sizeof(Call *));
    CHECK_EQ(sc_drive_init(&model->drive), 0);
    if (pool_workers > 0) {
        model->threads = sc_threads_new(&pool_work, model, "model-pool",
                                        pool_workers, 100000);
        CHECK(model->threads != NULL);
    }
    CHECK_EQ(sc_pump_start(&model->pump, &model->drive, &pump_work, model,
                           "model-pump"),
             0);
}

void
model_fini(Model *model)
{
    if (model->threads != NULL) {
        sc_threads_close(model->threads);
        CHECK_EQ(sc_threads_join(model->threads, SC_NEVER), 0);
        sc_threads_free(model->threads);
    }
    CHECK(sc_pump_stop(&model->pump, SC_NEVER));
    CHECK_EQ(atomic_load(&model->drive.owner), 0);
    CHECK_EQ(atomic_load(&model->drive.calls), 0);
    CHECK_EQ(atomic_load(&model->drive.tasks), 0);
    CHECK_EQ(atomic_load(&model->drive.eligible), 0);
    CHECK(model->drive.oldest == NULL && model->drive.newest == NULL);
    CHECK(sc_inbox_is_empty(&model->drive.inbox));
    CHECK(model->oldest == NULL);
    CHECK_EQ(model->timers.count, 0);
    CHECK_EQ(atomic_load(&model->errands_sent),
             atomic_load(&model->errands_run) +
                 atomic_load(&model->errands_refused));
    sc_timers_fini(&model->timers);
    sc_drive_fini(&model->drive);
    free(model->by_fd);
    alarm(0);
    shown = NULL;
}

Call *
call_new(Model *model, unsigned rounds, unsigned waits, uint32_t seed)
{
    Call *call = calloc(1, sizeof(*call));
    call->model = model;
    call->fd = -1;
    call->rounds = rounds;
    call->waits = waits;
    call->seed = seed ? seed : 1;
    atomic_init(&call->refs, 1);
    return call;
}

void
call_drop(Call *call)
{
    if (atomic_fetch_sub(&call->refs, 1) == 1) {
        memset(call, 0xdd, sizeof(*call));
        free(call);
    }
}

void
call_submit(Call *call)
{
    call->is_task = true;
    call->op.kind = OP_RESUME;
    atomic_fetch_add(&call->model->drive.tasks, 1);
    sc_drive_post(&call->model->drive, &call->op);
}
