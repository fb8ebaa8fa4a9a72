/* Interpreter share: memory of one interpreter that another one may look at.
 *
 * A share holds a Py_buffer of its owner's.  A job carries it; where the other
 * side asks for it, an exporter of that side's takes it over, a plain object
 * with the buffer protocol, so that memoryview, numpy and pickle see the very
 * same memory.  When the last view of the exporter has gone, the share goes
 * to its home: a list that any thread may push to, with or without a GIL, and
 * that the owner empties, attached, by sc_shares_release.
 *
 * What holds: a share belongs to its job, to one exporter, or to its home's
 * list.  Its buffer is touched in its owner's interpreter only, but for the
 * memory itself, which is alive as long as the share is.  A worker lists the
 * shares of its exporters, under a mutex; those that its interpreter leaks are
 * sent home after that has ended.  */
#ifndef SIDECAR_CORE_INTERPRETER_SHARE_H
#define SIDECAR_CORE_INTERPRETER_SHARE_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/compat.h"

typedef struct ScShare {
    struct ScShare *next; /* in its home, or among a worker's views */
    struct ScShare *before;
    Py_buffer view;
} ScShare;

/* Pushed to one by one, emptied all at once. */
typedef struct {
    _Atomic(ScShare *) returned;
} ScShareHome;

/* A worker's. */
typedef struct {
    pthread_mutex_t lock;
    ScShare *first;
    ScShareHome *home;
    PyTypeObject *type; /* the exporters', of the worker's interpreter */
} ScShareViews;

/* Attached to the owner.  NULL with an error set.  `text`: a str. */
ScShare *sc_share_new(PyObject *object);
ScShare *sc_share_new_text(PyObject *text);
void sc_share_free(ScShare *share);
void sc_shares_release(ScShareHome *home);

/* Attached to the worker's interpreter.  0, or -1 with an error set. */
int sc_share_views_begin(ScShareViews *views, ScShareHome *home);
void sc_share_views_clear(ScShareViews *views);
/* After that interpreter has ended, or never began. */
void sc_share_views_end(ScShareViews *views);

/* A memoryview of it, which takes it over, also where it fails: NULL with an
 * error set. */
PyObject *sc_share_view(ScShareViews *views, ScShare *share);

/* A memoryview of a copy: for an owner that cannot wait. */
PyObject *sc_share_copy(const ScShare *share);

#endif
