#include "core/job.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/attach.h"
#include "core/clock.h"
#include "core/delivery.h"
#include "core/fork.h"
#include "core/limit.h"
#include "core/support.h"
#include "core/work.h"

typedef struct {
    ScJob base;
    ScOp errand;
    ScState *st;
    PyObject *type; /* keeps the module, and so st, alive */
    PyObject *future;
    PyObject *loop;
    PyObject *delivery; /* to the loop */
    ScOwner *request;   /* in whose name it runs; or NULL */
    PyObject *places;   /* where it has one in the queue; or NULL */
    PyObject *context;
    PyObject *fn;
    PyObject *kwnames;
    unsigned generation;
    bool converts;
    bool owned; /* by the request: its deadline counts */
    bool alone; /* when it was made */
    Py_ssize_t nargs;
    Py_ssize_t count; /* positional and keyword values */
    PyObject *args[];
} Job;

/* Of the process in which this thread began as a pool's. */
static _Thread_local unsigned thread_generation;

/* A pool's thread.  What it runs is noted here for who asks on another thread,
 * borrowed from the job and taken out before the job lets go of it.  With a
 * GIL, that is the lock. */
typedef struct {
    ScAttach attach;
    Job *job;
    PyObject *fn; /* NULL: it has returned, and its future is being told */
    int64_t since;
#ifdef Py_GIL_DISABLED
    pthread_mutex_t lock;
#endif
} PoolThread;

static inline void
lock_note(PoolThread *thread)
{
#ifdef Py_GIL_DISABLED
    pthread_mutex_lock(&thread->lock);
#else
    (void)thread;
#endif
}

static inline void
unlock_note(PoolThread *thread)
{
#ifdef Py_GIL_DISABLED
    pthread_mutex_unlock(&thread->lock);
#else
    (void)thread;
#endif
}

/* `thread`: NULL where the job is an errand, whose waiter has a name. */
static void
note(PoolThread *thread, Job *job, PyObject *fn)
{
    /* In the child of a fork its lock may be held for good, and nobody asks.
     */
    if (thread != NULL && thread_generation == sc_fork_generation()) {
        lock_note(thread);
        thread->job = job;
        thread->fn = fn;
        unlock_note(thread);
    }
}

/* To a few milliseconds, which is enough for a text: it costs a fourth. */
static int64_t
coarse_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * SC_NS_PER_S + now.tv_nsec;
}

/* threading.current_thread() shall answer with the name that `ps -L` shows. */
static void
name_thread(void)
{
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof(name));
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *thread = NULL, *text = NULL;
    if (threading != NULL) {
        thread = PyObject_CallMethod(threading, "current_thread", NULL);
        text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
    }
    if (thread == NULL || text == NULL ||
        PyObject_SetAttrString(thread, "name", text) < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    Py_XDECREF(text);
    Py_XDECREF(thread);
    Py_XDECREF(threading);
}

void *
sc_job_wait_begin(void)
{
    ScThreads *threads = sc_threads_current();
    if (threads == NULL || thread_generation != sc_fork_generation()) {
        return NULL;
    }
    sc_threads_block(threads);
    return threads;
}

void
sc_job_wait_end(void *pool)
{
    if (pool != NULL && thread_generation == sc_fork_generation()) {
        sc_threads_unblock(pool);
    }
}

static void *
thread_begin(void *context, unsigned number)
{
    (void)number;
    thread_generation = sc_fork_generation();
    PoolThread *thread = calloc(1, sizeof(*thread));
    if (thread == NULL || sc_attach_begin(&thread->attach, context) < 0) {
        free(thread);
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    pthread_mutex_init(&thread->lock, NULL);
#endif
    name_thread();
    sc_attach_pause(&thread->attach);
    return thread;
}

static void
thread_resume(void *thread)
{
    sc_attach_resume(&((PoolThread *)thread)->attach);
}

static void
thread_pause(void *thread)
{
    sc_attach_pause(&((PoolThread *)thread)->attach);
}

static void
thread_end(void *thread)
{
    sc_support_tell("forget_thread", NULL);
    sc_attach_end(&((PoolThread *)thread)->attach);
#ifdef Py_GIL_DISABLED
    pthread_mutex_destroy(&((PoolThread *)thread)->lock);
#endif
    free(thread);
}

const ScThreadsWork sc_job_threads = {
    .begin = thread_begin,
    .resume = thread_resume,
    .pause = thread_pause,
    .end = thread_end,
};

static void
job_clear_call(Job *job)
{
    Py_CLEAR(job->fn);
    Py_CLEAR(job->kwnames);
    Py_ssize_t count = job->count;
    job->count = job->nargs = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_CLEAR(job->args[i]);
    }
}

static void
give_place_back(Job *job)
{
    PyObject *places = job->places;
    job->places = NULL;
    if (places != NULL) {
        sc_places_give_back(places);
        Py_DECREF(places);
    }
}

static void
job_free(Job *job)
{
    give_place_back(job);
    job_clear_call(job);
    Py_XDECREF(job->context);
    Py_XDECREF(job->future);
    Py_XDECREF(job->delivery);
    Py_XDECREF((PyObject *)job->request);
    Py_XDECREF(job->loop);
    PyObject *type = job->type;
    free(job);
    Py_XDECREF(type);
}

/* Call it in its context and drop the arguments: whoever gets the result
 * finds them gone.  The result, or NULL and the exception in *error. */
static PyObject *
job_call(Job *job, PoolThread *thread, PyObject **error)
{
    PyObject *result = NULL;
    if (PyContext_Enter(job->context) == 0) {
        result = PyObject_Vectorcall(job->fn, job->args, (size_t)job->nargs,
                                     job->kwnames);
        *error = sc_error_take();
        note(thread, job, NULL);
        job_clear_call(job);
        PyContext_Exit(job->context);
    }
    else {
        *error = sc_error_take();
    }
    return result;
}

/* True: run it.  False: it was cancelled, or its future was tampered with. */
static bool
job_claim(Job *job)
{
    PyObject *answer = PyObject_CallMethodNoArgs(
        job->future, job->loop ? job->st->str_cancelled
                               : job->st->str_set_running_or_notify_cancel);
    int yes = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (yes < 0) {
        PyErr_WriteUnraisable(job->future);
        return false;
    }
    return job->loop ? !yes : yes;
}

/* future.METHOD(value) where it lives: an asyncio future on its loop. */
static void
job_tell(Job *job, PyObject *method, PyObject *value)
{
    if (job->delivery != NULL) {
        sc_delivery_send(job->delivery, job->loop, job->future, method,
                         value ? value : Py_None);
        return;
    }
    PyObject *told =
        value ? PyObject_CallMethodOneArg(job->future, method, value)
              : PyObject_CallMethodNoArgs(job->future, method);
    if (told == NULL) {
        PyErr_WriteUnraisable(job->future);
    }
    Py_XDECREF(told);
}

/* An asyncio future takes no StopIteration: it would end who awaits it. */
static PyObject *
job_error(Job *job, PyObject *error)
{
    if (job->loop == NULL ||
        !PyErr_GivenExceptionMatches(error, PyExc_StopIteration)) {
        return error;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "the function raised StopIteration, which a coroutine "
                    "cannot pass on");
    PyObject *instead = sc_error_take();
    PyException_SetContext(instead, Py_NewRef(error));
    PyException_SetCause(instead, error);
    return instead;
}

/* In the child of a fork that was made inside a job this thread is the main
 * one, and the pool it came from is gone. */
static void
end_in_child(PoolThread *thread)
{
    sc_attach_end(&thread->attach);
    pthread_exit(NULL);
}

/* Run it, tell the end, free it. */
static void
job_serve(Job *job, PoolThread *thread)
{
    note(thread, job, job->fn);
    if (!job_claim(job)) {
        if (job->loop != NULL) {
            job_tell(job, job->st->str_cancel, NULL);
        }
    }
    else {
        PyObject *error = NULL;
        PyObject *result = NULL;
        if (job->owned && sc_owner_is_late(job->request)) {
            sc_owner_raise(job->request, SC_VERDICT_LATE, NULL, NULL);
            error = sc_error_take();
        }
        else {
            result = job_call(job, thread, &error);
        }
        if (error != NULL) {
            error = job_error(job, error);
        }
        PyObject *method = job->st->str_set_result;
        if (error != NULL) {
            method = job->converts ? job->st->str_set_converted
                                   : job->st->str_set_exception;
        }
        job_tell(job, method, error ? error : result);
        Py_XDECREF(result);
        Py_XDECREF(error);
    }
    note(thread, NULL, NULL);
    job_free(job);
}

static void
job_run(ScJob *base, void *thread)
{
    Job *job = (Job *)base;
    unsigned generation = job->generation;
    ((PoolThread *)thread)->since = coarse_now();
    give_place_back(job);
    job_serve(job, thread);
    if (generation != sc_fork_generation()) {
        end_in_child(thread);
    }
}

static Job *
job_of_errand(ScOp *errand)
{
    return (Job *)((char *)errand - offsetof(Job, errand));
}

ScOp *
sc_job_errand(ScJob *job)
{
    return &((Job *)job)->errand;
}

void
sc_job_run_errand(ScOp *errand)
{
    job_serve(job_of_errand(errand), NULL);
}

void
sc_job_fail_errand(ScOp *errand, PyObject *error)
{
    Job *job = job_of_errand(errand);
    job_tell(job, job->st->str_set_exception, error);
    job_free(job);
}

ScJob *
sc_job_new(ScState *st, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames, const ScJobTarget *target)
{
    Py_ssize_t count = nargs - 1;
    if (kwnames != NULL) {
        count += PyTuple_GET_SIZE(kwnames);
    }
    Job *job = malloc(sizeof(*job) + (size_t)count * sizeof(PyObject *));
    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *job = (Job){.base = {.run = job_run, .placed = target->places != NULL},
                 .st = st,
                 .type = Py_NewRef((PyObject *)st->pool_type),
                 .future = Py_NewRef(target->future),
                 .loop = Py_XNewRef(target->loop),
                 .context = Py_XNewRef(target->context),
                 .fn = Py_NewRef(args[0]),
                 .kwnames = Py_XNewRef(kwnames),
                 .generation = sc_fork_generation(),
                 .converts = target->converts,
                 .nargs = nargs - 1,
                 .count = count};
    for (Py_ssize_t i = 0; i < count; i++) {
        job->args[i] = Py_NewRef(args[i + 1]);
    }
    job->request = sc_owner_present(st, NULL);
    job->owned = job->request != NULL && sc_owner_owns(job->request);
    if (job->context == NULL) {
        job->context = PyContext_CopyCurrent();
    }
    if (job->loop != NULL) {
        job->delivery = sc_delivery_of(st, job->loop);
    }
    if (job->context == NULL || (job->loop != NULL && job->delivery == NULL)) {
        job_free(job);
        return NULL;
    }
    if (job->delivery != NULL) {
        job->alone = sc_delivery_expect(job->delivery);
    }
    job->places = Py_XNewRef(target->places);
    return &job->base;
}

bool
sc_job_is_alone(const ScJob *job)
{
    return ((const Job *)job)->alone;
}

void
sc_job_free(ScJob *base)
{
    Job *job = (Job *)base;
    if (job->delivery != NULL) {
        sc_delivery_forget(job->delivery);
    }
    job_free(job);
}

/* -- what runs --------------------------------------------------------------
 */

typedef struct {
    PyObject *fn, *first, *request;
    int64_t since;
} Running;

typedef struct {
    Running *items;
    size_t count, room;
} Snapshot;

/* Under the pool's lock: nothing of Python's runs here. */
static void
take_note(void *arg, void *to)
{
    PoolThread *thread = arg;
    Snapshot *seen = to;
    lock_note(thread);
    Job *job = thread->job;
    if (job != NULL && seen->count < seen->room) {
        PyObject *first =
            thread->fn != NULL && job->nargs > 0 ? job->args[0] : NULL;
        seen->items[seen->count++] =
            (Running){.fn = Py_XNewRef(thread->fn),
                      .first = Py_XNewRef(first),
                      .request = Py_XNewRef((PyObject *)job->request),
                      .since = thread->since};
    }
    unlock_note(thread);
}

static PyObject *
text_of_running(const Running *one, int64_t now)
{
    double seconds = one->since < now ? (double)(now - one->since) / 1e9 : 0;
    return sc_support_call("job_text", "(OOOd)", one->fn ? one->fn : Py_None,
                           one->first ? one->first : Py_None,
                           one->request ? one->request : Py_None, seconds);
}

PyObject *
sc_job_list_running(ScThreads *threads)
{
    Snapshot seen = {.room = sc_threads_stats(threads).threads};
    seen.items = calloc(seen.room + 1, sizeof(Running));
    PyObject *texts = PyList_New(0);
    if (seen.items == NULL || texts == NULL) {
        free(seen.items);
        Py_XDECREF(texts);
        return PyErr_NoMemory();
    }
    sc_threads_visit(threads, take_note, &seen);
    int64_t now = coarse_now();
    for (size_t i = 0; i < seen.count; i++) {
        PyObject *text = texts ? text_of_running(&seen.items[i], now) : NULL;
        if (texts != NULL &&
            (text == NULL || PyList_Append(texts, text) < 0)) {
            Py_CLEAR(texts);
        }
        Py_XDECREF(text);
        Py_XDECREF(seen.items[i].fn);
        Py_XDECREF(seen.items[i].first);
        Py_XDECREF(seen.items[i].request);
    }
    free(seen.items);
    return texts;
}

void
sc_job_cancel(ScJob *jobs)
{
    PyObject *before = sc_error_take();
    while (jobs != NULL) {
        Job *job = (Job *)jobs;
        jobs = jobs->next;
        job_tell(job, job->st->str_cancel, NULL);
        if (job->loop == NULL) {
            job_claim(job);
        }
        job_free(job);
    }
    if (before != NULL) {
        sc_error_restore(before);
    }
}
