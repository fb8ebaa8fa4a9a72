#include "core/interpreter_share.h"

#if SC_HAS_OWN_GIL

#include <stdlib.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    ScShareViews *views;
    ScShare *share;
} ScExporter;

/* -- in the owner's interpreter ------------------------------------------- */

ScShare *
sc_share_new(PyObject *object)
{
    ScShare *share = malloc(sizeof(*share));
    if (share == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (PyObject_GetBuffer(object, &share->view, PyBUF_FULL_RO) < 0) {
        free(share);
        return NULL;
    }
    if (!PyBuffer_IsContiguous(&share->view, 'C')) {
        sc_share_free(share);
        PyErr_SetString(PyExc_BufferError,
                        "only a C-contiguous buffer can be shared");
        return NULL;
    }
    return share;
}

ScShare *
sc_share_new_text(PyObject *text)
{
    ScShare *share = malloc(sizeof(*share));
    if (share == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    share->view = (Py_buffer){
        .buf = PyUnicode_DATA(text),
        .obj = Py_NewRef(text),
        .len = PyUnicode_GET_LENGTH(text) * (Py_ssize_t)PyUnicode_KIND(text),
        .readonly = 1,
        .itemsize = 1,
    };
    return share;
}

void
sc_share_free(ScShare *share)
{
    PyBuffer_Release(&share->view);
    free(share);
}

void
sc_shares_release(ScShareHome *home)
{
    if (atomic_load_explicit(&home->returned, memory_order_relaxed) == NULL) {
        return;
    }
    ScShare *share = atomic_exchange(&home->returned, NULL);
    while (share != NULL) {
        ScShare *next = share->next;
        sc_share_free(share);
        share = next;
    }
}

/* From any thread.  Nothing is taken from the list but all of it, so that a
 * share which comes back to the same address does no harm. */
static void
send_home(ScShareHome *home, ScShare *share)
{
    ScShare *first = atomic_load(&home->returned);
    do {
        share->next = first;
    } while (!atomic_compare_exchange_weak(&home->returned, &first, share));
}

/* -- in the other interpreter --------------------------------------------- */

static int
exporter_get(PyObject *object, Py_buffer *view, int flags)
{
    ScExporter *self = (ScExporter *)object;
    const Py_buffer *own = &self->share->view;
    if ((flags & PyBUF_WRITABLE) && own->readonly) {
        PyErr_SetString(PyExc_BufferError, "the shared buffer is read-only");
        return -1;
    }
    *view = *own;
    view->obj = Py_NewRef(object);
    view->internal = NULL;
    view->suboffsets = NULL;
    if (!(flags & PyBUF_FORMAT)) {
        view->format = NULL;
    }
    if ((flags & PyBUF_ND) != PyBUF_ND) {
        view->shape = NULL;
    }
    if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES) {
        view->strides = NULL;
    }
    return 0;
}

static void
exporter_dealloc(PyObject *object)
{
    ScExporter *self = (ScExporter *)object;
    PyTypeObject *type = Py_TYPE(object);
    ScShareViews *views = self->views;
    ScShare *share = self->share;
    pthread_mutex_lock(&views->lock);
    *(share->before ? &share->before->next : &views->first) = share->next;
    if (share->next != NULL) {
        share->next->before = share->before;
    }
    pthread_mutex_unlock(&views->lock);
    send_home(views->home, share);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot exporter_slots[] = {
    {Py_tp_doc, (void *)"Memory of another interpreter's."},
    {Py_tp_dealloc, SC_SLOT(exporter_dealloc)},
    {Py_bf_getbuffer, SC_SLOT(exporter_get)},
    {0, NULL},
};

static PyType_Spec exporter_spec = {
    .name = "sidecar._core.SharedBuffer",
    .basicsize = sizeof(ScExporter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = exporter_slots,
};

int
sc_share_views_begin(ScShareViews *views, ScShareHome *home)
{
    views->home = home;
    views->first = NULL;
    pthread_mutex_init(&views->lock, NULL);
    views->type = (PyTypeObject *)PyType_FromSpec(&exporter_spec);
    return views->type ? 0 : -1;
}

void
sc_share_views_clear(ScShareViews *views)
{
    Py_CLEAR(views->type);
}

void
sc_share_views_end(ScShareViews *views)
{
    for (ScShare *at = views->first, *next; at != NULL; at = next) {
        next = at->next;
        send_home(views->home, at);
    }
    views->first = NULL;
    pthread_mutex_destroy(&views->lock);
}

PyObject *
sc_share_view(ScShareViews *views, ScShare *share)
{
    ScExporter *self = PyObject_New(ScExporter, views->type);
    if (self == NULL) {
        send_home(views->home, share);
        return NULL;
    }
    self->views = views;
    self->share = share;
    pthread_mutex_lock(&views->lock);
    share->before = NULL;
    share->next = views->first;
    if (views->first != NULL) {
        views->first->before = share;
    }
    views->first = share;
    pthread_mutex_unlock(&views->lock);
    PyObject *view = PyMemoryView_FromObject((PyObject *)self);
    Py_DECREF(self);
    return view;
}

PyObject *
sc_share_copy(const ScShare *share)
{
    const Py_buffer *own = &share->view;
    PyObject *copy = own->readonly
                         ? PyBytes_FromStringAndSize(own->buf, own->len)
                         : PyByteArray_FromStringAndSize(own->buf, own->len);
    PyObject *flat = copy ? PyMemoryView_FromObject(copy) : NULL;
    Py_XDECREF(copy);
    if (flat == NULL || own->format == NULL || own->len == 0 ||
        (own->ndim == 1 && strcmp(own->format, "B") == 0)) {
        return flat;
    }
    PyObject *shape = PyTuple_New(own->ndim);
    for (int i = 0; shape != NULL && i < own->ndim; i++) {
        PyObject *size = PyLong_FromSsize_t(own->shape[i]);
        if (size == NULL) {
            Py_CLEAR(shape);
            break;
        }
        PyTuple_SET_ITEM(shape, i, size);
    }
    PyObject *view = NULL;
    if (shape != NULL) {
        view = PyObject_CallMethod(flat, "cast", "sO", own->format, shape);
    }
    Py_XDECREF(shape);
    Py_DECREF(flat);
    return view;
}

#endif
