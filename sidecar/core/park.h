/* Park: one thread sleeps until another changes a word.
 *
 * A thread other than the main one sleeps on a futex.  The main thread runs
 * signal handlers, and a signal that arrives between its check for pending
 * ones and its sleep must not be lost, so it polls two descriptors instead:
 * an eventfd for the wake-up, and the reading end of the pipe that CPython's
 * signal handler writes to (signals.c).  Never holds the GIL; no Python.h.  */
#ifndef SIDECAR_CORE_PARK_H
#define SIDECAR_CORE_PARK_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct {
    atomic_int word;
    int event_fd; /* -1: futex */
} ScPark;

enum { SC_PARK_CHANGED, SC_PARK_TIMEOUT, SC_PARK_SIGNAL };

/* Sleep while the word is `expected`, at most until the moment `until`
 * (SC_NEVER: no limit).  SC_PARK_SIGNAL: a signal came, or `signal_fd` (-1
 * for none) has something to read. */
int sc_park_wait(ScPark *park, int expected, int64_t until, int signal_fd);

/* What is left to do once the word is set.  It names the park, but reads
 * nothing of it: the waiter may be gone by then. */
typedef struct {
    atomic_int *word;
    int event_fd;
} ScParkWake;

/* Set the word only, under a lock that the waiter's end takes too. */
ScParkWake sc_park_store(ScPark *park, int value);

/* Wake the thread that waits on it, after that lock is given back.  At worst
 * somebody else is woken for nothing, which every wait bears. */
void sc_park_wake(ScParkWake wake);

/* Between two looks at a word that somebody is about to change. */
static inline void
sc_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Both, where the park's memory outlives the call. */
static inline void
sc_park_set(ScPark *park, int value)
{
    sc_park_wake(sc_park_store(park, value));
}

#endif
