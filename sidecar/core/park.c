#include "core/park.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/clock.h"

static int
wait_futex(ScPark *park, int expected, int64_t until)
{
    struct timespec moment, *limit = NULL;
    if (until != SC_NEVER) {
        moment = sc_clock_timespec(until > 0 ? until : 0);
        limit = &moment;
    }
    while (atomic_load_explicit(&park->word, memory_order_acquire) ==
           expected) {
        /* WAIT_BITSET takes an absolute moment of CLOCK_MONOTONIC. */
        long rc = syscall(SYS_futex, &park->word,
                          FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                          limit, NULL, FUTEX_BITSET_MATCH_ANY);
        if (rc < 0 && errno == ETIMEDOUT) {
            return SC_PARK_TIMEOUT;
        }
    }
    return SC_PARK_CHANGED;
}

static int
wait_poll(ScPark *park, int expected, int64_t until, int signal_fd)
{
    struct pollfd fds[2] = {{.fd = park->event_fd, .events = POLLIN},
                            {.fd = signal_fd, .events = POLLIN}};
    while (atomic_load_explicit(&park->word, memory_order_acquire) ==
           expected) {
        struct timespec left, *limit = NULL;
        if (until != SC_NEVER) {
            int64_t now = sc_clock_now();
            if (until <= now) {
                return SC_PARK_TIMEOUT;
            }
            left = sc_clock_timespec(until - now);
            limit = &left;
        }
        int rc = ppoll(fds, 2, limit, NULL);
        if (rc < 0 || fds[1].revents) {
            return SC_PARK_SIGNAL;
        }
        if (fds[0].revents) {
            uint64_t count;
            /* Non-blocking: another wake-up of this park may have come first.
             */
            (void)!read(park->event_fd, &count, sizeof(count));
        }
    }
    return SC_PARK_CHANGED;
}

int
sc_park_wait(ScPark *park, int expected, int64_t until, int signal_fd)
{
    if (park->event_fd < 0) {
        return wait_futex(park, expected, until);
    }
    return wait_poll(park, expected, until, signal_fd);
}

ScParkWake
sc_park_store(ScPark *park, int value)
{
    ScParkWake wake = {&park->word, park->event_fd};
    atomic_store_explicit(&park->word, value, memory_order_release);
    return wake;
}

void
sc_park_wake(ScParkWake wake)
{
    if (wake.event_fd < 0) {
        syscall(SYS_futex, wake.word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX,
                NULL, NULL, 0);
    }
    else {
        uint64_t one = 1;
        (void)!write(wake.event_fd, &one, sizeof(one));
    }
}
