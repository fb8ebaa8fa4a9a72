#include "core/inbox.h"

void
sc_inbox_push(ScInbox *inbox, ScOp *op)
{
    ScOp *top = atomic_load_explicit(&inbox->top, memory_order_relaxed);
    do {
        op->next = top;
    } while (!atomic_compare_exchange_weak(&inbox->top, &top, op));
}

ScOp *
sc_inbox_take(ScInbox *inbox)
{
    if (atomic_load_explicit(&inbox->top, memory_order_relaxed) == NULL) {
        return NULL;
    }
    /* Acquires what each producer wrote before its push. */
    ScOp *op = atomic_exchange(&inbox->top, NULL);
    ScOp *oldest = NULL;
    while (op != NULL) {
        ScOp *next = op->next;
        op->next = oldest;
        oldest = op;
        op = next;
    }
    return oldest;
}
