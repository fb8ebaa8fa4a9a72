#include "model.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/timerfd.h>

enum { FDS = 4096, LIMIT_S = 100 };

enum { OP_START, OP_RESUME };

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

/* -- the owner's side ---------------------------------------------------- */

static void
come_in(Model *model)
{
    uintptr_t nobody = 0;
    CHECK(sc_drive_is_owner(&model->drive));
    CHECK(atomic_compare_exchange_strong(&model->inside, &nobody,
                                         sc_thread_self()));
}

static void
go_out(Model *model)
{
    CHECK_EQ(atomic_exchange(&model->inside, 0), sc_thread_self());
}

static void
check_inside(Model *model)
{
    CHECK_EQ(atomic_load(&model->inside), sc_thread_self());
    CHECK(sc_drive_is_owner(&model->drive));
}

static void
leave(Model *model)
{
    bool due = model->oldest != NULL;
    int64_t next_timer = sc_timers_next(&model->timers);
    go_out(model);
    sc_drive_leave(&model->drive, due, next_timer);
}

static void
ring_push(Call *call)
{
    Model *model = call->model;
    call->next = NULL;
    if (model->newest != NULL) {
        model->newest->next = call;
    }
    else {
        model->oldest = call;
    }
    model->newest = call;
}

static Call *
ring_pop(Model *model)
{
    Call *call = model->oldest;
    if (call != NULL) {
        model->oldest = call->next;
        if (model->oldest == NULL) {
            model->newest = NULL;
        }
    }
    return call;
}

static void
wait_for_descriptor(Call *call)
{
    Model *model = call->model;
    if (call->fd < 0) {
        call->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        CHECK(call->fd >= 0 && call->fd < FDS);
        CHECK_EQ(sc_poller_set(&model->drive.poller, call->fd, 0, EPOLLIN), 0);
        model->by_fd[call->fd] = call;
    }
    struct itimerspec at = {.it_value.tv_nsec =
                                1 + (long)random_below(&call->seed, 200000)};
    CHECK_EQ(timerfd_settime(call->fd, 0, &at, NULL), 0);
}

/* It has been run, or nobody will. */
static void
answer(Call *call, ScOp *errand)
{
    if (errand != &call->errand[ERRANDS] &&
        atomic_fetch_sub(&call->unanswered, 1) == 1) {
        call->op.kind = OP_RESUME;
        sc_drive_post(&call->model->drive, &call->op);
    }
}

static void
refuse_errands(Call *call)
{
    ScOp *errand = sc_inbox_take(&call->errands);
    while (errand != NULL) {
        ScOp *next = errand->next;
        atomic_fetch_add(&call->model->errands_refused, 1);
        answer(call, errand);
        errand = next;
    }
}

static void
send_errand(Call *call, ScOp *errand)
{
    atomic_fetch_add(&call->model->errands_sent, 1);
    sc_inbox_push(&call->errands, errand);
    if (call->is_task) {
        /* Left behind since it began to send. */
        refuse_errands(call);
        return;
    }
    if (!sc_drive_summon(&call->model->drive, &call->waiter)) {
        refuse_errands(call);
    }
}

/* One of those that it waits for; the next one with its next step. */
static void
send_next_errand(Call *call)
{
    call->to_send--;
    if (call->to_send > 0) {
        ring_push(call);
    }
    send_errand(call, &call->errand[call->to_send]);
}

static void
call_end(Call *call)
{
    Model *model = call->model;
    if (call->fd >= 0) {
        CHECK_EQ(sc_poller_set(&model->drive.poller, call->fd, EPOLLIN, 0), 0);
        model->by_fd[call->fd] = NULL;
        close(call->fd);
        call->fd = -1;
    }
    call->done = true;
    atomic_fetch_add(&model->ended, 1);
    if (call->is_task) {
        atomic_fetch_sub(&model->drive.tasks, 1);
    }
    else {
        sc_drive_complete(&model->drive, &call->waiter);
    }
    call_drop(call);
}

static void
on_pool(ScJob *job, void *thread)
{
    (void)thread;
    Call *call = (Call *)((char *)job - offsetof(Call, job));
    sc_drive_post(&call->model->drive, &call->op);
}

static void
call_step(Call *call)
{
    Model *model = call->model;
    check_inside(model);
    CHECK(!call->done);
    if (call->to_send > 0) {
        send_next_errand(call);
        return;
    }
    bool has_thread = (call->waits & WAITS_ERRAND) && !call->is_task;
    if (call->rounds == 0) {
        if (has_thread && random_below(&call->seed, 2)) {
            send_errand(call, &call->errand[ERRANDS]);
        }
        call_end(call);
        return;
    }
    call->rounds--;
    unsigned wait;
    do {
        wait = 1u << random_below(&call->seed, 5);
    } while (!(wait & call->waits));
    switch (wait) {
    case WAITS_ERRAND:
        if (!has_thread) {
            ring_push(call);
            break;
        }
        call->to_send = 1 + random_below(&call->seed, ERRANDS);
        atomic_store(&call->unanswered, call->to_send);
        send_next_errand(call);
        break;
    case WAITS_TIMER:
        CHECK_EQ(sc_timers_add(&model->timers, &call->timer,
                               sc_clock_now() +
                                   (int64_t)random_below(&call->seed, 200000)),
                 0);
        break;
    case WAITS_DESCRIPTOR:
        wait_for_descriptor(call);
        break;
    case WAITS_POOL:
        call->op.kind = OP_RESUME;
        call->job.run = on_pool;
        CHECK_EQ(sc_threads_submit(model->threads, &call->job), 0);
        break;
    default:
        ring_push(call);
    }
}

static void
take_inbox(Model *model, bool restricted)
{
    ScOp *op = sc_inbox_take(&model->drive.inbox);
    while (op != NULL) {
        ScOp *next = op->next;
        if (restricted && op->kind == OP_START) {
            sc_inbox_push(&model->drive.inbox, op);
        }
        else {
            ring_push((Call *)op);
        }
        op = next;
    }
}

static void
take_events(Model *model, struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;
        if (fd == model->drive.poller.event_fd) {
            continue;
        }
        uint64_t ticks;
        CHECK(model->by_fd[fd] != NULL);
        CHECK_EQ(read(fd, &ticks, sizeof(ticks)), sizeof(ticks));
        ring_push(model->by_fd[fd]);
    }
}

static void
sleep_until_event(Model *model, struct epoll_event *events)
{
    ScPoller *poller = &model->drive.poller;
    int64_t timeout = SC_NEVER, next = sc_timers_next(&model->timers);
    if (next != SC_NEVER) {
        timeout = next - sc_clock_now();
        timeout = timeout > 0 ? timeout : 0;
    }
    atomic_store(&poller->asleep, true);
    if (!sc_inbox_is_empty(&model->drive.inbox)) {
        timeout = 0;
    }
    sc_drive_unwatch(&model->drive);
    int count = sc_poller_wait(poller, events, 64, timeout, -1);
    atomic_store(&poller->asleep, false);
    CHECK(count >= 0 || errno == EINTR);
    take_events(model, events, count);
}

static void
gather(Model *model, bool may_sleep, bool restricted)
{
    struct epoll_event events[64];
    take_inbox(model, restricted);
    if (may_sleep && model->oldest == NULL &&
        sc_timers_next(&model->timers) > sc_clock_now()) {
        sleep_until_event(model, events);
        take_inbox(model, restricted);
    }
    else {
        int count = sc_poller_wait(&model->drive.poller, events, 64, 0, -1);
        take_events(model, events, count);
    }
    ScTimer *timer;
    while ((timer = sc_timers_pop(&model->timers, sc_clock_now())) != NULL) {
        ring_push((Call *)((char *)timer - offsetof(Call, timer)));
    }
}

/* Run what is ready.  True: `own` is done.  It comes back early where the
 * owner must yield. */
static bool
run_ready(Model *model, Call *own)
{
    Call *last = model->newest;
    for (Call *call = NULL; call != last;) {
        call = ring_pop(model);
        call_step(call);
        if (own != NULL && own->done) {
            return true;
        }
        if (own != NULL && !sc_inbox_is_empty(&own->errands)) {
            break;
        }
        if (sc_drive_must_yield(&model->drive, own == NULL)) {
            break;
        }
    }
    return false;
}

/* Owning the loop: how the turn ends. */
typedef enum { TURN_OVER, TURN_YIELD, TURN_ERRAND } Turn;

static Turn
drive(Model *model, Call *own)
{
    while (!own->done) {
        if (!sc_inbox_is_empty(&own->errands)) {
            return TURN_ERRAND;
        }
        if (sc_drive_must_yield(&model->drive, false)) {
            atomic_fetch_add(&model->yields, 1);
            return TURN_YIELD;
        }
        gather(model, true, own->waiter.restricted);
        if (sc_drive_must_yield(&model->drive, false)) {
            continue;
        }
        run_ready(model, own);
    }
    return TURN_OVER;
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
    come_in(model);
    atomic_fetch_add(&model->batches, 1);
    for (int round = 0; round < 100; round++) {
        gather(model, false, false);
        if (model->oldest == NULL) {
            break;
        }
        run_ready(model, NULL);
        if (sc_drive_must_yield(&model->drive, true)) {
            break;
        }
    }
    leave(model);
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
    model->by_fd = calloc(FDS, sizeof(Call *));
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

/* True: this thread owns the loop, and the call is in its ring. */
static bool
begin(Call *call, bool restricted)
{
    Model *model = call->model;
    atomic_fetch_add(&call->refs, 1);
    sc_waiter_init(&call->waiter, restricted, -1);
    if (sc_drive_enter(&model->drive, &call->waiter)) {
        come_in(model);
        ring_push(call);
        return true;
    }
    call->op.kind = OP_START;
    sc_drive_post(&model->drive, &call->op);
    return false;
}

static int
word_of(Call *call)
{
    return atomic_load_explicit(&call->waiter.park.word, memory_order_acquire);
}

/* On the call's thread, which is away.  Where it is after that. */
static int
run_errands(Call *call)
{
    ScDrive *drive = &call->model->drive;
    int word;
    do {
        ScOp *errand = sc_inbox_take(&call->errands);
        while (errand != NULL) {
            ScOp *next = errand->next;
            CHECK_EQ(call->waiter.thread, sc_thread_self());
            CHECK(!sc_drive_is_owner(drive));
            atomic_fetch_add(&call->model->errands_run, 1);
            sched_yield(); /* what it does takes a while */
            answer(call, errand);
            errand = next;
        }
        word = sc_drive_step_in(drive, &call->waiter, &call->errands);
    } while (word == SC_SUMMONED);
    return word;
}

/* Wait, or run errands: PROMOTED, DONE, or WAITING: `until` is over. */
static int
wait_turn(Call *call, int64_t until)
{
    int word = word_of(call);
    for (;;) {
        if (word == SC_SUMMONED) {
            word = run_errands(call);
            if (word == SC_PROMOTED) {
                return word;
            }
        }
        if (word == SC_DONE) {
            return word;
        }
        bool in_time =
            sc_drive_wait(&call->waiter, until, -1) == SC_PARK_CHANGED;
        word = word_of(call);
        if (word == SC_PROMOTED) {
            CHECK(!call->waiter.restricted);
            atomic_fetch_add(&call->model->promotions, 1);
            return word;
        }
        if (word == SC_WAITING) {
            CHECK(!in_time);
            return word;
        }
    }
}

/* The loop is this thread's: drive it, and let go.  True: the call is over. */
static bool
drive_turn(Call *call)
{
    Model *model = call->model;
    Turn turn = drive(model, call);
    if (turn == TURN_OVER) {
        leave(model);
        return true;
    }
    bool due = model->oldest != NULL;
    int64_t next_timer = sc_timers_next(&model->timers);
    go_out(model);
    if (turn == TURN_YIELD) {
        sc_drive_requeue(&model->drive, &call->waiter, next_timer);
    }
    else {
        sc_drive_step_out(&model->drive, &call->waiter, due, next_timer);
    }
    return false;
}

void
call_run(Call *call, bool restricted)
{
    bool over = begin(call, restricted) && drive_turn(call);
    while (!over) {
        over = wait_turn(call, SC_NEVER) == SC_DONE;
        if (!over) {
            come_in(call->model);
            over = drive_turn(call);
        }
    }
    CHECK(call->done);
    refuse_errands(call);
    call_drop(call);
}

/* Its time is out.  True: it has seen the call's end. */
static bool
give_up(Call *call, bool stay)
{
    Model *model = call->model;
    if (!sc_drive_withdraw(&model->drive, &call->waiter)) {
        /* Not ours, and yet in no queue: then its end has been told. */
        return word_of(call) == SC_DONE;
    }
    CHECK_EQ(word_of(call), SC_PROMOTED);
    come_in(model);
    if (!stay) {
        /* It is a task like any other from here on. */
        call->is_task = true;
        atomic_fetch_add(&model->drive.tasks, 1);
        sc_drive_complete(&model->drive, &call->waiter);
        leave(model);
        return false;
    }
    /* Promoted in the meantime: go on all the same. */
    bool over = drive_turn(call);
    while (!over) {
        over = wait_turn(call, SC_NEVER) == SC_DONE;
        if (!over) {
            come_in(model);
            over = drive_turn(call);
        }
    }
    return true;
}

bool
call_run_until(Call *call, int64_t until)
{
    bool stay = random_below(&call->seed, 2);
    bool over = begin(call, false) && drive_turn(call), in_time = true;
    while (!over && in_time) {
        int word = wait_turn(call, until);
        if (word == SC_WAITING) {
            in_time = give_up(call, stay);
            break;
        }
        over = word == SC_DONE;
        if (!over) {
            come_in(call->model);
            over = drive_turn(call);
        }
    }
    if (in_time) {
        CHECK(call->done);
    }
    refuse_errands(call);
    call_drop(call);
    return in_time;
}

void
call_submit(Call *call)
{
    call->is_task = true;
    call->op.kind = OP_RESUME;
    atomic_fetch_add(&call->model->drive.tasks, 1);
    sc_drive_post(&call->model->drive, &call->op);
}
