#include "core/producer_garbage.h"

#include "core/module.h"
#include "core/producer_state.h"
#include "core/task_list.h"

/* -- the loop's list ------------------------------------------------------ */

void
sc_producer_join(ScProducer *self)
{
    ScLoop *loop = self->loop;
    Py_BEGIN_CRITICAL_SECTION(loop);
    self->next = loop->unfinished;
    self->link = &loop->unfinished;
    if (self->next != NULL) {
        self->next->link = &self->next;
    }
    loop->unfinished = self;
    Py_END_CRITICAL_SECTION();
}

void
sc_producer_leave(ScProducer *self)
{
    ScLoop *loop = self->loop;
    if (self->link == NULL || sc_loop_is_dead(loop)) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(loop);
    *self->link = self->next;
    if (self->next != NULL) {
        self->next->link = self->link;
    }
    self->link = NULL;
    self->next = NULL;
    Py_END_CRITICAL_SECTION();
}

PyObject *
sc_producer_tasks(ScLoop *loop, PyObject *Py_UNUSED(ignored))
{
    PyObject *tasks = PyList_New(0);
    if (tasks == NULL || sc_loop_is_dead(loop)) {
        return tasks;
    }
    int rc = 0;
    Py_BEGIN_CRITICAL_SECTION(loop);
    for (ScProducer *each = loop->unfinished; each != NULL && rc == 0;
         each = each->next) {
        rc = PyList_Append(tasks, each->task);
    }
    Py_END_CRITICAL_SECTION();
    if (rc < 0) {
        Py_CLEAR(tasks);
    }
    return tasks;
}

/* -- the sentinel ------------------------------------------------------------
 */

typedef struct {
    PyObject_HEAD
    ScProducer *producer; /* strong */
    PyObject *own;        /* itself, once it has to be found: strong */
} Sentinel;

void
sc_producer_make_sentinel(ScProducer *self)
{
    PyTypeObject *type = self->loop->st->producer_sentinel_type;
    Sentinel *sentinel = (Sentinel *)type->tp_alloc(type, 0);
    if (sentinel == NULL) {
        /* Found, the producer is closed a little too early. */
        PyErr_Clear();
        return;
    }
    sentinel->producer = (ScProducer *)Py_NewRef((PyObject *)self);
    self->sentinel = (PyObject *)sentinel;
}

void
sc_producer_finalize(ScProducer *self)
{
    if (self->over || self->task == NULL || sc_loop_is_dead(self->loop) ||
        sc_is_finalizing()) {
        return;
    }
    self->found = true;
    Sentinel *sentinel = (Sentinel *)self->sentinel;
    if (sentinel == NULL) {
        sc_producer_drop(self);
        return;
    }
    /* What it held is the sentinel's own from now on: nobody else knows it. */
    self->sentinel = NULL;
    sentinel->own = (PyObject *)sentinel;
}

void
sc_producer_show(ScProducer *self)
{
    PyObject *list = sc_state_import("asyncio.tasks", "_register_task");
    PyObject *none = list ? PyObject_CallOneArg(list, self->task) : NULL;
    if (none == NULL) {
        PyErr_WriteUnraisable(self->task);
    }
    Py_XDECREF(none);
    Py_XDECREF(list);
    sc_task_list_add(self->loop->st, self->task);
}

static int
sentinel_traverse(Sentinel *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->own);
    if (self->own == NULL) {
        Py_VISIT(self->producer);
    }
    return 0;
}

static int
sentinel_clear(Sentinel *self)
{
    ScProducer *producer = self->producer;
    self->producer = NULL;
    if (producer != NULL && self->own != NULL) {
        sc_producer_drop(producer);
    }
    Py_XDECREF((PyObject *)producer);
    Py_CLEAR(self->own);
    return 0;
}

static void
sentinel_dealloc(Sentinel *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sentinel_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyType_Slot sentinel_slots[] = {
    {Py_tp_doc, (void *)"Is cleared once a collection's finalizers are done."},
    {Py_tp_traverse, SC_SLOT(sentinel_traverse)},
    {Py_tp_clear, SC_SLOT(sentinel_clear)},
    {Py_tp_dealloc, SC_SLOT(sentinel_dealloc)},
    {0, NULL},
};

static PyType_Spec sentinel_spec = {
    .name = "sidecar._core.ProducerSentinel",
    .basicsize = sizeof(Sentinel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sentinel_slots,
};

int
sc_producer_sentinel_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->producer_sentinel_type, &sentinel_spec,
                       NULL, NULL);
}
