/* Drive: who runs the loop now.
 *
 * A loop is free, or owned by one thread: a caller that waits for its own
 * call, the pump, or, for a plain loop, the thread in run_forever.  Only the
 * owner touches the loop's ring, its timers, and the tasks it steps.
 *
 * Invariants, all under `lock`:
 *  1. At most one owner; ownership changes only here.
 *  2. An owner that leaves hands over to the oldest waiter that may drive;
 *     where there is none and something is due, to the pump; without a pump,
 *     to the oldest waiter that drives at all; else the loop is free,
 *     `asleep` is announced, the inbox was empty after that, and the pump's
 *     watch is armed.  So whatever comes due finds someone to run it.
 *  3. A queued waiter leaves the queue once: promoted (it now owns the loop),
 *     done (its call is over) or summoned (its call has an errand for this
 *     thread), never two of them.  Its word changes with it, under the lock;
 *     it is woken after.
 *  4. A restricted owner drives its own call only: as soon as `calls` shows
 *     another one it hands over and waits.  It gets the loop only while no
 *     other call and no task left by one is alive.  (Without a pump it is the
 *     last resort, and is not restricted then.)
 *  5. A waiter that is away owns nothing and is in no queue, while its call
 *     goes on, and may end: its word is done then.  It comes back only past
 *     the last errand: whoever sends one pushes it first and summons after,
 *     and the way back looks under the lock.  A thread that gives its call up
 *     says so under the lock: what is pushed later, the sender takes back.
 *
 * The lock is held for a few instructions and at most two epoll_ctl calls;
 * nobody attaches, waits or runs Python under it, so holding the GIL while
 * taking it is fine.  No Python.h.  */
#ifndef SIDECAR_CORE_DRIVE_H
#define SIDECAR_CORE_DRIVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/inbox.h"
#include "core/park.h"
#include "core/poller.h"

enum { SC_WAITING, SC_PROMOTED, SC_DONE, SC_SUMMONED };

/* A caller, for the time of its call.  Embedded; the memory must outlive the
 * sc_drive_complete that ends it. */
typedef struct ScWaiter {
    struct ScWaiter *prev, *next;
    ScPark park; /* one of those above */
    uintptr_t thread;
    bool restricted; /* drives its own call only (main thread, deep stack) */
    bool passive;    /* never drives at all (a greenlet); restricted as well */
    bool queued;
    bool away; /* on an errand of its call's */
    bool gone; /* it gave its call up: no errand reaches it */
} ScWaiter;

struct ScPump;

typedef struct ScDrive {
    pthread_mutex_t lock;
    _Atomic(uintptr_t) owner; /* 0: free; written under the lock */
    bool owner_restricted;    /* written by who becomes the owner */
    bool refusing;            /* under the lock */
    bool quiet; /* the owner's: no descriptor was ready when it took over */
    ScWaiter *oldest, *newest;
    atomic_size_t eligible; /* queued waiters that are not restricted */
    atomic_size_t calls;    /* entered and not completed */
    atomic_size_t tasks;    /* alive beside the calls' own */
    ScInbox inbox;
    ScPoller poller;
    struct ScPump *pump; /* NULL: a plain loop, which nobody watches */
} ScDrive;

/* This thread, as `owner` names it. */
static inline uintptr_t
sc_thread_self(void)
{
    return (uintptr_t)pthread_self();
}

static inline bool
sc_drive_is_owner(ScDrive *drive)
{
    /* Relaxed: only this thread can make it equal, or stop it being so. */
    return atomic_load_explicit(&drive->owner, memory_order_relaxed) ==
           sc_thread_self();
}

/* 0, or -1 with errno set. */
int sc_drive_init(ScDrive *drive);

/* Frees what init made.  Nobody may use the drive any more. */
void sc_drive_fini(ScDrive *drive);

void sc_waiter_init(ScWaiter *waiter, bool restricted, int event_fd);

/* Begin a call.  True: this thread owns the loop now.  False: the waiter is
 * queued; push the call's op to the inbox, then sc_drive_wait.  Or, where the
 * waiter is SC_DONE already: no call is taken any more, nothing was begun. */
bool sc_drive_enter(ScDrive *drive, ScWaiter *waiter);

/* From here on no call is taken; those that were go on. */
void sc_drive_refuse(ScDrive *drive);

/* Sleep, without the GIL, until the waiter is promoted or done; what
 * sc_park_wait returns. */
int sc_drive_wait(ScWaiter *waiter, int64_t until, int signal_fd);

/* Push an op and wake whoever must see it.  Any thread. */
void sc_drive_post(ScDrive *drive, ScOp *op);

/* The owner leaves.  `due`: the loop's ring is not empty.  `next_timer`: when
 * its first timer is due, or whatever else that nobody tells it of
 * (sc_loop_next_due). */
void sc_drive_leave(ScDrive *drive, bool due, int64_t next_timer);

/* The pump, under the lock: take the loop if it is free.  True: `thread` owns
 * it now, or was left it. */
bool sc_drive_take_free(ScDrive *drive, uintptr_t thread);

/* Must the owner hand over before it runs another handle?  For a restricted
 * owner: another call has come.  For the pump: a caller may drive. */
static inline bool
sc_drive_must_yield(ScDrive *drive, bool is_pump)
{
    if (is_pump) {
        return atomic_load_explicit(&drive->eligible, memory_order_relaxed) >
               0;
    }
    return drive->owner_restricted &&
           atomic_load_explicit(&drive->calls, memory_order_relaxed) > 1;
}

/* A restricted owner whose call is not done queues up again and leaves. */
void sc_drive_requeue(ScDrive *drive, ScWaiter *waiter, int64_t next_timer);

/* The owner sends the call's thread on an errand, which it has just pushed to
 * the call's `errands`: wake it, if it waits.  The owner itself looks by
 * itself.  False: the thread gave the call up, and may not have seen it. */
bool sc_drive_summon(ScDrive *drive, ScWaiter *waiter);

/* An owner goes on an errand; as sc_drive_leave. */
void sc_drive_step_out(ScDrive *drive, ScWaiter *waiter, bool due,
                       int64_t next_timer);

/* And comes back.  SC_PROMOTED: it owns the loop; SC_WAITING: it is queued;
 * SC_DONE: its call is over; SC_SUMMONED: there is another errand. */
int sc_drive_step_in(ScDrive *drive, ScWaiter *waiter, ScInbox *errands);

/* The owner ends a call: its own, or a waiter's, which it wakes. */
void sc_drive_complete(ScDrive *drive, ScWaiter *waiter);

/* A waiter gives its call up: it is in no queue after this.  True: it had
 * been promoted meanwhile, and owns the loop. */
bool sc_drive_withdraw(ScDrive *drive, ScWaiter *waiter);

/* The owner is about to sleep in the poller: events are its own to see. */
void sc_drive_unwatch(ScDrive *drive);

/* Before a bridge's loop is closed, its pump gone: take it for good, and wait
 * until the moment `until` for an owner whose call is over to leave it.
 * False: a caller is still in it.  Without the GIL. */
bool sc_drive_reclaim(ScDrive *drive, int64_t until);

/* The pump's own.  Begin, under the lock: the drive has a pump, which sees
 * what was posted before.  End, on its thread: it has none any more, and what
 * it may own goes to the oldest waiter, or to nobody. */
void sc_drive_begin_watch(ScDrive *drive, struct ScPump *pump);
void sc_drive_end_watch(ScDrive *drive);

/* Plain loops: the thread in run_forever takes and gives the loop. */
void sc_drive_claim(ScDrive *drive);
void sc_drive_disclaim(ScDrive *drive);

#endif
