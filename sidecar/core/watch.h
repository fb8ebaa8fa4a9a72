/* Watch: has the client gone whose request waits for a call?
 *
 * A call that is made in the name of a request with a connection wants a
 * watch.  It gets one when it has lasted some ms, whether its loop sleeps or
 * is busy, and not before: most calls are over by then, and the watch costs
 * several system calls.  (Who leaves the loop tells the pump when that will
 * be, as of a timer: the pump arms it where nobody drives.)  Then a duplicate
 * of the connection's descriptor joins the loop's epoll set, until the call
 * is settled.  The duplicate's number is ours alone, so that whatever the
 * server does with its own one meanwhile, we never take another's descriptor
 * out of the set.
 *
 * Who may touch it: the owner of the loop.  Attached.  */
#ifndef SIDECAR_CORE_WATCH_H
#define SIDECAR_CORE_WATCH_H

#include <stdint.h>

#include "core/loop.h"

struct ScCall;

/* Part of a call.  All zeros but `fd`, -1: it wants none. */
typedef struct {
    struct ScCall *next, *prev; /* among those that want one */
    int fd;                     /* the duplicate; -1: none */
    bool wanted;
} ScWatch;

void sc_watch_want(struct ScCall *call);

/* When the first of those that want one has waited long enough; SC_NEVER:
 * nobody does.  Then all get theirs. */
int64_t sc_watch_due(const ScLoop *loop);
void sc_watch_arm(ScLoop *loop);

/* Its descriptor has had an event; and the end of it, in any state. */
void sc_watch_event(struct ScCall *call, uint32_t events);
void sc_watch_end(struct ScCall *call);

/* In the child of a fork, where the loop is dead, and its epoll set the
 * parent's: let the connection go. */
void sc_watch_drop(struct ScCall *call);

#endif
