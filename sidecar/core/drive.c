#include "core/drive.h"

#include <errno.h>

#include "core/clock.h"
#include "core/pump.h"

int
sc_drive_init(ScDrive *drive)
{
    *drive = (ScDrive){0};
    int rc = pthread_mutex_init(&drive->lock, NULL);
    if (rc != 0) {
        errno = rc;
        return -1;
    }
    if (sc_poller_init(&drive->poller) < 0) {
        pthread_mutex_destroy(&drive->lock);
        return -1;
    }
    return 0;
}

void
sc_drive_fini(ScDrive *drive)
{
    sc_poller_fini(&drive->poller);
    pthread_mutex_destroy(&drive->lock);
}

void
sc_waiter_init(ScWaiter *waiter, bool restricted, int event_fd)
{
    waiter->prev = waiter->next = NULL;
    atomic_init(&waiter->park.word, SC_WAITING);
    waiter->park.event_fd = event_fd;
    waiter->thread = sc_thread_self();
    waiter->restricted = restricted;
    waiter->passive = waiter->queued = waiter->away = waiter->gone = false;
}

static void
append(ScDrive *drive, ScWaiter *waiter)
{
    waiter->next = NULL;
    waiter->prev = drive->newest;
    if (drive->newest != NULL) {
        drive->newest->next = waiter;
    }
    else {
        drive->oldest = waiter;
    }
    drive->newest = waiter;
    waiter->queued = true;
    if (!waiter->restricted) {
        atomic_fetch_add_explicit(&drive->eligible, 1, memory_order_relaxed);
    }
}

static void
unlink_waiter(ScDrive *drive, ScWaiter *waiter)
{
    if (waiter->prev != NULL) {
        waiter->prev->next = waiter->next;
    }
    else {
        drive->oldest = waiter->next;
    }
    if (waiter->next != NULL) {
        waiter->next->prev = waiter->prev;
    }
    else {
        drive->newest = waiter->prev;
    }
    waiter->queued = false;
    if (!waiter->restricted) {
        atomic_fetch_sub_explicit(&drive->eligible, 1, memory_order_relaxed);
    }
}

static void
set_owner(ScDrive *drive, uintptr_t thread, bool restricted)
{
    drive->owner_restricted = restricted;
    atomic_store_explicit(&drive->owner, thread, memory_order_relaxed);
}

/* Under the lock: the loop is free, and may be this waiter's, of whose call
 * `calls` knows or not yet.  One that comes back to a loop without a pump may
 * be the last that is left to run it. */
static bool
take_if_free(ScDrive *drive, ScWaiter *waiter, size_t own_calls)
{
    bool is_free =
        atomic_load_explicit(&drive->owner, memory_order_relaxed) == 0;
    bool alone =
        atomic_load_explicit(&drive->calls, memory_order_relaxed) ==
            own_calls &&
        atomic_load_explicit(&drive->tasks, memory_order_relaxed) == 0;
    bool last = own_calls > 0 && drive->pump == NULL;
    bool confined = waiter->restricted && !last;
    if (!is_free || waiter->passive || (confined && !alone)) {
        return false;
    }
    set_owner(drive, waiter->thread, confined);
    /* A watch that has not fired has seen nothing. */
    drive->quiet = drive->pump != NULL && drive->pump->watch == SC_WATCH_ARMED;
    /* From here on this thread looks at the inbox itself. */
    atomic_store(&drive->poller.asleep, false);
    return true;
}

bool
sc_drive_enter(ScDrive *drive, ScWaiter *waiter)
{
    pthread_mutex_lock(&drive->lock);
    if (drive->refusing) {
        pthread_mutex_unlock(&drive->lock);
        atomic_store_explicit(&waiter->park.word, SC_DONE,
                              memory_order_relaxed);
        return false;
    }
    bool mine = take_if_free(drive, waiter, 0);
    atomic_fetch_add_explicit(&drive->calls, 1, memory_order_relaxed);
    if (!mine) {
        append(drive, waiter);
    }
    pthread_mutex_unlock(&drive->lock);
    return mine;
}

void
sc_drive_refuse(ScDrive *drive)
{
    pthread_mutex_lock(&drive->lock);
    drive->refusing = true;
    pthread_mutex_unlock(&drive->lock);
}

int
sc_drive_wait(ScWaiter *waiter, int64_t until, int signal_fd)
{
    return sc_park_wait(&waiter->park, SC_WAITING, until, signal_fd);
}

void
sc_drive_post(ScDrive *drive, ScOp *op)
{
    sc_inbox_push(&drive->inbox, op);
    sc_poller_wake(&drive->poller);
}

static ScWaiter *
oldest_eligible(ScDrive *drive)
{
    ScWaiter *waiter = drive->oldest;
    while (waiter != NULL && waiter->restricted) {
        waiter = waiter->next;
    }
    if (waiter == NULL && drive->pump == NULL) {
        /* Nobody else is left to run its call. */
        waiter = drive->oldest;
        while (waiter != NULL && waiter->passive) {
            waiter = waiter->next;
        }
    }
    return waiter;
}

/* Under the lock, which it gives back. */
static void
leave_locked(ScDrive *drive, bool due, int64_t next_timer)
{
    ScWaiter *heir = oldest_eligible(drive);
    if (heir != NULL) {
        unlink_waiter(drive, heir);
        set_owner(drive, heir->thread, false);
        /* Under the lock: after it the heir may withdraw and be gone. */
        ScParkWake wake = sc_park_store(&heir->park, SC_PROMOTED);
        pthread_mutex_unlock(&drive->lock);
        sc_park_wake(wake);
        return;
    }
    struct ScPump *pump = drive->pump;
    if (pump == NULL) {
        set_owner(drive, 0, false);
        pthread_mutex_unlock(&drive->lock);
        return;
    }
    if (!due) {
        /* Announce, then look again: a producer that saw us awake has pushed
         * before this look, one that pushes after it sees us asleep. */
        atomic_store(&drive->poller.asleep, true);
        if (!sc_inbox_is_empty(&drive->inbox)) {
            atomic_store(&drive->poller.asleep, false);
            due = true;
        }
    }
    if (due) {
        set_owner(drive, pump->thread_id, false);
        sc_pump_kick(pump);
    }
    else {
        sc_pump_watch(pump, next_timer);
        set_owner(drive, 0, false);
    }
    pthread_mutex_unlock(&drive->lock);
}

bool
sc_drive_take_free(ScDrive *drive, uintptr_t thread)
{
    uintptr_t owner =
        atomic_load_explicit(&drive->owner, memory_order_relaxed);
    if (owner == 0) {
        set_owner(drive, thread, false);
        atomic_store(&drive->poller.asleep, false);
        return true;
    }
    return owner == thread;
}

void
sc_drive_leave(ScDrive *drive, bool due, int64_t next_timer)
{
    pthread_mutex_lock(&drive->lock);
    leave_locked(drive, due, next_timer);
}

void
sc_drive_requeue(ScDrive *drive, ScWaiter *waiter, int64_t next_timer)
{
    pthread_mutex_lock(&drive->lock);
    atomic_store_explicit(&waiter->park.word, SC_WAITING,
                          memory_order_relaxed);
    append(drive, waiter);
    leave_locked(drive, true, next_timer);
}

void
sc_drive_complete(ScDrive *drive, ScWaiter *waiter)
{
    pthread_mutex_lock(&drive->lock);
    atomic_fetch_sub_explicit(&drive->calls, 1, memory_order_relaxed);
    bool queued = waiter->queued;
    ScParkWake wake;
    if (queued) {
        unlink_waiter(drive, waiter);
        wake = sc_park_store(&waiter->park, SC_DONE);
    }
    else if (waiter->away) {
        /* Release: it may not have looked yet why it was woken. */
        atomic_store_explicit(&waiter->park.word, SC_DONE,
                              memory_order_release);
    }
    pthread_mutex_unlock(&drive->lock);
    if (queued) {
        sc_park_wake(wake);
    }
}

bool
sc_drive_summon(ScDrive *drive, ScWaiter *waiter)
{
    ScParkWake wake;
    pthread_mutex_lock(&drive->lock);
    bool queued = waiter->queued;
    if (queued) {
        unlink_waiter(drive, waiter);
        waiter->away = true;
        wake = sc_park_store(&waiter->park, SC_SUMMONED);
    }
    bool heard = !waiter->gone;
    pthread_mutex_unlock(&drive->lock);
    if (queued) {
        sc_park_wake(wake);
    }
    return heard;
}

void
sc_drive_step_out(ScDrive *drive, ScWaiter *waiter, bool due,
                  int64_t next_timer)
{
    pthread_mutex_lock(&drive->lock);
    waiter->away = true;
    atomic_store_explicit(&waiter->park.word, SC_SUMMONED,
                          memory_order_relaxed);
    leave_locked(drive, due, next_timer);
}

int
sc_drive_step_in(ScDrive *drive, ScWaiter *waiter, ScInbox *errands)
{
    pthread_mutex_lock(&drive->lock);
    int word = atomic_load_explicit(&waiter->park.word, memory_order_relaxed);
    if (word == SC_SUMMONED && sc_inbox_is_empty(errands)) {
        waiter->away = false;
        word = take_if_free(drive, waiter, 1) ? SC_PROMOTED : SC_WAITING;
        atomic_store_explicit(&waiter->park.word, word, memory_order_relaxed);
        if (word == SC_WAITING) {
            append(drive, waiter);
        }
    }
    pthread_mutex_unlock(&drive->lock);
    return word;
}

bool
sc_drive_withdraw(ScDrive *drive, ScWaiter *waiter)
{
    pthread_mutex_lock(&drive->lock);
    bool promoted = false;
    if (waiter->queued) {
        unlink_waiter(drive, waiter);
    }
    else {
        promoted = !waiter->passive &&
                   atomic_load_explicit(&drive->owner, memory_order_relaxed) ==
                       waiter->thread;
    }
    waiter->gone = !promoted;
    pthread_mutex_unlock(&drive->lock);
    return promoted;
}

void
sc_drive_unwatch(ScDrive *drive)
{
    pthread_mutex_lock(&drive->lock);
    if (drive->pump != NULL) {
        sc_pump_unwatch(drive->pump);
    }
    pthread_mutex_unlock(&drive->lock);
}

void
sc_drive_begin_watch(ScDrive *drive, struct ScPump *pump)
{
    drive->pump = pump;
    uintptr_t owner =
        atomic_load_explicit(&drive->owner, memory_order_relaxed);
    if (owner == 0) {
        atomic_store(&drive->poller.asleep, true);
        sc_pump_watch(pump, SC_NEVER);
        if (!sc_inbox_is_empty(&drive->inbox)) {
            sc_pump_kick(pump);
        }
    }
}

void
sc_drive_end_watch(ScDrive *drive)
{
    pthread_mutex_lock(&drive->lock);
    struct ScPump *pump = drive->pump;
    drive->pump = NULL;
    uintptr_t owner =
        atomic_load_explicit(&drive->owner, memory_order_relaxed);
    if (pump != NULL && (owner == 0 || owner == pump->thread_id)) {
        leave_locked(drive, false, SC_NEVER);
        return;
    }
    pthread_mutex_unlock(&drive->lock);
}

bool
sc_drive_reclaim(ScDrive *drive, int64_t until)
{
    ScWaiter waiter;
    sc_waiter_init(&waiter, false, -1);
    pthread_mutex_lock(&drive->lock);
    bool idle = atomic_load_explicit(&drive->calls, memory_order_relaxed) == 0;
    bool free = atomic_load_explicit(&drive->owner, memory_order_relaxed) == 0;
    if (idle && !free) {
        /* A caller whose call is over, on its way out. */
        append(drive, &waiter);
    }
    pthread_mutex_unlock(&drive->lock);
    if (!idle || free) {
        return idle;
    }
    if (sc_drive_wait(&waiter, until, -1) == SC_PARK_TIMEOUT &&
        !sc_drive_withdraw(drive, &waiter)) {
        return false;
    }
    sc_drive_disclaim(drive);
    return true;
}

void
sc_drive_claim(ScDrive *drive)
{
    pthread_mutex_lock(&drive->lock);
    set_owner(drive, sc_thread_self(), false);
    pthread_mutex_unlock(&drive->lock);
}

void
sc_drive_disclaim(ScDrive *drive)
{
    pthread_mutex_lock(&drive->lock);
    set_owner(drive, 0, false);
    pthread_mutex_unlock(&drive->lock);
}
