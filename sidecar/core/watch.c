#include "core/watch.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/call.h"
#include "core/clock.h"

/* What is promised is 50 ms. */
static const int64_t WATCH_AFTER = 10 * INT64_C(1000000);

int64_t
sc_watch_due(const ScLoop *loop)
{
    return loop->watch_wanted != NULL ? loop->watch_since + WATCH_AFTER
                                      : SC_NEVER;
}

void
sc_watch_want(ScCall *call)
{
    ScLoop *loop = call->loop;
    call->watch.wanted = true;
    call->watch.prev = NULL;
    call->watch.next = loop->watch_wanted;
    if (loop->watch_wanted != NULL) {
        loop->watch_wanted->watch.prev = call;
    }
    else {
        loop->watch_since = sc_clock_now();
    }
    loop->watch_wanted = call;
}

static void
forget_want(ScCall *call)
{
    ScWatch *watch = &call->watch;
    if (!watch->wanted) {
        return;
    }
    watch->wanted = false;
    if (watch->prev != NULL) {
        watch->prev->watch.next = watch->next;
    }
    else {
        call->loop->watch_wanted = watch->next;
    }
    if (watch->next != NULL) {
        watch->next->watch.prev = watch->prev;
    }
}

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
sc_watch_arm(ScLoop *loop)
{
    while (loop->watch_wanted != NULL) {
        ScCall *call = loop->watch_wanted;
        forget_want(call);
        arm(call);
    }
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
    forget_want(call);
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
