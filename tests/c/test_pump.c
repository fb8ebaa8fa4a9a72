/* Pump: what comes due on a loop that nobody drives is run, and a loop with
 * nothing due is left alone.  */
#include <errno.h>
#include <string.h>

#include "model.h"

static bool
is_quiet(Model *model)
{
    return atomic_load(&model->drive.owner) == 0 &&
           atomic_load(&model->drive.poller.asleep);
}

static void
end_quietly(Model *model, size_t expected)
{
    WAIT_UNTIL(atomic_load(&model->ended) == expected && is_quiet(model));
    model_fini(model);
}

static void
test_the_first_op_is_served(void)
{
    /* Before any caller ever entered. */
    for (int i = 0; i < 200; i++) {
        Model model;
        model_init(&model, 0);
        call_submit(call_new(&model, 0, WAITS_RING, 1));
        end_quietly(&model, 1);
    }
}

static void
test_every_post_to_a_free_loop_is_served(void)
{
    Model model;
    model_init(&model, 0);
    for (size_t i = 1; i <= 3000; i++) {
        call_submit(call_new(&model, 0, WAITS_RING, 1));
        WAIT_UNTIL(atomic_load(&model.ended) == i);
    }
    end_quietly(&model, 3000);
}

static void
test_posts_race_with_callers(void)
{
    Model model;
    model_init(&model, 0);
    for (size_t i = 1; i <= 3000; i++) {
        call_submit(call_new(&model, 0, WAITS_RING, 1));
        call_run(call_new(&model, i % 3, WAITS_RING, 5), i % 2);
        if (i % 7 == 0) {
            WAIT_UNTIL(atomic_load(&model.ended) == 2 * i);
        }
    }
    end_quietly(&model, 6000);
}

static void
test_timers_and_descriptors_without_a_driver(unsigned waits)
{
    Model model;
    model_init(&model, 2);
    for (uint32_t i = 1; i <= 100; i++) {
        call_submit(call_new(&model, 1 + i % 5, waits, i));
    }
    end_quietly(&model, 100);
}

/* A call that ends at once leaves a task behind, whose timers and descriptors
 * have to be seen by the pump; the next caller comes at any moment. */
static void
test_callers_come_and_go_over_tasks(bool restricted)
{
    Model model;
    model_init(&model, 2);
    size_t made = 0;
    uint32_t seed = 11;
    for (int i = 0; i < 1500; i++) {
        if (atomic_load(&model.drive.tasks) < 5) {
            call_submit(call_new(&model, 3, WAITS_ALL, random_next(&seed)));
            made++;
        }
        call_run(call_new(&model, random_below(&seed, 3), WAITS_ALL,
                          random_next(&seed)),
                 restricted);
        made++;
    }
    end_quietly(&model, made);
}

/* A restricted caller beside tasks never drives: the pump does all of it. */
static void
test_the_pump_drives_for_the_restricted(void)
{
    Model model;
    model_init(&model, 0);
    Call *task = call_new(&model, 1, WAITS_TIMER, 1);
    atomic_fetch_add(&model.drive.tasks, 1);
    size_t before = atomic_load(&model.batches);
    call_run(call_new(&model, 3, WAITS_RING | WAITS_TIMER, 9), true);
    CHECK(atomic_load(&model.batches) > before);
    CHECK_EQ(atomic_load(&model.promotions), 0);
    atomic_fetch_sub(&model.drive.tasks, 1);
    call_drop(task);
    end_quietly(&model, 1);
}

/* A descriptor that stays open and silent, and a timer far away, cost the
 * pump nothing: the number of its batches does not grow with the calls. */
static void
test_an_idle_pump_is_idle(void)
{
    Model model;
    model_init(&model, 0);
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    ScWaiter waiter;
    sc_waiter_init(&waiter, false, -1);
    WAIT_UNTIL(is_quiet(&model));
    CHECK(sc_drive_enter(&model.drive, &waiter));
    CHECK_EQ(sc_poller_set(&model.drive.poller, fds[0], 0, EPOLLIN), 0);
    sc_drive_complete(&model.drive, &waiter);
    sc_drive_leave(&model.drive, false, sc_clock_now() + 3600 * SC_NS_PER_S);
    size_t before = atomic_load(&model.batches);
    for (int i = 0; i < 2000; i++) {
        call_run(call_new(&model, 1, WAITS_RING, 3), false);
    }
    CHECK(atomic_load(&model.batches) - before <= 2);
    close(fds[0]);
    close(fds[1]);
    end_quietly(&model, 2000);
}

/* -- how it begins and ends, without the model --------------------------- */

typedef struct {
    ScDrive drive;
    ScPark in_batch, go_on;
    bool refuse;
    atomic_bool over;
    atomic_int begun, ended, batches;
} Bare;

static bool
bare_begin(void *context)
{
    Bare *bare = context;
    atomic_fetch_add(&bare->begun, 1);
    return !bare->refuse;
}

static void
bare_batch(void *context)
{
    Bare *bare = context;
    atomic_fetch_add(&bare->batches, 1);
    for (ScOp *op = sc_inbox_take(&bare->drive.inbox); op; op = op->next) {
        if (op->kind == 1) {
            sc_park_set(&bare->in_batch, 1);
            sc_park_wait(&bare->go_on, 0, SC_NEVER, -1);
        }
    }
    sc_drive_leave(&bare->drive, false, SC_NEVER);
}

static void
bare_end(void *context)
{
    atomic_fetch_add(&((Bare *)context)->ended, 1);
}

static const ScPumpWork bare_work = {bare_begin, bare_batch, bare_end};

static void
bare_init(Bare *bare)
{
    memset(bare, 0, sizeof(*bare));
    bare->in_batch.event_fd = bare->go_on.event_fd = -1;
    CHECK_EQ(sc_drive_init(&bare->drive), 0);
}

static void
test_start_and_stop(void)
{
    Bare bare;
    bare_init(&bare);
    for (int i = 1; i <= 50; i++) {
        ScPump pump;
        CHECK_EQ(sc_pump_start(&pump, &bare.drive, &bare_work, &bare, "p"), 0);
        CHECK(sc_pump_stop(&pump, SC_NEVER));
        CHECK_EQ(atomic_load(&bare.begun), i);
        CHECK_EQ(atomic_load(&bare.ended), i);
        CHECK(bare.drive.pump == NULL);
        CHECK_EQ(atomic_load(&bare.drive.owner), 0);
    }
    sc_drive_fini(&bare.drive);
}

static void
test_a_stuck_pump_is_told(void)
{
    static Bare bare;
    static ScPump pump;
    bare_init(&bare);
    CHECK_EQ(sc_pump_start(&pump, &bare.drive, &bare_work, &bare, "p"), 0);
    ScOp op = {.kind = 1};
    sc_drive_post(&bare.drive, &op);
    sc_park_wait(&bare.in_batch, 0, SC_NEVER, -1);
    CHECK(!sc_pump_stop(&pump, sc_clock_now() + 2 * MILLISECOND));
    sc_park_set(&bare.go_on, 1);
    WAIT_UNTIL(atomic_load(&bare.ended) == 1);
}

/* The pump owns the loop when it is told to stop: whoever comes next must not
 * wait for a thread that is gone. */
static void
test_a_stopped_pump_owns_nothing(void)
{
    Bare bare;
    ScPump pump;
    bare_init(&bare);
    CHECK_EQ(sc_pump_start(&pump, &bare.drive, &bare_work, &bare, "p"), 0);
    ScWaiter waiter, other;
    sc_waiter_init(&waiter, false, -1);
    WAIT_UNTIL(sc_drive_enter(&bare.drive, &waiter) ||
               (sc_drive_withdraw(&bare.drive, &waiter),
                sc_drive_complete(&bare.drive, &waiter), false));
    atomic_store(&pump.stop, true);
    sc_drive_complete(&bare.drive, &waiter);
    sc_drive_leave(&bare.drive, true, SC_NEVER);
    CHECK(sc_pump_stop(&pump, SC_NEVER));
    sc_waiter_init(&other, false, -1);
    CHECK(sc_drive_enter(&bare.drive, &other));
    sc_drive_complete(&bare.drive, &other);
    sc_drive_leave(&bare.drive, false, SC_NEVER);
    sc_drive_fini(&bare.drive);
}

/* One that waits because a task is alive is left to nobody when the pump ends;
 * neither is one that waits while it runs its last batch. */
static void
test_a_stopping_pump_leaves_no_restricted_caller_behind(bool owns)
{
    Bare bare;
    ScPump pump;
    bare_init(&bare);
    CHECK_EQ(sc_pump_start(&pump, &bare.drive, &bare_work, &bare, "p"), 0);
    WAIT_UNTIL(atomic_load(&bare.begun) == 1 &&
               atomic_load(&bare.drive.owner) == 0);
    atomic_store(&bare.drive.tasks, 1);
    ScWaiter waiter, other;
    sc_waiter_init(&waiter, true, -1);
    CHECK(!sc_drive_enter(&bare.drive, &waiter));
    if (owns) {
        sc_waiter_init(&other, false, -1);
        WAIT_UNTIL(sc_drive_enter(&bare.drive, &other) ||
                   (sc_drive_withdraw(&bare.drive, &other),
                    sc_drive_complete(&bare.drive, &other), false));
        atomic_store(&pump.stop, true);
        sc_drive_complete(&bare.drive, &other);
        sc_drive_leave(&bare.drive, true, SC_NEVER);
    }
    CHECK(sc_pump_stop(&pump, SC_NEVER));
    CHECK_EQ(atomic_load(&waiter.park.word), SC_PROMOTED);
    CHECK_EQ(atomic_load(&bare.drive.owner), waiter.thread);
    sc_drive_complete(&bare.drive, &waiter);
    sc_drive_leave(&bare.drive, false, SC_NEVER);
    sc_drive_fini(&bare.drive);
}

static void *
sleep_again_and_again(void *arg)
{
    Bare *bare = arg;
    while (!atomic_load(&bare->over)) {
        sc_drive_unwatch(&bare->drive);
    }
    return NULL;
}

/* An owner that goes to sleep while the pump ends. */
static void
test_a_pump_ends_under_a_sleeping_owner(void)
{
    Bare bare;
    ScPump pump;
    bare_init(&bare);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, sleep_again_and_again, &bare), 0);
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(sc_pump_start(&pump, &bare.drive, &bare_work, &bare, "p"), 0);
        CHECK(sc_pump_stop(&pump, SC_NEVER));
    }
    atomic_store(&bare.over, true);
    pthread_join(thread, NULL);
    sc_drive_fini(&bare.drive);
}

static void
test_a_pump_that_cannot_begin_owns_nothing(void)
{
    Bare bare;
    ScPump pump;
    bare_init(&bare);
    bare.refuse = true;
    CHECK_EQ(sc_pump_start(&pump, &bare.drive, &bare_work, &bare, "p"), 0);
    WAIT_UNTIL(atomic_load(&pump.ended.word) == 1);
    CHECK_EQ(atomic_load(&bare.ended), 0);
    ScWaiter waiter;
    sc_waiter_init(&waiter, false, -1);
    CHECK(sc_drive_enter(&bare.drive, &waiter));
    sc_drive_complete(&bare.drive, &waiter);
    sc_drive_leave(&bare.drive, true, SC_NEVER);
    CHECK_EQ(atomic_load(&bare.drive.owner), 0);
    CHECK(sc_pump_stop(&pump, SC_NEVER));
    sc_drive_fini(&bare.drive);
}

int
main(void)
{
    test_start_and_stop();
    test_the_first_op_is_served();
    test_every_post_to_a_free_loop_is_served();
    test_posts_race_with_callers();
    test_timers_and_descriptors_without_a_driver(WAITS_TIMER);
    test_timers_and_descriptors_without_a_driver(WAITS_DESCRIPTOR);
    test_timers_and_descriptors_without_a_driver(WAITS_ALL);
    test_callers_come_and_go_over_tasks(false);
    test_callers_come_and_go_over_tasks(true);
    test_the_pump_drives_for_the_restricted();
    test_an_idle_pump_is_idle();
    test_a_stuck_pump_is_told();
    test_a_stopped_pump_owns_nothing();
    test_a_stopping_pump_leaves_no_restricted_caller_behind(false);
    test_a_stopping_pump_leaves_no_restricted_caller_behind(true);
    test_a_pump_ends_under_a_sleeping_owner();
    test_a_pump_that_cannot_begin_owns_nothing();
    return 0;
}
