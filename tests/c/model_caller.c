/* The caller's side of the model: as run_sync does.  */
#include "model_loop.h"

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
        model_gather(model, true, own->waiter.restricted);
        if (sc_drive_must_yield(&model->drive, false)) {
            continue;
        }
        model_run_ready(model, own);
    }
    return TURN_OVER;
}

/* True: this thread owns the loop, and the call is in its ring. */
static bool
begin(Call *call, bool restricted)
{
    Model *model = call->model;
    atomic_fetch_add(&call->refs, 1);
    sc_waiter_init(&call->waiter, restricted, -1);
    if (sc_drive_enter(&model->drive, &call->waiter)) {
        model_come_in(model);
        model_ring_push(call);
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
            model_answer(call, errand);
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
        model_leave(model);
        return true;
    }
    bool due = model->oldest != NULL;
    int64_t next_timer = sc_timers_next(&model->timers);
    model_go_out(model);
    if (turn == TURN_YIELD) {
        sc_drive_requeue(&model->drive, &call->waiter, next_timer);
    }
    else {
        sc_drive_step_out(&model->drive, &call->waiter, due, next_timer);
    }
    return false;
}

/* Wait and drive until the call is over. */
static void
see_through(Call *call, bool over)
{
    while (!over) {
        over = wait_turn(call, SC_NEVER) == SC_DONE;
        if (!over) {
            model_come_in(call->model);
            over = drive_turn(call);
        }
    }
}

void
call_run(Call *call, bool restricted)
{
    see_through(call, begin(call, restricted) && drive_turn(call));
    CHECK(call->done);
    model_refuse_errands(call);
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
    model_come_in(model);
    if (!stay) {
        /* It is a task like any other from here on. */
        call->is_task = true;
        atomic_fetch_add(&model->drive.tasks, 1);
        sc_drive_complete(&model->drive, &call->waiter);
        model_leave(model);
        return false;
    }
    /* Promoted in the meantime: go on all the same. */
    see_through(call, drive_turn(call));
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
            model_come_in(call->model);
            over = drive_turn(call);
        }
    }
    if (in_time) {
        CHECK(call->done);
    }
    model_refuse_errands(call);
    call_drop(call);
    return in_time;
}
