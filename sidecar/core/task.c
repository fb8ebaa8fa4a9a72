#include "core/task.h"

#include "core/lineage.h"
#include "core/module.h"
#include "core/task_list.h"
#include "core/work.h"

/* -- the mark ----------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    ScLoop *loop;    /* strong; NULL once the task is over */
    unsigned tenure; /* of the loop when the task was made */
    ScWork work;     /* what it is of a request's, or of nobody's */
} ScMark;

void
sc_mark_task_ended(PyObject *mark)
{
    ScMark *self = (ScMark *)mark;
    ScLoop *loop = self->loop;
    sc_work_end(&self->work);
    if (loop != NULL) {
        self->loop = NULL;
        sc_task_list_ended(loop, self->tenure);
        if (loop->drive != NULL) {
            atomic_fetch_sub_explicit(&loop->drive->tasks, 1,
                                      memory_order_relaxed);
        }
        Py_DECREF((PyObject *)loop);
    }
}

static int
mark_traverse(ScMark *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->work.owner);
    return 0;
}

static int
mark_clear(ScMark *self)
{
    sc_mark_task_ended((PyObject *)self);
    return 0;
}

static void
mark_dealloc(ScMark *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    mark_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot mark_slots[] = {
    {Py_tp_doc, (void *)"Counts a bridge's living tasks."},
    {Py_tp_traverse, SC_SLOT(mark_traverse)},
    {Py_tp_clear, SC_SLOT(mark_clear)},
    {Py_tp_dealloc, SC_SLOT(mark_dealloc)},
    {0, NULL},
};

static PyType_Spec mark_spec = {
    .name = "sidecar._core.TaskMark",
    .basicsize = sizeof(ScMark),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = mark_slots,
};

/* It ends with the request in whose name it was started.  0, or -1 with an
 * error set. */
static int
belong(ScMark *self, PyObject *task, ScOwner *owner)
{
    if (owner == NULL) {
        return 0;
    }
    int rc = sc_work_begin(&self->work, owner, SC_WORK_TASK, task);
    Py_DECREF((PyObject *)owner);
    return rc < 0 ? -1 : 0;
}

static int
mark_task(ScLoop *loop, PyObject *task, PyObject *context)
{
    ScState *st = loop->st;
    ScMark *mark = PyObject_GC_New(ScMark, st->mark_type);
    if (mark == NULL) {
        return -1;
    }
    mark->loop = (ScLoop *)Py_NewRef((PyObject *)loop);
    mark->tenure = sc_task_list_begun(loop, task);
    mark->work = (ScWork){0};
    atomic_fetch_add_explicit(&loop->drive->tasks, 1, memory_order_relaxed);
    PyObject_GC_Track((PyObject *)mark);
    PyObject *stack[] = {task, (PyObject *)mark, st->empty_context};
    PyObject *none = NULL;
    if (belong(mark, task, sc_owner_current(st, context)) == 0) {
        none = PyObject_VectorcallMethod(st->str_add_done_callback, stack, 2,
                                         st->kw_context);
    }
    Py_DECREF((PyObject *)mark);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* What _callbacks has of it: pairs, the callback first. */
static bool
is_unowned_mark(ScState *st, PyObject *entry)
{
    PyObject *callback = PyTuple_Check(entry) && PyTuple_GET_SIZE(entry) > 0
                             ? PyTuple_GET_ITEM(entry, 0)
                             : entry;
    if (!Py_IS_TYPE(callback, st->mark_type)) {
        return false;
    }
    ScOwner *owner = ((ScMark *)callback)->work.owner;
    return owner == NULL || owner->detached;
}

static PyObject *
is_background(PyObject *module, PyObject *task)
{
    ScState *st = sc_state_of_module(module);
    PyObject *callbacks = PyObject_GetAttrString(task, "_callbacks");
    if (callbacks == NULL) {
        return NULL;
    }
    bool found = false;
    if (PyList_Check(callbacks)) {
        for (Py_ssize_t i = 0; !found && i < PyList_GET_SIZE(callbacks); i++) {
            found = is_unowned_mark(st, PyList_GET_ITEM(callbacks, i));
        }
    }
    Py_DECREF(callbacks);
    return PyBool_FromLong(found);
}

static PyMethodDef task_functions[] = {
    {"_is_background", is_background, METH_O,
     "_is_background(task, /)\n--\n\n"
     "Whether the task was made on a bridge, and for no request."},
    {NULL, NULL, 0, NULL},
};

int
sc_task_adopt(ScLoop *self, PyObject *task, PyObject *context)
{
    return mark_task(self, task, context);
}

/* -- making tasks ------------------------------------------------------- */

/* Task(coro, loop=self, **the keywords given). */
static PyObject *
make_plain(ScLoop *self, PyObject *const *args, PyObject *kwnames)
{
    ScState *st = self->st;
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nkw == 0) {
        PyObject *stack[] = {NULL, args[0], (PyObject *)self};
        return PyObject_Vectorcall(st->asyncio_task, stack + 1,
                                   1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                   st->kw_loop);
    }
    PyObject *kwargs = PyDict_New(), *task = NULL;
    int rc =
        kwargs ? PyDict_SetItem(kwargs, st->str_loop, (PyObject *)self) : -1;
    for (Py_ssize_t i = 0; rc == 0 && i < nkw; i++) {
        rc = PyDict_SetItem(kwargs, PyTuple_GET_ITEM(kwnames, i), args[1 + i]);
    }
    if (rc == 0) {
        task = PyObject_VectorcallDict(st->asyncio_task, args, 1, kwargs);
    }
    Py_XDECREF(kwargs);
    return task;
}

/* asyncio knows how each version calls a task factory. */
static PyObject *
make_by_factory(ScLoop *self, PyObject *const *args, PyObject *kwnames)
{
    ScState *st = self->st;
    PyObject *create =
        PyObject_GetAttr(st->asyncio_base_loop, st->str_create_task);
    PyObject *bound = create ? PyMethod_New(create, (PyObject *)self) : NULL;
    PyObject *task =
        bound ? PyObject_Vectorcall(bound, args, 1, kwnames) : NULL;
    Py_XDECREF(bound);
    Py_XDECREF(create);
    return task;
}

/* Among the keyword arguments of create_task(coro, ...). */
static PyObject *
context_of(ScState *st, PyObject *const *args, PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (name == st->str_context ||
            PyUnicode_Compare(name, st->str_context) == 0) {
            return args[1 + i] != Py_None ? args[1 + i] : NULL;
        }
    }
    return NULL;
}

PyObject *
sc_loop_create_task(ScLoop *self, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes one coroutine, not %zd arguments",
                     nargs);
        return NULL;
    }
    if (sc_loop_check_open(self) < 0) {
        return NULL;
    }
    PyObject *context =
        self->bridged ? context_of(self->st, args, kwnames) : NULL;
    if (self->bridged && context == NULL && sc_lineage_mark(self) < 0) {
        return NULL;
    }
    PyObject *task = self->task_factory ? make_by_factory(self, args, kwnames)
                                        : make_plain(self, args, kwnames);
    if (task != NULL && self->bridged && !sc_loop_is_dead(self) &&
        mark_task(self, task, context) < 0) {
        Py_CLEAR(task);
    }
    return task;
}

PyObject *
sc_loop_create_future(ScLoop *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *stack[] = {NULL, (PyObject *)self};
    return PyObject_Vectorcall(self->st->asyncio_future, stack + 1,
                               0 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               self->st->kw_loop);
}

#if SC_TASK_TAKES_CONTEXT
static PyObject *
start_in(ScLoop *self, PyObject *coro, PyObject *context)
{
    ScState *st = self->st;
    if (self->task_factory != NULL) {
        PyObject *stack[] = {coro, context};
        return make_by_factory(self, stack, st->kw_context);
    }
    PyObject *stack[] = {NULL, coro, (PyObject *)self, context, Py_True};
    return PyObject_Vectorcall(st->asyncio_task, stack + 1,
                               1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               st->kw_task);
}
#else
static PyObject *
start_in(ScLoop *self, PyObject *coro, PyObject *context)
{
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *task = self->task_factory ? make_by_factory(self, &coro, NULL)
                                        : make_plain(self, &coro, NULL);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(task);
    }
    return task;
}
#endif

PyObject *
sc_task_start(ScLoop *self, PyObject *coro, PyObject *context)
{
    return start_in(self, coro, context);
}

int
sc_task_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (PyModule_AddFunctions(module, task_functions) < 0) {
        return -1;
    }
    st->empty_context = PyContext_New();
    st->kw_loop = PyTuple_Pack(1, st->str_loop);
    st->kw_context = PyTuple_Pack(1, st->str_context);
#if SC_TASK_STARTS_EAGERLY
    st->kw_task =
        PyTuple_Pack(3, st->str_loop, st->str_context, st->str_eager_start);
#else
    st->kw_task = PyTuple_Pack(2, st->str_loop, st->str_context);
#endif
    if (st->empty_context == NULL || st->kw_loop == NULL ||
        st->kw_context == NULL || st->kw_task == NULL) {
        return -1;
    }
#if SC_TASK_ON_THREAD
    st->swap_current_task =
        sc_state_import("asyncio.tasks", "_swap_current_task");
    if (st->swap_current_task == NULL) {
        return -1;
    }
#endif
    return sc_type_add(module, &st->mark_type, &mark_spec, NULL, NULL);
}
