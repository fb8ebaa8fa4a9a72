/* uWSGI's metrics (enable-metrics): Sidecar's counters, of each worker and of
 * all.  Each worker's watchdog writes its own to memory that the master reads;
 * a worker that follows one that has ended counts on. */
#include "plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Our part of uWSGI's own numbering. */
#define OID "77"

enum { COUNTERS = 16 };

static const char *const names[] = {SIDECAR_COUNTER_NAMES};
enum { NAMES = sizeof(names) / sizeof(names[0]) };
_Static_assert((int)NAMES <= (int)COUNTERS, "no room for a counter");

/* By worker, from 1 on; NULL: nobody asks. */
static int64_t (*counters)[COUNTERS];
/* What the workers before this one, in its place, had counted. */
static int64_t before[COUNTERS];
static const Sidecar_API *counting;

static struct uwsgi_metric *
add(const char *prefix, const char *name, const char *oid,
    const char *collector, void *value)
{
    char full[64];
    snprintf(full, sizeof(full), "%ssidecar.%s", prefix, name);
    return uwsgi_register_metric(full, SC_TEXT(oid), UWSGI_METRIC_COUNTER,
                                 SC_TEXT(collector), value, 0, NULL);
}

/* One counter: the workers' first, as uWSGI sums up what it has collected. */
static void
add_all(int counter)
{
    char prefix[32], oid[32];
    struct uwsgi_metric **parts =
        uwsgi_calloc(sizeof(*parts) * (size_t)(uwsgi.numproc + 1));
    for (int worker = 1; worker <= uwsgi.numproc; worker++) {
        snprintf(prefix, sizeof(prefix), "worker.%d.", worker);
        snprintf(oid, sizeof(oid), OID ".%d.%d", worker, counter + 1);
        parts[worker] = add(prefix, names[counter], oid, "ptr",
                            &counters[worker][counter]);
    }
    snprintf(oid, sizeof(oid), OID ".0.%d", counter + 1);
    struct uwsgi_metric *sum = add("", names[counter], oid, "sum", NULL);
    for (int worker = 1; worker <= uwsgi.numproc; worker++) {
        uwsgi_metric_add_child(sum, parts[worker]);
    }
    free(parts);
}

void
sc_metrics_register(void)
{
    if (!uwsgi.has_metrics || !uwsgi.master_process) {
        return;
    }
    size_t size = sizeof(*counters) * (size_t)(uwsgi.numproc + 1);
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        uwsgi_error("[sidecar] no memory for metrics: mmap()");
        return;
    }
    counters = mapped;
    for (int counter = 0; counter < NAMES; counter++) {
        add_all(counter);
    }
}

void
sc_metrics_start(const Sidecar_API *api)
{
    if (counters != NULL && uwsgi.mywid > 0) {
        memcpy(before, counters[uwsgi.mywid], sizeof(before));
        counting = api;
    }
}

void
sc_metrics_update(void)
{
    if (counting == NULL) {
        return;
    }
    long long now[COUNTERS] = {0};
    counting->counters(counting, now, NAMES);
    for (int counter = 0; counter < NAMES; counter++) {
        counters[uwsgi.mywid][counter] = before[counter] + now[counter];
    }
}
