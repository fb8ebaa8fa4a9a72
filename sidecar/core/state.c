#include "core/state.h"

#include <unistd.h>

#include "core/module.h"

static int
intern_names(ScState *st)
{
#define X(name)                                         \
    st->str_##name = PyUnicode_InternFromString(#name); \
    if (st->str_##name == NULL) {                       \
        return -1;                                      \
    }
    SC_STATE_NAMES(X)
#undef X
    return 0;
}

static PyObject *
import_one(const char *module_name, const char *attribute)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(module, attribute);
    Py_DECREF(module);
    return value;
}

int
sc_state_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->module = module;
    st->signal_pipe[0] = st->signal_pipe[1] = st->signal_event_fd = -1;
    if (intern_names(st) < 0) {
        return -1;
    }
#define X(name, module_name, attribute)            \
    st->name = import_one(module_name, attribute); \
    if (st->name == NULL) {                        \
        return -1;                                 \
    }
    SC_STATE_IMPORTS(X)
#undef X
    return 0;
}

int
sc_state_traverse(PyObject *module, visitproc visit, void *arg)
{
    ScState *st = sc_state_of_module(module);
#define X(name) Py_VISIT(st->name##_type);
    SC_STATE_TYPES(X)
#undef X
#define X(name, module_name, attribute) Py_VISIT(st->name);
    SC_STATE_IMPORTS(X)
#undef X
#define X(name) Py_VISIT(st->name);
    SC_STATE_OBJECTS(X)
#undef X
    return 0;
}

int
sc_state_clear(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
#define X(name) Py_CLEAR(st->name);
    SC_STATE_OBJECTS(X)
#undef X
#define X(name, module_name, attribute) Py_CLEAR(st->name);
    SC_STATE_IMPORTS(X)
#undef X
#define X(name) Py_CLEAR(st->name##_type);
    SC_STATE_TYPES(X)
#undef X
#define X(name) Py_CLEAR(st->str_##name);
    SC_STATE_NAMES(X)
#undef X
    return 0;
}

ScState *
sc_state_of_type(PyTypeObject *type)
{
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (!PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE)) {
            continue;
        }
        PyObject *module = PyType_GetModule(base);
        if (module == NULL) {
            PyErr_Clear();
        }
        else if (PyModule_GetDef(module) == &sc_module_def) {
            return sc_state_of_module(module);
        }
    }
    PyErr_Format(PyExc_TypeError, "%s is no type of sidecar's", type->tp_name);
    return NULL;
}

int
sc_type_add(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
            PyObject *base, const char *name)
{
    /* 3.9 takes a tuple only. */
    PyObject *tuple = base ? PyTuple_Pack(1, base) : NULL;
    if (base != NULL && tuple == NULL) {
        return -1;
    }
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, tuple);
    Py_XDECREF(tuple);
    if (*slot == NULL) {
        return -1;
    }
    if (SC_TYPES_INSTANTIATE_BY_DEFAULT &&
        (spec->flags & Py_TPFLAGS_DISALLOW_INSTANTIATION)) {
        (*slot)->tp_new = NULL;
    }
    return name ? PyModule_AddObjectRef(module, name, (PyObject *)*slot) : 0;
}
