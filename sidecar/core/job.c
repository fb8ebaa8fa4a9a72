#include "core/job.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/attach.h"
#include "core/delivery.h"
#include "core/fork.h"
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
    ScOwner *owner;     /* the request's in whose name it runs; or NULL */
    PyObject *context;
    PyObject *fn;
    PyObject *kwnames;
    unsigned generation;
    bool converts;
    bool alone; /* when it was made */
    Py_ssize_t nargs;
    Py_ssize_t count; /* positional and keyword values */
    PyObject *args[];
} Job;

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

/* Of the process in which this thread began as a pool's. */
static _Thread_local unsigned thread_generation;

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
    ScAttach *attach = malloc(sizeof(*attach));
    if (attach == NULL || sc_attach_begin(attach, context) < 0) {
        free(attach);
        return NULL;
    }
    name_thread();
    sc_attach_pause(attach);
    return attach;
}

static void
thread_resume(void *thread)
{
    sc_attach_resume(thread);
}

static void
thread_pause(void *thread)
{
    sc_attach_pause(thread);
}

static void
thread_end(void *thread)
{
    sc_support_tell("forget_thread", NULL);
    sc_attach_end(thread);
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
job_free(Job *job)
{
    job_clear_call(job);
    Py_XDECREF(job->context);
    Py_XDECREF(job->future);
    Py_XDECREF(job->delivery);
    Py_XDECREF((PyObject *)job->owner);
    Py_XDECREF(job->loop);
    PyObject *type = job->type;
    free(job);
    Py_XDECREF(type);
}

/* Call it in its context and drop the arguments: whoever gets the result
 * finds them gone.  The result, or NULL and the exception in *error. */
static PyObject *
job_call(Job *job, PyObject **error)
{
    PyObject *result = NULL;
    if (PyContext_Enter(job->context) == 0) {
        result = PyObject_Vectorcall(job->fn, job->args, (size_t)job->nargs,
                                     job->kwnames);
        *error = sc_error_take();
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
end_in_child(void *thread)
{
    sc_attach_end(thread);
    pthread_exit(NULL);
}

/* Run it, tell the end, free it. */
static void
job_serve(Job *job)
{
    if (!job_claim(job)) {
        if (job->loop != NULL) {
            job_tell(job, job->st->str_cancel, NULL);
        }
    }
    else {
        PyObject *error = NULL;
        PyObject *result = NULL;
        if (job->owner != NULL && sc_owner_is_late(job->owner)) {
            sc_owner_raise(job->owner, SC_VERDICT_LATE, NULL, NULL);
            error = sc_error_take();
        }
        else {
            result = job_call(job, &error);
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
    job_free(job);
}

static void
job_run(ScJob *base, void *thread)
{
    Job *job = (Job *)base;
    unsigned generation = job->generation;
    job_serve(job);
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
    job_serve(job_of_errand(errand));
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
    *job = (Job){.base.run = job_run,
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
    job->owner = sc_owner_current(st, NULL);
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
