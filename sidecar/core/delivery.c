#include "core/delivery.h"

#include "core/module.h"
#include "core/support.h"

typedef struct {
    PyObject *future;
    PyObject *method; /* borrowed */
    PyObject *value;
} Item;

typedef struct {
    PyObject_HEAD
    ScState *st;
    Item *items;
    size_t count, room;
    size_t expected;
    bool sent;
} Delivery;

static Delivery *
delivery_new(ScState *st)
{
    PyTypeObject *type = st->delivery_type;
    Delivery *self = (Delivery *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
    }
    return self;
}

PyObject *
sc_delivery_of(ScState *st, PyObject *loop)
{
    PyObject *found = PyObject_GetAttr(loop, st->str__sidecar_delivery);
    if (found != NULL && Py_IS_TYPE(found, st->delivery_type)) {
        return found;
    }
    Py_XDECREF(found);
    PyErr_Clear();
    PyObject *made = (PyObject *)delivery_new(st);
    if (made != NULL &&
        PyObject_SetAttr(loop, st->str__sidecar_delivery, made) < 0) {
        /* It takes no attributes: then each job has its own. */
        PyErr_Clear();
    }
    return made;
}

bool
sc_delivery_expect(PyObject *delivery)
{
    return ((Delivery *)delivery)->expected++ == 0;
}

void
sc_delivery_forget(PyObject *delivery)
{
    ((Delivery *)delivery)->expected--;
}

/* In the critical section. */
static bool
reserve(Delivery *self)
{
    if (self->count < self->room) {
        return true;
    }
    size_t room = self->room ? self->room * 2 : 8;
    Item *items = PyMem_Resize(self->items, Item, room);
    if (items == NULL) {
        return false;
    }
    self->items = items;
    self->room = room;
    return true;
}

/* In the critical section, or with nobody else: an empty list is left. */
static size_t
take(Delivery *self, Item **items)
{
    size_t count = self->count;
    *items = self->items;
    self->items = NULL;
    self->count = self->room = 0;
    self->sent = false;
    return count;
}

static void
drop(Item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        Py_DECREF(items[i].future);
        Py_DECREF(items[i].value);
    }
    PyMem_Free(items);
}

static void
wake(Delivery *self, PyObject *loop)
{
    PyObject *stack[] = {loop, (PyObject *)self};
    PyObject *handle = PyObject_VectorcallMethod(
        self->st->str_call_soon_threadsafe, stack, 2, NULL);
    if (handle != NULL) {
        Py_DECREF(handle);
        return;
    }
    if (PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Clear();
    }
    else {
        PyErr_WriteUnraisable(loop);
    }
    Item *items;
    size_t count;
    Py_BEGIN_CRITICAL_SECTION(self);
    count = take(self, &items);
    Py_END_CRITICAL_SECTION();
    drop(items, count);
}

void
sc_delivery_send(PyObject *delivery, PyObject *loop, PyObject *future,
                 PyObject *method, PyObject *value)
{
    Delivery *self = (Delivery *)delivery;
    bool kept, first = false;
    Py_BEGIN_CRITICAL_SECTION(self);
    kept = reserve(self);
    if (kept) {
        self->items[self->count++] =
            (Item){Py_NewRef(future), method, Py_NewRef(value)};
        first = !self->sent;
        self->sent = true;
    }
    Py_END_CRITICAL_SECTION();
    if (!kept) {
        PyErr_NoMemory();
        PyErr_WriteUnraisable(future);
    }
    else if (first) {
        wake(self, loop);
    }
}

/* -- on the loop ---------------------------------------------------------- */

static int
is_done(Delivery *self, PyObject *future)
{
    PyObject *done = PyObject_CallMethodNoArgs(future, self->st->str_done);
    int yes = done != NULL ? PyObject_IsTrue(done) : -1;
    Py_XDECREF(done);
    return yes;
}

/* Who awaited it may have left. */
static int
tell(Delivery *self, const Item *item)
{
    ScState *st = self->st;
    int done = is_done(self, item->future);
    if (done != 0) {
        return done < 0 ? -1 : 0;
    }
    PyObject *told;
    if (item->method == st->str_cancel) {
        told = PyObject_CallMethodNoArgs(item->future, item->method);
    }
    else if (item->method == st->str_set_converted) {
        told = sc_support_call("set_converted", "(OO)", item->future,
                               item->value);
    }
    else {
        told =
            PyObject_CallMethodOneArg(item->future, item->method, item->value);
    }
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* An error of one must not keep the others from theirs; KeyboardInterrupt and
 * SystemExit leave the loop, as they do from any callback. */
static void
note_error(PyObject *future, PyObject **leaving)
{
    if (*leaving == NULL && (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
                             PyErr_ExceptionMatches(PyExc_SystemExit))) {
        *leaving = sc_error_take();
    }
    else {
        PyErr_WriteUnraisable(future);
    }
}

static PyObject *
delivery_call(Delivery *self, PyObject *Py_UNUSED(args),
              PyObject *Py_UNUSED(kwargs))
{
    Item *items;
    size_t count;
    PyObject *leaving = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    count = take(self, &items);
    Py_END_CRITICAL_SECTION();
    self->expected -= count;
    for (size_t i = 0; i < count; i++) {
        if (tell(self, &items[i]) < 0) {
            note_error(items[i].future, &leaving);
        }
    }
    drop(items, count);
    if (leaving != NULL) {
        sc_error_restore(leaving);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* -- life ----------------------------------------------------------------- */

static int
delivery_traverse(Delivery *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < self->count; i++) {
        Py_VISIT(self->items[i].future);
        Py_VISIT(self->items[i].value);
    }
    return 0;
}

static int
delivery_clear(Delivery *self)
{
    Item *items;
    size_t count = take(self, &items);
    drop(items, count);
    return 0;
}

static void
delivery_dealloc(Delivery *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    delivery_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyType_Slot delivery_slots[] = {
    {Py_tp_doc, (void *)"What a pool's jobs have left for an event loop."},
    {Py_tp_call, SC_SLOT(delivery_call)},
    {Py_tp_traverse, SC_SLOT(delivery_traverse)},
    {Py_tp_clear, SC_SLOT(delivery_clear)},
    {Py_tp_dealloc, SC_SLOT(delivery_dealloc)},
    {0, NULL},
};

static PyType_Spec delivery_spec = {
    .name = "sidecar._core.Delivery",
    .basicsize = sizeof(Delivery),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = delivery_slots,
};

int
sc_delivery_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->delivery_type, &delivery_spec, NULL, NULL);
}
