#include "request_id.h"

#include <time.h>

#include "entropy.h"

/* The counter starts in the lower half of its 12 bits, so that a millisecond
 * has room for 2,048 ids at least. */
#define COUNTER_LIMIT 0x1000
#define COUNTER_START_MASK 0x07FF

typedef struct {
    unsigned generation;
    unsigned counter;
    uint64_t milliseconds;
} Sequence;

static _Thread_local Sequence thread_sequence;

static Sequence *
sequence_of_thread(void)
{
    Sequence *sequence = &thread_sequence;
    unsigned generation = sc_entropy_generation();
    if (sequence->generation != generation) {
        sequence->generation = generation;
        sequence->milliseconds = 0;
    }
    return sequence;
}

/* The next pair of time and counter: later than the one before. */
static void
sequence_advance(Sequence *sequence, uint64_t milliseconds)
{
    if (milliseconds <= sequence->milliseconds) {
        if (++sequence->counter < COUNTER_LIMIT) {
            return;
        }
        milliseconds = sequence->milliseconds + 1;
    }
    uint16_t start;
    sc_entropy_fill(&start, sizeof(start));
    sequence->counter = start & COUNTER_START_MASK;
    sequence->milliseconds = milliseconds;
}

static void
write_text(char *out, const unsigned char *uuid)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *out++ = '-';
        }
        *out++ = digits[uuid[i] >> 4];
        *out++ = digits[uuid[i] & 15];
    }
}

void
sc_request_id_make_at(char *out, uint64_t milliseconds)
{
    Sequence *sequence = sequence_of_thread();
    sequence_advance(sequence, milliseconds);
    unsigned char uuid[16];
    for (int i = 0; i < 6; i++) {
        uuid[i] = (unsigned char)(sequence->milliseconds >> (40 - 8 * i));
    }
    uuid[6] = (unsigned char)(0x70 | sequence->counter >> 8);
    uuid[7] = (unsigned char)sequence->counter;
    sc_entropy_fill(uuid + 8, 8);
    uuid[8] = (unsigned char)(0x80 | (uuid[8] & 0x3F));
    write_text(out, uuid);
}

void
sc_request_id_make(char *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    sc_request_id_make_at(out, (uint64_t)now.tv_sec * 1000 +
                                   (uint64_t)now.tv_nsec / 1000000);
}
