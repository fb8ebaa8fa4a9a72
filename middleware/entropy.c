#include "entropy.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* getrandom fills up to 256 bytes whole, whatever signal comes. */
#define POOL_SIZE 256

typedef struct {
    unsigned char bytes[POOL_SIZE];
    size_t left;
    unsigned generation;
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
        if (got == 0 || (got < 0 && errno != EINTR)) {
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

unsigned
sc_entropy_generation(void)
{
    /* A child's pools are dropped only where the watch was set up before the
     * fork: nobody has a pool, or a generation, without it. */
    pthread_once(&fork_once, watch_forks);
    return atomic_load_explicit(&fork_generation, memory_order_relaxed);
}

void
sc_entropy_fill(void *out, size_t size)
{
    Pool *pool = &thread_pool;
    unsigned generation = sc_entropy_generation();
    if (pool->generation != generation) {
        pool->generation = generation;
        pool->left = 0;
    }
    unsigned char *to = out;
    while (size > 0) {
        if (pool->left == 0) {
            pool_fill(pool);
        }
        size_t part = size < pool->left ? size : pool->left;
        pool->left -= part;
        memcpy(to, pool->bytes + pool->left, part);
        /* What was given out is no longer here to be read. */
        memset(pool->bytes + pool->left, 0, part);
        to += part;
        size -= part;
    }
}
