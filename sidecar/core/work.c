#include "core/work.h"

#include "core/call.h"
#include "core/clock.h"
#include "core/errors.h"
#include "core/support.h"

static const int64_t DEFAULT_CLEANUP = INT64_C(5000000000);

void
sc_owner_init(ScOwner *self, ScState *st)
{
    self->st = st;
    self->ring.next = self->ring.prev = &self->ring;
    self->deadline = SC_NEVER;
    self->cleanup = DEFAULT_CLEANUP;
    self->connection = NULL;
    atomic_init(&self->peer, -1);
    self->half_closes = false;
    atomic_init(&self->slot, NULL);
    atomic_init(&self->verdict, SC_VERDICT_NONE);
    atomic_init(&self->told, false);
    atomic_init(&self->calls, 0);
    atomic_init(&self->waited, 0);
    self->timed = false;
    atomic_init(&self->answered, false);
    self->held = false;
    self->put_off = false;
    self->detached = false;
}

static PyObject *
request_of(ScState *st, PyObject *context)
{
    PyObject *found = NULL;
    if (context == NULL) {
        if (PyContextVar_Get(st->request_var, NULL, &found) < 0) {
            PyErr_Clear();
        }
        return found;
    }
    found = PyObject_CallMethod(context, "get", "O", st->request_var);
    PyErr_Clear();
    return found;
}

ScOwner *
sc_owner_present(ScState *st, PyObject *context)
{
    PyObject *found = request_of(st, context);
    if (found != NULL && !Py_IS_TYPE(found, st->request_type)) {
        Py_CLEAR(found);
    }
    return (ScOwner *)found;
}

bool
sc_owner_owns(const ScOwner *self)
{
    return !self->detached &&
           atomic_load_explicit(&self->verdict, memory_order_acquire) !=
               SC_VERDICT_ENDED;
}

ScOwner *
sc_owner_current(ScState *st, PyObject *context)
{
    ScOwner *owner = sc_owner_present(st, context);
    if (owner != NULL && !sc_owner_owns(owner)) {
        Py_CLEAR(owner);
    }
    return owner;
}

/* -- verdicts ------------------------------------------------------------- */

PyObject *
sc_owner_raise(ScOwner *self, ScVerdict verdict, PyObject *what,
               PyObject *cause)
{
    ScState *st = self->st;
    if (verdict == SC_VERDICT_ENDED) {
        PyObject *error =
            cause ? cause : PyObject_CallNoArgs(st->cancelled_error);
        if (error != NULL) {
            sc_error_restore(error);
        }
        return NULL;
    }
    PyObject *text =
        sc_support_call("verdict_text", "(iO)", verdict == SC_VERDICT_LATE,
                        what ? what : Py_None);
    if (text == NULL) {
        Py_XDECREF(cause);
        return NULL;
    }
    ScErrorCode code =
        verdict == SC_VERDICT_LATE ? SC_E_DEADLINE : SC_E_DISCONNECTED;
    if (cause != NULL) {
        sc_error_raise_from(st, code, cause, "%U", text);
    }
    else {
        sc_error_raise(st, code, "%U", text);
    }
    Py_DECREF(text);
    return NULL;
}

/* The first who sees it gives the verdict. */
static bool
judge(ScOwner *self, ScVerdict verdict)
{
    int none = SC_VERDICT_NONE;
    if (atomic_load(&self->answered)) {
        return false;
    }
    if (!atomic_compare_exchange_strong(&self->verdict, &none, verdict)) {
        return false;
    }
    atomic_ullong *counts = self->st->request_counts;
    atomic_fetch_add_explicit(
        &counts[verdict == SC_VERDICT_LATE ? SC_COUNT_LATE : SC_COUNT_LEFT], 1,
        memory_order_relaxed);
    return true;
}

bool
sc_owner_is_late(const ScOwner *self)
{
    return self->deadline != SC_NEVER && sc_clock_now() >= self->deadline &&
           !atomic_load(&self->answered);
}

/* A server may hide it: then its client is not watched. */
static void
look_for_peer(ScOwner *self)
{
    PyObject *connection;
    Py_BEGIN_CRITICAL_SECTION(self);
    connection = self->connection;
    self->connection = NULL;
    Py_END_CRITICAL_SECTION();
    if (connection != NULL) {
        atomic_store(&self->peer, PyObject_AsFileDescriptor(connection));
        PyErr_Clear();
        Py_DECREF(connection);
    }
}

int
sc_owner_admit(ScOwner *self, int64_t *left, bool *own)
{
    *left = SC_NEVER;
    *own = true;
    if (self->deadline != SC_NEVER && !atomic_load(&self->answered)) {
        *left = self->deadline - sc_clock_now();
        if (*left <= 0) {
            sc_owner_strike(self, SC_VERDICT_LATE);
        }
    }
    ScVerdict verdict = (ScVerdict)atomic_load(&self->verdict);
    if (verdict == SC_VERDICT_NONE) {
        look_for_peer(self);
        return 0;
    }
    if (verdict != SC_VERDICT_ENDED && !atomic_exchange(&self->told, true)) {
        sc_owner_raise(self, verdict, NULL, NULL);
        return -1;
    }
    *left = verdict == SC_VERDICT_ENDED ? SC_NEVER : self->cleanup;
    *own = false;
    return 0;
}

/* -- the ring ------------------------------------------------------------- */

int
sc_work_begin(ScWork *work, ScOwner *owner, ScWorkKind kind, PyObject *object)
{
    PyObject *reference = NULL;
    if (object != NULL && kind != SC_WORK_CALL) {
        reference = PyWeakref_NewRef(object, NULL);
        if (reference == NULL) {
            return -1;
        }
    }
    bool ended;
    Py_BEGIN_CRITICAL_SECTION(owner);
    ended = atomic_load(&owner->verdict) == SC_VERDICT_ENDED;
    if (!ended) {
        work->owner = (ScOwner *)Py_NewRef((PyObject *)owner);
        work->reference = reference;
        work->kind = kind;
        work->struck = false;
        work->prev = &owner->ring;
        work->next = owner->ring.next;
        work->next->prev = work;
        owner->ring.next = work;
    }
    Py_END_CRITICAL_SECTION();
    if (ended) {
        Py_XDECREF(reference);
    }
    return ended;
}

void
sc_work_end(ScWork *work)
{
    ScOwner *owner = work->owner;
    if (owner == NULL) {
        return;
    }
    PyObject *reference;
    Py_BEGIN_CRITICAL_SECTION(owner);
    work->next->prev = work->prev;
    work->prev->next = work->next;
    reference = work->reference;
    *work = (ScWork){0};
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(reference);
    Py_DECREF((PyObject *)owner);
}

/* By ScWorkKind, and the tasks and futures that an earlier verdict has
 * cancelled: a second time would cut their cleanup short. */
enum { LIST_STRUCK = 3, LISTS };

/* In the critical section: put what hangs there into a list each; 0 or -1
 * with an error set. */
static int
list_work(ScOwner *self, PyObject *lists[LISTS])
{
    for (ScWork *work = self->ring.next; work != &self->ring;
         work = work->next) {
        PyObject *object = NULL;
        if (work->kind == SC_WORK_CALL) {
            object = Py_NewRef((PyObject *)sc_call_of_work(work));
        }
        else if (sc_weakref_get(work->reference, &object) < 0) {
            return -1;
        }
        if (object == NULL) {
            continue;
        }
        bool again = work->struck && work->kind != SC_WORK_CALL;
        work->struck = true;
        int rc = PyList_Append(lists[again ? LIST_STRUCK : (int)work->kind],
                               object);
        Py_DECREF(object);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

static void
strike_calls(PyObject *calls, ScVerdict verdict)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(calls); i++) {
        sc_call_strike((ScCall *)PyList_GET_ITEM(calls, i), verdict);
    }
}

/* `how` of sidecar._request is called with the request, tasks, futures, and
 * those of both that were cancelled before.  0, or -1 with an error set. */
static int
cancel_listed(ScOwner *self, PyObject *lists[LISTS], const char *how)
{
    PyObject *tasks = lists[SC_WORK_TASK], *futures = lists[SC_WORK_FUTURE];
    PyObject *struck = lists[LIST_STRUCK];
    if (PyList_GET_SIZE(tasks) + PyList_GET_SIZE(futures) +
            PyList_GET_SIZE(struck) ==
        0) {
        return 0;
    }
    PyObject *function = sc_state_import("sidecar._request", how);
    PyObject *none =
        function ? PyObject_CallFunction(function, "OOOOd", (PyObject *)self,
                                         tasks, futures, struck,
                                         (double)self->cleanup / 1e9)
                 : NULL;
    Py_XDECREF(function);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* Cancel what hangs on it.  Keeps the error that is set. */
static void
cancel_by(ScOwner *self, ScVerdict verdict, const char *how)
{
    PyObject *before = sc_error_take();
    PyObject *lists[LISTS] = {NULL};
    int rc = 0;
    for (int i = 0; i < LISTS && rc == 0; i++) {
        lists[i] = PyList_New(0);
        rc = lists[i] ? 0 : -1;
    }
    if (rc == 0) {
        Py_BEGIN_CRITICAL_SECTION(self);
        rc = list_work(self, lists);
        Py_END_CRITICAL_SECTION();
    }
    if (rc == 0) {
        strike_calls(lists[SC_WORK_CALL], verdict);
        rc = cancel_listed(self, lists, how);
    }
    if (rc < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    for (int i = 0; i < LISTS; i++) {
        Py_XDECREF(lists[i]);
    }
    if (before != NULL) {
        sc_error_restore(before);
    }
}

static bool
is_idle(ScOwner *self)
{
    bool idle;
    Py_BEGIN_CRITICAL_SECTION(self);
    idle = self->ring.next == &self->ring;
    Py_END_CRITICAL_SECTION();
    return idle;
}

bool
sc_owner_strike(ScOwner *self, ScVerdict verdict)
{
    if (!judge(self, verdict)) {
        return false;
    }
    if (!is_idle(self)) {
        cancel_by(self, verdict, "cancel");
    }
    return true;
}

void
sc_owner_leave_board(ScOwner *self)
{
    Sidecar_Slot *slot = atomic_exchange(&self->slot, NULL);
    if (slot != NULL && sidecar_slot_lock(slot)) {
        if (slot->text.key == (uintptr_t)self) {
            slot->text.key = 0;
            slot->text.started = 0;
        }
        sidecar_slot_unlock(slot);
    }
}

void
sc_owner_hold(ScOwner *self)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    self->held = true;
    Py_END_CRITICAL_SECTION();
}

void
sc_owner_release(ScOwner *self)
{
    bool due;
    Py_BEGIN_CRITICAL_SECTION(self);
    due = self->put_off;
    self->held = self->put_off = false;
    Py_END_CRITICAL_SECTION();
    if (due) {
        sc_owner_end(self);
    }
}

static bool
put_off(ScOwner *self)
{
    bool held;
    Py_BEGIN_CRITICAL_SECTION(self);
    held = self->held;
    if (held) {
        self->put_off = true;
        atomic_store(&self->answered, true);
    }
    Py_END_CRITICAL_SECTION();
    return held;
}

void
sc_owner_end(ScOwner *self)
{
    /* The server closes it now. */
    atomic_store(&self->peer, -1);
    sc_owner_leave_board(self);
    if (put_off(self)) {
        return;
    }
    if (atomic_exchange(&self->verdict, SC_VERDICT_ENDED) !=
            SC_VERDICT_ENDED &&
        !is_idle(self)) {
        cancel_by(self, SC_VERDICT_ENDED, "end");
    }
}
