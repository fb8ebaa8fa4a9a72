/* Compat: every difference between the CPythons that Sidecar runs on, 3.9 to
 * 3.15.  No other file asks for PY_VERSION_HEX.  */
#ifndef SIDECAR_CORE_COMPAT_H
#define SIDECAR_CORE_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#if PY_VERSION_HEX < 0x03090000
#error "Sidecar needs CPython 3.9 or newer"
#endif

/* ISO C knows no conversion from a function to an object pointer; POSIX
 * promises it, and module and type slots need it. */
#define SC_SLOT(function) (__extension__(void *)(function))
#define SC_METHOD(function) ((PyCFunction)(void (*)(void))(function))

#if PY_VERSION_HEX < 0x030A0000
static inline PyObject *
Py_NewRef(PyObject *object)
{
    Py_INCREF(object);
    return object;
}

static inline PyObject *
Py_XNewRef(PyObject *object)
{
    Py_XINCREF(object);
    return object;
}
#define Py_TPFLAGS_IMMUTABLETYPE 0
/* A flag of no meaning to 3.9: sc_type_add acts on it. */
#define SC_TYPES_INSTANTIATE_BY_DEFAULT 1
#define Py_TPFLAGS_DISALLOW_INSTANTIATION (1UL << 7)

static inline int
PyModule_AddObjectRef(PyObject *module, const char *name, PyObject *value)
{
    Py_XINCREF(value);
    if (value == NULL || PyModule_AddObject(module, name, value) < 0) {
        Py_XDECREF(value);
        return -1;
    }
    return 0;
}

#endif

#ifndef SC_TYPES_INSTANTIATE_BY_DEFAULT
#define SC_TYPES_INSTANTIATE_BY_DEFAULT 0
#endif

#if PY_VERSION_HEX < 0x030D0000
/* Makes no exception where there is none. */
static inline int
PyObject_GetOptionalAttr(PyObject *object, PyObject *name, PyObject **value)
{
    return _PyObject_LookupAttr(object, name, value);
}
#endif

#ifndef Py_BEGIN_CRITICAL_SECTION
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

#ifdef Py_TPFLAGS_HAVE_VECTORCALL
#define SC_TPFLAGS_VECTORCALL Py_TPFLAGS_HAVE_VECTORCALL
#else
#define SC_TPFLAGS_VECTORCALL _Py_TPFLAGS_HAVE_VECTORCALL
#endif

/* asyncio keeps a thread's running loop in a holder of its own. */
#define SC_RUNNING_LOOP_HOLDER (PY_VERSION_HEX < 0x030C0000)

/* Tasks take `context=` from 3.11 on, and `eager_start=` from 3.12 on. */
#define SC_TASK_TAKES_CONTEXT (PY_VERSION_HEX >= 0x030B0000)
#define SC_TASK_STARTS_EAGERLY (PY_VERSION_HEX >= 0x030C0000)
/* The current task hangs on the thread, no longer on the loop. */
#define SC_TASK_ON_THREAD (PY_VERSION_HEX >= 0x030E0000)

/* Sub-interpreters may have a GIL of their own. */
#define SC_HAS_OWN_GIL (PY_VERSION_HEX >= 0x030C0000)

/* Iterators of coroutines may have a C slot for send(). */
#define SC_ITER_SEND (PY_VERSION_HEX >= 0x030A0000)

/* The handles of call_soon_threadsafe hold off a cancel() from another thread
 * while their callback runs. */
#define SC_HANDLES_HOLD_OFF (PY_VERSION_HEX >= 0x030E0000)

/* Hidden in older builds of libpython, though documented. */
#define SC_SIGNAL_WAKEUP_IN_C (PY_VERSION_HEX >= 0x030D0000)

/* No static state that two interpreters share, and no reliance on a global
 * lock: entries of the module's slots. */
#if PY_VERSION_HEX >= 0x030D0000
#define SC_MODULE_PROMISES                                                \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}, \
        {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#elif PY_VERSION_HEX >= 0x030C0000
#define SC_MODULE_PROMISES \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define SC_MODULE_PROMISES
#endif

/* A new reference to what a weak reference refers to; *object NULL: it is
 * gone.  0, or -1 with an error set. */
static inline int
sc_weakref_get(PyObject *reference, PyObject **object)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyWeakref_GetRef(reference, object) < 0 ? -1 : 0;
#else
    PyObject *borrowed = PyWeakref_GetObject(reference);
    *object = NULL;
    if (borrowed == NULL) {
        return -1;
    }
    if (borrowed != Py_None) {
        Py_INCREF(borrowed);
        *object = borrowed;
    }
    return 0;
#endif
}

/* The error as one object, its traceback attached; NULL if there is none. */
static inline PyObject *
sc_error_take(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
#endif
}

/* Raise it (steals the reference), with the traceback it carries. */
static inline void
sc_error_restore(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error,
                  PyException_GetTraceback(error));
#endif
}

/* The hooks that see async generators begin and die on this thread.  Read and
 * written in place: sys.set_asyncgen_hooks costs a microsecond a call. */
typedef struct {
    PyObject *firstiter;
    PyObject *finalizer;
} ScAsyncgenHooks;

static inline ScAsyncgenHooks
sc_asyncgen_hooks_swap(ScAsyncgenHooks hooks)
{
    PyThreadState *tstate = PyThreadState_Get();
    ScAsyncgenHooks before = {tstate->async_gen_firstiter,
                              tstate->async_gen_finalizer};
    tstate->async_gen_firstiter = hooks.firstiter;
    tstate->async_gen_finalizer = hooks.finalizer;
    return before;
}

/* A debugger, profiler or coverage tool looks at this thread. */
static inline bool
sc_thread_is_traced(PyThreadState *tstate)
{
    return tstate->c_tracefunc != NULL || tstate->c_profilefunc != NULL;
}

/* More than half of the recursion limit is in use. */
static inline bool
sc_thread_is_deep(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030C0000
    return tstate->py_recursion_remaining < tstate->py_recursion_limit / 2;
#elif PY_VERSION_HEX >= 0x030B0000
    return tstate->recursion_remaining < tstate->recursion_limit / 2;
#else
    return tstate->recursion_depth > Py_GetRecursionLimit() / 2;
#endif
}

/* The interpreter is on its way out: attaching may never return. */
static inline bool
sc_is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

#endif
