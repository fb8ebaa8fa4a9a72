/* The floor of a call: a bare asyncio.Task, its steps, its result.
 *
 * run(coro) makes the Task on a loop that keeps one callback and does nothing
 * else, runs that callback until none comes, and returns the result.  No
 * waiting call into a loop can cost less and still give its coroutine a task.
 * On 3.12 and later the first step runs inside Task().  */
#include <Python.h>

typedef struct {
    PyObject_HEAD
    PyObject *next;
    PyObject *task_type;
    PyObject *keywords;
} Floor;

static PyObject *
floor_get_debug(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    Py_RETURN_FALSE;
}

static PyObject *
floor_is_running(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    Py_RETURN_TRUE;
}

static PyObject *
floor_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    (void)nargs;
    (void)kwnames;
    Floor *self = (Floor *)op;
    Py_INCREF(args[0]);
    Py_XSETREF(self->next, args[0]);
    Py_RETURN_NONE;
}

static PyObject *
floor_run(PyObject *op, PyObject *coro)
{
    Floor *self = (Floor *)op;
    PyObject *stack[] = {NULL, coro, op, Py_True};
    PyObject *task = PyObject_Vectorcall(self->task_type, stack + 1,
                                         1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                         self->keywords);
    if (task == NULL) {
        return NULL;
    }
    while (self->next != NULL) {
        PyObject *step = self->next;
        self->next = NULL;
        PyObject *none = PyObject_CallObject(step, NULL);
        Py_DECREF(step);
        if (none == NULL) {
            Py_DECREF(task);
            return NULL;
        }
        Py_DECREF(none);
    }
    PyObject *result = PyObject_CallMethod(task, "result", NULL);
    Py_DECREF(task);
    return result;
}

static PyMethodDef floor_methods[] = {
    {"get_debug", floor_get_debug, METH_NOARGS, NULL},
    {"is_running", floor_is_running, METH_NOARGS, NULL},
    {"call_soon", (PyCFunction)(void (*)(void))floor_call_soon,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"run", floor_run, METH_O, "Run a coroutine that never waits long."},
    {NULL, NULL, 0, NULL},
};

static int
floor_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    Floor *self = (Floor *)op;
    return PyArg_ParseTuple(args, "OO", &self->task_type, &self->keywords)
               ? (Py_INCREF(self->task_type), Py_INCREF(self->keywords), 0)
               : -1;
}

static PyTypeObject FloorType = {
    .ob_base = PyVarObject_HEAD_INIT(NULL, 0).tp_name = "floor.Floor",
    .tp_basicsize = sizeof(Floor),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = floor_init,
    .tp_methods = floor_methods,
};

static PyModuleDef floor_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "floor",
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit_floor(void)
{
    PyObject *module = PyModule_Create(&floor_module);
    if (module != NULL && PyModule_AddType(module, &FloorType) < 0) {
        Py_CLEAR(module);
    }
    return module;
}
