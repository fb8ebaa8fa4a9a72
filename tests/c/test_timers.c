/* Timers against a plain array that is searched. */
#include <string.h>

#include "check.h"
#include "core/timers.h"

enum { COUNT = 300, STEPS = 40000 };

typedef struct {
    ScTimer timers[COUNT];
    uint64_t order[COUNT]; /* when it was added; 0: not queued */
    uint64_t next_order;
    ScTimers heap;
} World;

static ScTimer *
expected_first(World *world)
{
    ScTimer *first = NULL;
    uint64_t first_order = 0;
    for (int i = 0; i < COUNT; i++) {
        ScTimer *timer = &world->timers[i];
        if (world->order[i] &&
            (first == NULL || timer->when < first->when ||
             (timer->when == first->when && world->order[i] < first_order))) {
            first = timer;
            first_order = world->order[i];
        }
    }
    return first;
}

static void
check_heap(World *world)
{
    size_t queued = 0;
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(sc_timer_queued(&world->timers[i]), world->order[i] != 0);
        queued += world->order[i] != 0;
    }
    CHECK_EQ(world->heap.count, queued);
    for (size_t i = 0; i < world->heap.count; i++) {
        CHECK_EQ(world->heap.heap[i]->place, i + 1);
    }
    ScTimer *first = expected_first(world);
    CHECK_EQ(sc_timers_next(&world->heap), first ? first->when : SC_NEVER);
}

static void
pop_one(World *world, int64_t now)
{
    ScTimer *first = expected_first(world);
    ScTimer *popped = sc_timers_pop(&world->heap, now);
    if (first == NULL || first->when > now) {
        CHECK(popped == NULL);
        return;
    }
    CHECK(popped == first);
    world->order[popped - world->timers] = 0;
}

static void
test_random_against_array(uint32_t seed)
{
    World *world = calloc(1, sizeof(*world));
    for (int step = 0; step < STEPS; step++) {
        int i = (int)random_below(&seed, COUNT);
        ScTimer *timer = &world->timers[i];
        switch (random_below(&seed, 5)) {
        case 0:
        case 1:
            if (!sc_timer_queued(timer)) {
                /* Few moments, so that many are equal. */
                int64_t when = (int64_t)random_below(&seed, 50) - 10;
                CHECK_EQ(sc_timers_add(&world->heap, timer, when), 0);
                world->order[i] = ++world->next_order;
            }
            break;
        case 2:
            CHECK_EQ(sc_timers_remove(&world->heap, timer),
                     world->order[i] != 0);
            world->order[i] = 0;
            break;
        default:
            pop_one(world, (int64_t)random_below(&seed, 40) - 10);
        }
        if (step % 64 == 0) {
            check_heap(world);
        }
    }
    check_heap(world);
    while (expected_first(world) != NULL) {
        pop_one(world, 100);
    }
    CHECK(sc_timers_pop(&world->heap, SC_NEVER) == NULL);
    sc_timers_fini(&world->heap);
    CHECK_EQ(sc_timers_next(&world->heap), SC_NEVER);
    free(world);
}

static void
test_equal_moments_keep_their_order(void)
{
    ScTimers heap = {0};
    ScTimer timers[100] = {0};
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(sc_timers_add(&heap, &timers[i], 7), 0);
    }
    CHECK(sc_timers_pop(&heap, 6) == NULL);
    for (int i = 0; i < 100; i++) {
        CHECK(sc_timers_pop(&heap, 7) == &timers[i]);
    }
    sc_timers_fini(&heap);
}

static void
test_far_moments(void)
{
    ScTimers heap = {0};
    ScTimer never = {0}, past = {0};
    CHECK_EQ(sc_timers_add(&heap, &never, SC_NEVER), 0);
    CHECK_EQ(sc_timers_add(&heap, &past, -SC_NEVER), 0);
    CHECK_EQ(sc_timers_next(&heap), -SC_NEVER);
    CHECK(sc_timers_pop(&heap, 0) == &past);
    CHECK(sc_timers_pop(&heap, 0) == NULL);
    CHECK(sc_timers_remove(&heap, &never));
    CHECK(!sc_timers_remove(&heap, &never));
    sc_timers_fini(&heap);
}

int
main(void)
{
    test_random_against_array(1);
    test_random_against_array(20260101);
    test_equal_moments_keep_their_order();
    test_far_moments();
    return 0;
}
