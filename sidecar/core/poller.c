#include "core/poller.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/clock.h"

int
sc_poller_init(ScPoller *poller)
{
    poller->event_fd = -1;
    atomic_init(&poller->asleep, false);
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poller->epoll_fd >= 0) {
        poller->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    event.data.fd = poller->event_fd;
    if (poller->event_fd < 0 ||
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, poller->event_fd, &event)) {
        int saved = errno;
        sc_poller_fini(poller);
        errno = saved;
        return -1;
    }
    return 0;
}

void
sc_poller_fini(ScPoller *poller)
{
    if (poller->epoll_fd >= 0) {
        close(poller->epoll_fd);
    }
    if (poller->event_fd >= 0) {
        close(poller->event_fd);
    }
    poller->epoll_fd = poller->event_fd = -1;
}

int
sc_poller_set(ScPoller *poller, int fd, uint32_t before, uint32_t events)
{
    struct epoll_event event = {.events = events};
    event.data.fd = fd;
    if (events == 0) {
        return before ? epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, fd, &event)
                      : 0;
    }
    int op = before ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(poller->epoll_fd, op, fd, &event) == 0) {
        return 0;
    }
    if (op == EPOLL_CTL_MOD && errno == ENOENT) {
        return epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
    return -1;
}

/* By ppoll on the epoll descriptor: beside a signal descriptor, and with the
 * same nanoseconds on kernels before 5.11 and in sandboxes that refuse the
 * newer call. */
static int
wait_by_ppoll(ScPoller *poller, struct epoll_event *events, int room,
              const struct timespec *limit, int signal_fd)
{
    struct pollfd fds[2] = {{.fd = poller->epoll_fd, .events = POLLIN},
                            {.fd = signal_fd, .events = POLLIN}};
    int ready = ppoll(fds, 2, limit, NULL);
    return ready <= 0 ? ready : epoll_wait(poller->epoll_fd, events, room, 0);
}

int
sc_poller_wait(ScPoller *poller, struct epoll_event *events, int room,
               int64_t timeout, int signal_fd)
{
    if (timeout == 0) {
        return epoll_wait(poller->epoll_fd, events, room, 0);
    }
    struct timespec limit = sc_clock_timespec(timeout);
    if (signal_fd >= 0) {
        return wait_by_ppoll(poller, events, room,
                             timeout == SC_NEVER ? NULL : &limit, signal_fd);
    }
    if (timeout == SC_NEVER) {
        return epoll_wait(poller->epoll_fd, events, room, -1);
    }
#ifdef SYS_epoll_pwait2
    static atomic_bool refused;
    if (!atomic_load_explicit(&refused, memory_order_relaxed)) {
        int ready = (int)syscall(SYS_epoll_pwait2, poller->epoll_fd, events,
                                 room, &limit, NULL, 0);
        if (ready >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return ready;
        }
        atomic_store_explicit(&refused, true, memory_order_relaxed);
    }
#endif
    return wait_by_ppoll(poller, events, room, &limit, -1);
}

void
sc_poller_wake(ScPoller *poller)
{
    /* The plain load keeps the line shared while the loop is busy.  It is
     * seq_cst, after the push: see the header. */
    if (atomic_load(&poller->asleep) &&
        atomic_exchange(&poller->asleep, false)) {
        uint64_t one = 1;
        (void)!write(poller->event_fd, &one, sizeof(one));
    }
}
