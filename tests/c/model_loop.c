#include "model_loop.h"

#include <errno.h>
#include <sys/timerfd.h>

void
model_come_in(Model *model)
{
    uintptr_t nobody = 0;
    CHECK(sc_drive_is_owner(&model->drive));
    CHECK(atomic_compare_exchange_strong(&model->inside, &nobody,
                                         sc_thread_self()));
}

void
model_go_out(Model *model)
{
    CHECK_EQ(atomic_exchange(&model->inside, 0), sc_thread_self());
}

static void
check_inside(Model *model)
{
    CHECK_EQ(atomic_load(&model->inside), sc_thread_self());
    CHECK(sc_drive_is_owner(&model->drive));
}

void
model_leave(Model *model)
{
    bool due = model->oldest != NULL;
    int64_t next_timer = sc_timers_next(&model->timers);
    model_go_out(model);
    sc_drive_leave(&model->drive, due, next_timer);
}

void
model_ring_push(Call *call)
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
        CHECK(call->fd >= 0 && call->fd < MODEL_FDS);
        CHECK_EQ(sc_poller_set(&model->drive.poller, call->fd, 0, EPOLLIN), 0);
        model->by_fd[call->fd] = call;
    }
    struct itimerspec at = {.it_value.tv_nsec =
                                1 + (long)random_below(&call->seed, 200000)};
    CHECK_EQ(timerfd_settime(call->fd, 0, &at, NULL), 0);
}

void
model_answer(Call *call, ScOp *errand)
{
    if (errand != &call->errand[ERRANDS] &&
        atomic_fetch_sub(&call->unanswered, 1) == 1) {
        call->op.kind = OP_RESUME;
        sc_drive_post(&call->model->drive, &call->op);
    }
}

void
model_refuse_errands(Call *call)
{
    ScOp *errand = sc_inbox_take(&call->errands);
    while (errand != NULL) {
        ScOp *next = errand->next;
        atomic_fetch_add(&call->model->errands_refused, 1);
        model_answer(call, errand);
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
        model_refuse_errands(call);
        return;
    }
    if (!sc_drive_summon(&call->model->drive, &call->waiter)) {
        model_refuse_errands(call);
    }
}

/* One of those that it waits for; the next one with its next step. */
static void
send_next_errand(Call *call)
{
    call->to_send--;
    if (call->to_send > 0) {
        model_ring_push(call);
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
            model_ring_push(call);
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
        model_ring_push(call);
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
            model_ring_push((Call *)op);
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
        model_ring_push(model->by_fd[fd]);
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

void
model_gather(Model *model, bool may_sleep, bool restricted)
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
        model_ring_push((Call *)((char *)timer - offsetof(Call, timer)));
    }
}

bool
model_run_ready(Model *model, Call *own)
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
