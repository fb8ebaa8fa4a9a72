/* Errands: a waiter is away and comes back, step by step; then many waiters,
 * some of them away, against an array.  */
#include "core/pump.h"
#include "waiter.h"

static void
push(ScInbox *errands)
{
    static ScOp errand;
    CHECK(sc_inbox_is_empty(errands));
    sc_inbox_push(errands, &errand);
}

static void
test_an_owner_steps_out_and_in(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScInbox errands = {NULL};
    ScWaiter first = waiter_of(FIRST, false),
             second = waiter_of(SECOND, false);
    CHECK(sc_drive_enter(&drive, &first));
    /* Nobody else is there: the loop is free meanwhile. */
    sc_drive_step_out(&drive, &first, false, SC_NEVER);
    CHECK_EQ(OWNER(&drive), 0);
    CHECK_EQ(word(&first), SC_SUMMONED);
    CHECK(first.away && !first.queued);
    CHECK_EQ(atomic_load(&drive.calls), 1);
    atomic_store(&drive.poller.asleep, true);
    CHECK_EQ(sc_drive_step_in(&drive, &first, &errands), SC_PROMOTED);
    CHECK_EQ(OWNER(&drive), FIRST);
    CHECK(!first.away && !first.queued);
    CHECK(!atomic_load(&drive.poller.asleep));
    /* With a waiter: it gets the loop, and who comes back waits behind it. */
    CHECK(!sc_drive_enter(&drive, &second));
    sc_drive_step_out(&drive, &first, true, SC_NEVER);
    CHECK_EQ(OWNER(&drive), SECOND);
    CHECK_EQ(sc_drive_step_in(&drive, &first, &errands), SC_WAITING);
    CHECK_EQ(word(&first), SC_WAITING);
    CHECK(!first.away && first.queued);
    CHECK_EQ(atomic_load(&drive.eligible), 1);
    end_call(&drive, &second);
    CHECK_EQ(OWNER(&drive), FIRST);
    CHECK_EQ(word(&first), SC_PROMOTED);
    end_call(&drive, &first);
    close_idle(&drive);
}

static void
test_a_waiter_is_summoned(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScInbox errands = {NULL};
    ScWaiter first, second, third;
    enter_all(&drive, &first, &second, &third);
    push(&errands);
    CHECK(sc_drive_summon(&drive, &second));
    CHECK_EQ(word(&second), SC_SUMMONED);
    CHECK_EQ(sc_drive_wait(&second, 0, -1), SC_PARK_CHANGED);
    CHECK(second.away && !second.queued);
    CHECK_EQ(atomic_load(&drive.eligible), 1);
    /* It is away: one more errand changes nothing. */
    CHECK(sc_drive_summon(&drive, &second));
    CHECK_EQ(word(&second), SC_SUMMONED);
    /* And it is nobody's heir. */
    end_call(&drive, &first);
    CHECK_EQ(OWNER(&drive), THIRD);
    /* It comes back past the last errand only. */
    CHECK_EQ(sc_drive_step_in(&drive, &second, &errands), SC_SUMMONED);
    CHECK(second.away && !second.queued);
    CHECK(sc_inbox_take(&errands) != NULL);
    CHECK_EQ(sc_drive_step_in(&drive, &second, &errands), SC_WAITING);
    CHECK(!second.away && second.queued);
    /* Summoned once more, it returns to a free loop. */
    CHECK(sc_drive_summon(&drive, &second));
    end_call(&drive, &third);
    CHECK_EQ(OWNER(&drive), 0);
    CHECK_EQ(sc_drive_step_in(&drive, &second, &errands), SC_PROMOTED);
    CHECK_EQ(OWNER(&drive), SECOND);
    /* An owner looks by itself. */
    CHECK(sc_drive_summon(&drive, &second));
    CHECK_EQ(word(&second), SC_PROMOTED);
    CHECK(!second.away);
    end_call(&drive, &second);
    close_idle(&drive);
}

static void
test_a_call_ends_while_its_thread_is_away(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScInbox errands = {NULL};
    ScWaiter first = waiter_of(FIRST, false),
             second = waiter_of(SECOND, false);
    CHECK(sc_drive_enter(&drive, &first));
    CHECK(!sc_drive_enter(&drive, &second));
    sc_drive_step_out(&drive, &first, false, SC_NEVER);
    CHECK_EQ(OWNER(&drive), SECOND);
    sc_drive_complete(&drive, &first);
    CHECK_EQ(word(&first), SC_DONE);
    CHECK_EQ(atomic_load(&drive.calls), 1);
    /* Whatever was sent meanwhile: there is nothing to come back to. */
    push(&errands);
    CHECK(sc_drive_summon(&drive, &first));
    CHECK_EQ(sc_drive_step_in(&drive, &first, &errands), SC_DONE);
    CHECK_EQ(OWNER(&drive), SECOND);
    CHECK(!first.queued);
    end_call(&drive, &second);
    close_idle(&drive);
}

static void
test_no_errand_reaches_who_gave_up(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter first, second, third;
    enter_all(&drive, &first, &second, &third);
    /* From the queue, and on an errand. */
    CHECK(!sc_drive_withdraw(&drive, &second));
    CHECK(!sc_drive_summon(&drive, &second));
    CHECK_EQ(word(&second), SC_WAITING);
    CHECK(sc_drive_summon(&drive, &third));
    CHECK(!sc_drive_withdraw(&drive, &third));
    CHECK(!sc_drive_summon(&drive, &third));
    sc_drive_complete(&drive, &second);
    sc_drive_complete(&drive, &third);
    end_call(&drive, &first);
    close_idle(&drive);
}

static void
test_a_restricted_caller_comes_back(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScPump pump = {.watch = SC_WATCH_OFF};
    ScInbox errands = {NULL};
    ScWaiter main_waiter = waiter_of(MAIN, true),
             first = waiter_of(FIRST, false);
    CHECK(sc_drive_enter(&drive, &main_waiter));
    sc_drive_step_out(&drive, &main_waiter, false, SC_NEVER);
    /* Its own call is the only one. */
    drive.pump = &pump;
    CHECK_EQ(sc_drive_step_in(&drive, &main_waiter, &errands), SC_PROMOTED);
    CHECK(drive.owner_restricted);
    /* Others' are for the pump to run, not for it. */
    drive.pump = NULL;
    sc_drive_step_out(&drive, &main_waiter, false, SC_NEVER);
    CHECK(sc_drive_enter(&drive, &first));
    sc_drive_step_out(&drive, &first, false, SC_NEVER);
    CHECK_EQ(OWNER(&drive), 0);
    drive.pump = &pump;
    CHECK_EQ(sc_drive_step_in(&drive, &main_waiter, &errands), SC_WAITING);
    CHECK_EQ(OWNER(&drive), 0);
    CHECK(main_waiter.queued);
    CHECK_EQ(atomic_load(&drive.eligible), 0);
    CHECK(sc_drive_summon(&drive, &main_waiter));
    /* Once there is no pump, it may be all that is left. */
    drive.pump = NULL;
    CHECK_EQ(sc_drive_step_in(&drive, &main_waiter, &errands), SC_PROMOTED);
    CHECK_EQ(OWNER(&drive), MAIN);
    CHECK(!drive.owner_restricted);
    sc_drive_complete(&drive, &first);
    CHECK_EQ(sc_drive_step_in(&drive, &first, &errands), SC_DONE);
    end_call(&drive, &main_waiter);
    close_idle(&drive);
}

/* The queue against an array, with many waiters and random leavers, some of
 * them on errands. */
enum { COUNT = 40, STEPS = 20000 };

typedef struct {
    ScDrive drive;
    ScWaiter waiters[COUNT];
    size_t order[COUNT]; /* 0: in no queue */
    bool away[COUNT];
    size_t next_order, calls;
    int owner; /* -1: nobody */
    uint32_t seed;
} Random;

static void
random_enter(Random *self, int i)
{
    bool restricted = self->owner >= 0 && random_below(&self->seed, 3) == 0;
    self->waiters[i] = waiter_of((uintptr_t)i + 1, restricted);
    if (sc_drive_enter(&self->drive, &self->waiters[i])) {
        CHECK(self->owner < 0);
        self->owner = i;
    }
    else {
        CHECK(self->owner >= 0);
        self->order[i] = ++self->next_order;
    }
    self->calls++;
}

static void
random_waiter(Random *self, int i)
{
    ScWaiter *waiter = &self->waiters[i];
    self->order[i] = 0;
    if (random_below(&self->seed, 3) == 0) {
        CHECK(sc_drive_summon(&self->drive, waiter));
        CHECK_EQ(word(waiter), SC_SUMMONED);
        self->away[i] = true;
        return;
    }
    if (random_below(&self->seed, 2)) {
        CHECK(!sc_drive_withdraw(&self->drive, waiter));
    }
    sc_drive_complete(&self->drive, waiter);
    self->calls--;
}

static void
random_away(Random *self, int i)
{
    ScInbox errands = {NULL};
    ScWaiter *waiter = &self->waiters[i];
    if (random_below(&self->seed, 3) == 0) {
        push(&errands);
        CHECK_EQ(sc_drive_step_in(&self->drive, waiter, &errands),
                 SC_SUMMONED);
        return;
    }
    self->away[i] = false;
    if (random_below(&self->seed, 3) == 0) {
        sc_drive_complete(&self->drive, waiter);
        self->calls--;
        CHECK_EQ(sc_drive_step_in(&self->drive, waiter, &errands), SC_DONE);
        return;
    }
    int now = sc_drive_step_in(&self->drive, waiter, &errands);
    if (self->owner < 0) {
        CHECK_EQ(now, SC_PROMOTED);
        self->owner = i;
    }
    else {
        CHECK_EQ(now, SC_WAITING);
        self->order[i] = ++self->next_order;
    }
}

/* The oldest waiter; without a pump a restricted one, where there is no
 * other. */
static int
random_heir(Random *self)
{
    int heir = -1, last = -1;
    for (int k = 0; k < COUNT; k++) {
        size_t order = self->order[k];
        if (order == 0) {
            continue;
        }
        if (last < 0 || order < self->order[last]) {
            last = k;
        }
        if (!self->waiters[k].restricted &&
            (heir < 0 || order < self->order[heir])) {
            heir = k;
        }
    }
    return heir < 0 ? last : heir;
}

static void
random_owner(Random *self)
{
    int heir = random_heir(self);
    ScWaiter *waiter = &self->waiters[self->owner];
    if (random_below(&self->seed, 3) == 0) {
        self->away[self->owner] = true;
        sc_drive_step_out(&self->drive, waiter, false, SC_NEVER);
        CHECK_EQ(word(waiter), SC_SUMMONED);
    }
    else {
        sc_drive_complete(&self->drive, waiter);
        self->calls--;
        sc_drive_leave(&self->drive, false, SC_NEVER);
    }
    CHECK_EQ(OWNER(&self->drive), heir + 1);
    self->owner = heir;
    if (heir >= 0) {
        CHECK_EQ(word(&self->waiters[heir]), SC_PROMOTED);
        self->order[heir] = 0;
    }
}

static void
test_random_queue(uint32_t seed)
{
    Random self = {.owner = -1, .seed = seed};
    CHECK_EQ(sc_drive_init(&self.drive), 0);
    for (int step = 0; step < STEPS; step++) {
        int i = (int)random_below(&self.seed, COUNT);
        if (i == self.owner) {
            random_owner(&self);
        }
        else if (self.away[i]) {
            random_away(&self, i);
        }
        else if (self.order[i] > 0) {
            random_waiter(&self, i);
        }
        else {
            random_enter(&self, i);
        }
        CHECK_EQ(atomic_load(&self.drive.calls), self.calls);
        size_t eligible = 0;
        for (int k = 0; k < COUNT; k++) {
            eligible += self.order[k] > 0 && !self.waiters[k].restricted;
        }
        CHECK_EQ(atomic_load(&self.drive.eligible), eligible);
    }
    sc_drive_fini(&self.drive);
}

int
main(void)
{
    test_an_owner_steps_out_and_in();
    test_a_waiter_is_summoned();
    test_a_call_ends_while_its_thread_is_away();
    test_no_errand_reaches_who_gave_up();
    test_a_restricted_caller_comes_back();
    test_random_queue(3);
    test_random_queue(77);
    return 0;
}
