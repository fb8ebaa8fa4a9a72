/* The places of a named limit, and who stands in line for one
 * (sidecar/_limits.py).
 *
 * In C, so that no code of ours is there for a signal's handler to raise in,
 * between the taking of a place and the block that holds it, or before the
 * block's end has given it back.  The object's critical section guards all of
 * it; nothing foreign is called in there.  While anybody stands in line all
 * places are taken: one that comes free goes to the oldest waiter, who is
 * granted it first and woken after.  */
#include "core/module.h"

#include <stddef.h>
#include <structmember.h>

#include "core/fork.h"
#include "core/limit.h"
#include "core/state.h"
#include "core/traceback.h"

/* The base of those in _limits.py, which add wake(). */
typedef struct Waiter {
    PyObject_HEAD
    struct Waiter *prev, *next;
    bool queued; /* then the line has a reference */
    bool granted;
    unsigned generation; /* of the process in whose line it is */
} Waiter;

typedef struct {
    PyObject_HEAD
    PyObject *name;
    Py_ssize_t max, in_use, waiting;
    unsigned long long refused;
    Waiter *oldest, *newest;
    unsigned generation;
} Places;

typedef struct {
    PyObject_HEAD
    ScState *st; /* the type holds the module, and so the state */
    PyObject *places;
    double wait;
} Limit;

/* -- the line; in the critical section of its places -----------------------
 */

/* In the child of a fork there is none of the threads that had places. */
static void
check_generation(Places *self)
{
    if (self->generation != sc_fork_generation()) {
        self->generation = sc_fork_generation();
        self->in_use = self->waiting = 0;
        self->refused = 0;
        /* Not released: the frames of lost threads may hold them. */
        self->oldest = self->newest = NULL;
    }
}

static void
append(Places *self, Waiter *waiter)
{
    waiter->queued = true;
    waiter->generation = self->generation;
    waiter->next = NULL;
    waiter->prev = self->newest;
    *(self->newest ? &self->newest->next : &self->oldest) = waiter;
    self->newest = waiter;
    self->waiting++;
}

static void
unlink_waiter(Places *self, Waiter *waiter)
{
    waiter->queued = false;
    *(waiter->prev ? &waiter->prev->next : &self->oldest) = waiter->next;
    *(waiter->next ? &waiter->next->prev : &self->newest) = waiter->prev;
    waiter->prev = waiter->next = NULL;
    self->waiting--;
}

static bool
is_in_line(Places *self, Waiter *waiter)
{
    return waiter->queued && waiter->generation == self->generation;
}

/* -- places -----------------------------------------------------------------
 */

static bool
take(Places *self)
{
    bool free;
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    free = self->in_use < self->max;
    self->in_use += free;
    Py_END_CRITICAL_SECTION();
    return free;
}

/* To the oldest waiter, a new reference; or NULL, to nobody. */
static Waiter *
pass_on(Places *self)
{
    Waiter *waiter;
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    waiter = self->oldest;
    if (waiter != NULL) {
        unlink_waiter(self, waiter);
        waiter->granted = true;
    }
    else if (self->in_use > 0) {
        /* 0: one that came in in the parent leaves in its child. */
        self->in_use--;
    }
    Py_END_CRITICAL_SECTION();
    return waiter;
}

/* Take its grant away: only one can, and has the place from there on. */
static bool
take_grant(Places *self, Waiter *waiter)
{
    bool granted;
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    granted = waiter->granted;
    waiter->granted = false;
    Py_END_CRITICAL_SECTION();
    return granted;
}

/* 0, or -1 with what a signal's handler raised; the place is given back. */
static int
give_back(Places *self)
{
    for (;;) {
        Waiter *waiter = pass_on(self);
        if (waiter == NULL) {
            return 0;
        }
        PyObject *woken =
            PyObject_CallMethod((PyObject *)waiter, "wake", NULL);
        bool lost = woken == Py_False && take_grant(self, waiter);
        int rc = woken ? 0 : -1;
        Py_XDECREF(woken);
        Py_DECREF((PyObject *)waiter);
        if (!lost) {
            return rc;
        }
    }
}

bool
sc_places_take(PyObject *places)
{
    return take((Places *)places);
}

void
sc_places_give_back(PyObject *places)
{
    PyObject *before = sc_error_take();
    if (give_back((Places *)places) < 0) {
        PyErr_WriteUnraisable(places);
    }
    if (before != NULL) {
        sc_error_restore(before);
    }
}

static PyObject *
places_take(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(take((Places *)self));
}

static PyObject *
places_give_back(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (give_back((Places *)self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static Waiter *
as_waiter(PyObject *self, PyObject *object)
{
    ScState *st = sc_state_of_type(Py_TYPE(self));
    if (st != NULL && !PyObject_TypeCheck(object, st->waiter_type)) {
        PyErr_Format(PyExc_TypeError, "not a waiter: %R", object);
        return NULL;
    }
    return st ? (Waiter *)object : NULL;
}

static PyObject *
places_join(PyObject *op, PyObject *object)
{
    Places *self = (Places *)op;
    Waiter *waiter = as_waiter(op, object);
    if (waiter == NULL) {
        return NULL;
    }
    bool granted;
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    granted = self->in_use < self->max;
    if (granted) {
        self->in_use++;
        waiter->granted = true;
    }
    else if (!waiter->queued) {
        append(self, (Waiter *)Py_NewRef(object));
    }
    Py_END_CRITICAL_SECTION();
    return PyBool_FromLong(granted);
}

static PyObject *
places_leave(PyObject *op, PyObject *object)
{
    Places *self = (Places *)op;
    Waiter *waiter = as_waiter(op, object);
    if (waiter == NULL) {
        return NULL;
    }
    bool granted, removed;
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    removed = is_in_line(self, waiter);
    if (removed) {
        unlink_waiter(self, waiter);
    }
    granted = waiter->granted;
    Py_END_CRITICAL_SECTION();
    if (removed) {
        Py_DECREF(object);
    }
    return PyBool_FromLong(granted);
}

static PyObject *
places_abandon(PyObject *op, PyObject *object)
{
    PyObject *granted = places_leave(op, object);
    Py_XDECREF(granted);
    if (granted == NULL || (take_grant((Places *)op, (Waiter *)object) &&
                            give_back((Places *)op) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
places_refuse(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Places *self = (Places *)op;
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    self->refused++;
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

enum { GET_IN_USE, GET_WAITING, GET_REFUSED };

static PyObject *
places_get(PyObject *op, void *closure)
{
    Places *self = (Places *)op;
    unsigned long long values[3];
    Py_BEGIN_CRITICAL_SECTION(self);
    check_generation(self);
    values[GET_IN_USE] = (unsigned long long)self->in_use;
    values[GET_WAITING] = (unsigned long long)self->waiting;
    values[GET_REFUSED] = self->refused;
    Py_END_CRITICAL_SECTION();
    return PyLong_FromUnsignedLongLong(values[(intptr_t)closure]);
}

static PyObject *
places_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"name", (char *)"max", NULL};
    PyObject *name;
    Py_ssize_t max;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Un:Places", names, &name,
                                     &max)) {
        return NULL;
    }
    Places *self = (Places *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->name = Py_NewRef(name);
        self->max = max;
        self->generation = sc_fork_generation();
    }
    return (PyObject *)self;
}

static int
places_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    for (Waiter *one = ((Places *)op)->oldest; one; one = one->next) {
        Py_VISIT((PyObject *)one);
    }
    return 0;
}

static int
places_clear(PyObject *op)
{
    Places *self = (Places *)op;
    for (Waiter *one; (one = self->oldest) != NULL;) {
        unlink_waiter(self, one);
        Py_DECREF((PyObject *)one);
    }
    return 0;
}

static void
places_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    places_clear(op);
    Py_CLEAR(((Places *)op)->name);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyGetSetDef places_getset[] = {
    {"in_use", places_get, NULL, NULL, (void *)GET_IN_USE},
    {"waiting", places_get, NULL, NULL, (void *)GET_WAITING},
    {"refused", places_get, NULL, NULL, (void *)GET_REFUSED},
    {0},
};

static PyMemberDef places_members[] = {
    {"name", T_OBJECT, offsetof(Places, name), READONLY, NULL},
    {"max", T_PYSSIZET, offsetof(Places, max), READONLY, NULL},
    {0},
};

static PyMethodDef places_methods[] = {
    {"take", places_take, METH_NOARGS,
     "take($self, /)\n--\n\nA place, if one is free."},
    {"give_back", places_give_back, METH_NOARGS,
     "give_back($self, /)\n--\n\nTo who has waited longest, or to nobody."},
    {"join", places_join, METH_O,
     "join($self, waiter, /)\n--\n\n"
     "Stand in line; True where a place has come free meanwhile."},
    {"leave", places_leave, METH_O,
     "leave($self, waiter, /)\n--\n\n"
     "Out of the line; True where it has a place."},
    {"abandon", places_abandon, METH_O,
     "abandon($self, waiter, /)\n--\n\n"
     "Out of the line, and without a place."},
    {"refuse", places_refuse, METH_NOARGS,
     "refuse($self, /)\n--\n\nCount one that got none."},
    {0},
};

static PyType_Slot places_slots[] = {
    {Py_tp_doc, (void *)"The places of a named limit."},
    {Py_tp_new, SC_SLOT(places_new)},
    {Py_tp_traverse, SC_SLOT(places_traverse)},
    {Py_tp_clear, SC_SLOT(places_clear)},
    {Py_tp_dealloc, SC_SLOT(places_dealloc)},
    {Py_tp_methods, places_methods},
    {Py_tp_members, places_members},
    {Py_tp_getset, places_getset},
    {0, NULL},
};

static PyType_Spec places_spec = {
    .name = "sidecar._core.Places",
    .basicsize = sizeof(Places),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = places_slots,
};

/* -- who stands in line ------------------------------------------------------
 */

static int
waiter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
waiter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot waiter_slots[] = {
    {Py_tp_doc, (void *)"One that stands in line for a place."},
    {Py_tp_new, SC_SLOT(PyType_GenericNew)},
    {Py_tp_traverse, SC_SLOT(waiter_traverse)},
    {Py_tp_dealloc, SC_SLOT(waiter_dealloc)},
    {0, NULL},
};

static PyType_Spec waiter_spec = {
    .name = "sidecar._core.Waiter",
    .basicsize = sizeof(Waiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = waiter_slots,
};

/* -- the context manager -----------------------------------------------------
 */

static PyObject *
limit_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Limit *self = (Limit *)op;
    if (!take((Places *)self->places)) {
        PyObject *none = PyObject_CallMethod(op, "_wait_in_thread", NULL);
        if (none == NULL) {
            PyObject *error = sc_error_take();
            sc_traceback_prune(self->st, error);
            sc_error_restore(error);
            return NULL;
        }
        Py_DECREF(none);
    }
    return Py_NewRef(op);
}

static PyObject *
limit_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
           Py_ssize_t Py_UNUSED(nargs))
{
    return places_give_back(((Limit *)op)->places, NULL);
}

static PyObject *
limit_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"places", (char *)"wait", NULL};
    ScState *st = sc_state_of_type(type);
    PyObject *places;
    double wait;
    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O!d:Limit", names,
                                     st->places_type, &places, &wait)) {
        return NULL;
    }
    Limit *self = (Limit *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
        self->places = Py_NewRef(places);
        self->wait = wait;
    }
    return (PyObject *)self;
}

static int
limit_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Limit *)op)->places);
    return 0;
}

static void
limit_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(((Limit *)op)->places);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef limit_members[] = {
    {"_places", T_OBJECT, offsetof(Limit, places), READONLY, NULL},
    {"_wait", T_DOUBLE, offsetof(Limit, wait), READONLY, NULL},
    {0},
};

static PyMethodDef limit_methods[] = {
    {"__enter__", limit_enter, METH_NOARGS, NULL},
    {"__exit__", SC_METHOD(limit_exit), METH_FASTCALL, NULL},
    {0},
};

static PyType_Slot limit_slots[] = {
    {Py_tp_doc, (void *)"The C part of sidecar.limit()."},
    {Py_tp_new, SC_SLOT(limit_new)},
    {Py_tp_traverse, SC_SLOT(limit_traverse)},
    {Py_tp_dealloc, SC_SLOT(limit_dealloc)},
    {Py_tp_methods, limit_methods},
    {Py_tp_members, limit_members},
    {0, NULL},
};

static PyType_Spec limit_spec = {
    .name = "sidecar._core.Limit",
    .basicsize = sizeof(Limit),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = limit_slots,
};

int
sc_limit_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->places_type, &places_spec, NULL, "Places") <
            0 ||
        sc_type_add(module, &st->waiter_type, &waiter_spec, NULL, "Waiter") <
            0) {
        return -1;
    }
    return sc_type_add(module, &st->limit_type, &limit_spec, NULL, "Limit");
}
