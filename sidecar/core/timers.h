/* Timers: a binary heap of intrusive nodes that know their place in it, so
 * that a cancelled one leaves at once and nothing is swept later.
 *
 * Thread: the loop's owner only.  No lock, no Python.h.  Nodes belong to
 * whoever embeds them and must stay where they are while they are queued.  */
#ifndef SIDECAR_CORE_TIMERS_H
#define SIDECAR_CORE_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ScTimer {
    int64_t when; /* sc_clock_now() at which it is due */
    uint64_t seq; /* equal moments run in the order they were added */
    size_t place; /* index in the heap plus one; 0: not queued */
    int kind;     /* the owner's business */
} ScTimer;

typedef struct {
    ScTimer **heap;
    size_t count;
    size_t room;
    uint64_t seq;
} ScTimers;

void sc_timers_fini(ScTimers *timers);

/* Queue a timer that is not queued.  0, or -1 without memory. */
int sc_timers_add(ScTimers *timers, ScTimer *timer, int64_t when);

/* Take a timer out; false where it was not queued. */
bool sc_timers_remove(ScTimers *timers, ScTimer *timer);

static inline bool
sc_timer_queued(const ScTimer *timer)
{
    return timer->place != 0;
}

/* The moment the first one is due, SC_NEVER where there is none. */
int64_t sc_timers_next(const ScTimers *timers);

/* Take out the first one if it is due at `now`, else NULL. */
ScTimer *sc_timers_pop(ScTimers *timers, int64_t now);

#endif
