/* Drive: who owns the loop, step by step; test_errands.c has the errands.  */
#include "waiter.h"

static void
test_a_free_loop_is_taken_and_left(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter waiter;
    sc_waiter_init(&waiter, false, -1);
    atomic_store(&drive.poller.asleep, true);
    CHECK(!sc_drive_is_owner(&drive));
    CHECK(sc_drive_enter(&drive, &waiter));
    CHECK(sc_drive_is_owner(&drive));
    /* From now on no producer needs to wake anybody. */
    CHECK(!atomic_load(&drive.poller.asleep));
    CHECK_EQ(atomic_load(&drive.calls), 1);
    sc_drive_complete(&drive, &waiter);
    CHECK_EQ(atomic_load(&drive.calls), 0);
    sc_drive_leave(&drive, false, SC_NEVER);
    close_idle(&drive);
}

static void
test_hand_over_goes_to_the_oldest(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter first, second, third;
    enter_all(&drive, &first, &second, &third);
    CHECK_EQ(atomic_load(&drive.eligible), 2);
    CHECK_EQ(sc_drive_wait(&second, 0, -1), SC_PARK_TIMEOUT);
    end_call(&drive, &first);
    CHECK_EQ(OWNER(&drive), SECOND);
    CHECK_EQ(word(&second), SC_PROMOTED);
    CHECK_EQ(word(&third), SC_WAITING);
    CHECK_EQ(sc_drive_wait(&second, 0, -1), SC_PARK_CHANGED);
    sc_drive_complete(&drive, &second);
    /* The promoted one is told nothing about its own end. */
    CHECK_EQ(word(&second), SC_PROMOTED);
    sc_drive_leave(&drive, true, 5);
    CHECK_EQ(OWNER(&drive), THIRD);
    end_call(&drive, &third);
    close_idle(&drive);
}

static void
test_an_owner_ends_a_waiters_call(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter first, second, third;
    enter_all(&drive, &first, &second, &third);
    sc_drive_complete(&drive, &second);
    CHECK_EQ(word(&second), SC_DONE);
    CHECK_EQ(atomic_load(&drive.calls), 2);
    CHECK(!sc_drive_withdraw(&drive, &second));
    end_call(&drive, &first);
    CHECK_EQ(word(&second), SC_DONE);
    CHECK_EQ(OWNER(&drive), THIRD);
    end_call(&drive, &third);
    close_idle(&drive);
}

static void
test_withdrawing(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter first, second, third;
    enter_all(&drive, &first, &second, &third);
    /* From the queue. */
    CHECK(!sc_drive_withdraw(&drive, &second));
    CHECK(!sc_drive_withdraw(&drive, &second));
    CHECK_EQ(atomic_load(&drive.eligible), 1);
    /* Its call is alive until the loop has ended it. */
    CHECK_EQ(atomic_load(&drive.calls), 3);
    sc_drive_complete(&drive, &second);
    CHECK_EQ(word(&second), SC_WAITING);
    /* Promoted in the meantime: it must give the loop on. */
    end_call(&drive, &first);
    CHECK(sc_drive_withdraw(&drive, &third));
    CHECK_EQ(OWNER(&drive), THIRD);
    sc_drive_leave(&drive, false, SC_NEVER);
    CHECK_EQ(OWNER(&drive), 0);
    CHECK_EQ(atomic_load(&drive.calls), 1);
    sc_drive_complete(&drive, &third);
    close_idle(&drive);
}

static void
test_a_restricted_caller_drives_alone(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter main_waiter = waiter_of(MAIN, true),
             first = waiter_of(FIRST, false);
    CHECK(sc_drive_enter(&drive, &main_waiter));
    CHECK(!sc_drive_must_yield(&drive, false));
    CHECK(!sc_drive_enter(&drive, &first));
    CHECK(sc_drive_must_yield(&drive, false));
    sc_drive_requeue(&drive, &main_waiter, SC_NEVER);
    CHECK_EQ(OWNER(&drive), FIRST);
    CHECK_EQ(word(&first), SC_PROMOTED);
    CHECK_EQ(word(&main_waiter), SC_WAITING);
    /* An unrestricted owner goes on, whoever waits. */
    CHECK(!sc_drive_must_yield(&drive, false));
    CHECK_EQ(atomic_load(&drive.eligible), 0);
    sc_drive_complete(&drive, &first);
    sc_drive_leave(&drive, true, SC_NEVER);
    /* No pump here: it is the only one left, so it drives all there is. */
    CHECK_EQ(OWNER(&drive), MAIN);
    CHECK_EQ(word(&main_waiter), SC_PROMOTED);
    CHECK(!drive.owner_restricted);
    end_call(&drive, &main_waiter);
    close_idle(&drive);
}

static void
test_a_restricted_caller_is_passed_over(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter first = waiter_of(FIRST, false),
             main_waiter = waiter_of(MAIN, true),
             second = waiter_of(SECOND, false);
    CHECK(sc_drive_enter(&drive, &first));
    CHECK(!sc_drive_enter(&drive, &main_waiter));
    CHECK(!sc_drive_must_yield(&drive, true));
    CHECK(!sc_drive_enter(&drive, &second));
    CHECK(sc_drive_must_yield(&drive, true));
    end_call(&drive, &first);
    CHECK_EQ(OWNER(&drive), SECOND);
    sc_drive_complete(&drive, &main_waiter);
    CHECK_EQ(word(&main_waiter), SC_DONE);
    end_call(&drive, &second);
    close_idle(&drive);
}

static void
test_a_restricted_caller_keeps_off_others_tasks(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter main_waiter = waiter_of(MAIN, true);
    atomic_store(&drive.tasks, 1);
    CHECK(!sc_drive_enter(&drive, &main_waiter));
    CHECK_EQ(OWNER(&drive), 0);
    sc_drive_complete(&drive, &main_waiter);
    CHECK_EQ(word(&main_waiter), SC_DONE);
    atomic_store(&drive.tasks, 0);
    main_waiter = waiter_of(MAIN, true);
    CHECK(sc_drive_enter(&drive, &main_waiter));
    end_call(&drive, &main_waiter);
    close_idle(&drive);
}

static void
test_refusing(void)
{
    ScDrive drive;
    CHECK_EQ(sc_drive_init(&drive), 0);
    ScWaiter first = waiter_of(FIRST, false),
             second = waiter_of(SECOND, false), late = waiter_of(THIRD, false);
    CHECK(sc_drive_enter(&drive, &first));
    CHECK(!sc_drive_enter(&drive, &second));
    CHECK_EQ(word(&second), SC_WAITING);
    sc_drive_refuse(&drive);
    CHECK(!sc_drive_enter(&drive, &late));
    CHECK_EQ(word(&late), SC_DONE);
    CHECK_EQ(atomic_load(&drive.calls), 2);
    CHECK(!sc_drive_reclaim(&drive, SC_NEVER));
    /* Those that were taken go on. */
    end_call(&drive, &first);
    CHECK_EQ(OWNER(&drive), SECOND);
    sc_drive_complete(&drive, &second);
    /* Its call is over, but it has not left. */
    CHECK(!sc_drive_reclaim(&drive, sc_clock_now()));
    CHECK_EQ(OWNER(&drive), SECOND);
    sc_drive_leave(&drive, false, SC_NEVER);
    CHECK(sc_drive_reclaim(&drive, SC_NEVER));
    CHECK_EQ(OWNER(&drive), 0);
    CHECK(!sc_drive_enter(&drive, &late));
    close_idle(&drive);
}

int
main(void)
{
    test_a_free_loop_is_taken_and_left();
    test_hand_over_goes_to_the_oldest();
    test_an_owner_ends_a_waiters_call();
    test_withdrawing();
    test_a_restricted_caller_drives_alone();
    test_a_restricted_caller_is_passed_over();
    test_a_restricted_caller_keeps_off_others_tasks();
    test_refusing();
    return 0;
}
