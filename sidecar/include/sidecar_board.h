/* sidecar_board.h: what each server thread is doing, in memory that outlives
 * its process.
 *
 * The server maps one slot for each thread of each worker, shared, before it
 * forks; Sidecar writes a request's into it as it arrives, and what the
 * request waits for once a call has lasted some ms.  Who reads needs no
 * interpreter and no help of the writer, which may be stuck or dead.
 *
 * A slot is a sequence lock: `version` is odd while somebody writes.  Writers
 * are threads of one process, which exclude each other by it, for well under
 * a microsecond; one that does not get it in time leaves its word out.  A
 * reader tries some times, then takes what it finds, and says so.  C11.  */
#ifndef SIDECAR_BOARD_H
#define SIDECAR_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#error "sidecar_board.h is C11"
#endif

enum {
    SIDECAR_BOARD_ID = 128,
    SIDECAR_BOARD_TRACE = 32,
    SIDECAR_BOARD_METHOD = 16,
    SIDECAR_BOARD_PATH = 200,
    SIDECAR_BOARD_PLACE = 200,
};

/* Texts are terminated, and cut to their room; bytes as they came.  Moments
 * are CLOCK_MONOTONIC's, in ns. */
typedef struct Sidecar_SlotText {
    int64_t started;  /* 0: no request */
    uintptr_t key;    /* of the request; of no meaning to a reader */
    uintptr_t thread; /* pthread_self() of who serves it */
    char id[SIDECAR_BOARD_ID + 1];
    char trace_id[SIDECAR_BOARD_TRACE + 1];
    char method[SIDECAR_BOARD_METHOD];
    char path[SIDECAR_BOARD_PATH];
    int64_t called; /* 0: it waits for no call, or not for long */
    uintptr_t call; /* as `key` */
    char coroutine[SIDECAR_BOARD_PLACE];
    char awaits[SIDECAR_BOARD_PLACE]; /* where it was last seen to wait */
    char line[SIDECAR_BOARD_PLACE];   /* the thread's, by the watchdog */
} Sidecar_SlotText;

typedef struct Sidecar_Slot {
    atomic_uint version;
    Sidecar_SlotText text;
} Sidecar_Slot;

/* As many times a writer tries, and a reader. */
enum { SIDECAR_BOARD_TRIES = 10000 };

/* Each lock that returns true has its unlock. */
static inline bool
sidecar_slot_lock(Sidecar_Slot *slot)
{
    for (int i = 0; i < SIDECAR_BOARD_TRIES; i++) {
        unsigned version =
            atomic_load_explicit(&slot->version, memory_order_relaxed);
        if (version % 2 == 0 &&
            atomic_compare_exchange_weak_explicit(
                &slot->version, &version, version + 1, memory_order_acquire,
                memory_order_relaxed)) {
            /* What is written next is not seen before the odd version. */
            atomic_thread_fence(memory_order_release);
            return true;
        }
    }
    return false;
}

static inline void
sidecar_slot_unlock(Sidecar_Slot *slot)
{
    atomic_fetch_add_explicit(&slot->version, 1, memory_order_release);
}

/* False: it was being written all the time, and is what was found. */
static inline bool
sidecar_slot_read(const Sidecar_Slot *slot, Sidecar_SlotText *text)
{
    for (int i = 0; i < SIDECAR_BOARD_TRIES; i++) {
        unsigned before =
            atomic_load_explicit(&slot->version, memory_order_acquire);
        memcpy(text, &slot->text, sizeof(*text));
        atomic_thread_fence(memory_order_acquire);
        unsigned after =
            atomic_load_explicit(&slot->version, memory_order_relaxed);
        if (before == after && before % 2 == 0) {
            return true;
        }
    }
    return false;
}

/* Copy `length` bytes into a text of `room`, cut and terminated. */
static inline void
sidecar_slot_copy(char *to, size_t room, const char *from, size_t length)
{
    size_t kept = length < room ? length : room - 1;
    if (kept > 0) {
        memcpy(to, from, kept);
    }
    to[kept] = '\0';
}

#endif
