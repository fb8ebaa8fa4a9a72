/* The board: what each thread of each worker is doing, in memory that the
 * master shares with them (sidecar_board.h).  Before the master kills a
 * worker for harakiri it prints that worker's requests from it, with no help
 * of the worker. */
#include "plugin.h"

#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

/* By worker, from 1 on, then by core; mapped in the process that forks the
 * workers.  NULL: there is no memory for it, or nobody to read it. */
static Sidecar_Slot *slots;

static Sidecar_Slot *
slot_at(int worker, int core)
{
    return &slots[(size_t)(worker - 1) * (size_t)uwsgi.cores + (size_t)core];
}

void
sc_board_map(void)
{
    if (!uwsgi.master_process || uwsgi.numproc < 1) {
        return;
    }
    size_t count = (size_t)uwsgi.numproc * (size_t)uwsgi.cores;
    void *mapped =
        mmap(NULL, count * sizeof(Sidecar_Slot), PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        uwsgi_error("[sidecar] no memory for the board: mmap()");
        return;
    }
    slots = mapped;
}

void
sc_board_clear(void)
{
    if (slots != NULL && uwsgi.mywid > 0) {
        /* The worker before this one may have been killed while it wrote. */
        memset(slot_at(uwsgi.mywid, 0), 0,
               sizeof(Sidecar_Slot) * (size_t)uwsgi.cores);
    }
}

Sidecar_Slot *
sc_board_slot(int core)
{
    return slots != NULL && uwsgi.mywid > 0 ? slot_at(uwsgi.mywid, core)
                                            : NULL;
}

/* -- the line in the log -------------------------------------------------- */

/* What a client sends cannot break a line of the log, nor dress it up. */
static void
append_safely(struct uwsgi_buffer *line, const char *text)
{
    char escaped[5];
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        bool plain = byte >= 0x20 && byte < 0x7F && byte != '\\';
        if (plain) {
            uwsgi_buffer_append(line, SC_TEXT(text), 1);
        }
        else {
            snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
            uwsgi_buffer_append(line, escaped, 4);
        }
    }
}

static void
append(struct uwsgi_buffer *line, const char *before, const char *text)
{
    uwsgi_buffer_append(line, SC_TEXT(before), strlen(before));
    append_safely(line, text);
}

static void
append_age(struct uwsgi_buffer *line, const char *before, int64_t since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - since;
    char text[64];
    int length =
        snprintf(text, sizeof(text), "%s%.1f s", before, (double)ns / 1e9);
    uwsgi_buffer_append(line, text, (size_t)length);
}

static void
print_request(int worker, int core, const Sidecar_SlotText *text, void *found)
{
    struct uwsgi_buffer *line = uwsgi_buffer_new(1024);
    append(line, "request ", text->id);
    append(line, " trace ", text->trace_id);
    append(line, " ", text->method);
    append(line, " ", text->path);
    append_age(line, ", for ", text->started);
    if (text->called != 0) {
        append(line, "; waits for ", text->coroutine);
        append_age(line, ", for ", text->called);
        append(line, ", last seen at ",
               text->awaits[0] != '\0' ? text->awaits : "its own code");
    }
    append(line, "; its thread is at ",
           text->line[0] != '\0' ? text->line
                                 : "an unknown line (the worker could not "
                                   "tell)");
    uwsgi_log("[sidecar] worker %d (pid %d) core %d: %.*s\n", worker,
              (int)uwsgi.workers[worker].pid, core, (int)line->pos, line->buf);
    uwsgi_buffer_destroy(line);
    *(bool *)found = true;
}

void
sc_board_each(int worker, ScBoardVisit visit, void *arg)
{
    for (int core = 0; slots != NULL && core < uwsgi.cores; core++) {
        Sidecar_SlotText text;
        /* One that is just being written may be half of an earlier one. */
        sidecar_slot_read(slot_at(worker, core), &text);
        if (text.started != 0) {
            visit(worker, core, &text, arg);
        }
    }
}

void
sc_board_print(int worker)
{
    bool found = false;
    sc_board_each(worker, print_request, &found);
    if (slots != NULL && !found) {
        uwsgi_log("[sidecar] worker %d (pid %d): no request of its "
                  "applications is in progress\n",
                  worker, (int)uwsgi.workers[worker].pid);
    }
}
