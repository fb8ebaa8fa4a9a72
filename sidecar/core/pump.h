/* Pump: the thread that runs what is due while no caller drives.
 *
 * It does not own the loop while it waits.  It watches the loop's epoll
 * descriptor through an outer epoll (EPOLLONESHOT) and a timerfd set to the
 * nearest timer; when one of them fires it looks at the ownership, and takes
 * a free loop for one batch.  A caller never waits for a sleeping pump.
 *
 * The watch is armed, disarmed or fired.  A leaver arms it unless it is armed
 * already; an owner that sleeps in the inner epoll disarms it; the pump marks
 * it fired.  Arming an outer watch on a ready inner descriptor fires at once,
 * so an event that came while somebody owned the loop is not lost.
 *
 * sc_pump_watch and _unwatch: under the drive's lock.  All signals are
 * blocked in the thread.  No Python.h: what a batch does is the caller's.  */
#ifndef SIDECAR_CORE_PUMP_H
#define SIDECAR_CORE_PUMP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/drive.h"
#include "core/park.h"

typedef struct {
    /* On the new thread, before anything else; false ends it. */
    bool (*begin)(void *context);
    /* Owning the loop; must leave it (sc_drive_leave). */
    void (*batch)(void *context);
    /* Last on the thread.  Not called where begin said no. */
    void (*end)(void *context);
} ScPumpWork;

enum { SC_WATCH_OFF, SC_WATCH_ARMED, SC_WATCH_FIRED };

typedef struct ScPump {
    ScDrive *drive;
    const ScPumpWork *work;
    void *context;
    pthread_t thread;
    uintptr_t thread_id; /* as the drive's owner names it */
    int watch_fd;        /* the outer epoll */
    int timer_fd;
    int kick_fd;
    int watch;        /* SC_WATCH_...; under the drive's lock */
    int64_t timer_at; /* what timer_fd is set to; under the drive's lock */
    atomic_bool stop;
    ScPark ended; /* 0: running, 1: over */
} ScPump;

/* Start the thread and tie it to the drive, which must be free.  `name` shows
 * in `ps -L` (15 characters).  0, or -1 with errno and nothing left. */
int sc_pump_start(ScPump *pump, ScDrive *drive, const ScPumpWork *work,
                  void *context, const char *name);

/* Ask the thread to end after its present batch, and wait for that until the
 * moment `until`.  True: it is over and everything is closed.  False: it is
 * stuck; its descriptors stay open and the pump must not be freed.  Call it
 * without the GIL. */
bool sc_pump_stop(ScPump *pump, int64_t until);

/* In the child of a fork: close this process's copies of the descriptors. */
void sc_pump_close_inherited(ScPump *pump);

void sc_pump_kick(ScPump *pump);
void sc_pump_watch(ScPump *pump, int64_t next_timer);
void sc_pump_unwatch(ScPump *pump);

#endif
