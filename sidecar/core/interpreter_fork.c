#include "core/interpreter_fork.h"

#if SC_HAS_OWN_GIL

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"

/* How long a fork may take to begin once it was agreed to. */
#define GRACE SC_NS_PER_S
/* How soon a wait sees a signal. */
#define SLICE INT64_C(50000000)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ScForkEntry *entries;
static unsigned confirmed;     /* forks between their hooks */
static _Atomic int64_t agreed; /* until when an unconfirmed rest lasts; 0 */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_bool hooked;
static _Thread_local unsigned mine; /* of the confirmed */

/* What a parent had is left alone, but for the mutex. */
static void
reset_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    entries = NULL;
    confirmed = mine = 0;
    atomic_store(&agreed, 0);
}

static void
watch_forks(void)
{
    pthread_atfork(NULL, NULL, reset_in_child);
}

static bool
rests(void)
{
    return confirmed > 0 || atomic_load(&agreed) != 0;
}

void
sc_fork_enter(ScForkEntry *entry, ScQueue *queue)
{
    pthread_mutex_lock(&lock);
    entry->queue = sc_queue_hold(queue);
    entry->before = NULL;
    entry->next = entries;
    if (entries != NULL) {
        entries->before = entry;
    }
    entries = entry;
    if (rests()) {
        sc_queue_rest(queue);
    }
    pthread_mutex_unlock(&lock);
}

void
sc_fork_leave(ScForkEntry *entry)
{
    pthread_mutex_lock(&lock);
    *(entry->before ? &entry->before->next : &entries) = entry->next;
    if (entry->next != NULL) {
        entry->next->before = entry->before;
    }
    pthread_mutex_unlock(&lock);
    sc_queue_let_go(entry->queue);
    entry->queue = NULL;
}

/* Under the lock. */
static void
resume_all(void)
{
    if (!rests()) {
        for (ScForkEntry *at = entries; at != NULL; at = at->next) {
            sc_queue_resume(at->queue);
        }
    }
}

void
sc_fork_check(void)
{
    int64_t until = atomic_load_explicit(&agreed, memory_order_relaxed);
    if (until != 0 && sc_clock_now() >= until) {
        pthread_mutex_lock(&lock);
        if (atomic_load(&agreed) == until) {
            atomic_store(&agreed, 0);
            resume_all();
        }
        pthread_mutex_unlock(&lock);
    }
}

/* -- the rest ------------------------------------------------------------- */

/* Where jobs wait while all rest, nobody may come to push another. */
static void *
check_later(void *Py_UNUSED(arg))
{
    struct timespec span = sc_clock_timespec(GRACE + GRACE / 100);
    nanosleep(&span, NULL);
    sc_fork_check();
    return NULL;
}

static void
start_check(void)
{
    sigset_t all, before;
    pthread_t id;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&id, NULL, check_later, NULL) == 0) {
        pthread_detach(id);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* All rest, for longer than `wait`.  The longest wait that is set. */
static int64_t
rest_all(void)
{
    int64_t wait = 0;
    pthread_mutex_lock(&lock);
    for (ScForkEntry *at = entries; at != NULL; at = at->next) {
        wait = at->wait_ns > wait ? at->wait_ns : wait;
    }
    if (entries != NULL) {
        int64_t now = sc_clock_now();
        atomic_store(&agreed, wait < SC_NEVER - now - GRACE
                                  ? now + wait + GRACE
                                  : SC_NEVER);
    }
    for (ScForkEntry *at = entries; at != NULL; at = at->next) {
        sc_queue_rest(at->queue);
    }
    pthread_mutex_unlock(&lock);
    return wait;
}

/* A queue whose threads have not ended, held; or NULL. */
static ScQueue *
find_alive(bool *jobs_wait)
{
    ScQueue *found = NULL;
    *jobs_wait = false;
    pthread_mutex_lock(&lock);
    for (ScForkEntry *at = entries; at != NULL; at = at->next) {
        ScQueueStats stats = sc_queue_stats(at->queue);
        *jobs_wait |= stats.queued > 0;
        if (stats.threads > 0 && found == NULL) {
            found = sc_queue_hold(at->queue);
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* 1: no interpreter of ours lives.  0: some do, after all that time.  -1: a
 * signal's handler has raised. */
static int
wait_for_all(int64_t until, bool *jobs_wait)
{
    for (ScQueue *queue; (queue = find_alive(jobs_wait)) != NULL;) {
        int64_t now = sc_clock_now();
        int64_t slice = until < now + SLICE ? until : now + SLICE;
        Py_BEGIN_ALLOW_THREADS
        sc_queue_join(queue, slice);
        Py_END_ALLOW_THREADS
        sc_queue_let_go(queue);
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (now >= until) {
            return 0;
        }
    }
    return 1;
}

/* The fork is off. */
static void
call_off(void)
{
    pthread_mutex_lock(&lock);
    atomic_store(&agreed, 0);
    resume_all();
    pthread_mutex_unlock(&lock);
}

/* sidecar.cpu.interpreters.refuse_fork(names, seconds, inside) raises. */
static void
refuse(int64_t wait, bool inside)
{
    char names[1024] = "";
    pthread_mutex_lock(&lock);
    for (ScForkEntry *at = entries; at != NULL; at = at->next) {
        at->name_jobs(at, names, sizeof(names));
    }
    pthread_mutex_unlock(&lock);
    PyObject *module = PyImport_ImportModule("sidecar.cpu.interpreters");
    PyObject *text = PyUnicode_DecodeUTF8(names, (Py_ssize_t)strlen(names),
                                          "backslashreplace");
    if (module != NULL && text != NULL) {
        PyObject *none = PyObject_CallMethod(module, "refuse_fork", "Odi",
                                             text, (double)wait / 1e9, inside);
        Py_XDECREF(none);
    }
    Py_XDECREF(text);
    Py_XDECREF(module);
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "fork: a sub-interpreter lives");
    }
}

/* A fork is asked for.  0: go on.  -1: it is refused, with an error set. */
static int
prepare(void)
{
    if (sc_queue_is_here()) {
        refuse(0, true);
        return -1;
    }
    int64_t wait = rest_all(), now = sc_clock_now();
    bool jobs_wait;
    int rc = wait_for_all(wait < SC_NEVER - now ? now + wait : SC_NEVER,
                          &jobs_wait);
    if (rc <= 0) {
        if (rc == 0) {
            refuse(wait, false);
        }
        PyObject *error = sc_error_take();
        call_off();
        sc_error_restore(error);
        return -1;
    }
    pthread_mutex_lock(&lock);
    if (entries != NULL) {
        atomic_store(&agreed, sc_clock_now() + GRACE);
    }
    pthread_mutex_unlock(&lock);
    if (jobs_wait) {
        start_check();
    }
    return 0;
}

/* -- the hooks ------------------------------------------------------------ */

/* subprocess.Popen(preexec_fn=) runs Python in a forked child.  The event does
 * not say, but the frame that raises it does. */
static bool
has_preexec(void)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    PyObject *function =
        frame ? PyFrame_GetVarString(frame, "preexec_fn") : NULL;
    PyErr_Clear();
    bool has = function != NULL && function != Py_None;
    Py_XDECREF(function);
    Py_XDECREF((PyObject *)frame);
    return has;
}

/* Of every interpreter, for every event. */
static int
audit(const char *event, PyObject *Py_UNUSED(args), void *Py_UNUSED(data))
{
    if (event[0] == 'o' && strncmp(event, "os.fork", 7) == 0) {
        return prepare();
    }
    if (event[0] == 's' && strcmp(event, "subprocess.Popen") == 0 &&
        has_preexec()) {
        return prepare();
    }
    return 0;
}

int
sc_fork_watch(void)
{
    pthread_once(&once, watch_forks);
    if (!atomic_exchange(&hooked, true) &&
        PySys_AddAuditHook(audit, NULL) < 0) {
        atomic_store(&hooked, false);
        return -1;
    }
    return 0;
}

PyObject *
sc_fork_before(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    pthread_mutex_lock(&lock);
    confirmed++;
    pthread_mutex_unlock(&lock);
    mine++;
    /* All rest already, unless nobody has raised the event. */
    int64_t wait = rest_all(), now = sc_clock_now();
    atomic_store(&agreed, 0);
    bool jobs_wait;
    int rc = wait_for_all(wait < SC_NEVER - now ? now + wait : SC_NEVER,
                          &jobs_wait);
    if (rc == 0) {
        refuse(wait, false);
    }
    if (rc <= 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
sc_fork_after(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (mine > 0) {
        mine--;
        pthread_mutex_lock(&lock);
        confirmed--;
        resume_all();
        pthread_mutex_unlock(&lock);
    }
    Py_RETURN_NONE;
}

#endif
