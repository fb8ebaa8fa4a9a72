#include "core/producer_state.h"

static bool
grow(ScProducer *self)
{
    size_t slots = self->slots * 2;
    PyObject **items = PyMem_Calloc(slots, sizeof(PyObject *));
    if (items == NULL) {
        return false;
    }
    for (size_t i = 0; i < self->count; i++) {
        items[i] = self->items[(self->first + i) % self->slots];
    }
    PyMem_Free(self->items);
    self->items = items;
    self->slots = slots;
    self->first = 0;
    return true;
}

void
sc_producer_push(ScProducer *self, PyObject *item)
{
    bool kept;
    Py_BEGIN_CRITICAL_SECTION(self);
    kept = self->count < self->slots || grow(self);
    if (kept) {
        self->items[(self->first + self->count++) % self->slots] = item;
    }
    Py_END_CRITICAL_SECTION();
    if (!kept) {
        PyErr_NoMemory();
        PyErr_WriteUnraisable((PyObject *)self);
        Py_DECREF(item);
    }
}

/* New reference, or NULL.  In the critical section, or with nobody else. */
static PyObject *
take_item(ScProducer *self)
{
    if (self->count == 0) {
        return NULL;
    }
    PyObject *item = self->items[self->first];
    self->first = (self->first + 1) % self->slots;
    self->count--;
    return item;
}

void
sc_producer_drop_items(ScProducer *self)
{
    PyObject *item;
    do {
        Py_BEGIN_CRITICAL_SECTION(self);
        item = take_item(self);
        Py_END_CRITICAL_SECTION();
        Py_XDECREF(item);
    } while (item != NULL);
}

PyObject *
sc_producer_pop(ScProducer *self, bool *wake)
{
    PyObject *item = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    item = take_item(self);
    if (item != NULL) {
        /* What never waits is read on when the queue is empty, by the
         * consumer's own thread: another one would only take its turn. */
        *wake = self->room > 0 && self->waited && !self->over &&
                self->count == self->room / 2;
    }
    Py_END_CRITICAL_SECTION();
    return item;
}

bool
sc_producer_is_over(ScProducer *self)
{
    bool over;
    Py_BEGIN_CRITICAL_SECTION(self);
    over = self->abandoned ||
           (self->over && self->count == 0 && self->failure == NULL);
    Py_END_CRITICAL_SECTION();
    return over;
}

bool
sc_producer_end(ScProducer *self, PyObject **error)
{
    bool ended;
    *error = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    ended = self->over && self->count == 0;
    if (ended) {
        *error = self->failure;
        self->failure = NULL;
    }
    Py_END_CRITICAL_SECTION();
    return ended;
}
