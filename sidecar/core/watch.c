#include "core/watch.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/call.h"
#include "core/clock.h"
#include "core/whereabouts.h"

/* What is promised is 50 ms. */
static const int64_t WATCH_AFTER = 10 * INT64_C(1000000);
static const int64_t SHOW_EVERY = 100 * INT64_C(1000000);

int64_t
sc_watch_due(const ScLoop *loop)
{
    int64_t due = SC_NEVER;
    if (loop->watch_wanted != NULL) {
        due = loop->watch_since + WATCH_AFTER;
    }
    if (loop->shown != NULL && loop->ran &&
        loop->shown_at + SHOW_EVERY < due) {
        due = loop->shown_at + SHOW_EVERY;
    }
    return due;
}

static void
enlist(ScCall *call, ScCall **list)
{
    ScWatch *watch = &call->watch;
    watch->list = list;
    watch->prev = NULL;
    watch->next = *list;
    if (*list != NULL) {
        (*list)->watch.prev = call;
    }
    *list = call;
}

static void
delist(ScCall *call)
{
    ScWatch *watch = &call->watch;
    if (watch->list == NULL) {
        return;
    }
    if (watch->prev != NULL) {
        watch->prev->watch.next = watch->next;
    }
    else {
        *watch->list = watch->next;
    }
    if (watch->next != NULL) {
        watch->next->watch.prev = watch->prev;
    }
    watch->list = NULL;
}

void
sc_watch_want(ScCall *call)
{
    ScLoop *loop = call->loop;
    if (loop->watch_wanted == NULL) {
        loop->watch_since = sc_clock_now();
    }
    enlist(call, &loop->watch_wanted);
}

/* -- the board ------------------------------------------------------------ */

/* The request's slot, locked; NULL: it has none, or another's by now. */
static Sidecar_Slot *
lock_slot(ScOwner *owner)
{
    Sidecar_Slot *slot = atomic_load(&owner->slot);
    if (slot == NULL || !sidecar_slot_lock(slot)) {
        return NULL;
    }
    if (slot->text.key != (uintptr_t)owner) {
        sidecar_slot_unlock(slot);
        return NULL;
    }
    return slot;
}

static void
show(ScCall *call)
{
    char name[SIDECAR_BOARD_PLACE], awaits[SIDECAR_BOARD_PLACE];
    sc_whereabouts_name(sc_call_runs(call), name, sizeof(name));
    sc_whereabouts_await(sc_call_runs(call), awaits, sizeof(awaits));
    Sidecar_Slot *slot = lock_slot(call->owner);
    if (slot == NULL) {
        return;
    }
    Sidecar_SlotText *text = &slot->text;
    if (text->call != (uintptr_t)call) {
        text->call = (uintptr_t)call;
        text->called = call->watch.since;
        memcpy(text->coroutine, name, sizeof(name));
    }
    memcpy(text->awaits, awaits, sizeof(awaits));
    sidecar_slot_unlock(slot);
}

static void
unshow(ScCall *call)
{
    Sidecar_Slot *slot = lock_slot(call->owner);
    if (slot != NULL) {
        if (slot->text.call == (uintptr_t)call) {
            slot->text.call = 0;
            slot->text.called = 0;
        }
        sidecar_slot_unlock(slot);
    }
}

/* -- the client ----------------------------------------------------------- */

/* Without one where the descriptor is closed, or none can be made: then the
 * client's end is noticed by the server alone. */
static void
arm(ScCall *call)
{
    ScLoop *loop = call->loop;
    ScOwner *owner = call->owner;
    int fd = fcntl(owner->peer, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    /* What is said unasked, of a reset or of both sides closed, is enough
     * where the client's own side may be closed. */
    uint32_t events = owner->half_closes ? 0 : EPOLLRDHUP;
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (sc_loop_io_watch(loop, fd, call) < 0 ||
        epoll_ctl(loop->drive->poller.epoll_fd, EPOLL_CTL_ADD, fd, &event) <
            0) {
        PyErr_Clear();
        sc_loop_io_watch(loop, fd, NULL);
        close(fd);
        return;
    }
    call->watch.fd = fd;
}

void
sc_watch_look(ScLoop *loop)
{
    int64_t now = sc_clock_now();
    while (loop->watch_wanted != NULL &&
           now - loop->watch_since >= WATCH_AFTER) {
        ScCall *call = loop->watch_wanted;
        delist(call);
        if (call->owner->peer >= 0) {
            arm(call);
        }
        if (atomic_load(&call->owner->slot) != NULL) {
            call->watch.since = now - WATCH_AFTER;
            enlist(call, &loop->shown);
        }
    }
    for (ScCall *call = loop->shown; call != NULL; call = call->watch.next) {
        show(call);
    }
    loop->shown_at = now;
    loop->ran = false;
}

static void
disarm(ScCall *call)
{
    int fd = call->watch.fd;
    if (fd >= 0) {
        call->watch.fd = -1;
        epoll_ctl(call->loop->drive->poller.epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        sc_loop_io_watch(call->loop, fd, NULL);
        close(fd);
    }
}

void
sc_watch_event(ScCall *call, uint32_t events)
{
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        PyObject *owner = Py_NewRef((PyObject *)call->owner);
        disarm(call);
        sc_owner_strike((ScOwner *)owner, SC_VERDICT_LEFT);
        Py_DECREF(owner);
    }
}

void
sc_watch_end(ScCall *call)
{
    if (call->watch.list == &call->loop->shown) {
        unshow(call);
    }
    delist(call);
    disarm(call);
}

void
sc_watch_drop(ScCall *call)
{
    if (call->watch.fd >= 0) {
        close(call->watch.fd);
        call->watch.fd = -1;
    }
}
