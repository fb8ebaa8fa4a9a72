#include "core/job.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/attach.h"
#include "core/fork.h"

typedef struct {
    ScJob base;
    ScState *st;
    PyObject *type; /* keeps the module, and so st, alive */
    PyObject *future;
    PyObject *context;
    PyObject *fn;
    PyObject *kwnames;
    unsigned generation;
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

/* Before 3.12 threading keeps what current_thread() made for a native thread
 * for ever, and gives it to the next thread with the same number. */
static void
forget_thread(void)
{
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *thread = NULL, *result = NULL;
    if (threading != NULL) {
        thread = PyObject_CallMethod(threading, "current_thread", NULL);
    }
    if (thread != NULL) {
        result = PyObject_CallMethod(thread, "_delete", NULL);
    }
    PyErr_Clear();
    Py_XDECREF(result);
    Py_XDECREF(thread);
    Py_XDECREF(threading);
}

static void *
thread_begin(void *context, unsigned number)
{
    (void)number;
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
    forget_thread();
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
        job->future, job->st->str_set_running_or_notify_cancel);
    int yes = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (yes < 0) {
        PyErr_WriteUnraisable(job->future);
    }
    return yes > 0;
}

/* In the child of a fork that was made inside a job this thread is the main
 * one, and the pool it came from is gone. */
static void
end_in_child(void *thread)
{
    sc_attach_end(thread);
    pthread_exit(NULL);
}

static void
job_run(ScJob *base, void *thread)
{
    Job *job = (Job *)base;
    unsigned generation = job->generation;
    if (job_claim(job)) {
        PyObject *error = NULL;
        PyObject *result = job_call(job, &error);
        PyObject *told = PyObject_CallMethodOneArg(
            job->future,
            error ? job->st->str_set_exception : job->st->str_set_result,
            error ? error : result);
        if (told == NULL) {
            PyErr_WriteUnraisable(job->future);
        }
        Py_XDECREF(told);
        Py_XDECREF(result);
        Py_XDECREF(error);
    }
    job_free(job);
    if (generation != sc_fork_generation()) {
        end_in_child(thread);
    }
}

ScJob *
sc_job_new(ScState *st, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames, PyObject **future)
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
                 .fn = Py_NewRef(args[0]),
                 .kwnames = Py_XNewRef(kwnames),
                 .generation = sc_fork_generation(),
                 .nargs = nargs - 1,
                 .count = count};
    for (Py_ssize_t i = 0; i < count; i++) {
        job->args[i] = Py_NewRef(args[i + 1]);
    }
    job->future = PyObject_CallNoArgs(st->concurrent_future);
    job->context = PyContext_CopyCurrent();
    if (job->future == NULL || job->context == NULL) {
        job_free(job);
        return NULL;
    }
    *future = Py_NewRef(job->future);
    return &job->base;
}

void
sc_job_free(ScJob *job)
{
    job_free((Job *)job);
}

void
sc_job_cancel(ScJob *jobs)
{
    PyObject *before = sc_error_take();
    while (jobs != NULL) {
        Job *job = (Job *)jobs;
        jobs = jobs->next;
        PyObject *done =
            PyObject_CallMethodNoArgs(job->future, job->st->str_cancel);
        if (done == NULL) {
            PyErr_WriteUnraisable(job->future);
        }
        Py_XDECREF(done);
        job_claim(job);
        job_free(job);
    }
    if (before != NULL) {
        sc_error_restore(before);
    }
}
