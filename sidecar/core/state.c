#include "core/state.h"

#include <stddef.h>

#include "core/module.h"

/* Where the lists of state.h have their fields. */
typedef struct {
    size_t offset;
    const char *text;
} Field;

static const Field names[] = {
#define X(name) {offsetof(ScState, str_##name), #name},
    SC_STATE_NAMES(X)
#undef X
};

static const struct {
    size_t offset;
    const char *module;
    const char *attribute;
} imports[] = {
#define X(name, module, attribute) \
    {offsetof(ScState, name), module, attribute},
    SC_STATE_IMPORTS(X)
#undef X
};

/* In the order in which they are cleared: types last, which all others may
 * need to go. */
static const size_t references[] = {
#define X(name) offsetof(ScState, name),
    SC_STATE_OBJECTS(X)
#undef X
#define X(name, module, attribute) offsetof(ScState, name),
        SC_STATE_IMPORTS(X)
#undef X
#define X(name) offsetof(ScState, name##_type),
            SC_STATE_TYPES(X)
#undef X
};

enum {
    NAMES = sizeof(names) / sizeof(names[0]),
    IMPORTS = sizeof(imports) / sizeof(imports[0]),
    REFERENCES = sizeof(references) / sizeof(references[0]),
};

static PyObject **
field(ScState *st, size_t offset)
{
    return (PyObject **)((char *)st + offset);
}

static int
intern_names(ScState *st)
{
    for (size_t i = 0; i < NAMES; i++) {
        PyObject *name = PyUnicode_InternFromString(names[i].text);
        if (name == NULL) {
            return -1;
        }
        *field(st, names[i].offset) = name;
    }
    return 0;
}

PyObject *
sc_state_import(const char *module_name, const char *attribute)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(module, attribute);
    Py_DECREF(module);
    return value;
}

static int
import_all(ScState *st)
{
    for (size_t i = 0; i < IMPORTS; i++) {
        PyObject *value =
            sc_state_import(imports[i].module, imports[i].attribute);
        if (value == NULL) {
            return -1;
        }
        *field(st, imports[i].offset) = value;
    }
    return 0;
}

int
sc_state_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->module = module;
    st->signal_pipe[0] = st->signal_pipe[1] = st->signal_event_fd =
        st->signal_before = -1;
    return intern_names(st) < 0 ? -1 : import_all(st);
}

int
sc_state_traverse(PyObject *module, visitproc visit, void *arg)
{
    ScState *st = sc_state_of_module(module);
    for (size_t i = 0; i < REFERENCES; i++) {
        Py_VISIT(*field(st, references[i]));
    }
    return 0;
}

int
sc_state_clear(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    for (size_t i = 0; i < REFERENCES; i++) {
        Py_CLEAR(*field(st, references[i]));
    }
    for (size_t i = 0; i < NAMES; i++) {
        Py_CLEAR(*field(st, names[i].offset));
    }
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
