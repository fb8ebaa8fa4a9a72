#include "request_id.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* getrandom fills up to 256 bytes whole, whatever signal comes. */
#define POOL_SIZE 256
/* The counter starts in the lower half of its 12 bits, so that a millisecond
 * has room for 2,048 ids at least. */
#define COUNTER_LIMIT 0x1000
#define COUNTER_START_MASK 0x07FF

typedef struct {
    unsigned char bytes[POOL_SIZE];
    unsigned left;
    unsigned generation;
    unsigned counter;
    uint64_t milliseconds;
} Pool;

static _Thread_local Pool thread_pool;
/* One more in each child of a fork.  Starts at 1: a thread's pool, all
 * zeros, is never taken for a filled one. */
static _Atomic unsigned fork_generation = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
count_fork(void)
{
    atomic_fetch_add_explicit(&fork_generation, 1, memory_order_relaxed);
}

static void
watch_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

static bool
fill_from_device(unsigned char *bytes, size_t size)
{
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, bytes + done, size - done);
        if (got <= 0 && errno != EINTR) {
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    return done == size;
}

/* A sandbox may forbid both sources.  An id needs to be its own, not a
 * secret: the clock, the process and the thread tell it from others. */
static void
fill_from_clock(unsigned char *bytes, size_t size)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t seed = (uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec;
    seed ^= (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)bytes;
    for (size_t i = 0; i < size; i++) {
        /* splitmix64 */
        uint64_t word = (seed += UINT64_C(0x9E3779B97F4A7C15));
        word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
        bytes[i] = (unsigned char)(word >> 56);
    }
}

static void
pool_fill(Pool *pool)
{
    ssize_t got;
    do {
        got = getrandom(pool->bytes, POOL_SIZE, 0);
    } while (got < 0 && errno == EINTR);
    if (got != POOL_SIZE && !fill_from_device(pool->bytes, POOL_SIZE)) {
        fill_from_clock(pool->bytes, POOL_SIZE);
    }
    pool->left = POOL_SIZE;
}

static void
pool_take(Pool *pool, void *out, unsigned size)
{
    if (pool->left < size) {
        pool_fill(pool);
    }
    pool->left -= size;
    memcpy(out, pool->bytes + pool->left, size);
    /* What was given out is no longer here to be read. */
    memset(pool->bytes + pool->left, 0, size);
}

static Pool *
pool_of_thread(void)
{
    Pool *pool = &thread_pool;
    unsigned generation =
        atomic_load_explicit(&fork_generation, memory_order_relaxed);
    if (pool->generation != generation) {
        pthread_once(&fork_once, watch_forks);
        pool->generation = generation;
        pool->left = 0;
        pool->milliseconds = 0;
    }
    return pool;
}

/* The next pair of time and counter: later than the one before. */
static void
pool_advance(Pool *pool, uint64_t milliseconds)
{
    if (milliseconds <= pool->milliseconds) {
        if (++pool->counter < COUNTER_LIMIT) {
            return;
        }
        milliseconds = pool->milliseconds + 1;
    }
    uint16_t start;
    pool_take(pool, &start, sizeof(start));
    pool->counter = start & COUNTER_START_MASK;
    pool->milliseconds = milliseconds;
}

static void
write_text(char *out, const unsigned char *uuid)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *out++ = '-';
        }
        *out++ = digits[uuid[i] >> 4];
        *out++ = digits[uuid[i] & 15];
    }
}

void
sc_request_id_make_at(char *out, uint64_t milliseconds)
{
    Pool *pool = pool_of_thread();
    pool_advance(pool, milliseconds);
    unsigned char uuid[16];
    for (int i = 0; i < 6; i++) {
        uuid[i] = (unsigned char)(pool->milliseconds >> (40 - 8 * i));
    }
    uuid[6] = (unsigned char)(0x70 | pool->counter >> 8);
    uuid[7] = (unsigned char)pool->counter;
    pool_take(pool, uuid + 8, 8);
    uuid[8] = (unsigned char)(0x80 | (uuid[8] & 0x3F));
    write_text(out, uuid);
}

void
sc_request_id_make(char *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    sc_request_id_make_at(out, (uint64_t)now.tv_sec * 1000 +
                                   (uint64_t)now.tv_nsec / 1000000);
}
