/* Model: a loop without Python, driven by the protocol of drive.h and pump.h
 * in the way loop_run.c drives the real one.
 *
 * A call is a counter: it takes `rounds` rounds, and between two of them it
 * waits for the ring, a timer, a descriptor, a job on a pool thread, or for
 * errands that its own thread runs.  The model aborts when two threads are
 * inside at once, when a step runs on a thread that does not own the loop,
 * when a call is stepped after its end, or when an errand runs on another
 * thread than the call's, or on one that owns the loop.  */
#ifndef SIDECAR_TESTS_MODEL_H
#define SIDECAR_TESTS_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "check.h"
#include "core/drive.h"
#include "core/pump.h"
#include "core/threads.h"
#include "core/timers.h"

/* What a call may wait for between two rounds; a set of these. */
enum {
    WAITS_RING = 1,
    WAITS_TIMER = 2,
    WAITS_DESCRIPTOR = 4,
    WAITS_POOL = 8,
    WAITS_ALL = 15,
    /* Up to ERRANDS errands, sent one with each step; and the call may end
     * with one more on the way. */
    WAITS_ERRAND = 16,
};

enum { ERRANDS = 3 };

typedef struct Model Model;

typedef struct Call {
    ScOp op; /* starts the call; later brings it back from the pool */
    ScTimer timer;
    ScJob job;
    ScWaiter waiter;
    ScInbox errands;
    ScOp errand[ERRANDS + 1]; /* the last: nobody waits for it */
    unsigned to_send;
    atomic_uint unanswered;
    Model *model;
    struct Call *next; /* in the ring */
    int fd;            /* a timerfd that plays the network; -1: none yet */
    uint32_t seed;
    unsigned rounds;
    unsigned waits;
    bool is_task;    /* left behind: nobody waits for it */
    bool done;       /* written by the owner before it completes the call */
    atomic_int refs; /* the loop's and the waiter's */
} Call;

struct Model {
    ScDrive drive;
    ScPump pump;
    ScTimers timers;
    ScThreads *threads;
    Call *oldest, *newest; /* the ring; the owner's */
    Call **by_fd;          /* the owner's */
    _Atomic(uintptr_t) inside;
    atomic_size_t ended; /* calls and tasks */
    atomic_size_t promotions;
    atomic_size_t yields;
    atomic_size_t batches;
    atomic_size_t errands_sent, errands_run, errands_refused;
};

/* With its pump, and `pool_workers` pool threads (0: none).  The model is
 * what the watchdog shows when the test hangs. */
void model_init(Model *model, unsigned pool_workers);

/* Nothing may be alive in it. */
void model_fini(Model *model);

/* One reference for the loop, one more for a waiter; `waits` not 0. */
Call *call_new(Model *model, unsigned rounds, unsigned waits, uint32_t seed);
void call_drop(Call *call);

/* As run_sync does: make the call, drive or wait until it is over. */
void call_run(Call *call, bool restricted);

/* As a caller that is interrupted does: once it has to wait, it does so until
 * `until` and gives the call up, which the loop ends then.  True: it has seen
 * the call's end. */
bool call_run_until(Call *call, int64_t until);

/* Nobody waits for it: any thread, by the inbox. */
void call_submit(Call *call);

#endif
