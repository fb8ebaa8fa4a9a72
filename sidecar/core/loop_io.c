#include "core/loop.h"

#include <errno.h>
#include <limits.h>

#include "core/call.h"
#include "core/clock.h"
#include "core/watch.h"

/* As the selectors module has it: an int, or int(object.fileno()).  -1 with
 * ValueError set where it is neither. */
static int
descriptor_of(PyObject *fileobj)
{
    PyObject *number;
    if (PyLong_Check(fileobj)) {
        number = Py_NewRef(fileobj);
    }
    else {
        PyObject *told = PyObject_CallMethod(fileobj, "fileno", NULL);
        number = told ? PyNumber_Long(told) : NULL;
        Py_XDECREF(told);
    }
    int overflow = 0;
    long fd = number ? PyLong_AsLongAndOverflow(number, &overflow) : -1;
    Py_XDECREF(number);
    if (fd >= 0 && fd <= INT_MAX && overflow == 0) {
        return (int)fd;
    }
    if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_AttributeError) ||
        PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(PyExc_ValueError,
                     "a file descriptor is an int from 0 on, or an object "
                     "with a fileno() method that returns one, not %R",
                     fileobj);
    }
    return -1;
}

/* Under the critical section: a file that was closed before it is taken out
 * is found by itself.  -1: it is not there. */
static int
find_closed(ScLoop *self, PyObject *fileobj)
{
    for (size_t fd = 0; fd < self->io_room; fd++) {
        if (self->io[fd].fileobj == fileobj) {
            return (int)fd;
        }
    }
    return -1;
}

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
            io[i] = (ScIo){0};
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

/* Under the critical section: keep what the descriptor was given as while it
 * is watched.  What is to be released is returned. */
static PyObject *
keep_fileobj(ScLoop *self, int fd, PyObject *fileobj)
{
    ScIo *io = (size_t)fd < self->io_room ? &self->io[fd] : NULL;
    PyObject *released = NULL;
    if (io != NULL && io->reader == NULL && io->writer == NULL) {
        released = io->fileobj;
        io->fileobj = NULL;
    }
    else if (io != NULL && fileobj != NULL && fileobj != io->fileobj &&
             !PyLong_Check(fileobj)) {
        released = io->fileobj;
        io->fileobj = Py_NewRef(fileobj);
    }
    return released;
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
    int fd = descriptor_of(args[0]);
    if (fd < 0 || sc_loop_check_open(self) < 0) {
        return NULL;
    }
    ScHandle *handle =
        sc_handle_new(self, args[1], args + 2, nargs - 2, context);
    if (handle == NULL || sc_loop_is_dead(self)) {
        return (PyObject *)handle;
    }
    PyObject *before, *released;
    int rc;
    Py_INCREF((PyObject *)handle);
    Py_BEGIN_CRITICAL_SECTION(self);
    rc = set_side(self, fd, writer, (PyObject *)handle, &before);
    released = keep_fileobj(self, fd, args[0]);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(released);
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
    int fd = descriptor_of(fileobj);
    if (fd < 0 && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyObject *error = sc_error_take();
        Py_BEGIN_CRITICAL_SECTION(self);
        fd = find_closed(self, fileobj);
        Py_END_CRITICAL_SECTION();
        if (fd < 0) {
            sc_error_restore(error);
        }
        else {
            Py_DECREF(error);
        }
    }
    if (fd < 0) {
        return NULL;
    }
    if (self->closed || self->drive == NULL || sc_loop_is_dead(self)) {
        Py_RETURN_FALSE;
    }
    PyObject *before, *released;
    int rc;
    Py_BEGIN_CRITICAL_SECTION(self);
    rc = set_side(self, fd, writer, NULL, &before);
    released = keep_fileobj(self, fd, NULL);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(released);
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
sc_loop_io_watch(ScLoop *self, int fd, ScCall *call)
{
    ScIo *io;
    Py_BEGIN_CRITICAL_SECTION(self);
    io = entry_of(self, fd);
    if (io != NULL) {
        io->watching = call;
    }
    Py_END_CRITICAL_SECTION();
    return io ? 0 : -1;
}

int
sc_loop_io_event(ScLoop *self, int fd, uint32_t events)
{
    PyObject *reader = NULL, *writer = NULL;
    ScCall *watching = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if ((size_t)fd < self->io_room) {
        watching = self->io[fd].watching;
        /* Errors and hang-ups wake both sides: each will meet them. */
        if (events & ~(uint32_t)EPOLLOUT) {
            reader = Py_XNewRef(self->io[fd].reader);
        }
        if (events & ~(uint32_t)EPOLLIN) {
            writer = Py_XNewRef(self->io[fd].writer);
        }
    }
    Py_END_CRITICAL_SECTION();
    if (watching != NULL) {
        sc_watch_event(watching, events);
    }
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
        Py_VISIT(self->io[i].fileobj);
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
        Py_CLEAR(self->io[i].fileobj);
    }
}
