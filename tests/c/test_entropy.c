/* Entropy: whole fills of any size, its distribution, and forks. */
#include <string.h>
#include <sys/wait.h>

#include "entropy_check.h"
#include "middleware/entropy.h"

#define CHILDREN 50

/* Sizes around the pool's: every byte is written, and none beyond. */
static void
test_sizes(void)
{
    static const size_t sizes[] = {0, 1, 2, 8, 16, 255, 256, 257, 512, 5000};
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        size_t size = sizes[i];
        unsigned char *bytes = malloc(size + 1), *seen = calloc(1, size + 1);
        CHECK(bytes != NULL && seen != NULL);
        for (int round = 0; round < 8; round++) {
            memset(bytes, 0, size + 1);
            sc_entropy_fill(bytes, size);
            CHECK_EQ(bytes[size], 0);
            for (size_t j = 0; j < size; j++) {
                seen[j] |= bytes[j];
            }
        }
        /* 0 eight times: once in 10^19 for each byte. */
        for (size_t j = 0; j < size; j++) {
            CHECK(seen[j] != 0);
        }
        free(bytes);
        free(seen);
    }
}

static void
test_distribution(void)
{
    enum { DRAWS = 20000, SIZE = 7 };
    static unsigned char draws[DRAWS][SIZE];
    for (unsigned i = 0; i < DRAWS; i++) {
        sc_entropy_fill(draws[i], SIZE);
    }
    check_bits(draws[0], DRAWS, SIZE);
}

/* No two of these are the same: each has 16 bytes. */
static void
check_apart(const unsigned char (*draws)[16], unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        for (unsigned j = 0; j < i; j++) {
            CHECK(memcmp(draws[i], draws[j], 16) != 0);
        }
    }
}

static void *
fill_one(void *out)
{
    sc_entropy_fill(out, 16);
    return NULL;
}

static void
test_threads(void)
{
    unsigned char draws[8][16];
    pthread_t threads[8];
    for (unsigned i = 0; i < 8; i++) {
        threads[i] = thread_start(fill_one, draws[i]);
    }
    for (unsigned i = 0; i < 8; i++) {
        thread_join(threads[i]);
    }
    check_apart((const unsigned char(*)[16])draws, 8);
}

/* A filled pool is not gone on with in a child, nor in a child's child; the
 * parent goes on with its own. */
static void
test_forks(void)
{
    static unsigned char draws[2 * CHILDREN + 1][16];
    int ends[2];
    CHECK(pipe(ends) == 0);
    sc_entropy_fill(draws[0], 16);
    unsigned generation = sc_entropy_generation();
    for (unsigned i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(sc_entropy_generation() != generation);
            unsigned char mine[16];
            if (i % 2 == 1) {
                /* A child's child. */
                sc_entropy_fill(mine, 16);
                child = fork();
                CHECK(child >= 0);
                int status;
                if (child > 0) {
                    CHECK(waitpid(child, &status, 0) == child);
                    _exit(status != 0);
                }
            }
            sc_entropy_fill(mine, 16);
            _exit(write(ends[1], mine, 16) != 16);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(read(ends[0], draws[2 * i + 1], 16) == 16);
        sc_entropy_fill(draws[2 * i + 2], 16);
    }
    CHECK_EQ(sc_entropy_generation(), generation);
    CHECK(generation != 0);
    check_apart((const unsigned char(*)[16])draws, 2 * CHILDREN + 1);
    close(ends[0]);
    close(ends[1]);
}

int
main(void)
{
    test_forks();
    test_sizes();
    test_distribution();
    test_threads();
    return 0;
}
