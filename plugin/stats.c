/* `sidecar-stats = ADDRESS`: uWSGI's stats as its own stats server sends them,
 * and in them the requests in flight, from the board.
 *
 * A native thread of the master answers; it touches what uWSGI's stats touch,
 * and the board. */
#include "plugin.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char *address;
static int anywhere; /* told to listen beyond this machine */
static int listening = -1;

void
sc_stats_set_address(char *Py_UNUSED(option), char *value,
                     void *Py_UNUSED(target))
{
    address = value;
}

void
sc_stats_set_anywhere(char *Py_UNUSED(option), char *Py_UNUSED(value),
                      void *Py_UNUSED(target))
{
    anywhere = 1;
}

/* -- the answer ------------------------------------------------------------
 */

static void
put(struct uwsgi_buffer *json, const char *text)
{
    uwsgi_buffer_append(json, SC_TEXT(text), strlen(text));
}

/* RFC 8259, section 7; bytes beyond ASCII as latin-1. */
static void
put_string(struct uwsgi_buffer *json, const char *name, const char *text)
{
    char escaped[8];
    put(json, "\"");
    put(json, name);
    put(json, "\":\"");
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        bool plain =
            byte >= 0x20 && byte < 0x7F && byte != '"' && byte != '\\';
        if (plain) {
            uwsgi_buffer_append(json, SC_TEXT(text), 1);
        }
        else {
            snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
            put(json, escaped);
        }
    }
    put(json, "\",");
}

static void
put_age(struct uwsgi_buffer *json, const char *name, int64_t since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - since;
    char text[80];
    snprintf(text, sizeof(text), "\"%s\":%.3f", name, (double)ns / 1e9);
    put(json, text);
}

static void
put_request(int worker, int core, const Sidecar_SlotText *text, void *arg)
{
    struct uwsgi_buffer *json = arg;
    char place[80];
    snprintf(place, sizeof(place), "%s{\"worker\":%d,\"pid\":%d,\"core\":%d,",
             json->buf[json->pos - 1] == '[' ? "" : ",", worker,
             (int)uwsgi.workers[worker].pid, core);
    put(json, place);
    put_string(json, "id", text->id);
    put_string(json, "trace_id", text->trace_id);
    put_string(json, "method", text->method);
    put_string(json, "path", text->path);
    if (text->called != 0) {
        put_string(json, "waits_for", text->coroutine);
        put_string(json, "waits_at", text->awaits);
        put_age(json, "waits_seconds", text->called);
        put(json, ",");
    }
    put_age(json, "seconds", text->started);
    put(json, "}");
}

/* With uWSGI's own allocation, as uwsgi_send_stats frees it. */
static struct uwsgi_stats *
generate(void)
{
    struct uwsgi_stats *stats = uwsgi_master_generate_stats();
    if (stats == NULL) {
        return NULL;
    }
    size_t end = (size_t)stats->pos;
    while (end > 0 && stats->base[end - 1] != '}') {
        end--;
    }
    struct uwsgi_buffer *json = uwsgi_buffer_new(end + 4096);
    if (end > 0) {
        uwsgi_buffer_append(json, stats->base, end - 1);
    }
    put(json, ",\"sidecar\":{\"requests\":[");
    for (int worker = 1; worker <= uwsgi.numproc; worker++) {
        sc_board_each(worker, put_request, json);
    }
    put(json, "]}}\n");
    free(stats->base);
    stats->base = json->buf;
    stats->pos = (off_t)json->pos;
    stats->size = json->len;
    json->buf = NULL;
    uwsgi_buffer_destroy(json);
    return stats;
}

/* -- the socket ------------------------------------------------------------
 */

static bool
is_local(const char *name, const char *colon)
{
    size_t length = (size_t)(colon - name);
    return strncmp(name, "127.", 4) == 0 ||
           (length == 9 && strncmp(name, "localhost", 9) == 0) ||
           (length == 5 && strncmp(name, "[::1]", 5) == 0);
}

void
sc_stats_bind(void)
{
    if (address == NULL) {
        return;
    }
    if (!uwsgi.master_process) {
        uwsgi_log("[sidecar] sidecar-stats = %s: only a master has stats: set "
                  "master = true\n",
                  address);
        exit(1);
    }
    char *colon = strrchr(address, ':');
    if (colon != NULL && !anywhere && !is_local(address, colon)) {
        uwsgi_log("[sidecar] sidecar-stats = %s: must be a unix socket's path "
                  "or an address of this machine's own (127.0.0.1:PORT), "
                  "unless sidecar-stats-anywhere is set: it shows paths and "
                  "ids of requests to whoever asks\n",
                  address);
        exit(1);
    }
    listening = colon != NULL
                    ? bind_to_tcp(address, uwsgi.listen_queue, colon)
                    : bind_to_unix(address, uwsgi.listen_queue, 0, 0);
    if (listening < 0 || fcntl(listening, F_SETFD, FD_CLOEXEC) < 0) {
        uwsgi_log("[sidecar] sidecar-stats = %s: cannot listen there\n",
                  address);
        exit(1);
    }
    uwsgi_log("[sidecar] stats at %s\n", address);
}

static void *
answer(void *Py_UNUSED(unused))
{
    for (;;) {
        if (uwsgi_waitfd(listening, -1) > 0) {
            uwsgi_send_stats(listening, generate);
        }
    }
    return NULL;
}

void
sc_stats_serve(void)
{
    static bool started;
    pthread_t thread;
    sigset_t all, old;
    if (listening < 0 || started) {
        return;
    }
    started = true;
    /* Signals are the master's own thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&thread, NULL, answer, NULL) == 0) {
        pthread_detach(thread);
    }
    else {
        uwsgi_log("[sidecar] no thread for stats\n");
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void
sc_stats_leave(void)
{
    if (listening >= 0) {
        close(listening);
        listening = -1;
    }
}
