#include "core/running_loop.h"

#include "core/fork.h"
#include "core/module.h"

#if SC_RUNNING_LOOP_HOLDER

#include <string.h>
#include <sys/types.h>

/* asyncio's own, of Modules/_asynciomodule.c. */
typedef struct {
    PyObject_HEAD
    PyObject *loop;
    pid_t pid;
} Holder;

/* This thread's, where asyncio would trust it: of this process. */
static Holder *
holder_here(ScState *st)
{
    if (st->holder_type == NULL ||
        st->holder_generation != sc_fork_generation()) {
        return NULL;
    }
    PyObject *dict = PyThreadState_GetDict();
    PyObject *found =
        dict ? PyDict_GetItemWithError(dict, st->key_running_loop) : NULL;
    if (found == NULL || (PyObject *)Py_TYPE(found) != st->holder_type ||
        ((Holder *)found)->pid != st->holder_pid) {
        return NULL;
    }
    return (Holder *)found;
}

/* What asyncio has just made, in this process. */
static void
learn_holder(ScState *st)
{
    PyObject *dict = PyThreadState_GetDict();
    PyObject *found =
        dict ? PyDict_GetItemWithError(dict, st->key_running_loop) : NULL;
    if (found == NULL || Py_TYPE(found)->tp_basicsize != sizeof(Holder) ||
        strstr(Py_TYPE(found)->tp_name, "RunningLoopHolder") == NULL) {
        return;
    }
    Py_XSETREF(st->holder_type, Py_NewRef((PyObject *)Py_TYPE(found)));
    st->holder_pid = ((Holder *)found)->pid;
    st->holder_generation = sc_fork_generation();
}

PyObject *
sc_running_loop_get(ScState *st)
{
    Holder *holder = holder_here(st);
    return holder ? Py_NewRef(holder->loop)
                  : PyObject_CallNoArgs(st->get_running_loop);
}

int
sc_running_loop_set(ScState *st, PyObject *loop)
{
    Holder *holder = holder_here(st);
    if (holder != NULL) {
        PyObject *before = holder->loop;
        holder->loop = Py_NewRef(loop);
        Py_DECREF(before);
        return 0;
    }
    PyObject *none = PyObject_CallOneArg(st->set_running_loop, loop);
    Py_XDECREF(none);
    if (none != NULL) {
        learn_holder(st);
    }
    return none ? 0 : -1;
}

int
sc_running_loop_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->key_running_loop =
        PyUnicode_InternFromString("__asyncio_running_event_loop__");
    return st->key_running_loop ? 0 : -1;
}

#else

PyObject *
sc_running_loop_get(ScState *st)
{
    return PyObject_CallNoArgs(st->get_running_loop);
}

int
sc_running_loop_set(ScState *st, PyObject *loop)
{
    PyObject *none = PyObject_CallOneArg(st->set_running_loop, loop);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

int
sc_running_loop_init(PyObject *Py_UNUSED(module))
{
    return 0;
}

#endif
