#include "core/lineage.h"

#include "core/call.h"
#include "core/module.h"
#include "core/producer.h"

typedef struct {
    PyObject_HEAD
    /* Borrowed: ScCall or ScProducer; NULL: over.  The owner's, but for
     * sc_lineage_is_of. */
    _Atomic(PyObject *) root;
} Lineage;

void
sc_lineage_end(PyObject *lineage)
{
    atomic_store(&((Lineage *)lineage)->root, NULL);
}

bool
sc_lineage_is_of(PyObject *lineage, ScCall *call)
{
    PyObject *root = atomic_load(&((Lineage *)lineage)->root);
    return root != NULL &&
           (root == (PyObject *)call ||
            (call->request != SC_CALL_RUN && root == call->coro));
}

static bool
is_root(ScState *st, PyObject *object)
{
    return Py_IS_TYPE(object, st->call_type) ||
           Py_IS_TYPE(object, st->producer_type);
}

/* The call among a task's done-callbacks, or the producer that is its
 * coroutine: a new reference, or NULL. */
static PyObject *
root_of_task(ScState *st, PyObject *task)
{
    PyObject *coro = PyObject_CallMethodNoArgs(task, st->str_get_coro);
    if (coro != NULL && Py_IS_TYPE(coro, st->producer_type)) {
        return coro;
    }
    Py_XDECREF(coro);
    PyObject *found = NULL;
    PyObject *callbacks =
        coro ? PyObject_GetAttr(task, st->str__callbacks) : NULL;
    Py_ssize_t count = callbacks != NULL && PyList_CheckExact(callbacks)
                           ? PyList_GET_SIZE(callbacks)
                           : 0;
    for (Py_ssize_t i = 0; i < count && found == NULL; i++) {
        PyObject *entry = PyList_GET_ITEM(callbacks, i);
        if (PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) > 0 &&
            is_root(st, PyTuple_GET_ITEM(entry, 0))) {
            found = Py_NewRef(PyTuple_GET_ITEM(entry, 0));
        }
    }
    Py_XDECREF(callbacks);
    /* A task factory's tasks may have neither. */
    PyErr_Clear();
    return found;
}

/* The call or producer whose own task is running now: a new reference, or
 * NULL. */
static PyObject *
running_root(ScLoop *loop)
{
    ScState *st = loop->st;
    if (loop->starting != NULL) {
        return Py_NewRef(loop->starting);
    }
    PyObject *task =
        PyObject_CallOneArg(st->asyncio_current_task, (PyObject *)loop);
    PyObject *root = NULL;
    if (task == NULL) {
        PyErr_Clear();
    }
    else if (task != Py_None) {
        root = root_of_task(st, task);
    }
    Py_XDECREF(task);
    return root;
}

/* Its lineage, made where there is none yet: a new reference, or NULL with an
 * error set. */
static PyObject *
lineage_of(ScState *st, PyObject *root)
{
    PyObject **place = Py_IS_TYPE(root, st->call_type)
                           ? &((ScCall *)root)->lineage
                           : sc_producer_lineage((ScProducer *)root);
    if (*place == NULL) {
        PyTypeObject *type = st->lineage_type;
        Lineage *made = (Lineage *)type->tp_alloc(type, 0);
        if (made == NULL) {
            return NULL;
        }
        atomic_init(&made->root, root);
        *place = (PyObject *)made;
    }
    return Py_NewRef(*place);
}

int
sc_lineage_mark(ScLoop *loop)
{
    ScState *st = loop->st;
    if (!sc_drive_is_owner(loop->drive)) {
        return 0;
    }
    PyObject *root = running_root(loop);
    if (root == NULL) {
        return 0;
    }
    PyObject *lineage = lineage_of(st, root), *known = NULL, *token = NULL;
    Py_DECREF(root);
    int rc = lineage ? PyContextVar_Get(st->lineage_var, NULL, &known) : -1;
    if (rc == 0 && known != lineage) {
        token = PyContextVar_Set(st->lineage_var, lineage);
        rc = token ? 0 : -1;
    }
    Py_XDECREF(token);
    Py_XDECREF(known);
    Py_XDECREF(lineage);
    return rc;
}

struct ScCall *
sc_lineage_call(ScLoop *loop)
{
    ScState *st = loop->st;
    PyObject *root = running_root(loop), *lineage = NULL;
    if (root == NULL) {
        if (PyContextVar_Get(st->lineage_var, NULL, &lineage) < 0) {
            return NULL;
        }
        /* None: what was submitted is on its own. */
        root = lineage != NULL && Py_IS_TYPE(lineage, st->lineage_type)
                   ? Py_XNewRef(atomic_load(&((Lineage *)lineage)->root))
                   : NULL;
        Py_XDECREF(lineage);
    }
    if (root != NULL && Py_IS_TYPE(root, st->producer_type)) {
        ScCall *call = sc_producer_call((ScProducer *)root);
        Py_XINCREF((PyObject *)call);
        Py_SETREF(root, (PyObject *)call);
    }
    ScCall *call = (ScCall *)root;
    if (call != NULL &&
        (call->loop != loop || call->done || atomic_load(&call->abandoned))) {
        Py_DECREF(root);
        return NULL;
    }
    return call;
}

static void
lineage_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot lineage_slots[] = {
    {Py_tp_doc, (void *)"What coroutines know their call by."},
    {Py_tp_dealloc, SC_SLOT(lineage_dealloc)},
    {0, NULL},
};

static PyType_Spec lineage_spec = {
    .name = "sidecar._core.Lineage",
    .basicsize = sizeof(Lineage),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lineage_slots,
};

int
sc_lineage_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->lineage_var = PyContextVar_New("sidecar_lineage", NULL);
    if (st->lineage_var == NULL ||
        PyModule_AddObjectRef(module, "_lineage", st->lineage_var) < 0) {
        return -1;
    }
    return sc_type_add(module, &st->lineage_type, &lineage_spec, NULL, NULL);
}
