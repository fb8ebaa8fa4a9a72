/* Watch: what is done for a call that lasts.
 *
 * A call that is made in the name of a request with a connection, or with a
 * place on the server's board (sidecar_board.h), wants a watch.  It gets one
 * when it has lasted some ms, whether its loop sleeps or is busy, and not
 * before: most calls are over by then, and the watch costs several system
 * calls.  (Who leaves the loop tells the pump when that will be, as of a
 * timer: the pump arms it where nobody drives.)  From then on, until the call
 * is settled:
 *
 *  - A duplicate of the connection's descriptor is in the loop's epoll set,
 *    which tells that the client goes.  Its number is ours alone, so that
 *    whatever the server does with its own one meanwhile, we never take
 *    another's descriptor out of the set.
 *  - The board says what the request waits for, and where that waits; again
 *    each time that it has run and the loop is about to sleep, but not more
 *    often than every 100 ms.
 *
 * Who may touch it: the owner of the loop.  Attached.  */
#ifndef SIDECAR_CORE_WATCH_H
#define SIDECAR_CORE_WATCH_H

#include <stdint.h>

#include "core/loop.h"

struct ScCall;

/* Part of a call.  All zeros but `fd`, -1: it wants none. */
typedef struct {
    struct ScCall *next, *prev;
    struct ScCall **list; /* the loop's, that it is in; NULL: none */
    int64_t since;        /* on the board */
    int fd;               /* the duplicate; -1: none */
} ScWatch;

void sc_watch_want(struct ScCall *call);

/* When there is something to do; SC_NEVER: nothing.  And do it. */
int64_t sc_watch_due(const ScLoop *loop);
void sc_watch_look(ScLoop *loop);

/* Its descriptor has had an event; and the end of it, in any state. */
void sc_watch_event(struct ScCall *call, uint32_t events);
void sc_watch_end(struct ScCall *call);

/* In the child of a fork, where the loop is dead, and its epoll set the
 * parent's: let the connection go. */
void sc_watch_drop(struct ScCall *call);

#endif
