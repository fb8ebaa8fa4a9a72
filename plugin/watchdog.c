/* The watchdog: a native thread of each worker that takes no part in Python,
 * and so runs where the worker is stuck with the GIL held.  Just before the
 * master kills the worker it finds out at which line each request's thread
 * is, and writes that to the board.
 *
 * It asks faulthandler, which can list all threads' lines without the GIL:
 * from the handler of a signal, which the watchdog sends to itself.  What
 * that writes goes to a file in memory, and is read there. */
#include "plugin.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Not among those that uWSGI or the C library use. */
#define SIGNAL (SIGRTMAX - 3)

enum { LISTING = 256 * 1024 };

static int listing_fd = -1;

/* Held for a look; stopped by who holds it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool stopped;

/* When the master will kill this worker, by time(); 0: it is not due. */
static time_t
due_time(void)
{
    const struct uwsgi_worker *me = &uwsgi.workers[uwsgi.mywid];
    time_t by_option = me->harakiri, by_user = me->user_harakiri;
    return by_user != 0 && (by_option == 0 || by_user < by_option) ? by_user
                                                                   : by_option;
}

/* The text that faulthandler writes now, terminated; for free().  NULL: none
 * was written. */
static char *
list_threads(void)
{
    if (ftruncate(listing_fd, 0) < 0 || lseek(listing_fd, 0, SEEK_SET) < 0) {
        return NULL;
    }
    pthread_kill(pthread_self(), SIGNAL);
    char *listing = malloc(LISTING);
    ssize_t length = listing ? pread(listing_fd, listing, LISTING - 1, 0) : -1;
    if (length <= 0) {
        free(listing);
        return NULL;
    }
    listing[length] = '\0';
    return listing;
}

/* Of one thread's frames the last one, from `  File "/srv/app.py", line 12 in
 * view`: as "/srv/app.py:12 in view". */
static void
copy_place(const char *frame, char *text, size_t room)
{
    char file[SIDECAR_BOARD_PLACE], rest[SIDECAR_BOARD_PLACE];
    text[0] = '\0';
    if (sscanf(frame, " File \"%199[^\"]\", line %199[^\n]", file, rest) ==
        2) {
        sidecar_slot_copy(text, room, file, strlen(file));
        size_t length = strlen(text);
        text[length < room - 1 ? length++ : length] = ':';
        sidecar_slot_copy(text + length, room - length, rest, strlen(rest));
    }
}

static void
write_line(Sidecar_Slot *slot, const char *listing)
{
    Sidecar_SlotText text;
    char mark[40], place[SIDECAR_BOARD_PLACE];
    if (!sidecar_slot_read(slot, &text) || text.started == 0) {
        return;
    }
    /* "Thread 0x... (most recent call first):", or with a name between. */
    snprintf(mark, sizeof(mark), "hread 0x%016lx", (unsigned long)text.thread);
    const char *thread = strstr(listing, mark);
    const char *frame = thread ? strchr(thread, '\n') : NULL;
    if (frame == NULL) {
        return;
    }
    copy_place(frame + 1, place, sizeof(place));
    if (sidecar_slot_lock(slot)) {
        if (slot->text.key == text.key) {
            memcpy(slot->text.line, place, sizeof(place));
        }
        sidecar_slot_unlock(slot);
    }
}

static void
tell_lines(void)
{
    char *listing = list_threads();
    for (int core = 0; listing != NULL && core < uwsgi.cores; core++) {
        write_line(sc_board_slot(core), listing);
    }
    free(listing);
}

static void
look(time_t *told)
{
    const double before = 0.6; /* seconds */
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time_t due = due_time();
    double left = (double)(due - now.tv_sec) - (double)now.tv_nsec / 1e9;
    if (due != 0 && due != *told && left <= before) {
        *told = due;
        tell_lines();
    }
    sc_metrics_update();
    sc_stopping_look();
}

/* Four looks a second; the master looks once. */
static void *
watch(void *Py_UNUSED(unused))
{
    const struct timespec pause = {.tv_nsec = 250 * 1000 * 1000};
    time_t told = 0;
    bool over = false;
    while (!over) {
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
        over = stopped;
        if (!over) {
            look(&told);
        }
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static bool
start_thread(void)
{
    pthread_t thread;
    sigset_t others, old;
    /* The server's signals are for its own threads. */
    sigfillset(&others);
    sigdelset(&others, SIGNAL);
    pthread_sigmask(SIG_SETMASK, &others, &old);
    bool started = pthread_create(&thread, NULL, watch, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return started && pthread_detach(thread) == 0;
}

/* 0, or -1 with a Python error set.  Attached. */
static int
register_signal(void)
{
    PyObject *faulthandler = PyImport_ImportModule("faulthandler");
    PyObject *none =
        faulthandler
            ? PyObject_CallMethod(faulthandler, "register", "iiOO", SIGNAL,
                                  listing_fd, Py_True, Py_False)
            : NULL;
    Py_XDECREF(faulthandler);
    Py_XDECREF(none);
    return none != NULL ? 0 : -1;
}

void
sc_watchdog_start(void)
{
    if (sc_board_slot(0) == NULL) {
        return;
    }
    listing_fd = memfd_create("sidecar-lines", MFD_CLOEXEC);
    if (listing_fd < 0 || register_signal() < 0 || !start_thread()) {
        PyErr_Clear();
        uwsgi_log("[sidecar] worker %d (pid %d) has no watchdog: a harakiri "
                  "will not tell the lines of its threads\n",
                  uwsgi.mywid, (int)getpid());
    }
}

void
sc_watchdog_stop(void)
{
    pthread_mutex_lock(&lock);
    if (!stopped) {
        sc_metrics_update();
        stopped = true;
    }
    pthread_mutex_unlock(&lock);
}
