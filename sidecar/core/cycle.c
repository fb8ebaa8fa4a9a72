#include "core/cycle.h"

#include "core/errors.h"
#include "core/support.h"

/* In the child of a fork the others' threads, and their lists, are gone. */
static void
forget_parents(ScState *st)
{
    unsigned generation = sc_fork_generation();
    ScHolder **link = &st->holders;
    while (*link != NULL) {
        if ((*link)->generation != generation) {
            *link = (*link)->next;
        }
        else {
            link = &(*link)->next;
        }
    }
}

/* The call that thread waits for just now, or NULL.  Where that call is over
 * the thread is on its way out. */
static ScCall *
innermost(ScState *st, uintptr_t thread)
{
    ScHolder *holder = st->holders;
    while (holder != NULL && holder->thread != thread) {
        holder = holder->next;
    }
    return holder != NULL &&
                   atomic_load(&holder->call->waiter.park.word) != SC_DONE
               ? holder->call
               : NULL;
}

/* The calls from `call` back to this thread, as a list for the message; NULL
 * without an error: the way ends elsewhere.  Under the critical section. */
static PyObject *
find_cycle(ScState *st, ScCall *call)
{
    PyObject *chain = PyList_New(0);
    uintptr_t me = sc_thread_self();
    while (chain != NULL) {
        PyObject *link = Py_BuildValue(
            "(OO)", call->coro, call->context ? call->context : Py_None);
        if (link == NULL || PyList_Append(chain, link) < 0) {
            Py_CLEAR(chain);
        }
        Py_XDECREF(link);
        uintptr_t owner = atomic_load_explicit(&call->loop->drive->owner,
                                               memory_order_relaxed);
        if (owner == me) {
            break;
        }
        ScCall *next = owner ? innermost(st, owner) : NULL;
        if (next == NULL || next == call) {
            /* The owner runs, or drives the very loop that it waits for. */
            Py_CLEAR(chain);
            break;
        }
        call = next;
    }
    return chain;
}

int
sc_cycle_enter(ScHolder *holder, ScCall *call)
{
    ScState *st = call->st;
    *holder = (ScHolder){.thread = sc_thread_self(),
                         .call = call,
                         .generation = sc_fork_generation()};
    PyObject *chain;
    Py_BEGIN_CRITICAL_SECTION(st->module);
    forget_parents(st);
    chain = find_cycle(st, call);
    if (chain == NULL && !PyErr_Occurred()) {
        holder->next = st->holders;
        st->holders = holder;
    }
    Py_END_CRITICAL_SECTION();
    if (chain != NULL) {
        PyObject *text = sc_support_call("cycle_text", "(O)", chain);
        Py_DECREF(chain);
        if (text != NULL) {
            sc_error_raise(st, SC_E_DEADLOCK, "%U", text);
            Py_DECREF(text);
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}

void
sc_cycle_leave(ScHolder *holder)
{
    ScState *st = holder->call->st;
    Py_BEGIN_CRITICAL_SECTION(st->module);
    ScHolder **link = &st->holders;
    while (*link != NULL && *link != holder) {
        link = &(*link)->next;
    }
    if (*link == holder) {
        *link = holder->next;
    }
    Py_END_CRITICAL_SECTION();
}
