/* Inbox: nothing lost, nothing twice, each producer's order kept. */
#include <string.h>

#include "check.h"
#include "core/inbox.h"

enum { PRODUCERS = 6, OPS = 20000 };

typedef struct {
    ScOp op;
    int producer;
    int number;
} Item;

typedef struct {
    ScInbox *inbox;
    Item *items;
    int producer;
    pthread_barrier_t *start;
} Producer;

static void *
produce(void *arg)
{
    Producer *self = arg;
    pthread_barrier_wait(self->start);
    for (int i = 0; i < OPS; i++) {
        /* Plain writes: the push has to publish them. */
        self->items[i].producer = self->producer;
        self->items[i].number = i;
        sc_inbox_push(self->inbox, &self->items[i].op);
    }
    return NULL;
}

static void
test_many_producers(void)
{
    ScInbox inbox = {0};
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, PRODUCERS);
    Producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] =
            (Producer){&inbox, calloc(OPS, sizeof(Item)), i, &start};
        threads[i] = thread_start(produce, &producers[i]);
    }
    int next[PRODUCERS] = {0};
    for (int taken = 0; taken < PRODUCERS * OPS;) {
        ScOp *op = sc_inbox_take(&inbox);
        if (op == NULL) {
            sched_yield();
        }
        while (op != NULL) {
            Item *item = (Item *)op;
            op = op->next;
            CHECK_EQ(item->number, next[item->producer]);
            next[item->producer]++;
            taken++;
        }
    }
    CHECK(sc_inbox_take(&inbox) == NULL);
    CHECK(sc_inbox_is_empty(&inbox));
    for (int i = 0; i < PRODUCERS; i++) {
        thread_join(threads[i]);
        CHECK_EQ(next[i], OPS);
        free(producers[i].items);
    }
    pthread_barrier_destroy(&start);
}

static void
test_first_in_first_out(void)
{
    ScInbox inbox = {0};
    ScOp ops[5] = {0};
    CHECK(sc_inbox_is_empty(&inbox));
    for (int i = 0; i < 5; i++) {
        sc_inbox_push(&inbox, &ops[i]);
        CHECK(!sc_inbox_is_empty(&inbox));
    }
    ScOp *op = sc_inbox_take(&inbox);
    for (int i = 0; i < 5; i++, op = op->next) {
        CHECK(op == &ops[i]);
    }
    CHECK(op == NULL);
    sc_inbox_push(&inbox, &ops[2]);
    op = sc_inbox_take(&inbox);
    CHECK(op == &ops[2] && op->next == NULL);
}

int
main(void)
{
    test_first_in_first_out();
    test_many_producers();
    return 0;
}
