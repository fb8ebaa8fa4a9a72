#include "core/timers.h"

#include <stdlib.h>

#include "core/clock.h"

static bool
earlier(const ScTimer *a, const ScTimer *b)
{
    return a->when != b->when ? a->when < b->when : a->seq < b->seq;
}

static void
put(ScTimers *timers, size_t index, ScTimer *timer)
{
    timers->heap[index] = timer;
    timer->place = index + 1;
}

static void
sift_up(ScTimers *timers, size_t index, ScTimer *timer)
{
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (!earlier(timer, timers->heap[parent])) {
            break;
        }
        put(timers, index, timers->heap[parent]);
        index = parent;
    }
    put(timers, index, timer);
}

static void
sift_down(ScTimers *timers, size_t index, ScTimer *timer)
{
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= timers->count) {
            break;
        }
        if (child + 1 < timers->count &&
            earlier(timers->heap[child + 1], timers->heap[child])) {
            child++;
        }
        if (!earlier(timers->heap[child], timer)) {
            break;
        }
        put(timers, index, timers->heap[child]);
        index = child;
    }
    put(timers, index, timer);
}

void
sc_timers_fini(ScTimers *timers)
{
    free(timers->heap);
    timers->heap = NULL;
    timers->count = timers->room = 0;
}

int
sc_timers_add(ScTimers *timers, ScTimer *timer, int64_t when)
{
    if (timers->count == timers->room) {
        size_t room = timers->room ? 2 * timers->room : 16;
        ScTimer **heap = realloc(timers->heap, room * sizeof(ScTimer *));
        if (heap == NULL) {
            return -1;
        }
        timers->heap = heap;
        timers->room = room;
    }
    timer->when = when;
    timer->seq = timers->seq++;
    sift_up(timers, timers->count++, timer);
    return 0;
}

bool
sc_timers_remove(ScTimers *timers, ScTimer *timer)
{
    if (timer->place == 0) {
        return false;
    }
    size_t index = timer->place - 1;
    timer->place = 0;
    ScTimer *last = timers->heap[--timers->count];
    if (last != timer) {
        if (index > 0 && earlier(last, timers->heap[(index - 1) / 2])) {
            sift_up(timers, index, last);
        }
        else {
            sift_down(timers, index, last);
        }
    }
    return true;
}

int64_t
sc_timers_next(const ScTimers *timers)
{
    return timers->count ? timers->heap[0]->when : SC_NEVER;
}

ScTimer *
sc_timers_pop(ScTimers *timers, int64_t now)
{
    if (timers->count == 0 || timers->heap[0]->when > now) {
        return NULL;
    }
    ScTimer *first = timers->heap[0];
    sc_timers_remove(timers, first);
    return first;
}
