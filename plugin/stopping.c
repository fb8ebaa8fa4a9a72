/* A worker that was asked to stop: its bridge is told while its requests are
 * still in progress.
 *
 * The watchdog sees it, and has a thread of its own tell: that one waits for
 * the GIL, which the watchdog never does. */
#include "plugin.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

static const Sidecar_API *main_api;
static pthread_t teller;
static bool told; /* there is, or was, a teller; the watchdog's lock */

void
sc_stopping_init(const Sidecar_API *api)
{
    main_api = api;
    told = false;
}

/* Until what runs in the background is cancelled, so that its clean-up, for
 * which a shutdown gives it as long, ends before the master's patience; -1:
 * that has no end. */
static double
time_to_cancel(void)
{
    time_t mercy = uwsgi.workers[uwsgi.mywid].no_mercy_at;
    if (mercy == 0) {
        return -1;
    }
    double left =
        (double)(mercy - time(NULL)) - 1.0 - sc_options.shutdown_timeout;
    return left > 0 ? left : 0;
}

static void *
tell(void *Py_UNUSED(unused))
{
    ScAttachment attachment = sc_attachment_begin();
    if (main_api->worker_stopping(main_api, time_to_cancel()) < 0) {
        PyErr_Print();
        uwsgi_log("[sidecar] worker %d (pid %d) could not tell its bridge "
                  "that it stops (the error is above)\n",
                  uwsgi.mywid, (int)getpid());
    }
    sc_attachment_end(attachment);
    return NULL;
}

void
sc_stopping_look(void)
{
    if (!told && !uwsgi.workers[uwsgi.mywid].manage_next_request) {
        told = pthread_create(&teller, NULL, tell, NULL) == 0;
    }
}

void
sc_stopping_join(void)
{
    if (told) {
        Py_BEGIN_ALLOW_THREADS
        pthread_join(teller, NULL);
        Py_END_ALLOW_THREADS
    }
}
