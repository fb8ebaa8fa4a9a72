#include "core/interpreter_pool.h"

#include "core/module.h"

#if SC_HAS_OWN_GIL

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/fork.h"

#define WORKERS_MAX 1024
/* How soon a wait sees a signal. */
#define SLICE INT64_C(50000000)

/* -- core and queue ------------------------------------------------------- */

static void
name_jobs(ScForkEntry *entry, char *text, size_t room)
{
    ScFarPool *pool =
        (ScFarPool *)((char *)entry - offsetof(ScFarPool, entry));
    sc_far_name_jobs(pool->core, text, room);
}

static ScFarCore *
core_new(const char *boot, Py_ssize_t size)
{
    ScFarCore *core = calloc(1, sizeof(*core));
    char *copy = core ? malloc((size_t)size) : NULL;
    if (copy == NULL) {
        free(core);
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(copy, boot, (size_t)size);
    core->boot = copy;
    core->boot_size = (size_t)size;
    core->near = PyInterpreterState_Get();
    pthread_mutex_init(&core->lock, NULL);
    return core;
}

/* This process's, or NULL where there is none yet. */
static ScQueue *
present_queue(ScFarPool *pool)
{
    return pool->generation == sc_fork_generation() ? pool->queue : NULL;
}

/* A child leaves alone what its parent had, and has a core of its own. */
static int
renew_core(ScFarPool *pool)
{
    if (pool->queue == NULL) {
        return 0;
    }
    ScFarCore *core =
        core_new(pool->core->boot, (Py_ssize_t)pool->core->boot_size);
    if (core == NULL) {
        return -1;
    }
    core->pool = pool;
    pool->core = core;
    pool->queue = NULL;
    return 0;
}

/* As present_queue, made if need be.  NULL with an error set. */
static ScQueue *
ensure_queue(ScFarPool *pool)
{
    ScQueue *queue;
    Py_BEGIN_CRITICAL_SECTION(pool);
    queue = present_queue(pool);
    if (queue == NULL && renew_core(pool) == 0 && sc_fork_watch() == 0) {
        sc_far_watch_forks();
        const char *name = PyUnicode_AsUTF8(pool->name);
        queue =
            name ? sc_queue_new(&sc_far_work, pool->core, name, pool->workers,
                                (size_t)pool->room, pool->idle_ns, false)
                 : NULL;
        if (queue != NULL) {
            pool->queue = queue;
            pool->generation = sc_fork_generation();
            pool->entry = (ScForkEntry){.wait_ns = pool->fork_ns,
                                        .name_jobs = name_jobs};
            sc_fork_enter(&pool->entry, queue);
        }
        else if (name != NULL) {
            PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    Py_END_CRITICAL_SECTION();
    return queue;
}

/* -- submitting ----------------------------------------------------------- */

static PyObject *
refuse_job(ScFarPool *pool, int code)
{
    if (code == SC_QUEUE_FULL) {
        pool->was_full = true;
        return sc_error_raise_overloaded(
            pool->st, SC_E_QUEUE_FULL, "max_queue",
            "run_cpu: %zd calls wait for %u interpreters, as "
            "many as may (max_queue)",
            pool->room, pool->workers);
    }
    if (code == SC_QUEUE_CLOSED) {
        return PyErr_Format(PyExc_RuntimeError,
                            "cannot schedule new futures after shutdown of "
                            "pool %R",
                            pool->name);
    }
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(submit_doc,
             "submit($self, call, envelope, /)\n--\n\n"
             "Run call.fn(*call.args, **call.kwargs) in a sub-interpreter, "
             "inside the\nrequest of the envelope where there is one, and "
             "tell call.future.  Returns\nthe job.");

static PyObject *
pool_submit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    ScFarPool *pool = (ScFarPool *)self;
    if (nargs != 2 || !(args[1] == Py_None || PyBytes_CheckExact(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "submit() needs a call and an "
                                         "envelope, bytes or None");
        return NULL;
    }
    if (pool->closed) {
        return refuse_job(pool, SC_QUEUE_CLOSED);
    }
    if (sc_is_finalizing()) {
        PyErr_SetString(PyExc_RuntimeError, "cannot schedule new futures "
                                            "after interpreter shutdown");
        return NULL;
    }
    ScQueue *queue = ensure_queue(pool);
    ScFarJob *job = queue ? sc_far_job_new(pool, args[0], args[1]) : NULL;
    if (job == NULL) {
        return NULL;
    }
    sc_fork_check();
    sc_shares_release(&pool->core->home);
    Py_INCREF(job); /* the queue's */
    int code = sc_queue_push(queue, &job->queued);
    if (code < 0) {
        refuse_job(pool, code);
        PyObject *error = sc_error_take();
        sc_far_job_clear(job);
        Py_DECREF(job);
        Py_DECREF(job);
        sc_error_restore(error);
        return NULL;
    }
    return (PyObject *)job;
}

PyDoc_STRVAR(cancel_doc,
             "cancel($self, job, /)\n--\n\n"
             "Nobody wants it any more.  True: it runs, and does so to its "
             "end, as an\norphan.  False: it was not begun, and is dropped, "
             "or has ended.");

static PyObject *
pool_cancel(PyObject *self, PyObject *arg)
{
    ScFarPool *pool = (ScFarPool *)self;
    ScQueue *queue = present_queue(pool);
    if (!Py_IS_TYPE(arg, pool->st->interpreter_job_type)) {
        return PyErr_Format(PyExc_TypeError, "cancel() needs a job, not %R",
                            arg);
    }
    ScFarJob *job = (ScFarJob *)arg;
    if (queue == NULL || job->core != pool->core) {
        Py_RETURN_FALSE;
    }
    if (sc_queue_remove(queue, &job->queued)) {
        sc_far_job_clear(job);
        Py_DECREF(job);
        Py_RETURN_FALSE;
    }
    /* Counted before it is one: who ends it counts down. */
    int state = SC_FAR_WANTED;
    atomic_fetch_add(&pool->core->orphans, 1);
    if (!atomic_compare_exchange_strong(&job->state, &state, SC_FAR_ORPHAN)) {
        atomic_fetch_sub(&pool->core->orphans, 1);
    }
    return PyBool_FromLong(state != SC_FAR_ENDED);
}

/* -- its end -------------------------------------------------------------- */

/* Jobs that nobody will begin; their futures are cancelled. */
static void
cancel_jobs(ScQueued *jobs)
{
    while (jobs != NULL) {
        ScFarJob *job =
            (ScFarJob *)((char *)jobs - offsetof(ScFarJob, queued));
        jobs = jobs->next;
        ScState *st = job->pool->st;
        PyObject *future = Py_NewRef(job->future);
        atomic_store(&job->state, SC_FAR_ENDED);
        sc_far_job_clear(job);
        Py_DECREF(job);
        PyObject *told = PyObject_CallMethodNoArgs(future, st->str_cancel);
        if (told == NULL) {
            PyErr_WriteUnraisable(future);
        }
        Py_XDECREF(told);
        Py_DECREF(future);
    }
}

/* In slices, so that a signal's handler runs and may raise.  How many threads
 * are left, or -1 with an error set. */
static Py_ssize_t
wait_for_end(ScQueue *queue, int64_t until)
{
    for (;;) {
        int64_t now = sc_clock_now();
        int64_t slice = until < now + SLICE ? until : now + SLICE;
        size_t left;
        Py_BEGIN_ALLOW_THREADS
        left = sc_queue_join(queue, slice);
        Py_END_ALLOW_THREADS
        if (left == 0 || slice == until) {
            return (Py_ssize_t)left;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
}

PyDoc_STRVAR(stop_doc,
             "stop($self, timeout, /)\n--\n\n"
             "Take no more jobs, cancel those that wait, end the idle "
             "interpreters, and\nwait at most timeout seconds for the others. "
             " Returns how many are left.");

static PyObject *
pool_stop(PyObject *self, PyObject *arg)
{
    ScFarPool *pool = (ScFarPool *)self;
    double timeout = PyFloat_AsDouble(arg);
    if (timeout == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(timeout >= 0.0)) {
        return PyErr_Format(PyExc_ValueError,
                            "timeout must be 0 or more seconds, not %R", arg);
    }
    if (sc_queue_is_here()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a pool cannot wait for itself: this is one of its "
                        "own threads");
        return NULL;
    }
    pool->closed = true;
    ScQueue *queue = present_queue(pool);
    Py_ssize_t left = 0;
    if (queue != NULL) {
        int64_t span = sc_clock_from_seconds(timeout);
        int64_t now = sc_clock_now();
        sc_queue_close(queue);
        cancel_jobs(sc_queue_drain(queue));
        left =
            wait_for_end(queue, span < SC_NEVER - now ? now + span : SC_NEVER);
        sc_shares_release(&pool->core->home);
    }
    return left < 0 ? NULL : PyLong_FromSsize_t(left);
}

static PyObject *
pool_interrupt(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ScFarPool *pool = (ScFarPool *)self;
    if (present_queue(pool) != NULL) {
        sc_far_interrupt(pool->core);
    }
    Py_RETURN_NONE;
}

static PyObject *
pool_names(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ScFarPool *pool = (ScFarPool *)self;
    char text[4096] = "";
    if (present_queue(pool) != NULL) {
        sc_far_name_jobs(pool->core, text, sizeof(text));
    }
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text),
                                "backslashreplace");
}

static PyObject *
pool_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ScFarPool *pool = (ScFarPool *)self;
    ScQueue *queue = present_queue(pool);
    ScQueueStats stats = {0};
    if (queue != NULL) {
        stats = sc_queue_stats(queue);
        sc_shares_release(&pool->core->home);
    }
    size_t orphans = queue ? atomic_load(&pool->core->orphans) : 0;
    return Py_BuildValue(
        "{s:n,s:n,s:n,s:n,s:n}", "workers", (Py_ssize_t)stats.threads, "idle",
        (Py_ssize_t)stats.idle, "queued", (Py_ssize_t)stats.queued, "running",
        (Py_ssize_t)stats.running, "orphans", (Py_ssize_t)orphans);
}

/* -- the type ------------------------------------------------------------- */

static int
set_hooks(ScFarPool *pool, PyObject *hooks)
{
#define X(name)                                                        \
    if ((pool->name = PyObject_GetAttrString(hooks, #name)) == NULL) { \
        return -1;                                                     \
    }
    SC_FAR_HOOKS(X)
#undef X
    pool->functions = PyDict_New();
    return pool->functions ? 0 : -1;
}

static int
check_numbers(int workers, Py_ssize_t room, double idle, double fork_wait)
{
    if (workers < 1 || workers > WORKERS_MAX) {
        PyErr_Format(PyExc_ValueError, "workers must be from 1 to %d, not %d",
                     WORKERS_MAX, workers);
    }
    else if (room < 0) {
        PyErr_Format(PyExc_ValueError, "room must be 0 jobs or more, not %zd",
                     room);
    }
    else if (!(idle >= 0.0) || !(fork_wait >= 0.0)) {
        PyErr_SetString(PyExc_ValueError,
                        "idle and fork_wait must be 0 or more seconds");
    }
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"workers",   (char *)"name",
                            (char *)"boot",      (char *)"hooks",
                            (char *)"room",      (char *)"idle",
                            (char *)"fork_wait", NULL};
    int workers;
    PyObject *name, *hooks;
    const char *boot;
    Py_ssize_t size, room = 65536;
    double idle = 60.0, fork_wait = 5.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iUy#O|ndd:InterpreterPool",
                                     names, &workers, &name, &boot, &size,
                                     &hooks, &room, &idle, &fork_wait) ||
        check_numbers(workers, room, idle, fork_wait) < 0) {
        return NULL;
    }
    ScState *st = sc_state_of_type(type);
    ScFarPool *pool = st ? (ScFarPool *)type->tp_alloc(type, 0) : NULL;
    if (pool == NULL) {
        return NULL;
    }
    pool->st = st;
    pool->name = Py_NewRef(name);
    pool->workers = (unsigned)workers;
    pool->room = room;
    pool->idle_ns = sc_clock_from_seconds(idle);
    pool->fork_ns = sc_clock_from_seconds(fork_wait);
    pool->generation = sc_fork_generation();
    pool->core = core_new(boot, size);
    if (pool->core == NULL || set_hooks(pool, hooks) < 0) {
        Py_DECREF(pool);
        return NULL;
    }
    pool->core->pool = pool;
    return (PyObject *)pool;
}

static int
pool_traverse(PyObject *self, visitproc visit, void *arg)
{
    ScFarPool *pool = (ScFarPool *)self;
    Py_VISIT(Py_TYPE(self));
#define X(name) Py_VISIT(pool->name);
    SC_FAR_HOOKS(X)
#undef X
    Py_VISIT(pool->functions);
    return 0;
}

static int
pool_clear(PyObject *self)
{
    ScFarPool *pool = (ScFarPool *)self;
    Py_CLEAR(pool->functions);
#define X(name) Py_CLEAR(pool->name);
    SC_FAR_HOOKS(X)
#undef X
    return 0;
}

/* No job is left: each holds its pool. */
static void
pool_dealloc(PyObject *self)
{
    ScFarPool *pool = (ScFarPool *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    ScQueue *queue = present_queue(pool);
    if (pool->core != NULL) {
        pool->core->pool = NULL;
    }
    if (queue != NULL) {
        sc_shares_release(&pool->core->home);
        sc_queue_close(queue);
        sc_fork_leave(&pool->entry);
        sc_queue_let_go(queue);
    }
    else if (pool->core != NULL && pool->queue == NULL) {
        pthread_mutex_destroy(&pool->core->lock);
        free(pool->core->boot);
        free(pool->core);
    }
    pool_clear(self);
    Py_XDECREF(pool->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef pool_members[] = {
    {"name", T_OBJECT, offsetof(ScFarPool, name), READONLY,
     "What its threads are called."},
    {"workers", T_UINT, offsetof(ScFarPool, workers), READONLY,
     "How many interpreters there may be."},
    {0},
};

static PyMethodDef pool_methods[] = {
    {"submit", SC_METHOD(pool_submit), METH_FASTCALL, submit_doc},
    {"cancel", pool_cancel, METH_O, cancel_doc},
    {"stop", pool_stop, METH_O, stop_doc},
    {"interrupt", pool_interrupt, METH_NOARGS,
     "interrupt($self)\n--\n\n"
     "Raise SystemExit in what runs, where that runs Python."},
    {"names", pool_names, METH_NOARGS,
     "names($self)\n--\n\nOf what runs, a line for each."},
    {"stats", pool_stats, METH_NOARGS,
     "stats($self)\n--\n\nWorkers, idle ones of them, and jobs."},
    {0},
};

PyDoc_STRVAR(pool_doc,
             "InterpreterPool(workers, name, boot, hooks, room=65536, "
             "idle=60.0, fork_wait=5.0)\n--\n\n"
             "A pool of native threads, each with a sub-interpreter that has "
             "a GIL of its\nown; started on demand, kept warm, ended when "
             "idle for so many seconds.");

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, (void *)pool_doc},
    {Py_tp_new, SC_SLOT(pool_new)},
    {Py_tp_dealloc, SC_SLOT(pool_dealloc)},
    {Py_tp_traverse, SC_SLOT(pool_traverse)},
    {Py_tp_clear, SC_SLOT(pool_clear)},
    {Py_tp_methods, pool_methods},
    {Py_tp_members, pool_members},
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "sidecar._core.InterpreterPool",
    .basicsize = sizeof(ScFarPool),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

static PyMethodDef functions[] = {
    {"_interpreters_before_fork", sc_fork_before, METH_NOARGS, NULL},
    {"_interpreters_after_fork", sc_fork_after, METH_NOARGS, NULL},
    {0},
};

int
sc_interpreter_pool_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_far_job_type(module) < 0 ||
        PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    return sc_type_add(module, &st->interpreter_pool_type, &pool_spec, NULL,
                       "InterpreterPool");
}

#else

int
sc_interpreter_pool_init(PyObject *Py_UNUSED(module))
{
    return 0;
}

#endif
