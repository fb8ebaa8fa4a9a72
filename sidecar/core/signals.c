#include "core/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/drive.h"
#include "core/fork.h"
#include "core/support.h"

static int
find_main_thread(ScState *st)
{
    PyObject *ident = sc_support_call("main_thread_ident", NULL);
    unsigned long value = ident ? PyLong_AsUnsignedLong(ident) : 0;
    Py_XDECREF(ident);
    if (PyErr_Occurred()) {
        return -1;
    }
    /* A sub-interpreter runs no signal handlers, on any thread. */
    bool runs_handlers = PyInterpreterState_Get() == PyInterpreterState_Main();
    atomic_store(&st->main_thread,
                 runs_handlers ? (uintptr_t)value : UINTPTR_MAX);
    atomic_store(&st->main_thread_generation, sc_fork_generation());
    return 0;
}

bool
sc_signals_is_main(ScState *st)
{
    /* The child of a fork may have another main thread. */
    if ((atomic_load(&st->main_thread) == 0 ||
         atomic_load(&st->main_thread_generation) != sc_fork_generation()) &&
        find_main_thread(st) < 0) {
        PyErr_Clear();
        return false;
    }
    return atomic_load(&st->main_thread) == sc_thread_self();
}

bool
sc_signals_have_raised(ScState *st)
{
    PyObject *error = sc_error_take();
    bool yes = false;
    if (sc_signals_is_main(st)) {
        PyObject *answer =
            sc_support_call("came_from_signal_handler", "(O)", error);
        yes = answer == Py_True;
        if (answer == NULL) {
            PyErr_WriteUnraisable(error);
        }
        Py_XDECREF(answer);
    }
    sc_error_restore(error);
    return yes;
}

void
sc_signals_fini(ScState *st)
{
    int *fds[] = {&st->signal_pipe[0], &st->signal_pipe[1],
                  &st->signal_event_fd};
    for (int i = 0; i < 3; i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
            *fds[i] = -1;
        }
    }
}

int
sc_signals_prepare(ScState *st)
{
    if (st->signal_fds_generation != sc_fork_generation()) {
        sc_signals_fini(st); /* the parent's */
        st->signal_fds_generation = sc_fork_generation();
    }
    if (st->signal_event_fd >= 0) {
        return 0;
    }
    if (pipe2(st->signal_pipe, O_CLOEXEC | O_NONBLOCK) == 0) {
        st->signal_event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    if (st->signal_event_fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        sc_signals_fini(st);
        return -1;
    }
    return 0;
}

/* Empty the pipe; what it held belongs to the descriptor that was there. */
static void
forward(ScState *st, int before)
{
    char bytes[64];
    ssize_t count;
    while ((count = read(st->signal_pipe[0], bytes, sizeof(bytes))) > 0) {
        if (before >= 0) {
            (void)!write(before, bytes, (size_t)count);
        }
    }
}

/* The wake-up descriptor that was there before, -1 for none; -2 with an error
 * set. */
static int
exchange_wakeup_fd(ScState *st, int fd)
{
#if SC_SIGNAL_WAKEUP_IN_C
    (void)st;
    return PySignal_SetWakeupFd(fd);
#else
    PyObject *argument = PyLong_FromLong(fd);
    PyObject *before =
        argument ? PyObject_CallOneArg(st->set_wakeup_fd, argument) : NULL;
    long value = before ? PyLong_AsLong(before) : -2;
    Py_XDECREF(argument);
    Py_XDECREF(before);
    return (int)value;
#endif
}

/* Back to what was there, and what came meanwhile to it. */
static void
restore_wakeup_fd(ScState *st, int before)
{
    PyObject *error = sc_error_take();
    if (exchange_wakeup_fd(st, before) == -2) {
        /* It was closed behind our back. */
        PyErr_Clear();
        exchange_wakeup_fd(st, -1);
    }
    forward(st, before == st->signal_pipe[1] ? st->signal_before : before);
    if (error != NULL) {
        sc_error_restore(error);
    }
}

/* `exchange_wakeup_fd` has failed: 0 where the thread turns out to run no
 * signal handlers, else -1. */
static int
not_main_after_all(ScState *st)
{
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
        return -1;
    }
    /* `threading` was first imported on this thread and takes it for the
     * main one; the interpreter knows better, and runs no handlers here.
     */
    PyErr_Clear();
    atomic_store(&st->main_thread, UINTPTR_MAX);
    return 0;
}

int
sc_signals_begin(ScState *st, ScSignalWait *wait)
{
    wait->before = exchange_wakeup_fd(st, st->signal_pipe[1]);
    wait->watched = wait->before != -2;
    if (!wait->watched) {
        return not_main_after_all(st);
    }
    if (PyErr_CheckSignals() < 0) {
        restore_wakeup_fd(st, wait->before);
        return -1;
    }
    return 0;
}

int
sc_signals_end(ScState *st, ScSignalWait *wait)
{
    if (!wait->watched) {
        return 0;
    }
    restore_wakeup_fd(st, wait->before);
    return PyErr_CheckSignals();
}

int
sc_signals_keep(ScState *st, ScSignalWait *kept)
{
    /* Where the exchange is cheap, each time: somebody may have set theirs. */
    if (SC_SIGNAL_WAKEUP_IN_C || !kept->watched) {
        int pipe = st->signal_pipe[1];
        int before = exchange_wakeup_fd(st, pipe);
        if (before == -2) {
            return not_main_after_all(st);
        }
        if (before != pipe) {
            st->signal_before = before;
        }
        if (before != pipe || !kept->watched) {
            kept->before = before;
        }
        kept->watched = true;
    }
    return PyErr_CheckSignals();
}

void
sc_signals_drain(ScState *st)
{
    forward(st, st->signal_before);
}

void
sc_signals_release(ScState *st, ScSignalWait *kept)
{
    if (!kept->watched) {
        return;
    }
    kept->watched = false;
    PyObject *error = sc_error_take();
    int now = exchange_wakeup_fd(st, kept->before);
    if (now == -2) {
        /* What was there before was closed behind our back. */
        PyErr_Clear();
        now = exchange_wakeup_fd(st, -1);
    }
    if (now != st->signal_pipe[1] && exchange_wakeup_fd(st, now) == -2) {
        PyErr_Clear();
    }
    sc_signals_drain(st);
    if (kept->before != st->signal_pipe[1]) {
        st->signal_before = -1;
    }
    if (error != NULL) {
        sc_error_restore(error);
    }
}
