/* Interpreter pool: what its parts know of one another.
 *
 * The pool is an object of the near interpreter, the one that makes calls; it
 * dies like any other.  Its core is what the threads share with it: plain
 * memory that goes with the last of them (interpreter_queue.h).  A worker is
 * one thread with a sub-interpreter of its own, the far one, and a thread
 * state in either, at most one of which is attached.  A job is an object of
 * the near interpreter, held by the queue or by the worker that runs it.
 *
 * What holds: near objects are touched attached to the near interpreter, far
 * ones attached to the far one.  No thread waits for one GIL while it has
 * another.  core->pool is read and cleared attached to the near one; a job
 * holds its pool, so for a worker with a job it is there.  core->lock guards
 * the list of workers and the names of what they run; nothing is called under
 * it.  */
#ifndef SIDECAR_CORE_INTERPRETER_POOL_H
#define SIDECAR_CORE_INTERPRETER_POOL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/attach.h"
#include "core/interpreter_fork.h"
#include "core/interpreter_message.h"
#include "core/interpreter_queue.h"
#include "core/interpreter_share.h"
#include "core/state.h"

struct ScFarWorker;

typedef struct ScFarCore {
    PyInterpreterState *near;
    struct ScFarPool *pool; /* borrowed; NULL: it has gone */
    ScShareHome home;
    char *boot; /* marshalled code of the far side's module */
    size_t boot_size;
    pthread_mutex_t lock;
    struct ScFarWorker *workers;
    atomic_size_t orphans;
} ScFarCore;

/* Python functions of the near side (sidecar/cpu/interpreters.py). */
#define SC_FAR_HOOKS(X)                                                  \
    X(prepare)      /* () -> bytes for the far side's begin() */         \
    X(refer)        /* (fn) -> "module\nname", or None: by value */      \
    X(pack_args)    /* (args, kwargs, name) -> (bytes, *buffers) */      \
    X(pack_call)    /* (fn, args, kwargs, name) -> likewise */           \
    X(load_result)  /* (bytes, buffers, name) -> result */               \
    X(load_error)   /* (bytes, name) -> exception */                     \
    X(start_failed) /* (text) -> exception */                            \
    X(refusal)      /* a class of exceptions: a module does not load */  \
    X(refused)      /* (call, one of these), instead of future.fail() */ \
    X(room_made)    /* (): once it was full, for each that has left */   \
    X(orphan_ended) /* (call) */

typedef struct ScFarPool {
    PyObject_HEAD
    ScState *st;
    PyObject *name;
#define X(name) PyObject *name;
    SC_FAR_HOOKS(X)
#undef X
    PyObject *functions; /* fn -> capsule with its ScFarFunction, or None */
    _Atomic(uint64_t) numbers;
    ScFarCore *core;
    ScQueue *queue; /* NULL: none yet; in a fork's child: stale */
    ScForkEntry entry;
    unsigned generation;
    unsigned workers;
    Py_ssize_t room;
    int64_t idle_ns, fork_ns;
    bool closed, was_full;
} ScFarPool;

/* A function that is known by name; the same in every interpreter. */
typedef struct {
    uint64_t number;
    char *reference; /* UTF-8 */
} ScFarFunction;

typedef enum { SC_FAR_NAMED, SC_FAR_NAMED_PICKLED, SC_FAR_PICKLED } ScFarKind;
/* An orphan runs though nobody wants its outcome.  It ends once. */
typedef enum { SC_FAR_WANTED, SC_FAR_ORPHAN, SC_FAR_ENDED } ScFarState;
typedef enum { SC_FAR_PLAIN, SC_FAR_LOADED, SC_FAR_FAILED } ScFarOutcome;

typedef struct {
    PyObject_HEAD
    ScQueued queued;
    const ScFarCore *core; /* of its pool in this process; for comparison */
    ScFarPool *pool;       /* strong, as all of these, until it was told */
    PyObject *future;
    PyObject *call;
    PyObject *name_object;
    PyObject *capsule;
    PyObject *envelope; /* bytes, or NULL */
    const char *name;   /* of name_object */
    const ScFarFunction *function;
    ScFarKind kind;
    ScMessage question;
    atomic_int state; /* ScFarState */
} ScFarJob;

/* A worker's far objects: functions of far_interpreter.py and their like. */
#define SC_FAR_NAMES(X) \
    X(loads)            \
    X(resolve)          \
    X(need_main)        \
    X(run_inside)       \
    X(pack_result)      \
    X(pack_error)

typedef struct ScFarWorker {
    ScFarCore *core;
    struct ScFarWorker *next, *before; /* under core->lock, as these: */
    const char *running;               /* its job's name, or NULL */
    unsigned interrupters;             /* threads that are about to */
    ScAttach near;
    PyThreadState *far;
    PyInterpreterState *far_interp;
    unsigned long far_ident;
    ScShareViews views;
    PyObject *functions; /* number -> callable */
    PyObject *kw_buffers;
    ScFarOutcome outcome;
    ScMessage answer; /* written and freed there */
#define X(name) PyObject *name;
    SC_FAR_NAMES(X)
#undef X
} ScFarWorker;

/* interpreter_worker.c */
extern const ScQueueWork sc_far_work;
void sc_far_watch_forks(void);
void sc_far_name_jobs(ScFarCore *core, char *text, size_t room);
/* SystemExit in whatever runs: the process is about to end. */
void sc_far_interrupt(ScFarCore *core);

/* interpreter_far.c: attached to the worker's interpreter. */
void sc_far_job_run(ScFarWorker *worker, ScFarJob *job);

/* interpreter_job.c: attached to the near one. */
int sc_far_job_type(PyObject *module);
ScFarJob *sc_far_job_new(ScFarPool *pool, PyObject *call, PyObject *envelope);
void sc_far_job_tell(ScFarJob *job, ScFarOutcome outcome, ScMessage *answer);
/* As above with that error, borrowed. */
void sc_far_job_fail(ScFarJob *job, PyObject *error);
/* It was not begun, or was told: let go of all that it holds. */
void sc_far_job_clear(ScFarJob *job);

#endif
