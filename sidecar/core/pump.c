#include "core/pump.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/clock.h"

static void
close_all(ScPump *pump)
{
    int *fds[] = {&pump->watch_fd, &pump->timer_fd, &pump->kick_fd};
    for (int i = 0; i < 3; i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
            *fds[i] = -1;
        }
    }
}

static int
watch_descriptor(ScPump *pump, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};
    event.data.fd = fd;
    return epoll_ctl(pump->watch_fd, EPOLL_CTL_ADD, fd, &event);
}

static int
open_all(ScPump *pump)
{
    pump->watch_fd = pump->timer_fd = pump->kick_fd = -1;
    pump->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (pump->watch_fd < 0) {
        return -1;
    }
    pump->timer_fd =
        timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    pump->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pump->timer_fd < 0 || pump->kick_fd < 0 ||
        watch_descriptor(pump, pump->timer_fd, EPOLLIN | EPOLLET) < 0 ||
        watch_descriptor(pump, pump->kick_fd, EPOLLIN | EPOLLET) < 0 ||
        watch_descriptor(pump, pump->drive->poller.epoll_fd, 0) < 0) {
        return -1;
    }
    return 0;
}

/* What fired is noted, and a free loop taken.  True: this thread owns it. */
static bool
look(ScPump *pump, const struct epoll_event *events, int count)
{
    ScDrive *drive = pump->drive;
    pthread_mutex_lock(&drive->lock);
    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == pump->timer_fd) {
            pump->timer_at = SC_NEVER;
        }
        else if (events[i].data.fd != pump->kick_fd) {
            pump->watch = SC_WATCH_FIRED;
        }
    }
    bool mine = sc_drive_take_free(drive, pump->thread_id);
    pthread_mutex_unlock(&drive->lock);
    return mine;
}

static void *
pump_main(void *arg)
{
    ScPump *pump = arg;
    bool begun = pump->work->begin(pump->context);
    while (begun && !atomic_load_explicit(&pump->stop, memory_order_acquire)) {
        struct epoll_event events[3];
        int count = epoll_wait(pump->watch_fd, events, 3, -1);
        if (look(pump, events, count)) {
            pump->work->batch(pump->context);
        }
    }
    /* First: whoever leaves or posts from here on reckons without us. */
    sc_drive_end_watch(pump->drive);
    if (begun) {
        pump->work->end(pump->context);
    }
    sc_park_set(&pump->ended, 1);
    return NULL;
}

int
sc_pump_start(ScPump *pump, ScDrive *drive, const ScPumpWork *work,
              void *context, const char *name)
{
    *pump = (ScPump){.drive = drive,
                     .work = work,
                     .context = context,
                     .watch = SC_WATCH_OFF,
                     .timer_at = SC_NEVER,
                     .ended = {.event_fd = -1}};
    if (open_all(pump) < 0) {
        int saved = errno;
        close_all(pump);
        errno = saved;
        return -1;
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* The thread looks at the drive only under its lock, so it cannot see a
     * thread_id that is not there yet. */
    pthread_mutex_lock(&drive->lock);
    int rc = pthread_create(&pump->thread, NULL, pump_main, pump);
    if (rc == 0) {
        pump->thread_id = (uintptr_t)pump->thread;
        sc_drive_begin_watch(drive, pump);
        pthread_setname_np(pump->thread, name);
    }
    pthread_mutex_unlock(&drive->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        close_all(pump);
        errno = rc;
        return -1;
    }
    return 0;
}

bool
sc_pump_stop(ScPump *pump, int64_t until)
{
    atomic_store_explicit(&pump->stop, true, memory_order_release);
    sc_pump_kick(pump);
    if (sc_park_wait(&pump->ended, 0, until, -1) == SC_PARK_TIMEOUT) {
        pthread_detach(pump->thread);
        return false;
    }
    pthread_join(pump->thread, NULL);
    close_all(pump);
    return true;
}

void
sc_pump_close_inherited(ScPump *pump)
{
    close_all(pump);
}

void
sc_pump_kick(ScPump *pump)
{
    uint64_t one = 1;
    (void)!write(pump->kick_fd, &one, sizeof(one));
}

void
sc_pump_watch(ScPump *pump, int64_t next_timer)
{
    if (next_timer != SC_NEVER && next_timer != pump->timer_at) {
        /* A moment of zero would disarm it. */
        struct itimerspec at = {
            .it_value = sc_clock_timespec(next_timer > 0 ? next_timer : 1)};
        timerfd_settime(pump->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
        pump->timer_at = next_timer;
    }
    if (pump->watch != SC_WATCH_ARMED) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
        event.data.fd = pump->drive->poller.epoll_fd;
        epoll_ctl(pump->watch_fd, EPOLL_CTL_MOD, event.data.fd, &event);
        pump->watch = SC_WATCH_ARMED;
    }
}

void
sc_pump_unwatch(ScPump *pump)
{
    if (pump->watch == SC_WATCH_ARMED) {
        struct epoll_event event = {.events = 0};
        event.data.fd = pump->drive->poller.epoll_fd;
        epoll_ctl(pump->watch_fd, EPOLL_CTL_MOD, event.data.fd, &event);
        pump->watch = SC_WATCH_OFF;
    }
}
