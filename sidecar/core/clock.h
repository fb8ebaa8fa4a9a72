/* The clock: CLOCK_MONOTONIC, the one loop.time() shows, in nanoseconds.
 * No Python.h; any thread, attached or not.  */
#ifndef SIDECAR_CORE_CLOCK_H
#define SIDECAR_CORE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define SC_NS_PER_S INT64_C(1000000000)
/* Later than any moment: about 292 years after boot. */
#define SC_NEVER INT64_MAX

static inline int64_t
sc_clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SC_NS_PER_S + now.tv_nsec;
}

static inline struct timespec
sc_clock_timespec(int64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / SC_NS_PER_S),
                          .tv_nsec = (long)(ns % SC_NS_PER_S)};
    return ts;
}

/* Seconds as a duration or a moment; what does not fit becomes SC_NEVER. */
static inline int64_t
sc_clock_from_seconds(double seconds)
{
    if (!(seconds < 9.0e9)) {
        return seconds != seconds ? 0 : SC_NEVER;
    }
    return seconds > -9.0e9 ? (int64_t)(seconds * 1e9) : -SC_NEVER;
}

#endif
