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

/* The entry after this one, which is let go. */
static PyTracebackObject *
step(PyTracebackObject *entry)
{
    PyTracebackObject *next;
    Py_BEGIN_CRITICAL_SECTION((PyObject *)entry);
    next = (PyTracebackObject *)Py_XNewRef((PyObject *)entry->tb_next);
    Py_END_CRITICAL_SECTION();
    Py_DECREF((PyObject *)entry);
    return next;
}

/* A traceback under way: what was kept so far. */
typedef struct {
    PyObject *first;
    PyTracebackObject *last; /* borrowed; a copy, which nobody else has yet */
} Kept;

/* Steals `entry`, and the rest of its chain with it. */
static void
append(Kept *kept, PyTracebackObject *entry)
{
    if (kept->last != NULL) {
        kept->last->tb_next = entry;
    }
    else {
        kept->first = (PyObject *)entry;
    }
    kept->last = entry;
}

/* Copies of the entries from `entry`, which it steals, to before `end`. */
static int
append_copies(Kept *kept, PyTracebackObject *entry, PyTracebackObject *end)
{
    while (entry != NULL && entry != end) {
        PyObject *copy = PyObject_CallFunction(
            (PyObject *)&PyTraceBack_Type, "OOii", Py_None, entry->tb_frame,
            entry->tb_lasti, entry->tb_lineno);
        if (copy == NULL) {
            Py_DECREF((PyObject *)entry);
            return -1;
        }
        append(kept, (PyTracebackObject *)copy);
        entry = step(entry);
    }
    Py_XDECREF((PyObject *)entry);
    return 0;
}

/* True: *pruned is the traceback without entries of ours, or NULL where none
 * is left.  False: it has none of them, or there is no memory. */
static bool
without_ours(ScState *st, PyObject *first, PyObject **pruned)
{
    Kept kept = {NULL, NULL};
    bool found = false;
    int rc = 0;
    /* From `run` to `entry` there are none. */
    PyObject *run = Py_NewRef(first);
    PyTracebackObject *entry = (PyTracebackObject *)Py_NewRef(first);
    while (entry != NULL && rc == 0) {
        bool ours = is_ours(st, entry);
        if (ours) {
            found = true;
            rc = append_copies(&kept, (PyTracebackObject *)run, entry);
            run = NULL;
        }
        entry = step(entry);
        if (ours) {
            run = Py_XNewRef((PyObject *)entry);
        }
    }
    if (rc < 0 || !found) {
        Py_XDECREF((PyObject *)entry);
        Py_XDECREF(run);
        Py_XDECREF(kept.first);
        return false;
    }
    append(&kept, (PyTracebackObject *)run);
    *pruned = kept.first;
    return true;
}

void
sc_traceback_prune(ScState *st, PyObject *error)
{
    PyObject *first = PyException_GetTraceback(error);
    PyObject *pruned;
    /* Before 3.13 None is kept as it was set. */
    if (first != NULL && first != Py_None) {
        if (without_ours(st, first, &pruned)) {
            PyException_SetTraceback(error, pruned ? pruned : Py_None);
            Py_XDECREF(pruned);
        }
        else {
            PyErr_Clear();
        }
    }
    Py_XDECREF(first);
}

static PyObject *
module_prune(PyObject *module, PyObject *error)
{
    if (!PyExceptionInstance_Check(error)) {
        return PyErr_Format(PyExc_TypeError,
                            "prune() needs an exception, not %R", error);
    }
    sc_traceback_prune(sc_state_of_module(module), error);
    Py_RETURN_NONE;
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

/* By its name, as functions are pickled. */
static PyObject *
frameless_reduce(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyMethodDef frameless_methods[] = {
    {"__reduce__", frameless_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
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
    {Py_tp_methods, frameless_methods},
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

static PyMethodDef module_functions[] = {
    {"prune", module_prune, METH_O,
     "prune($module, error, /)\n--\n\n"
     "Take the package's frames out of the error's traceback; the entries "
     "that it\nhas are left as they are, for whoever else has them."},
    {NULL, NULL, 0, NULL},
};

int
sc_traceback_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->frameless_type, &frameless_spec, NULL,
                    "frameless") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, module_functions);
}
