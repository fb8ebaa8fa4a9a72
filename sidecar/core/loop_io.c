#include "core/loop.h"

#include <errno.h>

#include "core/clock.h"

/* The table's entry of a descriptor, grown to it; NULL with an error set. */
static ScIo *
entry_of(ScLoop *self, int fd)
{
    if ((size_t)fd >= self->io_room) {
        size_t room = self->io_room ? self->io_room : 64;
        while (room <= (size_t)fd) {
            room *= 2;
        }
        ScIo *io = PyMem_Realloc(self->io, room * sizeof(ScIo));
        if (io == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        for (size_t i = self->io_room; i < room; i++) {
            io[i] = (ScIo){NULL, NULL, 0};
        }
        self->io = io;
        self->io_room = room;
    }
    return &self->io[fd];
}

/* Under the critical section: put `handle` (stolen, NULL: nothing) on one
 * side of a descriptor.  What was there comes back in *before.  0, or -1 with
 * OSError set and nothing changed. */
static int
set_side(ScLoop *self, int fd, bool writer, PyObject *handle,
         PyObject **before)
{
    *before = NULL;
    if (handle == NULL && (size_t)fd >= self->io_room) {
        return 0;
    }
    ScIo *io = entry_of(self, fd);
    if (io == NULL) {
        Py_XDECREF(handle);
        return -1;
    }
    uint32_t bit = writer ? EPOLLOUT : EPOLLIN;
    uint32_t events = handle ? io->events | bit : io->events & ~bit;
    /* Told again where nothing changes, too: the descriptor may be another one
     * that got the number of one closed without a word. */
    if ((events != io->events || handle != NULL) &&
        sc_poller_set(&self->drive->poller, fd, io->events, events) < 0 &&
        handle != NULL) {
        Py_DECREF(handle);
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    /* A failed removal means that the descriptor was closed before, and left
     * the epoll set with that. */
    io->events = events;
    PyObject **side = writer ? &io->writer : &io->reader;
    *before = *side;
    *side = handle;
    return 0;
}

static PyObject *
add(ScLoop *self, bool writer, PyObject *const *args, Py_ssize_t nargs,
    PyObject *kwnames)
{
    PyObject *context;
    if (sc_loop_parse_context(self->st, writer ? "_add_writer" : "_add_reader",
                              args, nargs, 2, kwnames, &context) < 0) {
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(args[0]);
    if (fd < 0 || sc_loop_check_open(self) < 0) {
        return NULL;
    }
    ScHandle *handle =
        sc_handle_new(self, args[1], args + 2, nargs - 2, context);
    if (handle == NULL || sc_loop_is_dead(self)) {
        return (PyObject *)handle;
    }
    PyObject *before;
    int rc;
    Py_INCREF((PyObject *)handle);
    Py_BEGIN_CRITICAL_SECTION(self);
    rc = set_side(self, fd, writer, (PyObject *)handle, &before);
    Py_END_CRITICAL_SECTION();
    if (before != NULL) {
        sc_handle_cancel((ScHandle *)before);
        Py_DECREF(before);
    }
    if (rc < 0) {
        Py_DECREF((PyObject *)handle);
        return NULL;
    }
    return (PyObject *)handle;
}

static PyObject *
take_out(ScLoop *self, bool writer, PyObject *fileobj)
{
    int fd = PyObject_AsFileDescriptor(fileobj);
    if (fd < 0) {
        return NULL;
    }
    if (self->closed || self->drive == NULL || sc_loop_is_dead(self)) {
        Py_RETURN_FALSE;
    }
    PyObject *before;
    int rc;
    Py_BEGIN_CRITICAL_SECTION(self);
    rc = set_side(self, fd, writer, NULL, &before);
    Py_END_CRITICAL_SECTION();
    if (rc < 0) {
        return NULL;
    }
    if (before == NULL) {
        Py_RETURN_FALSE;
    }
    sc_handle_cancel((ScHandle *)before);
    Py_DECREF(before);
    Py_RETURN_TRUE;
}

PyObject *
sc_loop_add_reader(ScLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return add(self, false, args, nargs, kwnames);
}

PyObject *
sc_loop_add_writer(ScLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return add(self, true, args, nargs, kwnames);
}

PyObject *
sc_loop_remove_reader(ScLoop *self, PyObject *fileobj)
{
    return take_out(self, false, fileobj);
}

PyObject *
sc_loop_remove_writer(ScLoop *self, PyObject *fileobj)
{
    return take_out(self, true, fileobj);
}

/* Steals the handle (NULL: nothing).  One that a former owner left in the
 * ring is there already: the event is the same. */
static int
push_once(ScLoop *self, PyObject *handle)
{
    if (handle == NULL || ((ScHandle *)handle)->in_ring) {
        Py_XDECREF(handle);
        return 0;
    }
    ((ScHandle *)handle)->in_ring = true;
    return sc_loop_push(self, handle);
}

int
sc_loop_io_event(ScLoop *self, int fd, uint32_t events)
{
    PyObject *reader = NULL, *writer = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if ((size_t)fd < self->io_room) {
        /* Errors and hang-ups wake both sides: each will meet them. */
        if (events & ~(uint32_t)EPOLLOUT) {
            reader = Py_XNewRef(self->io[fd].reader);
        }
        if (events & ~(uint32_t)EPOLLIN) {
            writer = Py_XNewRef(self->io[fd].writer);
        }
    }
    Py_END_CRITICAL_SECTION();
    if (push_once(self, reader) < 0) {
        Py_XDECREF(writer);
        return -1;
    }
    return push_once(self, writer);
}

int
sc_loop_io_traverse(ScLoop *self, visitproc visit, void *arg)
{
    for (size_t i = 0; i < self->io_room; i++) {
        Py_VISIT(self->io[i].reader);
        Py_VISIT(self->io[i].writer);
    }
    return 0;
}

void
sc_loop_io_clear(ScLoop *self)
{
    for (size_t i = 0; i < self->io_room; i++) {
        self->io[i].events = 0;
        Py_CLEAR(self->io[i].reader);
        Py_CLEAR(self->io[i].writer);
    }
}
