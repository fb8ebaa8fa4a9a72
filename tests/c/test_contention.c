/* Contention: many callers at once on one loop, with its pump and a pool.
 *
 * Callers finish while others wait, some may not drive others' work, some
 * give their call up, tasks are left behind, calls send their threads on
 * errands.  Every call ends, every errand is run or refused, no two threads
 * own the loop at once (model_loop.c), and at the end nothing is left.  */
#include <string.h>

#include "model.h"

typedef struct {
    const char *name;
    unsigned waits;
    unsigned max_rounds;
    unsigned calls;  /* in all */
    bool restricted; /* every third thread */
    bool interrupts; /* every fourth call */
    bool tasks;      /* every fifth call leaves one behind */
} Scene;

static const Scene scenes[] = {
    {"never waits", WAITS_RING, 0, 20000, false, false, false},
    {"ring", WAITS_RING, 4, 8000, false, false, false},
    {"timers", WAITS_RING | WAITS_TIMER, 4, 2500, false, false, false},
    {"descriptors", WAITS_RING | WAITS_DESCRIPTOR, 4, 2500, false, false,
     false},
    {"pool", WAITS_POOL, 4, 2500, false, false, false},
    {"restricted", WAITS_ALL, 4, 2500, true, false, false},
    {"tasks", WAITS_ALL, 4, 2500, true, false, true},
    {"interrupts", WAITS_ALL, 4, 4000, true, true, true},
    {"errands", WAITS_RING | WAITS_ERRAND, 4, 5000, false, false, false},
    {"errands, main", WAITS_ALL | WAITS_ERRAND, 4, 2500, true, false, true},
    {"errands, gone", WAITS_ALL | WAITS_ERRAND, 4, 4000, true, true, true},
};

typedef struct {
    const Scene *scene;
    Model *model;
    pthread_barrier_t *start;
    unsigned number, calls;
    uint32_t seed;
    unsigned tasks_made;
    unsigned given_up;
} Caller;

static void
one_call(Caller *self, unsigned i)
{
    const Scene *scene = self->scene;
    uint32_t rounds = random_below(&self->seed, scene->max_rounds + 1);
    Call *call =
        call_new(self->model, rounds, scene->waits, random_next(&self->seed));
    bool restricted = scene->restricted && self->number % 3 == 0;
    if (scene->interrupts && !restricted && i % 4 == 0) {
        int64_t span = (int64_t)random_below(&self->seed, 100000);
        self->given_up += !call_run_until(call, sc_clock_now() + span);
    }
    else {
        call_run(call, restricted);
    }
    if (scene->tasks && i % 5 == 0) {
        call_submit(call_new(self->model, rounds, scene->waits,
                             random_next(&self->seed)));
        self->tasks_made++;
    }
}

static void *
caller_main(void *arg)
{
    Caller *self = arg;
    pthread_barrier_wait(self->start);
    for (unsigned i = 0; i < self->calls; i++) {
        one_call(self, i);
    }
    return NULL;
}

static void
play(const Scene *scene, unsigned count)
{
    Model model;
    model_init(&model, 3);
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, count);
    Caller *callers = calloc(count, sizeof(*callers));
    pthread_t *threads = calloc(count, sizeof(*threads));
    for (unsigned i = 0; i < count; i++) {
        callers[i] = (Caller){.scene = scene,
                              .model = &model,
                              .start = &start,
                              .number = i,
                              .calls = scene->calls / count,
                              .seed = i * 2654435761u + count};
        threads[i] = thread_start(caller_main, &callers[i]);
    }
    size_t expected = 0, given_up = 0;
    for (unsigned i = 0; i < count; i++) {
        thread_join(threads[i]);
        expected += callers[i].calls + callers[i].tasks_made;
        given_up += callers[i].given_up;
    }
    /* What was left behind is the pump's to end. */
    WAIT_UNTIL(atomic_load(&model.ended) == expected &&
               atomic_load(&model.drive.owner) == 0);
    printf("%3u threads, %-12s %6zu ended, %6zu promotions, %5zu yields, "
           "%6zu batches, %4zu given up, %5zu errands, %4zu refused\n",
           count, scene->name, expected, atomic_load(&model.promotions),
           atomic_load(&model.yields), atomic_load(&model.batches), given_up,
           atomic_load(&model.errands_sent),
           atomic_load(&model.errands_refused));
    model_fini(&model);
    pthread_barrier_destroy(&start);
    free(callers);
    free(threads);
}

int
main(int argc, char **argv)
{
    int count = argc == 2 ? atoi(argv[1]) : 8;
    CHECK(count >= 1 && count <= 1000);
    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
        play(&scenes[i], (unsigned)count);
    }
    return 0;
}
