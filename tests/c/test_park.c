/* Park: every wake-up arrives, by futex and by eventfd; limits and signals. */
#include <signal.h>
#include <sys/eventfd.h>

#include "check.h"
#include "core/park.h"

enum { ROUNDS = 3000 };

typedef struct {
    ScPark park;
    ScPark back;
    int payload; /* plain: the park has to publish it */
} Pair;

static void *
answer(void *arg)
{
    Pair *pair = arg;
    for (int i = 1; i <= ROUNDS; i++) {
        CHECK_EQ(sc_park_wait(&pair->park, i - 1, SC_NEVER, -1),
                 SC_PARK_CHANGED);
        CHECK_EQ(pair->payload, i);
        pair->payload = -i;
        sc_park_set(&pair->back, i);
    }
    return NULL;
}

static void
test_ping_pong(int fd, int back_fd)
{
    Pair pair = {.park = {.event_fd = fd}, .back = {.event_fd = back_fd}};
    pthread_t thread = thread_start(answer, &pair);
    for (int i = 1; i <= ROUNDS; i++) {
        pair.payload = i;
        sc_park_set(&pair.park, i);
        CHECK_EQ(sc_park_wait(&pair.back, i - 1, SC_NEVER, -1),
                 SC_PARK_CHANGED);
        CHECK_EQ(pair.payload, -i);
    }
    thread_join(thread);
}

static void
test_limits(int fd)
{
    ScPark park = {.event_fd = fd};
    int64_t before = sc_clock_now();
    CHECK_EQ(sc_park_wait(&park, 0, before - 1, -1), SC_PARK_TIMEOUT);
    CHECK_EQ(sc_park_wait(&park, 0, 0, -1), SC_PARK_TIMEOUT);
    CHECK_EQ(sc_park_wait(&park, 0, before + 5 * MILLISECOND, -1),
             SC_PARK_TIMEOUT);
    CHECK(sc_clock_now() >= before + 5 * MILLISECOND);
    /* A change counts, even when the limit is over. */
    sc_park_set(&park, 1);
    CHECK_EQ(sc_park_wait(&park, 0, before, -1), SC_PARK_CHANGED);
}

static void
test_stale_wake_ups_are_no_wake_ups(int fd)
{
    /* The descriptor still counts the wake-up of a park that is over. */
    ScPark over = {.event_fd = fd};
    sc_park_set(&over, 1);
    ScPark park = {.event_fd = fd};
    CHECK_EQ(sc_park_wait(&park, 0, sc_clock_now() + MILLISECOND, -1),
             SC_PARK_TIMEOUT);
}

static void
test_signal_descriptor(int fd)
{
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    ScPark park = {.event_fd = fd};
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    CHECK_EQ(sc_park_wait(&park, 0, SC_NEVER, pipe_fds[0]), SC_PARK_SIGNAL);
    /* It stays readable: not read by the park. */
    CHECK_EQ(sc_park_wait(&park, 0, SC_NEVER, pipe_fds[0]), SC_PARK_SIGNAL);
    sc_park_set(&park, 1);
    CHECK_EQ(sc_park_wait(&park, 0, SC_NEVER, pipe_fds[0]), SC_PARK_CHANGED);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

int
main(void)
{
    int fds[2] = {eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                  eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    CHECK(fds[0] >= 0 && fds[1] >= 0);
    test_ping_pong(-1, -1);
    test_ping_pong(fds[0], fds[1]);
    test_ping_pong(fds[0], -1);
    test_limits(-1);
    test_limits(fds[0]);
    test_stale_wake_ups_are_no_wake_ups(fds[0]);
    test_signal_descriptor(fds[0]);
    return 0;
}
