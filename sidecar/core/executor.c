#include "core/module.h"

#include <errno.h>
#include <structmember.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/fork.h"
#include "core/job.h"
#include "core/limit.h"
#include "core/lineage.h"
#include "core/pool_call.h"
#include "core/state.h"
#include "core/threads.h"

#define DEFAULT_ROOM 65536
/* How soon a wait in the main thread sees a signal. */
#define SLICE_NS INT64_C(50000000)

typedef struct {
    PyObject_HEAD
    ScState *st;
    PyObject *name;
    PyObject *places; /* of the queue, for those who wait for one; or NULL */
    PyInterpreterState *interp;
    ScThreads *threads; /* NULL until the first job; a fork's child: stale */
    unsigned generation;
    unsigned workers;
    Py_ssize_t room;
    int64_t keep;
    atomic_ullong refused;
    atomic_bool closed; /* set under the object, read anywhere */
} PoolObject;

/* The threads of this process, or NULL where none were made yet. */
static ScThreads *
present_threads(PoolObject *pool)
{
    return pool->generation == sc_fork_generation() ? pool->threads : NULL;
}

static PyObject *
refuse_closed(PoolObject *pool)
{
    return PyErr_Format(
        PyExc_RuntimeError,
        "cannot schedule new futures after shutdown of pool %R", pool->name);
}

/* In the critical section.  NULL with an error set. */
static ScThreads *
make_threads(PoolObject *pool)
{
    /* What a parent had is left alone: its lock may be held for good. */
    const char *name = PyUnicode_AsUTF8(pool->name);
    if (name == NULL) {
        return NULL;
    }
    ScThreads *threads = sc_threads_new(&sc_job_threads, pool->interp, name,
                                        pool->workers, (size_t)pool->room);
    if (threads == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    sc_threads_keep(threads, pool->keep);
    pool->threads = threads;
    pool->generation = sc_fork_generation();
    return threads;
}

/* Those of present_threads, made if need be; but not behind the back of who
 * closes the pool just now, and sees that there are none to end.  NULL with an
 * error set. */
static ScThreads *
ensure_threads(PoolObject *pool)
{
    ScThreads *threads;
    bool closed;
    Py_BEGIN_CRITICAL_SECTION(pool);
    threads = present_threads(pool);
    closed = atomic_load(&pool->closed);
    if (threads == NULL && !closed) {
        threads = make_threads(pool);
    }
    Py_END_CRITICAL_SECTION();
    if (threads == NULL && closed) {
        refuse_closed(pool);
    }
    return threads;
}

static PyObject *
refuse_job(PoolObject *pool, int code)
{
    if (code == SC_THREADS_CLOSED) {
        return refuse_closed(pool);
    }
    if (code == SC_THREADS_FULL) {
        atomic_fetch_add(&pool->refused, 1);
        return sc_error_raise_overloaded(
            pool->st, SC_E_QUEUE_FULL, "max_queue",
            "pool %R is full: %zd jobs wait for its %u threads, as many as "
            "may (max_queue)",
            pool->name, pool->room, pool->workers);
    }
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* How long a thread that looks out takes to see a job and to ask for the GIL,
 * in looks: less than a microsecond. */
enum { HAND_OVER = 40 };

/* A loop that has no other job to hear of will wait for this one: it lets go
 * first, so that the thread that it wakes finds the GIL free. */
static void
wake(const ScSummons *summons, bool alone)
{
    if (!alone || !(summons->sleeps || summons->looks_out)) {
        sc_threads_wake(summons);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    sc_threads_wake(summons);
    if (summons->looks_out) {
        for (int i = 0; i < HAND_OVER; i++) {
            sc_relax();
        }
    }
    Py_END_ALLOW_THREADS
}

/* The job and the threads to give it to, or NULL with an error set. */
static ScJob *
make_job(PoolObject *pool, PyObject *const *args, Py_ssize_t nargs,
         PyObject *kwnames, const ScJobTarget *target, ScThreads **threads)
{
    if (atomic_load_explicit(&pool->closed, memory_order_relaxed)) {
        refuse_closed(pool);
        return NULL;
    }
    if (sc_is_finalizing()) {
        PyErr_SetString(PyExc_RuntimeError, "cannot schedule new futures "
                                            "after interpreter shutdown");
        return NULL;
    }
    *threads = ensure_threads(pool);
    return *threads ? sc_job_new(pool->st, args, nargs, kwnames, target)
                    : NULL;
}

/* A place of the queue, which the target has then.  `waits`: for as long as
 * the pool's own method says.  0, or -1 with an error set. */
static int
take_place(PoolObject *pool, ScJobTarget *target, bool waits)
{
    if (pool->places == NULL || target->places != NULL) {
        return 0;
    }
    if (!sc_places_take(pool->places)) {
        if (!waits) {
            return 0; /* the queue may have room all the same: is_full */
        }
        /* No code of ours in Python comes after it: a signal's handler finds
         * nothing to raise in while the place is nobody's. */
        PyObject *none =
            PyObject_CallMethod((PyObject *)pool, "_wait_for_room", NULL);
        if (none == NULL) {
            return -1;
        }
        Py_DECREF(none);
    }
    target->places = pool->places;
    return 0;
}

static int
submit_job(PoolObject *pool, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames, const ScJobTarget *target, bool waits)
{
    ScThreads *threads;
    ScJobTarget own = *target;
    if (take_place(pool, &own, waits) < 0) {
        return -1;
    }
    ScJob *job = make_job(pool, args, nargs, kwnames, &own, &threads);
    if (job == NULL) {
        if (own.places != NULL) {
            sc_places_give_back(own.places);
        }
        return -1;
    }
    ScSummons summons;
    bool alone = sc_job_is_alone(job);
    int code = sc_threads_push(threads, job, &summons);
    wake(&summons, alone);
    if (code < 0) {
        refuse_job(pool, code);
        PyObject *error = sc_error_take();
        sc_job_free(job);
        sc_error_restore(error);
        return -1;
    }
    return 0;
}

int
sc_pool_submit(PyObject *pool, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames, const ScJobTarget *target)
{
    return submit_job((PoolObject *)pool, args, nargs, kwnames, target, false);
}

PyDoc_STRVAR(submit_doc,
             "submit($self, fn, /, *args, **kwargs)\n--\n\n"
             "Run fn(*args, **kwargs) on a thread of the pool, in a copy of "
             "the\ncaller's context.  Returns a concurrent.futures.Future.");

static PyObject *
pool_submit(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PoolObject *pool = (PoolObject *)self;
    if (nargs < 1 || !PyCallable_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError,
                            nargs < 1 ? "submit() needs a callable"
                                      : "submit() needs a callable, not %R",
                            nargs < 1 ? NULL : args[0]);
    }
    PyObject *future = PyObject_CallNoArgs(pool->st->concurrent_future);
    if (future == NULL) {
        return NULL;
    }
    ScJobTarget target = {.future = future};
    if (submit_job(pool, args, nargs, kwnames, &target, true) < 0) {
        Py_CLEAR(future);
    }
    return future;
}

PyDoc_STRVAR(submit_into_doc,
             "submit_into($self, future, fn, /, *args, **kwargs)\n--\n\n"
             "As submit, with a concurrent.futures.Future of the caller's "
             "making.");

static PyObject *
pool_submit_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    if (nargs < 2) {
        return PyErr_Format(PyExc_TypeError,
                            "submit_into() needs a future and a callable");
    }
    ScJobTarget target = {.future = args[0]};
    if (submit_job((PoolObject *)self, args + 1, nargs - 1, kwnames, &target,
                   true) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
pool_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    return sc_pool_call(self, NULL, args, nargs, kwnames);
}

static PyObject *
pool_call_placed(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *places = ((PoolObject *)self)->places;
    if (places == NULL) {
        return PyErr_Format(PyExc_RuntimeError, "%R has no places", self);
    }
    PyObject *call = sc_pool_call(self, places, args, nargs, kwnames);
    if (call == NULL) {
        sc_places_give_back(places);
    }
    return call;
}

PyDoc_STRVAR(run_in_doc,
             "run_in($self, loop, fn, /, *args)\n--\n\n"
             "loop.run_in_executor()'s work: fn(*args) on the pool; returns a "
             "future of\nthe loop, which must be running on this thread.");

static PyObject *
pool_run_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PoolObject *pool = (PoolObject *)self;
    if (nargs < 2 || !PyCallable_Check(args[1])) {
        return PyErr_Format(PyExc_TypeError,
                            "run_in() needs a loop and a callable");
    }
    /* What the job does is done for a call: cycle.h. */
    if (PyObject_TypeCheck(args[0], pool->st->loop_type) &&
        ((ScLoop *)args[0])->bridged &&
        sc_lineage_mark((ScLoop *)args[0]) < 0) {
        return NULL;
    }
    PyObject *future =
        PyObject_CallMethodNoArgs(args[0], pool->st->str_create_future);
    if (future == NULL) {
        return NULL;
    }
    ScJobTarget target = {.future = future, .loop = args[0], .converts = true};
    if (sc_pool_submit(self, args + 1, nargs - 1, NULL, &target) < 0) {
        Py_CLEAR(future);
    }
    return future;
}

/* Wait until the threads have ended, in slices, so that a signal's handler
 * runs and may raise.  How many are left, or -1 with an error set. */
static Py_ssize_t
wait_for_end(PoolObject *pool, ScThreads *threads, int64_t until)
{
    if (sc_threads_is_worker(threads)) {
        PyErr_Format(PyExc_RuntimeError,
                     "pool %R cannot wait for itself: this is one of its own "
                     "threads",
                     pool->name);
        return -1;
    }
    for (;;) {
        int64_t now = sc_clock_now();
        int64_t slice = until < now + SLICE_NS ? until : now + SLICE_NS;
        size_t left;
        Py_BEGIN_ALLOW_THREADS
        left = sc_threads_join(threads, slice);
        Py_END_ALLOW_THREADS
        if (left == 0) {
            /* Only where no thread could begin is there anything left. */
            sc_job_cancel(sc_threads_drain(threads));
            return 0;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (slice == until) {
            return (Py_ssize_t)left;
        }
    }
}

/* Refuse new jobs.  The threads, where there are any. */
static ScThreads *
close_pool(PoolObject *pool)
{
    ScThreads *threads;
    Py_BEGIN_CRITICAL_SECTION(pool);
    atomic_store(&pool->closed, true);
    threads = present_threads(pool);
    Py_END_CRITICAL_SECTION();
    if (threads != NULL) {
        sc_threads_close(threads);
    }
    return threads;
}

PyDoc_STRVAR(shutdown_doc,
             "shutdown($self, wait=True, *, cancel_futures=False)\n--\n\n"
             "Take no more jobs.  What is queued still runs, or is cancelled; "
             "with\nwait, return when the last thread has ended.");

static PyObject *
pool_shutdown(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"wait", (char *)"cancel_futures", NULL};
    int wait = 1, cancel = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p$p:shutdown", names,
                                     &wait, &cancel)) {
        return NULL;
    }
    ScThreads *threads = close_pool((PoolObject *)self);
    if (threads != NULL && cancel) {
        sc_job_cancel(sc_threads_drain(threads));
    }
    if (threads != NULL && wait &&
        wait_for_end((PoolObject *)self, threads, SC_NEVER) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
             "stop($self, timeout, /)\n--\n\n"
             "Take no more jobs, cancel the queued ones, and wait at most "
             "timeout\nseconds for the running ones.  Returns what is still "
             "running then, a text\nfor each job.");

static PyObject *
pool_stop(PyObject *self, PyObject *arg)
{
    double timeout = PyFloat_AsDouble(arg);
    if (timeout == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(timeout >= 0.0)) {
        return PyErr_Format(PyExc_ValueError,
                            "timeout must be 0 or more seconds, not %R", arg);
    }
    ScThreads *threads = close_pool((PoolObject *)self);
    Py_ssize_t left = 0;
    if (threads != NULL) {
        int64_t span = sc_clock_from_seconds(timeout);
        int64_t now = sc_clock_now();
        sc_job_cancel(sc_threads_drain(threads));
        left = wait_for_end((PoolObject *)self, threads,
                            span < SC_NEVER - now ? now + span : SC_NEVER);
    }
    if (left < 0) {
        return NULL;
    }
    return left > 0 ? sc_job_list_running(threads) : PyList_New(0);
}

PyDoc_STRVAR(running_doc,
             "running($self)\n--\n\n"
             "What its threads are in the middle of, a text for each job.");

static PyObject *
pool_running(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ScThreads *threads = present_threads((PoolObject *)self);
    return threads ? sc_job_list_running(threads) : PyList_New(0);
}

PyDoc_STRVAR(keep_doc,
             "keep($self, seconds, /)\n--\n\n"
             "How long a thread that has nothing to do is kept; 60 seconds "
             "where this was\nnot called.  Those that sleep already keep to "
             "what they were told.");

static PyObject *
pool_keep(PyObject *self, PyObject *arg)
{
    PoolObject *pool = (PoolObject *)self;
    double seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(seconds >= 0.0)) {
        return PyErr_Format(PyExc_ValueError,
                            "threads are kept for 0 or more seconds, not %R",
                            arg);
    }
    Py_BEGIN_CRITICAL_SECTION(pool);
    pool->keep = sc_clock_from_seconds(seconds);
    ScThreads *threads = present_threads(pool);
    if (threads != NULL) {
        sc_threads_keep(threads, pool->keep);
    }
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

static PyObject *
pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"workers", (char *)"name", (char *)"room",
                            (char *)"places", NULL};
    int workers;
    PyObject *name, *places = Py_None;
    Py_ssize_t room = DEFAULT_ROOM;
    ScState *st = sc_state_of_type(type);
    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "iU|nO:Pool", names,
                                     &workers, &name, &room, &places)) {
        return NULL;
    }
    if (places != Py_None && !Py_IS_TYPE(places, st->places_type)) {
        return PyErr_Format(PyExc_TypeError,
                            "places must be Places, or None, not %R", places);
    }
    if (workers < 1 || workers > SC_THREADS_MAX) {
        return PyErr_Format(PyExc_ValueError,
                            "workers must be from 1 to %d, not %d",
                            SC_THREADS_MAX, workers);
    }
    if (room < 0) {
        return PyErr_Format(PyExc_ValueError,
                            "room must be 0 jobs or more, not %zd", room);
    }
    PoolObject *pool = (PoolObject *)type->tp_alloc(type, 0);
    if (pool == NULL) {
        return NULL;
    }
    pool->st = st;
    pool->name = Py_NewRef(name);
    pool->places = places != Py_None ? Py_NewRef(places) : NULL;
    pool->keep = SC_THREADS_KEEP;
    pool->interp = PyInterpreterState_Get();
    pool->workers = (unsigned)workers;
    pool->room = room;
    pool->generation = sc_fork_generation();
    return (PyObject *)pool;
}

static int
pool_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((PoolObject *)self)->places);
    return 0;
}

static void
pool_dealloc(PyObject *self)
{
    PoolObject *pool = (PoolObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    ScThreads *threads = present_threads(pool);
    if (threads != NULL) {
        sc_threads_close(threads);
        if (sc_threads_stats(threads).threads == 0) {
            sc_job_cancel(sc_threads_drain(threads));
        }
        sc_threads_free(threads);
    }
    Py_XDECREF(pool->name);
    Py_XDECREF(pool->places);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
pool_repr(PyObject *self)
{
    PoolObject *pool = (PoolObject *)self;
    ScThreads *threads = present_threads(pool);
    ScThreadsStats stats = {0};
    if (threads != NULL) {
        stats = sc_threads_stats(threads);
    }
    return PyUnicode_FromFormat(
        "<%s %R: %zu of %u threads, %zu idle, %zu jobs wait%s>",
        Py_TYPE(self)->tp_name, pool->name, stats.threads, pool->workers,
        stats.idle, stats.queued,
        atomic_load(&pool->closed) ? ", shut down" : "");
}

enum { GET_THREADS, GET_IDLE, GET_QUEUED };

static PyObject *
pool_get(PyObject *self, void *closure)
{
    ScThreads *threads = present_threads((PoolObject *)self);
    ScThreadsStats stats = {0};
    if (threads != NULL) {
        stats = sc_threads_stats(threads);
    }
    size_t values[] = {stats.threads, stats.idle, stats.queued};
    return PyLong_FromSize_t(values[(intptr_t)closure]);
}

static PyObject *
pool_get_refused(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(
        atomic_load(&((PoolObject *)self)->refused));
}

static PyGetSetDef pool_getset[] = {
    {"threads", pool_get, NULL, "How many threads there are now.",
     (void *)GET_THREADS},
    {"idle", pool_get, NULL, "How many of them have nothing to do.",
     (void *)GET_IDLE},
    {"queued", pool_get, NULL, "How many jobs wait for a thread.",
     (void *)GET_QUEUED},
    {"refused", pool_get_refused, NULL,
     "How many jobs there was no room for, so far.", NULL},
    {0},
};

static PyMemberDef pool_members[] = {
    {"name", T_OBJECT, offsetof(PoolObject, name), READONLY,
     "What its threads are called."},
    {"places", T_OBJECT, offsetof(PoolObject, places), READONLY,
     "Where those stand in line who wait for room; or None."},
    {"workers", T_UINT, offsetof(PoolObject, workers), READONLY,
     "How many threads there may be."},
    {0},
};

static PyMethodDef pool_methods[] = {
    {"submit", SC_METHOD(pool_submit), METH_FASTCALL | METH_KEYWORDS,
     submit_doc},
    {"submit_into", SC_METHOD(pool_submit_into), METH_FASTCALL | METH_KEYWORDS,
     submit_into_doc},
    {"run_in", SC_METHOD(pool_run_in), METH_FASTCALL, run_in_doc},
    {"call", SC_METHOD(pool_call), METH_FASTCALL | METH_KEYWORDS,
     "call($self, context, fn, /, *args, **kwargs)\n--\n\n"
     "A coroutine that runs fn on the pool: in that context, or, where it is "
     "None,\nin a copy of the one in which it is awaited."},
    {"call_placed", SC_METHOD(pool_call_placed), METH_FASTCALL | METH_KEYWORDS,
     "call_placed($self, context, fn, /, *args, **kwargs)\n--\n\n"
     "As call, by who has taken one of the pool's places."},
    {"shutdown", SC_METHOD(pool_shutdown), METH_VARARGS | METH_KEYWORDS,
     shutdown_doc},
    {"stop", pool_stop, METH_O, stop_doc},
    {"running", pool_running, METH_NOARGS, running_doc},
    {"keep", pool_keep, METH_O, keep_doc},
    {0},
};

PyDoc_STRVAR(pool_doc,
             "Pool(workers, name, room=65536, places=None)\n--\n\n"
             "A pool of native threads, started on demand up to `workers`; "
             "they end when\nthey have had nothing to do for a minute.  At "
             "most `room` jobs wait; one more\nis QueueFull.  places: Places, "
             "as many, where submit() is to wait instead, for\nas long as "
             "self._wait_for_room() does.  Its threads do not hold up the\n"
             "interpreter's exit, and the child of a fork finds it empty.");

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, (void *)pool_doc},
    {Py_tp_new, SC_SLOT(pool_new)},
    {Py_tp_dealloc, SC_SLOT(pool_dealloc)},
    {Py_tp_traverse, SC_SLOT(pool_traverse)},
    {Py_tp_repr, SC_SLOT(pool_repr)},
    {Py_tp_methods, pool_methods},
    {Py_tp_members, pool_members},
    {Py_tp_getset, pool_getset},
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "sidecar._core.Pool",
    .basicsize = sizeof(PoolObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

int
sc_executor_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->pool_type, &pool_spec, NULL, "Pool");
}
