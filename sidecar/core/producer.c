#include "core/producer.h"

#include <structmember.h>

#include "core/lineage.h"
#include "core/module.h"
#include "core/producer_garbage.h"
#include "core/producer_state.h"

/* -- the coroutine that the task sees ------------------------------------ */

#if SC_ITER_SEND
static PySendResult
producer_am_send(PyObject *self, PyObject *Py_UNUSED(none), PyObject **value)
{
    return sc_await_sent(sc_producer_run((ScProducer *)self, NULL, value),
                         value);
}
#endif

static PyObject *
producer_send(ScProducer *self, PyObject *Py_UNUSED(none))
{
    PyObject *value;
    return sc_await_tell(sc_producer_run(self, NULL, &value), &value);
}

static PyObject *
producer_throw(ScProducer *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *error = sc_await_thrown(args, nargs), *value;
    return error ? sc_await_tell(sc_producer_run(self, error, &value), &value)
                 : NULL;
}

/* A task that could not be made closes its coroutine. */
static PyObject *
producer_close(ScProducer *self, PyObject *Py_UNUSED(none))
{
    if (!self->over && self->task == NULL) {
        self->closing = true;
        sc_producer_finish(self, NULL);
    }
    Py_RETURN_NONE;
}

/* As a coroutine shows where it is. */
static PyObject *
producer_get_code(ScProducer *self, void *Py_UNUSED(closure))
{
    return self->code
               ? Py_NewRef(self->code)
               : sc_producer_ask_iterator(self, self->loop->st->str_ag_code);
}

static PyObject *
producer_get_frame(ScProducer *self, void *Py_UNUSED(closure))
{
    return sc_producer_ask_iterator(self, self->loop->st->str_ag_frame);
}

static PyObject *
producer_repr(ScProducer *self)
{
    return PyUnicode_FromFormat("<stream of %U at %p>", self->name, self);
}

/* -- life --------------------------------------------------------------- */

static PyObject *
name_of(ScState *st, PyObject *source)
{
    PyObject *name = PyObject_GetAttr(source, st->str___qualname__);
    if (name == NULL || !PyUnicode_Check(name)) {
        PyErr_Clear();
        Py_XDECREF(name);
        name = PyUnicode_FromString(Py_TYPE(source)->tp_name);
    }
    return name;
}

ScProducer *
sc_producer_new(ScLoop *loop, PyObject *source, PyObject *context, size_t room,
                bool propagate, int64_t cleanup)
{
    PyTypeObject *type = loop->st->producer_type;
    ScProducer *self = (ScProducer *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (ScLoop *)Py_NewRef((PyObject *)loop);
    self->source = Py_NewRef(source);
    self->context = Py_NewRef(context);
    self->room = room;
    self->slots = room ? room : 1;
    self->cleanup = cleanup;
    self->propagate = propagate;
    self->name = name_of(loop->st, source);
    self->items = PyMem_Calloc(self->slots, sizeof(PyObject *));
    if (self->items == NULL) {
        PyErr_NoMemory();
    }
    if (self->items == NULL || self->name == NULL) {
        Py_CLEAR(self->source);
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return self;
}

static int
producer_traverse(ScProducer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->source);
    Py_VISIT(self->iterator);
    Py_VISIT(self->code);
    Py_VISIT(self->context);
    Py_VISIT(self->task);
    Py_VISIT(self->gate);
    Py_VISIT(self->task_context);
    Py_VISIT(self->handed);
    Py_VISIT(self->raised);
    Py_VISIT(self->step);
    Py_VISIT(self->call);
    Py_VISIT(self->lineage);
    Py_VISIT(self->work.owner);
    Py_VISIT(self->failure);
    Py_VISIT(self->sentinel);
    for (size_t i = 0; i < self->count; i++) {
        Py_VISIT(self->items[(self->first + i) % self->slots]);
    }
    return 0;
}

static int
producer_clear(ScProducer *self)
{
    sc_producer_leave(self);
    Py_CLEAR(self->task_context);
    Py_CLEAR(self->handed);
    Py_CLEAR(self->raised);
    sc_producer_end_lineage(self);
    sc_work_end(&self->work);
    Py_CLEAR(self->source);
    Py_CLEAR(self->step);
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->code);
    Py_CLEAR(self->context);
    Py_CLEAR(self->task);
    Py_CLEAR(self->gate);
    Py_CLEAR(self->call);
    Py_CLEAR(self->failure);
    Py_CLEAR(self->sentinel);
    if (self->items != NULL) {
        sc_producer_drop_items(self);
    }
    sc_producer_count(self);
    return 0;
}

static void
producer_dealloc(ScProducer *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->source != NULL && PyCoro_CheckExact(self->source)) {
        sc_call_close_coroutine(self->source);
    }
    producer_clear(self);
    /* Not before: its stream, or its task, may still ask for it. */
    Py_CLEAR(self->loop);
    Py_CLEAR(self->name);
    PyMem_Free(self->items);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* On the owner: has the call that waits for it cancelled what it awaits?  A
 * second time would cut that one's cleanup short. */
static PyObject *
producer_is_cancelled(ScProducer *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(self->call != NULL && self->call->timed_out);
}

static PyMethodDef producer_methods[] = {
    {"_is_cancelled", SC_METHOD(producer_is_cancelled), METH_NOARGS, NULL},
    {"send", SC_METHOD(producer_send), METH_O, NULL},
    {"throw", SC_METHOD(producer_throw), METH_FASTCALL, NULL},
    {"close", SC_METHOD(producer_close), METH_NOARGS, NULL},
    {"_resume", SC_METHOD(sc_producer_wake_now), METH_O, NULL},
    {"_drop", SC_METHOD(sc_producer_drop_now), METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef producer_members[] = {
    {"__name__", T_OBJECT_EX, offsetof(ScProducer, name), READONLY, NULL},
    {"__qualname__", T_OBJECT_EX, offsetof(ScProducer, name), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef producer_getset[] = {
    {"cr_code", (getter)producer_get_code, NULL, NULL, NULL},
    {"cr_frame", (getter)producer_get_frame, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, (void *)"What a stream's task runs."},
    {Py_tp_repr, SC_SLOT(producer_repr)},
    {Py_tp_methods, producer_methods},
    {Py_tp_members, producer_members},
    {Py_tp_getset, producer_getset},
    {Py_am_await, SC_SLOT(PyObject_SelfIter)},
#if SC_ITER_SEND
    {Py_am_send, SC_SLOT(producer_am_send)},
#endif
    {Py_tp_traverse, SC_SLOT(producer_traverse)},
    {Py_tp_clear, SC_SLOT(producer_clear)},
    {Py_tp_finalize, SC_SLOT(sc_producer_finalize)},
    {Py_tp_dealloc, SC_SLOT(producer_dealloc)},
    {0, NULL},
};

static PyType_Spec producer_spec = {
    .name = "sidecar._core.Producer",
    .basicsize = sizeof(ScProducer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = producer_slots,
};

int
sc_producer_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->producer_type, &producer_spec, NULL, NULL) <
        0) {
        return -1;
    }
    return sc_producer_sentinel_init(module);
}
