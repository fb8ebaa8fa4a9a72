/* Poller: the announced sleep loses no wake-up, waits are exact, descriptors
 * are watched for what was asked. */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "check.h"
#include "core/inbox.h"
#include "core/poller.h"

enum { PRODUCERS = 4, OPS = 5000 };

typedef struct {
    ScPoller poller;
    ScInbox inbox;
    pthread_barrier_t start;
} Station;

typedef struct {
    Station *station;
    ScOp *ops;
    uint32_t seed;
} Producer;

static void *
produce(void *arg)
{
    Producer *self = arg;
    pthread_barrier_wait(&self->station->start);
    for (int i = 0; i < OPS; i++) {
        sc_inbox_push(&self->station->inbox, &self->ops[i]);
        sc_poller_wake(&self->station->poller);
        if (random_below(&self->seed, 4) == 0) {
            sched_yield();
        }
    }
    return NULL;
}

static int
take(Station *station)
{
    int taken = 0;
    for (ScOp *op = sc_inbox_take(&station->inbox); op; op = op->next) {
        taken++;
    }
    return taken;
}

/* The consumer sleeps without a limit: one lost wake-up and it sleeps on. */
static void
test_no_wake_up_is_lost(void)
{
    Station station = {0};
    CHECK_EQ(sc_poller_init(&station.poller), 0);
    pthread_barrier_init(&station.start, NULL, PRODUCERS);
    Producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] =
            (Producer){&station, calloc(OPS, sizeof(ScOp)), (uint32_t)i + 1};
        threads[i] = thread_start(produce, &producers[i]);
    }
    for (int taken = 0; taken < PRODUCERS * OPS; taken += take(&station)) {
        struct epoll_event events[4];
        atomic_store(&station.poller.asleep, true);
        if (sc_inbox_is_empty(&station.inbox)) {
            sc_poller_wait(&station.poller, events, 4, SC_NEVER, -1);
        }
        atomic_store(&station.poller.asleep, false);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        thread_join(threads[i]);
        free(producers[i].ops);
    }
    pthread_barrier_destroy(&station.start);
    sc_poller_fini(&station.poller);
}

static void
test_waking_the_awake_costs_nothing(void)
{
    ScPoller poller;
    struct epoll_event events[4];
    CHECK_EQ(sc_poller_init(&poller), 0);
    sc_poller_wake(&poller);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 0);
    atomic_store(&poller.asleep, true);
    sc_poller_wake(&poller);
    sc_poller_wake(&poller);
    CHECK(!atomic_load(&poller.asleep));
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 1);
    CHECK_EQ(events[0].data.fd, poller.event_fd);
    /* Never read, and yet no event twice: one edge for one write. */
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 0);
    atomic_store(&poller.asleep, true);
    sc_poller_wake(&poller);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 1);
    sc_poller_fini(&poller);
    sc_poller_fini(&poller);
}

static void
test_waits_are_exact(void)
{
    ScPoller poller;
    struct epoll_event events[4];
    CHECK_EQ(sc_poller_init(&poller), 0);
    int64_t spans[] = {1, 20 * 1000, 900 * 1000, 3 * MILLISECOND};
    for (int i = 0; i < 4; i++) {
        int64_t before = sc_clock_now();
        CHECK_EQ(sc_poller_wait(&poller, events, 4, spans[i], -1), 0);
        CHECK(sc_clock_now() - before >= spans[i]);
    }
    sc_poller_fini(&poller);
}

static void
test_a_signal_ends_the_wait(void)
{
    ScPoller poller;
    struct epoll_event events[4];
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    CHECK_EQ(sc_poller_init(&poller), 0);
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, SC_NEVER, pipe_fds[0]), 0);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 60 * SC_NS_PER_S, pipe_fds[0]),
             0);
    atomic_store(&poller.asleep, true);
    sc_poller_wake(&poller);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, SC_NEVER, pipe_fds[0]), 1);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    sc_poller_fini(&poller);
}

static void
test_descriptors(void)
{
    ScPoller poller;
    struct epoll_event events[4];
    CHECK_EQ(sc_poller_init(&poller), 0);
    int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_EQ(sc_poller_set(&poller, fd, 0, EPOLLIN), 0);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, SC_NEVER, -1), 1);
    CHECK_EQ(events[0].data.fd, fd);
    CHECK_EQ(events[0].events, EPOLLIN);
    CHECK_EQ(sc_poller_set(&poller, fd, EPOLLIN, EPOLLIN | EPOLLOUT), 0);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 1);
    CHECK_EQ(events[0].events, EPOLLIN | EPOLLOUT);
    CHECK_EQ(sc_poller_set(&poller, fd, EPOLLIN | EPOLLOUT, 0), 0);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 0);
    /* Nothing was watched, nothing is to be done. */
    CHECK_EQ(sc_poller_set(&poller, fd, 0, 0), 0);

    /* Closed behind our back, and opened anew under the same number. */
    CHECK_EQ(sc_poller_set(&poller, fd, 0, EPOLLIN), 0);
    int other = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_EQ(dup2(other, fd), fd);
    CHECK_EQ(sc_poller_set(&poller, fd, EPOLLIN, EPOLLIN | EPOLLOUT), 0);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 1);

    CHECK_EQ(sc_poller_set(&poller, -1, 0, EPOLLIN), -1);
    CHECK_EQ(errno, EBADF);
    close(other);
    close(fd);
    sc_poller_fini(&poller);
}

static void
test_a_childs_fini_leaves_the_parent_alone(void)
{
    ScPoller poller;
    struct epoll_event events[4];
    CHECK_EQ(sc_poller_init(&poller), 0);
    int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_EQ(sc_poller_set(&poller, fd, 0, EPOLLIN), 0);
    pid_t pid = fork();
    if (pid == 0) {
        sc_poller_fini(&poller);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(sc_poller_wait(&poller, events, 4, 0, -1), 1);
    close(fd);
    sc_poller_fini(&poller);
}

int
main(void)
{
    test_waking_the_awake_costs_nothing();
    test_waits_are_exact();
    test_a_signal_ends_the_wait();
    test_descriptors();
    test_a_childs_fini_leaves_the_parent_alone();
    test_no_wake_up_is_lost();
    return 0;
}
