/* Check: what the plain C tests share.  A test is a program; it prints nothing
 * and returns 0, or says on stderr what was wrong and aborts.  */
#ifndef SIDECAR_TESTS_CHECK_H
#define SIDECAR_TESTS_CHECK_H

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, \
                    __func__, #condition);                                   \
            abort();                                                         \
        }                                                                    \
    } while (0)

#define CHECK_EQ(left, right)                                                \
    do {                                                                     \
        long long check_left = (long long)(left);                            \
        long long check_right = (long long)(right);                          \
        if (check_left != check_right) {                                     \
            fprintf(stderr, "%s:%d: %s: %s is %lld, %s is %lld\n", __FILE__, \
                    __LINE__, __func__, #left, check_left, #right,           \
                    check_right);                                            \
            abort();                                                         \
        }                                                                    \
    } while (0)

/* Give the processor away until the condition holds; a minute is the end. */
#define WAIT_UNTIL(condition)                                 \
    do {                                                      \
        int64_t wait_end = sc_clock_now() + 60 * SC_NS_PER_S; \
        while (!(condition)) {                                \
            CHECK(sc_clock_now() < wait_end && #condition);   \
            sched_yield();                                    \
        }                                                     \
    } while (0)

#define MILLISECOND INT64_C(1000000)

/* xorshift32: the same numbers in every run.  The seed must not be 0. */
static inline uint32_t
random_next(uint32_t *state)
{
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

static inline uint32_t
random_below(uint32_t *state, uint32_t limit)
{
    return random_next(state) % limit;
}

static inline pthread_t
thread_start(void *(*function)(void *), void *arg)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, function, arg), 0);
    return thread;
}

static inline void
thread_join(pthread_t thread)
{
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

#endif
