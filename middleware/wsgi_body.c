#include "middleware/wsgi_body.h"

#include "core/module.h"
#include "middleware/start_response.h"

/* A guarded one has a scope without a context: it is never entered, and is
 * the server's to end. */
typedef struct {
    PyObject_HEAD
    ScState *st; /* The type holds the module, and so the state. */
    ScScope scope;
    PyObject *iterable; /* NULL: closed. */
    PyObject *iterator; /* NULL until the first step or __iter__. */
    PyObject *started;  /* guarded: the server's start_response */
    bool guarded;
    bool head; /* guarded: the answer has no body */
    bool sent; /* the server was given something to send */
    bool late; /* the deadline has answered for the application */
} WsgiBody;

static int
enter(const ScScope *scope)
{
    return scope->context != NULL ? sc_scope_enter(scope) : 0;
}

/* Keeps the error that is set, if one is. */
static void
leave(const ScScope *scope)
{
    if (scope->context != NULL) {
        sc_scope_exit(scope);
    }
}

/* Called in the scope. */
static int
ensure_iterator(WsgiBody *self)
{
    if (self->iterator != NULL) {
        return 0;
    }
    PyObject *iterable = Py_NewRef(self->iterable);
    PyObject *iterator = PyObject_GetIter(iterable);
    Py_DECREF(iterable);
    if (iterator == NULL) {
        return -1;
    }
    if (self->iterable == NULL) {
        /* Closed by its own __iter__. */
        Py_DECREF(iterator);
        return 0;
    }
    Py_XSETREF(self->iterator, iterator);
    return 0;
}

static PyObject *
body_iter(PyObject *op)
{
    WsgiBody *self = (WsgiBody *)op;
    if (self->iterable != NULL && self->iterator == NULL) {
        ScScope scope = sc_scope_share(&self->scope);
        int rc = enter(&scope);
        if (rc == 0) {
            rc = ensure_iterator(self);
            leave(&scope);
        }
        sc_scope_drop(&scope);
        if (rc < 0) {
            return NULL;
        }
    }
    return Py_NewRef(op);
}

/* What stands in for the first block where an error is set, which may be
 * cleared; NULL: nothing. */
static PyObject *
stand_in(WsgiBody *self)
{
    if (self->guarded &&
        PyErr_ExceptionMatches(self->st->error_disconnected)) {
        PyErr_Clear();
        return NULL;
    }
    if (self->sent || self->started == NULL) {
        return NULL;
    }
    return self->guarded
               ? sc_start_response_late_bare(self->st, self->started,
                                             self->scope.request, self->head)
               : sc_start_response_late(self->started);
}

static PyObject *
body_step(WsgiBody *self)
{
    if (ensure_iterator(self) < 0 || self->iterator == NULL) {
        return NULL;
    }
    PyObject *iterator = Py_NewRef(self->iterator);
    PyObject *chunk = Py_TYPE(iterator)->tp_iternext(iterator);
    Py_DECREF(iterator);
    if (chunk == NULL && PyErr_Occurred()) {
        chunk = stand_in(self);
        self->late = chunk != NULL;
    }
    self->sent |= chunk != NULL && PyObject_IsTrue(chunk) == 1;
    return chunk;
}

static PyObject *
body_next(PyObject *op)
{
    WsgiBody *self = (WsgiBody *)op;
    if (self->iterable == NULL || self->late) {
        return NULL;
    }
    PyObject *chunk = NULL;
    /* The step may close the body, and so end our own hold of the scope. */
    ScScope scope = sc_scope_share(&self->scope);
    if (enter(&scope) == 0) {
        chunk = body_step(self);
        leave(&scope);
    }
    sc_scope_drop(&scope);
    return chunk;
}

static void
end_scope(const WsgiBody *self, ScScope *scope)
{
    if (self->guarded) {
        sc_scope_drop(scope);
    }
    else {
        sc_scope_end(scope);
    }
}

/* The application's close(), if its iterable has one. */
static int
close_iterable(ScState *st, PyObject *iterable)
{
    PyObject *method;
    int found = PyObject_GetOptionalAttr(iterable, st->str_close, &method);
    if (found <= 0) {
        return found;
    }
    PyObject *result = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static PyObject *
body_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    WsgiBody *self = (WsgiBody *)op;
    PyObject *iterable = self->iterable, *iterator = self->iterator;
    ScScope scope = self->scope;
    if (iterable == NULL) {
        Py_RETURN_NONE;
    }
    self->iterable = self->iterator = NULL;
    self->scope = (ScScope){NULL, NULL};

    /* Closed from within a step the scope is entered already; the close is
     * due either way. */
    bool entered = enter(&scope) == 0;
    if (!entered) {
        PyErr_Clear();
    }
    int rc = close_iterable(self->st, iterable);
    PyObject *error = rc < 0 ? sc_error_take() : NULL;
    Py_XDECREF(iterator);
    Py_DECREF(iterable);
    if (entered) {
        leave(&scope);
    }
    end_scope(self, &scope);
    if (rc < 0) {
        sc_error_restore(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static Py_ssize_t
body_length(PyObject *op)
{
    WsgiBody *self = (WsgiBody *)op;
    if (self->iterable == NULL) {
        PyErr_SetString(PyExc_ValueError, "the response body is closed");
        return -1;
    }
    PyObject *iterable = Py_NewRef(self->iterable);
    Py_ssize_t length = PyObject_Length(iterable);
    Py_DECREF(iterable);
    return length;
}

static PyObject *
body_repr(PyObject *op)
{
    WsgiBody *self = (WsgiBody *)op;
    if (self->iterable == NULL) {
        return PyUnicode_FromString("<sidecar.WSGIBody closed>");
    }
    return PyUnicode_FromFormat("<sidecar.WSGIBody %U around %.200s object>",
                                sc_request_id(self->scope.request),
                                Py_TYPE(self->iterable)->tp_name);
}

static WsgiBody *
make(ScState *st, PyObject *iterable, PyObject *started)
{
    PySequenceMethods *sequence = Py_TYPE(iterable)->tp_as_sequence;
    bool sized = sequence != NULL && sequence->sq_length != NULL;
    PyTypeObject *type = sized ? st->wsgi_sized_body_type : st->wsgi_body_type;
    WsgiBody *self = (WsgiBody *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->iterable = Py_NewRef(iterable);
    self->started = Py_XNewRef(started);
    return self;
}

PyObject *
sc_wsgi_body_new(ScState *st, PyObject *iterable, PyObject *started,
                 ScScope *scope)
{
    WsgiBody *self = make(st, iterable, started);
    if (self != NULL) {
        self->scope = *scope;
        *scope = (ScScope){NULL, NULL};
    }
    return (PyObject *)self;
}

PyObject *
sc_wsgi_body_new_guarded(ScState *st, PyObject *iterable,
                         PyObject *start_response, PyObject *request,
                         bool head)
{
    WsgiBody *self = make(st, iterable, start_response);
    if (self != NULL) {
        self->guarded = true;
        self->head = head;
        self->scope.request = Py_NewRef(request);
    }
    return (PyObject *)self;
}

static int
body_traverse(PyObject *op, visitproc visit, void *arg)
{
    WsgiBody *self = (WsgiBody *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->scope.request);
    Py_VISIT(self->scope.context);
    Py_VISIT(self->iterable);
    Py_VISIT(self->iterator);
    Py_VISIT(self->started);
    return 0;
}

static int
body_clear(PyObject *op)
{
    WsgiBody *self = (WsgiBody *)op;
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->iterable);
    Py_CLEAR(self->started);
    end_scope(self, &self->scope);
    return 0;
}

static void
body_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    body_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(close_doc,
             "close()\n--\n\n"
             "Close the application's body and end the request.  Again: "
             "nothing.");

static PyMethodDef body_methods[] = {
    {"close", body_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(body_doc, "A response body whose steps run in their request.");

static PyType_Slot body_slots[] = {
    {Py_tp_doc, (void *)body_doc},
    {Py_tp_iter, SC_SLOT(body_iter)},
    {Py_tp_iternext, SC_SLOT(body_next)},
    {Py_tp_methods, body_methods},
    {Py_tp_repr, SC_SLOT(body_repr)},
    {Py_tp_traverse, SC_SLOT(body_traverse)},
    {Py_tp_clear, SC_SLOT(body_clear)},
    {Py_tp_dealloc, SC_SLOT(body_dealloc)},
    {0, NULL},
};

static PyType_Slot sized_body_slots[] = {
    {Py_tp_doc, (void *)body_doc},
    {Py_tp_iter, SC_SLOT(body_iter)},
    {Py_tp_iternext, SC_SLOT(body_next)},
    {Py_tp_methods, body_methods},
    {Py_tp_repr, SC_SLOT(body_repr)},
    {Py_tp_traverse, SC_SLOT(body_traverse)},
    {Py_tp_clear, SC_SLOT(body_clear)},
    {Py_tp_dealloc, SC_SLOT(body_dealloc)},
    {Py_sq_length, SC_SLOT(body_length)},
    {0, NULL},
};

#define BODY_FLAGS                                                        \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | \
     Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Spec body_spec = {
    .name = "sidecar.WSGIBody",
    .basicsize = sizeof(WsgiBody),
    .flags = BODY_FLAGS,
    .slots = body_slots,
};

static PyType_Spec sized_body_spec = {
    .name = "sidecar.SizedWSGIBody",
    .basicsize = sizeof(WsgiBody),
    .flags = BODY_FLAGS,
    .slots = sized_body_slots,
};

int
sc_wsgi_body_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->wsgi_body_type, &body_spec, NULL, NULL) < 0 ||
        sc_type_add(module, &st->wsgi_sized_body_type, &sized_body_spec, NULL,
                    NULL) < 0) {
        return -1;
    }
    return 0;
}
