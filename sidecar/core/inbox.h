/* Inbox: what other threads send a loop.  Any number of producers, one
 * consumer at a time (the loop's owner), no lock.
 *
 * Producers push intrusive nodes on a stack with one compare-and-swap; the
 * consumer takes the whole stack with one exchange and turns it round, so
 * that each producer's nodes come out in the order it pushed them, and no
 * node is ever popped one by one (no ABA).  Whoever embeds a node keeps it
 * alive and unpushed until it has been taken.
 *
 * Ordering: push and is_empty are seq_cst.  An owner that announces its sleep
 * (poller.h) and then finds the inbox empty is sure that every later producer
 * sees the announcement.  Any thread, attached or not; no Python.h.  */
#ifndef SIDECAR_CORE_INBOX_H
#define SIDECAR_CORE_INBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct ScOp {
    struct ScOp *next;
    int kind; /* the owner's business */
} ScOp;

typedef struct {
    _Atomic(ScOp *) top;
} ScInbox;

void sc_inbox_push(ScInbox *inbox, ScOp *op);

/* All that has been pushed, oldest first, linked by `next`. */
ScOp *sc_inbox_take(ScInbox *inbox);

static inline bool
sc_inbox_is_empty(ScInbox *inbox)
{
    return atomic_load(&inbox->top) == NULL;
}

#endif
