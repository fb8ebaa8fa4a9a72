/* Poller: the loop's epoll descriptor, its wake-up, and its announced sleep.
 *
 * `asleep` is true while nobody will look at the inbox unasked: the owner is
 * in epoll_wait, or the loop is free.  Whoever announces it must look at the
 * inbox once more before relying on it; whoever pushes to the inbox calls
 * sc_poller_wake, which clears the announcement and, if it was the one to
 * clear it, writes the eventfd.  Both sides are seq_cst, so one of them sees
 * the other: no wake-up is lost, and a busy loop costs its producers no
 * system call.
 *
 * The eventfd is registered edge-triggered and never read: each write is an
 * edge of its own.  Descriptors are registered level-triggered, with the
 * descriptor as data, as asyncio does.  No Python.h.  */
#ifndef SIDECAR_CORE_POLLER_H
#define SIDECAR_CORE_POLLER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

typedef struct {
    int epoll_fd;
    int event_fd;
    atomic_bool asleep;
} ScPoller;

/* 0, or -1 with errno set and nothing left open. */
int sc_poller_init(ScPoller *poller);

/* Close the descriptors; a second call does nothing.  In the child of a fork
 * this leaves the parent's registrations alone: it removes none of them. */
void sc_poller_fini(ScPoller *poller);

/* Watch `fd` for `events` (EPOLLIN, EPOLLOUT; 0: no longer), where it was
 * watched for `before`.  0, or -1 with errno.  A descriptor that was closed
 * and opened anew behind our back is registered anew. */
int sc_poller_set(ScPoller *poller, int fd, uint32_t before, uint32_t events);

/* Wait at most `timeout` nanoseconds (0: do not wait, SC_NEVER: no limit),
 * or until `signal_fd` (-1: none) has something to read.  The number of
 * events, which is 0 on time-out, -1 with errno (EINTR).  Call it without the
 * GIL unless `timeout` is 0. */
int sc_poller_wait(ScPoller *poller, struct epoll_event *events, int room,
                   int64_t timeout, int signal_fd);

/* Any thread, attached or not. */
void sc_poller_wake(ScPoller *poller);

#endif
