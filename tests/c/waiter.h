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

static inline int
word(ScWaiter *waiter)
{
    return atomic_load(&waiter->park.word);
}

#define OWNER(drive) atomic_load(&(drive)->owner)

#endif
