#include "core/traceback.h"

#include <stddef.h>
#include <structmember.h>

#include "core/module.h"

/* -- pruning ------------------------------------------------------------ */

static bool
is_ours(ScState *st, PyTracebackObject *entry)
{
    PyCodeObject *code = PyFrame_GetCode(entry->tb_frame);
    Py_ssize_t match = PyUnicode_Tailmatch(
        code->co_filename, st->package_folder, 0, PY_SSIZE_T_MAX, -1);
    Py_DECREF(code);
    return match > 0;
}

void
sc_traceback_prune(ScState *st, PyObject *error)
{
    PyObject *first = PyException_GetTraceback(error);
    if (first == Py_None) {
        /* Before 3.13 it is kept as it was set. */
        Py_CLEAR(first);
    }
    PyTracebackObject *entry = (PyTracebackObject *)first;
    PyTracebackObject *kept = NULL; /* the last one, borrowed */
    bool changed = false;
    while (entry != NULL) {
        PyTracebackObject *next = entry->tb_next;
        if (is_ours(st, entry)) {
            Py_XINCREF((PyObject *)next);
            if (kept == NULL) {
                Py_SETREF(first, (PyObject *)next);
                changed = true;
            }
            else {
                PyTracebackObject *before = kept->tb_next;
                kept->tb_next = next;
                Py_DECREF((PyObject *)before);
            }
        }
        else {
            kept = entry;
        }
        entry = next;
    }
    if (changed) {
        PyException_SetTraceback(error, first ? first : Py_None);
    }
    Py_XDECREF(first);
}

/* -- a function whose frame is not seen ----------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ScState *st;
    PyObject *function;
    PyObject *dict;
    PyObject *weakrefs;
} Frameless;

static PyObject *
frameless_call(PyObject *self, PyObject *const *args, size_t nargsf,
               PyObject *kwnames)
{
    Frameless *frameless = (Frameless *)self;
    PyObject *result =
        PyObject_Vectorcall(frameless->function, args, nargsf, kwnames);
    if (result == NULL) {
        PyObject *error = sc_error_take();
        sc_traceback_prune(frameless->st, error);
        sc_error_restore(error);
    }
    return result;
}

static PyObject *
frameless_bind(PyObject *self, PyObject *instance, PyObject *Py_UNUSED(owner))
{
    return instance == NULL || instance == Py_None
               ? Py_NewRef(self)
               : PyMethod_New(self, instance);
}

PyDoc_STRVAR(frameless_doc,
             "frameless(function)\n--\n\n"
             "The function, with no frame of the package's in the tracebacks "
             "of its errors.");

static PyObject *
frameless_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {(char *)"function", NULL};
    PyObject *function;
    ScState *st = sc_state_of_type(type);
    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O:frameless",
                                                   names, &function)) {
        return NULL;
    }
    Frameless *self = (Frameless *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->vectorcall = frameless_call;
    self->function = Py_NewRef(function);
    PyObject *none = PyObject_CallFunctionObjArgs(
        st->update_wrapper, (PyObject *)self, function, NULL);
    if (none == NULL) {
        Py_CLEAR(self);
    }
    Py_XDECREF(none);
    return (PyObject *)self;
}

static PyObject *
frameless_repr(Frameless *self)
{
    return PyObject_Repr(self->function);
}

static int
frameless_traverse(Frameless *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int
frameless_clear(Frameless *self)
{
    Py_CLEAR(self->dict);
    Py_CLEAR(self->function);
    return 0;
}

static void
frameless_dealloc(Frameless *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    frameless_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMemberDef frameless_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Frameless, vectorcall),
     READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Frameless, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Frameless, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef frameless_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot frameless_slots[] = {
    {Py_tp_doc, (void *)frameless_doc},
    {Py_tp_new, SC_SLOT(frameless_new)},
    {Py_tp_call, SC_SLOT(PyVectorcall_Call)},
    {Py_tp_descr_get, SC_SLOT(frameless_bind)},
    {Py_tp_repr, SC_SLOT(frameless_repr)},
    {Py_tp_members, frameless_members},
    {Py_tp_getset, frameless_getset},
    {Py_tp_traverse, SC_SLOT(frameless_traverse)},
    {Py_tp_clear, SC_SLOT(frameless_clear)},
    {Py_tp_dealloc, SC_SLOT(frameless_dealloc)},
    {0, NULL},
};

static PyType_Spec frameless_spec = {
    .name = "sidecar._core.frameless",
    .basicsize = sizeof(Frameless),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | SC_TPFLAGS_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = frameless_slots,
};

int
sc_traceback_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->frameless_type, &frameless_spec, NULL,
                       "frameless");
}
