#include "core/bridge.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <structmember.h>

#include "core/call.h"
#include "core/clock.h"
#include "core/errors.h"
#include "core/loop_pump.h"
#include "core/module.h"
#include "core/run_args.h"
#include "core/support.h"
#include "core/traceback.h"

enum { BRIDGE_OPEN, BRIDGE_CLOSING, BRIDGE_CLOSED };

typedef struct {
    PyObject_HEAD
    ScState *st;
    ScLoop *loop; /* NULL: not started */
    PyObject *name;
    double timeout; /* s, for calls that name none; < 0: none */
    double cleanup_timeout;
    Py_ssize_t max_calls; /* < 0: no cap, and `in_flight` is not kept */
    _Atomic(Py_ssize_t) in_flight;
    atomic_ullong refused;
    unsigned generation;
    atomic_int state;
    pthread_mutex_t start_lock; /* error-checking; made anew after a fork */
} ScBridge;

/* -- the loop ----------------------------------------------------------- */

static void
make_start_lock(ScBridge *self)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&self->start_lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

/* In a child: the parent's loop is dead here, and the bridge as new. */
static void
forget_parent(ScBridge *self)
{
    ScLoop *loop = self->loop;
    self->loop = NULL;
    self->generation = sc_fork_generation();
    self->in_flight = 0;
    self->refused = 0;
    make_start_lock(self);
    if (self->state == BRIDGE_CLOSING) {
        self->state = BRIDGE_CLOSED;
    }
    if (loop != NULL) {
        sc_poller_fini(&loop->drive->poller);
        if (loop->pump != NULL) {
            sc_pump_close_inherited(loop->pump);
        }
        /* Kept for good: the parent's tasks, half done, hang on it, and must
         * not be closed here; the frames of lost threads may hold it. */
    }
}

static void
check_generation(ScBridge *self)
{
    if (self->generation != sc_fork_generation()) {
        forget_parent(self);
    }
}

/* Under the start lock: make the loop, give it its pump, publish it. */
static int
start(ScBridge *self)
{
    const char *name = PyUnicode_AsUTF8(self->name);
    PyObject *made =
        name ? PyObject_CallMethod((PyObject *)self, "_make_loop", NULL)
             : NULL;
    if (made == NULL) {
        return -1;
    }
    char thread_name[16];
    PyOS_snprintf(thread_name, sizeof(thread_name), "%.10s-pump", name);
    if (sc_loop_start_pump((ScLoop *)made, thread_name) < 0) {
        Py_DECREF(made);
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    self->loop = (ScLoop *)made;
    Py_END_CRITICAL_SECTION();
    return 0;
}

/* New reference to the loop that is there now, or NULL. */
static ScLoop *
present_loop(ScBridge *self)
{
    PyObject *loop;
    Py_BEGIN_CRITICAL_SECTION(self);
    loop = Py_XNewRef((PyObject *)self->loop);
    Py_END_CRITICAL_SECTION();
    return (ScLoop *)loop;
}

/* Take the start lock, detached while another thread has it.  0, or -1 with
 * DeadlockError set: this thread has it. */
static int
lock_start(ScBridge *self)
{
    int rc = pthread_mutex_trylock(&self->start_lock);
    if (rc == EBUSY) {
        PyThreadState *save = PyEval_SaveThread();
        rc = pthread_mutex_lock(&self->start_lock);
        PyEval_RestoreThread(save);
    }
    if (rc == 0) {
        return 0;
    }
    sc_error_raise(self->st, SC_E_DEADLOCK,
                   "the bridge %R is just being started on this thread",
                   self->name);
    return -1;
}

static int
check_state(ScBridge *self, int most_state)
{
    if (self->state <= most_state) {
        return 0;
    }
    sc_error_raise(self->st, SC_E_CLOSED,
                   "the bridge %R was shut down; make another one",
                   self->name);
    return -1;
}

/* On the thread that has started it, without the lock: what runs there may use
 * the bridge.  It reports its failures; an error comes from a signal. */
static int
tell_started(ScBridge *self)
{
    PyObject *none = PyObject_CallMethod((PyObject *)self, "_started", NULL);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* New reference to the running loop, made where there is none yet. */
static ScLoop *
bridge_loop(ScBridge *self, int most_state)
{
    check_generation(self);
    if (check_state(self, most_state) < 0) {
        return NULL;
    }
    ScLoop *loop = present_loop(self);
    if (loop != NULL) {
        return loop;
    }
    if (lock_start(self) < 0) {
        return NULL;
    }
    int rc = check_state(self, most_state);
    bool fresh = rc == 0 && self->loop == NULL;
    if (fresh) {
        rc = start(self);
    }
    loop = rc == 0 ? present_loop(self) : NULL;
    pthread_mutex_unlock(&self->start_lock);
    if (fresh && loop != NULL && tell_started(self) < 0) {
        Py_CLEAR(loop);
    }
    return loop;
}

ScLoop *
sc_bridge_loop(PyObject *bridge)
{
    return bridge_loop((ScBridge *)bridge, BRIDGE_OPEN);
}

void
sc_bridge_limits(PyObject *bridge, int64_t *timeout, int64_t *cleanup)
{
    ScBridge *self = (ScBridge *)bridge;
    *timeout =
        self->timeout < 0.0 ? SC_NEVER : sc_clock_from_seconds(self->timeout);
    *cleanup = sc_clock_from_seconds(self->cleanup_timeout);
}

/* -- the cap ------------------------------------------------------------- */

int
sc_bridge_admit(PyObject *bridge, ScPlace *place)
{
    ScBridge *self = (ScBridge *)bridge;
    place->taken = false;
    if (self->max_calls < 0) {
        return 0;
    }
    check_generation(self);
    Py_ssize_t now = atomic_load(&self->in_flight);
    do {
        if (now >= self->max_calls) {
            atomic_fetch_add(&self->refused, 1);
            sc_error_raise_overloaded(self->st, SC_E_OVERLOADED, "max_calls",
                                      "the bridge %R has %zd calls in flight, "
                                      "as many as it may (max_calls)",
                                      self->name, now);
            return -1;
        }
    } while (!atomic_compare_exchange_weak(&self->in_flight, &now, now + 1));
    *place = (ScPlace){.taken = true, .generation = self->generation};
    return 0;
}

void
sc_bridge_release(PyObject *bridge, ScPlace *place)
{
    if (!place->taken) {
        return;
    }
    place->taken = false;
    /* In the child of a fork inside the call it was the parent's. */
    if (place->generation == sc_fork_generation()) {
        atomic_fetch_sub(&((ScBridge *)bridge)->in_flight, 1);
    }
}

/* -- run_sync ------------------------------------------------------------ */

/* 3.9, 3.10: a task runs in a copy of its own of the call's context.  Steals
 * the coroutine. */
static PyObject *
keep_changes(PyObject *coro, ScCallArgs *call)
{
    PyObject *wrapped = NULL;
    PyObject *context =
        call->context ? Py_NewRef(call->context) : PyContext_CopyCurrent();
    if (context != NULL) {
        wrapped = sc_support_call("keep_changes", "(OO)", coro, context);
    }
    if (wrapped == NULL) {
        sc_call_close_coroutine(coro);
    }
    Py_DECREF(coro);
    /* The coroutine holds it. */
    call->context = context;
    Py_XDECREF(context);
    return wrapped;
}

static PyObject *
run_on(ScBridge *self, PyObject *const *args, Py_ssize_t nargs,
       PyObject *kwnames, int most_state)
{
    ScCallArgs call = {.request = SC_CALL_RUN};
    sc_bridge_limits((PyObject *)self, &call.timeout, &call.cleanup);
    ScLoop *loop = NULL;
    ScPlace place = {0};
    if (sc_run_args_parse(self->st, args, nargs, kwnames, &call) == 0) {
        loop = bridge_loop(self, most_state);
    }
    /* Not the bridge's own calls, which end things. */
    if (loop != NULL && most_state == BRIDGE_OPEN &&
        sc_bridge_admit((PyObject *)self, &place) < 0) {
        Py_CLEAR(loop);
    }
    if (loop == NULL) {
        /* A call that fails leaves no coroutine "never awaited". */
        if (nargs > 0 && PyCoro_CheckExact(args[0])) {
            sc_call_close_coroutine(args[0]);
        }
        return NULL;
    }
    PyObject *result = NULL;
    call.coro = sc_call_coroutine(args[0]);
    if (call.coro == NULL) {
        PyObject *error = sc_error_take();
        sc_traceback_prune(self->st, error);
        sc_error_restore(error);
    }
    if (call.propagate && !SC_TASK_TAKES_CONTEXT && call.coro != NULL) {
        call.coro = keep_changes(call.coro, &call);
    }
    if (call.coro != NULL) {
        result = sc_call_run(loop, &call);
    }
    sc_bridge_release((PyObject *)self, &place);
    Py_DECREF((PyObject *)loop);
    return result;
}

static PyObject *
bridge_run_sync(ScBridge *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return run_on(self, args, nargs, kwnames, BRIDGE_OPEN);
}

static PyObject *
bridge_run_closing(ScBridge *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return run_on(self, args, nargs, kwnames, BRIDGE_CLOSING);
}

/* -- this interpreter's own bridge --------------------------------------- */

static PyObject *
default_bridge(ScState *st)
{
    PyObject *bridge;
    Py_BEGIN_CRITICAL_SECTION(st->module);
    bridge = Py_XNewRef(st->default_bridge);
    Py_END_CRITICAL_SECTION();
    if (bridge != NULL) {
        return bridge;
    }
    if (st->exiting) {
        return sc_error_raise(st, SC_E_CLOSED,
                              "the interpreter is exiting; no call can be "
                              "made any more");
    }
    PyObject *made = sc_support_call("new_default_bridge", NULL);
    if (made == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(st->module);
    if (st->default_bridge == NULL) {
        st->default_bridge = Py_NewRef(made);
    }
    bridge = Py_NewRef(st->default_bridge);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(made);
    return bridge;
}

PyObject *
sc_run_sync(ScState *st, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    PyObject *bridge = default_bridge(st);
    if (bridge == NULL) {
        if (nargs > 0 && PyCoro_CheckExact(args[0])) {
            sc_call_close_coroutine(args[0]);
        }
        return NULL;
    }
    PyObject *result =
        run_on((ScBridge *)bridge, args, nargs, kwnames, BRIDGE_OPEN);
    Py_DECREF(bridge);
    return result;
}

static PyObject *
module_run_sync(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return sc_run_sync(sc_state_of_module(module), args, nargs, kwnames);
}

static PyObject *
module_get_bridge(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return default_bridge(sc_state_of_module(module));
}

static PyObject *
module_take_default_bridge(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    ScState *st = sc_state_of_module(module);
    PyObject *bridge;
    Py_BEGIN_CRITICAL_SECTION(module);
    bridge = st->default_bridge;
    st->default_bridge = NULL;
    Py_END_CRITICAL_SECTION();
    return bridge ? bridge : Py_NewRef(Py_None);
}

static PyObject *
module_has_bridge(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    ScState *st = sc_state_of_module(module);
    bool has;
    Py_BEGIN_CRITICAL_SECTION(module);
    has = st->default_bridge != NULL;
    Py_END_CRITICAL_SECTION();
    return PyBool_FromLong(has);
}

static PyObject *
module_set_exiting(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    sc_state_of_module(module)->exiting = true;
    Py_RETURN_NONE;
}

/* -- life --------------------------------------------------------------- */

static PyObject *
bridge_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
           PyObject *Py_UNUSED(kwargs))
{
    ScState *st = sc_state_of_type(type);
    ScBridge *self = st ? (ScBridge *)type->tp_alloc(type, 0) : NULL;
    if (self != NULL) {
        self->st = st;
        self->generation = sc_fork_generation();
        self->timeout = -1.0;
        self->max_calls = -1;
        make_start_lock(self);
        self->name = PyUnicode_FromString("Sidecar");
    }
    return (PyObject *)self;
}

static int
bridge_traverse(ScBridge *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    return 0;
}

static int
bridge_clear(ScBridge *self)
{
    if (self->generation == sc_fork_generation()) {
        Py_CLEAR(self->loop);
    }
    return 0;
}

static void
bridge_dealloc(ScBridge *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    bridge_clear(self);
    Py_CLEAR(self->name);
    pthread_mutex_destroy(&self->start_lock);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *
bridge_get_loop(ScBridge *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)bridge_loop(self, BRIDGE_OPEN);
}

static PyObject *
bridge_is_running(ScBridge *self, PyObject *Py_UNUSED(ignored))
{
    check_generation(self);
    PyObject *loop = (PyObject *)present_loop(self);
    bool running = loop != NULL && self->state == BRIDGE_OPEN;
    Py_XDECREF(loop);
    return PyBool_FromLong(running);
}

/* True for the one caller that is to close it, once. */
static PyObject *
bridge_close_begin(ScBridge *self, PyObject *Py_UNUSED(ignored))
{
    check_generation(self);
    /* A start that is under way on another thread comes first. */
    if (lock_start(self) < 0) {
        return NULL;
    }
    PyObject *loop = (PyObject *)present_loop(self);
    int open = BRIDGE_OPEN;
    bool first = atomic_compare_exchange_strong(
        &self->state, &open, loop ? BRIDGE_CLOSING : BRIDGE_CLOSED);
    pthread_mutex_unlock(&self->start_lock);
    Py_XDECREF(loop);
    return PyBool_FromLong(first && loop != NULL);
}

/* Stop the pump and say whether the loop may be closed: (loop, bool). */
static PyObject *
bridge_close_end(ScBridge *self, PyObject *seconds)
{
    double limit = PyFloat_AsDouble(seconds);
    if (limit == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    check_generation(self);
    ScLoop *loop;
    Py_BEGIN_CRITICAL_SECTION(self);
    loop = self->loop;
    self->loop = NULL;
    self->state = BRIDGE_CLOSED;
    Py_END_CRITICAL_SECTION();
    if (loop == NULL) {
        return Py_BuildValue("(Oi)", Py_None, 0);
    }
    /* A caller on its way in would find nobody to run its call. */
    sc_drive_refuse(loop->drive);
    int64_t until = sc_clock_now() + sc_clock_from_seconds(limit);
    bool over = sc_loop_stop_pump(loop, until);
    if (over) {
        PyThreadState *save = PyEval_SaveThread();
        over = sc_drive_reclaim(loop->drive, until);
        PyEval_RestoreThread(save);
    }
    return Py_BuildValue("(NN)", (PyObject *)loop, PyBool_FromLong(over));
}

static PyObject *
bridge_get_refused(PyObject *self, void *Py_UNUSED(closure))
{
    check_generation((ScBridge *)self);
    return PyLong_FromUnsignedLongLong(
        atomic_load(&((ScBridge *)self)->refused));
}

static PyGetSetDef bridge_getset[] = {
    {"_refused", bridge_get_refused, NULL, NULL, NULL},
    {0},
};

static PyMethodDef bridge_methods[] = {
    {"run_sync", SC_METHOD(bridge_run_sync), METH_FASTCALL | METH_KEYWORDS,
     "run_sync($self, awaitable, /, *, timeout=None, context=None, "
     "propagate=False)\n--\n\n"
     "Run an awaitable on this bridge's loop and return its result."},
    {"_run_closing", SC_METHOD(bridge_run_closing),
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"get_loop", SC_METHOD(bridge_get_loop), METH_NOARGS,
     "The bridge's event loop; starts the bridge where it is not."},
    {"is_running", SC_METHOD(bridge_is_running), METH_NOARGS,
     "True from the start of the bridge to its shutdown."},
    {"_close_begin", SC_METHOD(bridge_close_begin), METH_NOARGS, NULL},
    {"_close_end", SC_METHOD(bridge_close_end), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef bridge_members[] = {
    {"_name", T_OBJECT, offsetof(ScBridge, name), 0, NULL},
    {"_timeout", T_DOUBLE, offsetof(ScBridge, timeout), 0, NULL},
    {"_cleanup_timeout", T_DOUBLE, offsetof(ScBridge, cleanup_timeout), 0,
     NULL},
    {"_max_calls", T_PYSSIZET, offsetof(ScBridge, max_calls), 0, NULL},
    {"_state", T_INT, offsetof(ScBridge, state), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot bridge_slots[] = {
    {Py_tp_doc, (void *)"The C part of sidecar.Sidecar."},
    {Py_tp_new, SC_SLOT(bridge_new)},
    {Py_tp_traverse, SC_SLOT(bridge_traverse)},
    {Py_tp_clear, SC_SLOT(bridge_clear)},
    {Py_tp_dealloc, SC_SLOT(bridge_dealloc)},
    {Py_tp_methods, bridge_methods},
    {Py_tp_members, bridge_members},
    {Py_tp_getset, bridge_getset},
    {0, NULL},
};

static PyType_Spec bridge_spec = {
    .name = "sidecar._core.Bridge",
    .basicsize = sizeof(ScBridge),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = bridge_slots,
};

static PyMethodDef module_functions[] = {
    {"run_sync", SC_METHOD(module_run_sync), METH_FASTCALL | METH_KEYWORDS,
     "run_sync($module, awaitable, /, *, timeout=None, context=None, "
     "propagate=False)\n--\n\n"
     "Run an awaitable from sync code, on this process's own bridge, and "
     "return its result.\n\n"
     "timeout: seconds; None means no limit.  It cancels the awaitable, waits "
     "for its cleanup and raises CallTimeoutError, a TimeoutError.\n"
     "context: the contextvars.Context to run in; by default a copy of the "
     "caller's.\n"
     "propagate: whether context variables that it sets are set in the "
     "caller's context, too, variable by variable.\n"
     "Raises what the awaitable raises; DeadlockError on the thread that is "
     "just running the bridge's loop; TypeError where it is no awaitable."},
    {"get_bridge", SC_METHOD(module_get_bridge), METH_NOARGS,
     "get_bridge($module, /)\n--\n\n"
     "This process's own bridge, a Sidecar; it starts with its first call."},
    {"_take_default_bridge", SC_METHOD(module_take_default_bridge),
     METH_NOARGS, NULL},
    {"_has_default_bridge", SC_METHOD(module_has_bridge), METH_NOARGS, NULL},
    {"_set_exiting", SC_METHOD(module_set_exiting), METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
sc_bridge_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->bridge_type, &bridge_spec, NULL, "Bridge") <
        0) {
        return -1;
    }
    return PyModule_AddFunctions(module, module_functions);
}
