#include "core/task_list.h"

#include "core/module.h"

#if SC_TASK_ON_THREAD

unsigned
sc_task_list_begun(ScLoop *loop, PyObject *task)
{
    if (sc_drive_is_owner(loop->drive)) {
        loop->unlisted++;
    }
    else {
        sc_task_list_add(loop->st, task);
    }
    return loop->tenure;
}

void
sc_task_list_ended(ScLoop *loop, unsigned tenure)
{
    if (loop->drive != NULL && sc_drive_is_owner(loop->drive) &&
        tenure == loop->tenure && loop->unlisted > 0) {
        loop->unlisted--;
    }
}

/* All of it in C: a signal's handler that raised in here would be lost. */
void
sc_task_list_add(ScState *st, PyObject *task)
{
    if (st->shared_tasks == NULL) {
        return;
    }
    PyObject *ref = PyWeakref_NewRef(task, st->shared_tasks_discard);
    if (ref == NULL || PySet_Add(st->shared_tasks, ref) < 0) {
        PyErr_WriteUnraisable(task);
    }
    Py_XDECREF(ref);
}

void
sc_task_list_share(ScLoop *loop)
{
    if (loop->unlisted == 0) {
        return;
    }
    loop->unlisted = 0;
    loop->tenure++;
    PyObject *error = sc_error_take(), *tasks = NULL;
    /* It runs Python: what a signal's handler raises there is kept, and the
     * list made once more. */
    for (int tries = 0; tasks == NULL && tries < 3; tries++) {
        PyObject *interrupt = sc_error_take();
        if (interrupt != NULL) {
            Py_XSETREF(error, interrupt);
        }
        tasks =
            PyObject_CallOneArg(loop->st->asyncio_all_tasks, (PyObject *)loop);
    }
    PyObject *iterator = tasks ? PyObject_GetIter(tasks) : NULL;
    PyObject *task;
    while (iterator != NULL && (task = PyIter_Next(iterator)) != NULL) {
        sc_task_list_add(loop->st, task);
        Py_DECREF(task);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    Py_XDECREF(iterator);
    Py_XDECREF(tasks);
    if (error != NULL) {
        sc_error_restore(error);
    }
}

/* The set has no name; its module knows it. */
static PyObject *
find_weak_set(PyObject *asyncio_c)
{
    PyObject *get_referents = sc_state_import("gc", "get_referents");
    PyObject *refs =
        get_referents ? PyObject_CallOneArg(get_referents, asyncio_c) : NULL;
    PyObject *type = refs ? sc_state_import("weakref", "WeakSet") : NULL;
    PyObject *found = NULL;
    for (Py_ssize_t i = 0; type != NULL && i < PyList_GET_SIZE(refs); i++) {
        PyObject *each = PyList_GET_ITEM(refs, i);
        if ((PyObject *)Py_TYPE(each) == type) {
            found = Py_NewRef(each);
            break;
        }
    }
    Py_XDECREF(type);
    Py_XDECREF(refs);
    Py_XDECREF(get_referents);
    return found;
}

int
sc_task_list_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    PyObject *asyncio_c = PyImport_ImportModule("_asyncio");
    PyObject *set = asyncio_c ? find_weak_set(asyncio_c) : NULL;
    Py_XDECREF(asyncio_c);
    if (set != NULL) {
        st->shared_tasks = PyObject_GetAttrString(set, "data");
        Py_DECREF(set);
    }
    if (st->shared_tasks != NULL) {
        st->shared_tasks_discard =
            PyObject_GetAttrString(st->shared_tasks, "discard");
    }
    return PyErr_Occurred() ? -1 : 0;
}

#else

int
sc_task_list_init(PyObject *Py_UNUSED(module))
{
    return 0;
}

#endif
