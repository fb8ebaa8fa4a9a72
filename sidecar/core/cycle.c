#include "core/cycle.h"

#include "core/errors.h"
#include "core/lineage.h"
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
            atomic_fetch_sub_explicit(&st->holders_count, 1,
                                      memory_order_relaxed);
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

/* 0, or -1 without memory. */
static int
add_link(PyObject *chain, ScCall *call)
{
    PyObject *link = Py_BuildValue("(OO)", call->coro,
                                   call->context ? call->context : Py_None);
    int rc = link ? PyList_Append(chain, link) : -1;
    Py_XDECREF(link);
    return rc;
}

/* The calls from `call` back to this thread, or to the call that it works for
 * (`lineage`, or NULL), as a list for the message; NULL without an error: the
 * way ends elsewhere.  Under the critical section. */
static PyObject *
find_cycle(ScState *st, ScCall *call, PyObject *lineage, bool *by_lineage)
{
    *by_lineage = false;
    PyObject *chain = PyList_New(0);
    uintptr_t me = sc_thread_self();
    while (chain != NULL) {
        if (add_link(chain, call) < 0) {
            Py_CLEAR(chain);
            break;
        }
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
        if (lineage != NULL && sc_lineage_is_of(lineage, next)) {
            *by_lineage = true;
            if (add_link(chain, next) < 0) {
                Py_CLEAR(chain);
            }
            break;
        }
        call = next;
    }
    return chain;
}

/* Steals the chain, NULL: there is none.  0, or -1 with DeadlockError set. */
static int
refuse_cycle(ScState *st, PyObject *chain, bool by_lineage)
{
    if (chain != NULL) {
        PyObject *text =
            sc_support_call("cycle_text", "(Oi)", chain, (int)by_lineage);
        Py_DECREF(chain);
        if (text != NULL) {
            sc_error_raise(st, SC_E_DEADLOCK, "%U", text);
            Py_DECREF(text);
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}

int
sc_cycle_check(ScCall *call)
{
    ScState *st = call->st;
    PyObject *lineage = NULL, *chain;
    bool by_lineage;
    if (PyContextVar_Get(st->lineage_var, NULL, &lineage) < 0) {
        return -1;
    }
    if (lineage == NULL) {
        return 0;
    }
    Py_BEGIN_CRITICAL_SECTION(st->module);
    forget_parents(st);
    chain = find_cycle(st, call, lineage, &by_lineage);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(lineage);
    return refuse_cycle(st, chain, by_lineage);
}

int
sc_cycle_enter(ScHolder *holder, ScCall *call)
{
    ScState *st = call->st;
    *holder = (ScHolder){.thread = sc_thread_self(),
                         .call = call,
                         .generation = sc_fork_generation()};
    PyObject *chain;
    bool by_lineage;
    Py_BEGIN_CRITICAL_SECTION(st->module);
    forget_parents(st);
    chain = find_cycle(st, call, NULL, &by_lineage);
    if (chain == NULL && !PyErr_Occurred()) {
        holder->next = st->holders;
        st->holders = holder;
        atomic_fetch_add_explicit(&st->holders_count, 1, memory_order_relaxed);
    }
    Py_END_CRITICAL_SECTION();
    return refuse_cycle(st, chain, by_lineage);
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
        atomic_fetch_sub_explicit(&st->holders_count, 1, memory_order_relaxed);
    }
    Py_END_CRITICAL_SECTION();
}
