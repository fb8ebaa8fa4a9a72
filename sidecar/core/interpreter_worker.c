/* A worker: its thread, its interpreter, and what it does around its jobs. */
#include "core/interpreter_pool.h"

#if SC_HAS_OWN_GIL

#include <marshal.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/support.h"

/* Interpreters are made and ended one after another: where two do so at once
 * 3.13's garbage collector has been seen to lose its way.  Nobody has a GIL
 * of another interpreter's who waits for it; and nobody waits for long, for
 * what ends one may be stuck. */
static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;

static bool
lock_life(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec++;
    return pthread_mutex_timedlock(&life, &until) == 0;
}

static void
unlock_life(bool locked)
{
    if (locked) {
        pthread_mutex_unlock(&life);
    }
}

/* In the child of a fork it may be locked for good. */
static void
reset_life(void)
{
    pthread_mutex_init(&life, NULL);
}

static void
watch_forks(void)
{
    pthread_atfork(NULL, NULL, reset_life);
}

void
sc_far_watch_forks(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
}

/* Why the last begin on this thread failed. */
static _Thread_local char failure[256];

/* -- the far interpreter's life ------------------------------------------- */

/* Attached: the error that is set, as a line of text. */
static void
note_failure(const char *what)
{
    PyObject *error = sc_error_take();
    PyObject *text = error ? PyObject_Str(error) : NULL;
    const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;
    snprintf(failure, sizeof(failure), "%s: %s: %s", what,
             error ? Py_TYPE(error)->tp_name : "", utf8 ? utf8 : "");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(error);
}

/* Detached on entry, attached to the new one where it succeeds. */
static bool
make_interpreter(ScFarWorker *worker)
{
    PyInterpreterConfig config = {
        .use_main_obmalloc = 0,
        .allow_fork = 0,
        .allow_exec = 0,
        .allow_threads = 1,
        .allow_daemon_threads = 0,
        .check_multi_interp_extensions = 1,
        .gil = PyInterpreterConfig_OWN_GIL,
    };
    bool locked = lock_life();
    PyStatus status = Py_NewInterpreterFromConfig(&worker->far, &config);
    unlock_life(locked);
    if (PyStatus_Exception(status) || worker->far == NULL) {
        snprintf(failure, sizeof(failure), "%s",
                 status.err_msg ? status.err_msg : "no reason is known");
        worker->far = NULL;
        return false;
    }
    worker->far_interp = PyInterpreterState_Get();
    worker->far_ident = PyThread_get_thread_ident();
    return true;
}

static PyObject *
run_boot(ScFarCore *core)
{
    PyObject *code = PyMarshal_ReadObjectFromString(
        core->boot, (Py_ssize_t)core->boot_size);
    PyObject *names = code ? PyDict_New() : NULL;
    PyObject *name = PyUnicode_FromString("sidecar.cpu.far_interpreter");
    PyObject *none = NULL;
    if (names != NULL && name != NULL &&
        PyDict_SetItemString(names, "__name__", name) == 0 &&
        PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) ==
            0) {
        none = PyEval_EvalCode(code, names, names);
    }
    if (none == NULL) {
        Py_CLEAR(names);
    }
    Py_XDECREF(none);
    Py_XDECREF(name);
    Py_XDECREF(code);
    return names;
}

/* Attached to it: the functions of far_interpreter.py. */
static int
fill_interpreter(ScFarWorker *worker, const char *prepared, size_t size)
{
    PyObject *names = run_boot(worker->core);
    if (names == NULL) {
        return -1;
    }
    int rc = 0;
#define X(name)                                                    \
    worker->name = Py_XNewRef(PyDict_GetItemString(names, #name)); \
    rc = worker->name ? rc : -1;
    SC_FAR_NAMES(X)
#undef X
    PyObject *begin = PyDict_GetItemString(names, "begin");
    PyObject *none =
        begin ? PyObject_CallFunction(begin, "y#", prepared, (Py_ssize_t)size)
              : NULL;
    Py_XDECREF(none);
    Py_DECREF(names);
    worker->functions = PyDict_New();
    worker->kw_buffers = Py_BuildValue("(s)", "buffers");
    if (none == NULL || worker->functions == NULL ||
        worker->kw_buffers == NULL) {
        return -1;
    }
    return rc < 0 ? rc
                  : sc_share_views_begin(&worker->views, &worker->core->home);
}

/* Attached to it; afterwards to nothing. */
static void
end_interpreter(ScFarWorker *worker)
{
#define X(name) Py_CLEAR(worker->name);
    SC_FAR_NAMES(X)
#undef X
    Py_CLEAR(worker->functions);
    Py_CLEAR(worker->kw_buffers);
    sc_share_views_clear(&worker->views);
    /* Its GIL is held while this waits: only what it has left to itself
     * could want that. */
    bool locked = lock_life();
    Py_EndInterpreter(worker->far);
    unlock_life(locked);
    worker->far = NULL;
    sc_share_views_end(&worker->views);
}

/* -- interruption --------------------------------------------------------- */

static pthread_cond_t interrupted = PTHREAD_COND_INITIALIZER;

/* Where the job keeps its GIL for good, this thread waits as long. */
static void *
interrupt(void *arg)
{
    ScFarWorker *worker = arg;
    PyThreadState *tstate = PyThreadState_New(worker->far_interp);
    if (tstate != NULL) {
        PyEval_RestoreThread(tstate);
        PyThreadState_SetAsyncExc(worker->far_ident, PyExc_SystemExit);
        PyThreadState_Clear(tstate);
        PyThreadState_DeleteCurrent();
    }
    pthread_mutex_lock(&worker->core->lock);
    worker->interrupters--;
    pthread_cond_broadcast(&interrupted);
    pthread_mutex_unlock(&worker->core->lock);
    return NULL;
}

void
sc_far_interrupt(ScFarCore *core)
{
    sigset_t all, before;
    pthread_t id;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&core->lock);
    for (ScFarWorker *at = core->workers; at != NULL; at = at->next) {
        if (at->running != NULL && at->interrupters == 0 &&
            pthread_create(&id, NULL, interrupt, at) == 0) {
            pthread_detach(id);
            at->interrupters++;
        }
    }
    pthread_mutex_unlock(&core->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* -- the list of workers -------------------------------------------------- */

static void
enter(ScFarWorker *worker)
{
    ScFarCore *core = worker->core;
    pthread_mutex_lock(&core->lock);
    worker->next = core->workers;
    if (worker->next != NULL) {
        worker->next->before = worker;
    }
    core->workers = worker;
    pthread_mutex_unlock(&core->lock);
}

/* Without a GIL: an interrupter may need the far one to get on. */
static void
leave(ScFarWorker *worker)
{
    ScFarCore *core = worker->core;
    pthread_mutex_lock(&core->lock);
    while (worker->interrupters > 0) {
        pthread_cond_wait(&interrupted, &core->lock);
    }
    *(worker->before ? &worker->before->next : &core->workers) = worker->next;
    if (worker->next != NULL) {
        worker->next->before = worker->before;
    }
    pthread_mutex_unlock(&core->lock);
}

static void
set_running(ScFarWorker *worker, const char *name)
{
    pthread_mutex_lock(&worker->core->lock);
    worker->running = name;
    pthread_mutex_unlock(&worker->core->lock);
}

void
sc_far_name_jobs(ScFarCore *core, char *text, size_t room)
{
    pthread_mutex_lock(&core->lock);
    for (ScFarWorker *at = core->workers; at != NULL; at = at->next) {
        size_t used = strlen(text);
        if (at->running != NULL) {
            snprintf(text + used, room - used, "%s%s", used ? "\n" : "",
                     at->running);
        }
    }
    pthread_mutex_unlock(&core->lock);
}

/* -- the thread ----------------------------------------------------------- */

/* What the near side has to say to a new interpreter; malloc'd.  NULL: the
 * pool has gone, or cannot say it. */
static char *
ask_near(ScFarWorker *worker, size_t *size)
{
    ScFarPool *pool = worker->core->pool;
    char *copy = NULL;
    if (pool == NULL) {
        snprintf(failure, sizeof(failure), "the pool has gone");
        return NULL;
    }
    Py_INCREF(pool);
    PyObject *bytes = PyObject_CallNoArgs(pool->prepare);
    if (bytes != NULL && PyBytes_Check(bytes)) {
        *size = (size_t)PyBytes_GET_SIZE(bytes);
        copy = malloc(*size + 1);
        if (copy != NULL) {
            memcpy(copy, PyBytes_AS_STRING(bytes), *size);
        }
    }
    if (copy == NULL) {
        note_failure("what it is told was not to be had");
    }
    Py_XDECREF(bytes);
    Py_DECREF(pool);
    return copy;
}

static void
leave_near(ScFarWorker *worker)
{
    sc_shares_release(&worker->core->home);
    sc_support_tell("forget_thread", NULL);
    sc_attach_end(&worker->near);
}

static bool
begin_far(ScFarWorker *worker, const char *prepared, size_t size)
{
    if (!make_interpreter(worker)) {
        return false;
    }
    if (fill_interpreter(worker, prepared, size) < 0) {
        note_failure("it does not load the far side's module");
        end_interpreter(worker);
        return false;
    }
    worker->far = PyEval_SaveThread();
    return true;
}

static void *
begin(void *context)
{
    ScFarWorker *worker = calloc(1, sizeof(*worker));
    failure[0] = '\0';
    if (worker == NULL) {
        return NULL;
    }
    worker->core = context;
    sc_message_init(&worker->answer);
    if (sc_attach_begin(&worker->near, worker->core->near) < 0) {
        free(worker);
        return NULL;
    }
    size_t size = 0;
    char *prepared = ask_near(worker, &size);
    sc_attach_pause(&worker->near);
    bool begun = prepared != NULL && begin_far(worker, prepared, size);
    free(prepared);
    if (!begun) {
        sc_attach_resume(&worker->near);
        leave_near(worker);
        free(worker);
        return NULL;
    }
    enter(worker);
    return worker;
}

static void
run(void *thread, ScQueued *queued)
{
    ScFarWorker *worker = thread;
    ScFarJob *job = (ScFarJob *)((char *)queued - offsetof(ScFarJob, queued));
    set_running(worker, job->name);
    PyEval_RestoreThread(worker->far);
    sc_far_job_run(worker, job);
    PyEval_SaveThread();
    sc_attach_resume(&worker->near);
    set_running(worker, NULL);
    sc_queue_free_place(job->pool->queue);
    sc_far_job_tell(job, worker->outcome, &worker->answer);
    sc_shares_release(&worker->core->home);
    sc_attach_pause(&worker->near);
    if (worker->answer.share_count > 0) {
        PyEval_RestoreThread(worker->far);
        sc_message_free(&worker->answer);
        PyEval_SaveThread();
    }
    else {
        sc_message_free(&worker->answer);
    }
}

/* On a thread whose begin has failed. */
static void
refuse(void *context, ScQueued *queued)
{
    ScFarCore *core = context;
    ScFarJob *job = (ScFarJob *)((char *)queued - offsetof(ScFarJob, queued));
    ScAttach near;
    if (sc_attach_begin(&near, core->near) < 0) {
        return; /* the process ends, and nobody waits */
    }
    PyObject *error =
        PyObject_CallFunction(job->pool->start_failed, "s", failure);
    if (error == NULL) {
        error = sc_error_take();
    }
    sc_far_job_fail(job, error);
    Py_DECREF(error);
    sc_attach_end(&near);
}

static void
end(void *thread)
{
    ScFarWorker *worker = thread;
    leave(worker);
    PyEval_RestoreThread(worker->far);
    /* An interruption that came too late. */
    PyThreadState_SetAsyncExc(worker->far_ident, NULL);
    end_interpreter(worker);
    sc_attach_resume(&worker->near);
    leave_near(worker);
    free(worker);
}

static void
free_core(void *context)
{
    ScFarCore *core = context;
    pthread_mutex_destroy(&core->lock);
    free(core->boot);
    free(core);
}

const ScQueueWork sc_far_work = {
    .begin = begin,
    .run = run,
    .refuse = refuse,
    .end = end,
    .free = free_core,
};

#endif
