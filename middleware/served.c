#include "middleware/served.h"

#include <stddef.h>
#include <structmember.h>

#include "core/module.h"
#include "middleware/request.h"
#include "middleware/served_scope.h"
#include "middleware/start_response.h"

/* -- the type ------------------------------------------------------------- */

static PyObject *
served_post_first(PyObject *op, PyObject *event)
{
    return PyBool_FromLong(sc_served_post_first((ScServed *)op, event));
}

/* There may be a body to read: the subclass finds out. */
static int
look_for_body(ScServed *self, PyObject *environ)
{
    static const char *const keys[] = {
        "wsgi.input_terminated", "HTTP_TRANSFER_ENCODING", "CONTENT_LENGTH"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        PyObject *value = PyDict_GetItemString(environ, keys[i]);
        if (value != NULL && PyUnicode_Check(value) &&
            (PyUnicode_GET_LENGTH(value) == 0 ||
             PyUnicode_CompareWithASCIIString(value, "0") == 0)) {
            continue;
        }
        if (value != NULL) {
            PyObject *none = sc_served_call(self, "_expect_body", environ);
            Py_XDECREF(none);
            return none ? 0 : -1;
        }
    }
    return 0;
}

static int
take_life(ScServed *self, PyObject *life, PyObject **state)
{
    self->life = Py_NewRef(life);
    self->running = PyObject_GetAttrString(life, "running");
    self->bridge =
        self->running ? PyObject_GetAttrString(life, "bridge") : NULL;
    *state = self->bridge ? PyObject_GetAttrString(life, "state") : NULL;
    if (*state == NULL) {
        return -1;
    }
    if (!PyDict_Check(*state) || !PySet_Check(self->running) ||
        !PyObject_TypeCheck(self->bridge, self->st->bridge_type)) {
        PyErr_Format(PyExc_TypeError, "%R is no life of a lifespan", life);
        return -1;
    }
    return 0;
}

static int
take_request(ScServed *self, PyObject *environ)
{
    self->request = sc_served_request(self->st, environ);
    if (self->request != NULL &&
        !Py_IS_TYPE(self->request, self->st->request_type)) {
        Py_CLEAR(self->request);
    }
    return PyErr_Occurred() ? -1 : 0;
}

static int
fill(ScServed *self, PyObject *environ, PyObject *life)
{
    PyObject *state = NULL;
    int rc = take_life(self, life, &state);
    if (rc == 0) {
        self->scope = sc_served_scope(self->st, environ, state);
        rc = self->scope ? take_request(self, environ) : -1;
    }
    Py_XDECREF(state);
    if (rc == 0) {
        self->mute = sc_is_head(
            PyDict_GetItemWithError(self->scope, self->st->str_method));
        rc = look_for_body(self, environ);
    }
    return rc;
}

static PyObject *
served_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"app", (char *)"environ", (char *)"life",
                            NULL};
    PyObject *app, *environ, *life;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O:Served", names, &app,
                                     &PyDict_Type, &environ, &life)) {
        return NULL;
    }
    ScState *st = sc_state_of_type(type);
    ScServed *self = st ? (ScServed *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->app = Py_NewRef(app);
    if (fill(self, environ, life) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

#define OBJECTS(X)                                                            \
    X(app)                                                                    \
    X(life)                                                                   \
    X(bridge) X(running) X(scope) X(request) X(headers) X(last) X(error)      \
        X(event) X(input) X(parts) X(readers) X(watchers) X(events) X(waiter) \
            X(pauser) X(end)

static int
served_traverse(PyObject *op, visitproc visit, void *arg)
{
    ScServed *self = (ScServed *)op;
    Py_VISIT(Py_TYPE(op));
#define X(name) Py_VISIT(self->name);
    OBJECTS(X)
#undef X
    Py_VISIT((PyObject *)self->call);
    return 0;
}

static int
served_clear(PyObject *op)
{
    ScServed *self = (ScServed *)op;
#define X(name) Py_CLEAR(self->name);
    OBJECTS(X)
#undef X
    Py_CLEAR(self->call);
    return 0;
}

static void
served_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    served_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* The application's task; None: it has none yet, or has ended. */
static PyObject *
served_get_task(PyObject *op, void *Py_UNUSED(closure))
{
    ScServed *self = (ScServed *)op;
    PyObject *task = self->call ? self->call->task : NULL;
    return Py_NewRef(task ? task : Py_None);
}

static PyGetSetDef served_getset[] = {
    {"task", served_get_task, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define OBJECT(name, flags)                                    \
    {                                                          \
#name, T_OBJECT, offsetof(ScServed, name), flags, NULL \
    }
#define FLAG(name)                                       \
    {                                                    \
#name, T_BOOL, offsetof(ScServed, name), 0, NULL \
    }

static PyMemberDef served_members[] = {
    OBJECT(app, READONLY),
    OBJECT(life, READONLY),
    OBJECT(scope, READONLY),
    OBJECT(request, READONLY),
    OBJECT(headers, READONLY),
    OBJECT(last, 0),
    OBJECT(error, 0),
    OBJECT(input, 0),
    OBJECT(parts, 0),
    OBJECT(readers, 0),
    OBJECT(watchers, 0),
    OBJECT(events, 0),
    OBJECT(waiter, 0),
    OBJECT(pauser, 0),
    OBJECT(end, 0),
    FLAG(has_length),
    FLAG(mute),
    FLAG(sent),
    FLAG(complete),
    FLAG(cut),
    FLAG(told),
    FLAG(gone),
    FLAG(has_body),
    FLAG(chunked),
    {"status", T_INT, offsetof(ScServed, status), READONLY, NULL},
    {"left", T_PYSSIZET, offsetof(ScServed, left), 0, NULL},
    {"ahead", T_PYSSIZET, offsetof(ScServed, ahead), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
served_hold(PyObject *op, PyObject *Py_UNUSED(unused))
{
    sc_served_hold((ScServed *)op);
    Py_RETURN_NONE;
}

static PyMethodDef served_methods[] = {
    {"run", sc_served_run, METH_NOARGS,
     "run($self)\n--\n\n"
     "Have the application called, and wait for its first event.  Raises what "
     "run_sync\nraises."},
    {"receive", sc_served_receive, METH_NOARGS, NULL},
    {"send", sc_served_send, METH_O, NULL},
    {"_post_first", served_post_first, METH_O, NULL},
    {"_hold", served_hold, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(served_doc, "Served(app, environ, life)\n--\n\n"
                         "One request of a WSGI server as one call of an ASGI "
                         "application.");

static PyType_Slot served_slots[] = {
    {Py_tp_doc, (void *)served_doc},
    {Py_tp_new, SC_SLOT(served_new)},
    {Py_tp_dealloc, SC_SLOT(served_dealloc)},
    {Py_tp_traverse, SC_SLOT(served_traverse)},
    {Py_tp_clear, SC_SLOT(served_clear)},
    {Py_tp_methods, served_methods},
    {Py_tp_members, served_members},
    {Py_tp_getset, served_getset},
    {0, NULL},
};

static PyType_Spec served_spec = {
    .name = "sidecar._core.Served",
    .basicsize = sizeof(ScServed),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = served_slots,
};

int
sc_served_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->served_end = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    st->served_request = PyUnicode_InternFromString("http.request");
    if (st->served_end == NULL || st->served_request == NULL ||
        PyModule_AddObjectRef(module, "SERVED_END", st->served_end) < 0) {
        return -1;
    }
    return sc_type_add(module, &st->served_type, &served_spec, NULL, "Served");
}
