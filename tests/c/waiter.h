/* Waiters for the tests of the drive.  One thread plays all parts: a waiter's
 * thread is only a number to the drive.  */
#ifndef SIDECAR_TESTS_WAITER_H
#define SIDECAR_TESTS_WAITER_H

#include <string.h>

#include "check.h"
#include "core/drive.h"

enum { MAIN = 1, FIRST, SECOND, THIRD };

static inline ScWaiter
waiter_of(uintptr_t thread, bool restricted)
{
    ScWaiter waiter;
    memset(&waiter, 0, sizeof(waiter));
    sc_waiter_init(&waiter, restricted, -1);
    waiter.thread = thread;
    return waiter;
}

/* The first owns the loop, the others wait, in that order. */
static inline void
enter_all(ScDrive *drive, ScWaiter *first, ScWaiter *second, ScWaiter *third)
{
    *first = waiter_of(FIRST, false);
    *second = waiter_of(SECOND, false);
    *third = waiter_of(THIRD, false);
    CHECK(sc_drive_enter(drive, first));
    CHECK(!sc_drive_enter(drive, second));
    CHECK(!sc_drive_enter(drive, third));
}

/* The owner's call is over, and it leaves; nothing is due. */
static inline void
end_call(ScDrive *drive, ScWaiter *owner)
{
    sc_drive_complete(drive, owner);
    sc_drive_leave(drive, false, SC_NEVER);
}

/* Nobody is left. */
static inline void
close_idle(ScDrive *drive)
{
    CHECK_EQ(atomic_load(&drive->owner), 0);
    CHECK_EQ(atomic_load(&drive->calls), 0);
    CHECK_EQ(atomic_load(&drive->eligible), 0);
    CHECK(drive->oldest == NULL && drive->newest == NULL);
    sc_drive_fini(drive);
}

static inline int
word(ScWaiter *waiter)
{
    return atomic_load(&waiter->park.word);
}

#define OWNER(drive) atomic_load(&(drive)->owner)

#endif
