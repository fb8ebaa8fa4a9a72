/* The near side of a job: write the question, tell the answer. */
#include "core/interpreter_pool.h"

#if SC_HAS_OWN_GIL

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* More functions than these are forgotten, and looked at again. */
enum { FUNCTIONS = 2048 };

static void
function_free(PyObject *capsule)
{
    ScFarFunction *function = PyCapsule_GetPointer(capsule, NULL);
    free(function->reference);
    free(function);
}

static PyObject *
function_new(ScFarPool *pool, PyObject *reference)
{
    const char *utf8 = PyUnicode_AsUTF8(reference);
    ScFarFunction *function = utf8 ? malloc(sizeof(*function)) : NULL;
    PyObject *capsule = NULL;
    if (function != NULL) {
        function->reference = strdup(utf8);
        function->number = atomic_fetch_add(&pool->numbers, 1);
        if (function->reference != NULL) {
            capsule = PyCapsule_New(function, NULL, function_free);
        }
        if (capsule == NULL) {
            free(function->reference);
            free(function);
        }
    }
    if (capsule == NULL && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    return capsule;
}

/* Its capsule; None: it goes by value.  New reference, or NULL with an error
 * set. */
static PyObject *
refer(ScFarPool *pool, PyObject *fn)
{
    PyObject *found = PyDict_GetItemWithError(pool->functions, fn);
    if (found != NULL) {
        return Py_NewRef(found);
    }
    if (PyErr_Occurred()) {
        PyErr_Clear(); /* it has no hash: it goes by value */
        Py_RETURN_NONE;
    }
    PyObject *reference = PyObject_CallOneArg(pool->refer, fn);
    if (reference == NULL || reference == Py_None) {
        return reference;
    }
    PyObject *capsule = function_new(pool, reference);
    Py_DECREF(reference);
    if (PyDict_GET_SIZE(pool->functions) >= FUNCTIONS) {
        PyDict_Clear(pool->functions);
    }
    if (capsule != NULL && PyDict_SetItem(pool->functions, fn, capsule) < 0) {
        Py_CLEAR(capsule);
    }
    return capsule;
}

/* A tuple of bytes and buffers, taken over. */
static int
write_pickle(ScFarJob *job, PyObject *packed)
{
    if (packed == NULL) {
        return -1;
    }
    ScMessage *message = &job->question;
    int rc = sc_message_put_payload(message, PyTuple_GET_ITEM(packed, 0));
    for (Py_ssize_t i = 1; rc == 0 && i < PyTuple_GET_SIZE(packed); i++) {
        rc = sc_message_put_buffer(message, PyTuple_GET_ITEM(packed, i));
    }
    Py_DECREF(packed);
    return rc;
}

static int
write_question(ScFarJob *job, PyObject *fn, PyObject *args, PyObject *kwargs)
{
    ScFarPool *pool = job->pool;
    job->capsule = refer(pool, fn);
    if (job->capsule == NULL) {
        return -1;
    }
    if (job->capsule == Py_None) {
        job->kind = SC_FAR_PICKLED;
        return write_pickle(
            job, PyObject_CallFunctionObjArgs(pool->pack_call, fn, args,
                                              kwargs, job->name_object, NULL));
    }
    job->function = PyCapsule_GetPointer(job->capsule, NULL);
    int rc = sc_message_put(&job->question, args);
    if (rc == SC_MESSAGE_DONE) {
        rc = sc_message_put_dict(&job->question, kwargs);
    }
    if (rc != SC_MESSAGE_NOT_PLAIN) {
        return rc;
    }
    sc_message_free(&job->question);
    job->kind = SC_FAR_NAMED_PICKLED;
    return write_pickle(
        job, PyObject_CallFunctionObjArgs(pool->pack_args, args, kwargs,
                                          job->name_object, NULL));
}

/* call.future, .fn, .args, .kwargs, .name */
static int
read_call(ScFarJob *job, PyObject *call)
{
    job->future = PyObject_GetAttrString(call, "future");
    PyObject *fn = PyObject_GetAttrString(call, "fn");
    PyObject *args = PyObject_GetAttrString(call, "args");
    PyObject *kwargs = PyObject_GetAttrString(call, "kwargs");
    job->name_object = PyObject_GetAttrString(call, "name");
    int rc = -1;
    if (job->future != NULL && fn != NULL && args != NULL && kwargs != NULL &&
        job->name_object != NULL) {
        if (PyTuple_CheckExact(args) && PyDict_CheckExact(kwargs) &&
            PyUnicode_Check(job->name_object)) {
            job->name = PyUnicode_AsUTF8(job->name_object);
            rc = job->name ? write_question(job, fn, args, kwargs) : -1;
        }
        else {
            PyErr_SetString(PyExc_TypeError,
                            "a call has args, a tuple, kwargs, a dict, and "
                            "name, a str");
        }
    }
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(fn);
    return rc;
}

ScFarJob *
sc_far_job_new(ScFarPool *pool, PyObject *call, PyObject *envelope)
{
    PyTypeObject *type = pool->st->interpreter_job_type;
    ScFarJob *job = (ScFarJob *)type->tp_alloc(type, 0);
    if (job == NULL) {
        return NULL;
    }
    job->pool = (ScFarPool *)Py_NewRef((PyObject *)pool);
    job->core = pool->core;
    job->call = Py_NewRef(call);
    job->envelope = envelope == Py_None ? NULL : Py_NewRef(envelope);
    sc_message_init(&job->question);
    if (read_call(job, call) < 0) {
        sc_far_job_clear(job);
        Py_DECREF(job);
        return NULL;
    }
    return job;
}

void
sc_far_job_clear(ScFarJob *job)
{
    sc_message_free(&job->question);
    job->name = NULL;
    Py_CLEAR(job->future);
    Py_CLEAR(job->call);
    Py_CLEAR(job->name_object);
    Py_CLEAR(job->capsule);
    Py_CLEAR(job->envelope);
    Py_CLEAR(job->pool);
}

/* -- the answer ----------------------------------------------------------- */

/* The payload and the buffers of a pickle. */
static PyObject *
load_result(ScFarJob *job, ScMessage *answer)
{
    ScReader reader = {.message = answer};
    Py_ssize_t count = (Py_ssize_t)answer->share_count - 1;
    PyObject *payload = sc_message_get(&reader);
    PyObject *buffers = payload ? PyTuple_New(count) : NULL;
    PyObject *result = NULL;
    for (Py_ssize_t i = 0; buffers != NULL && i < count; i++) {
        PyObject *copy = sc_message_get(&reader);
        if (copy == NULL) {
            Py_CLEAR(buffers);
            break;
        }
        PyTuple_SET_ITEM(buffers, i, copy);
    }
    if (buffers != NULL) {
        result = PyObject_CallFunctionObjArgs(job->pool->load_result, payload,
                                              buffers, job->name_object, NULL);
    }
    Py_XDECREF(buffers);
    Py_XDECREF(payload);
    return result;
}

/* The exception that it is, or what went wrong with that. */
static PyObject *
load_error(ScFarJob *job, ScMessage *answer)
{
    PyObject *error = NULL, *payload = NULL;
    if (answer->share_count > 0) {
        ScReader reader = {.message = answer};
        payload = sc_message_get(&reader);
    }
    else {
        payload = PyBytes_FromStringAndSize(NULL, 0);
    }
    if (payload != NULL) {
        error = PyObject_CallFunctionObjArgs(job->pool->load_error, payload,
                                             job->name_object, NULL);
        Py_DECREF(payload);
    }
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "load_error() is no exception");
        Py_CLEAR(error);
    }
    return error ? error : sc_error_take();
}

/* The future knows by itself whether anybody wants it still. */
static void
settle(ScFarJob *job, PyObject *method, PyObject *value)
{
    PyObject *told = PyObject_CallMethodOneArg(job->future, method, value);
    if (told == NULL) {
        PyErr_WriteUnraisable(job->future);
    }
    Py_XDECREF(told);
}

static void
call_hook(PyObject *hook, PyObject *first, PyObject *second)
{
    PyObject *none = PyObject_CallFunctionObjArgs(hook, first, second, NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable(hook);
    }
    Py_XDECREF(none);
}

static void
end_orphan(ScFarJob *job)
{
    /* Who sees that there is none may look for what was said of it. */
    call_hook(job->pool->orphan_ended, job->call, NULL);
    atomic_fetch_sub(&job->pool->core->orphans, 1);
}

/* `value` NULL: there is none, for an orphan only. */
static void
finish(ScFarJob *job, PyObject *method, PyObject *value)
{
    if (atomic_exchange(&job->state, SC_FAR_ENDED) == SC_FAR_ORPHAN) {
        end_orphan(job);
    }
    if (job->pool->was_full) {
        call_hook(job->pool->room_made, NULL, NULL);
    }
    if (value != NULL) {
        settle(job, method, value);
    }
    sc_far_job_clear(job);
    Py_DECREF(job);
}

void
sc_far_job_fail(ScFarJob *job, PyObject *error)
{
    finish(job, job->pool->st->str_fail, error);
}

/* A module has refused to load: somebody else may do better. */
static bool
is_refused(ScFarJob *job, PyObject *error)
{
    int yes = PyObject_IsInstance(error, job->pool->refusal);
    if (yes < 0) {
        PyErr_Clear();
    }
    return yes > 0;
}

static void
tell_error(ScFarJob *job, PyObject *error)
{
    if (is_refused(job, error)) {
        PyObject *hook = Py_NewRef(job->pool->refused);
        PyObject *call = Py_NewRef(job->call);
        finish(job, NULL, NULL);
        call_hook(hook, call, error);
        Py_DECREF(call);
        Py_DECREF(hook);
    }
    else {
        sc_far_job_fail(job, error);
    }
    Py_DECREF(error);
}

void
sc_far_job_tell(ScFarJob *job, ScFarOutcome outcome, ScMessage *answer)
{
    PyObject *value = NULL;
    if (outcome == SC_FAR_FAILED) {
        tell_error(job, load_error(job, answer));
        return;
    }
    if (atomic_load(&job->state) == SC_FAR_ORPHAN) {
        finish(job, NULL, NULL);
        return;
    }
    if (outcome == SC_FAR_LOADED) {
        value = load_result(job, answer);
    }
    else {
        ScReader reader = {.message = answer};
        value = sc_message_get(&reader);
    }
    if (value == NULL) {
        tell_error(job, sc_error_take());
        return;
    }
    finish(job, job->pool->st->str_settle, value);
    Py_DECREF(value);
}

/* -- the type ------------------------------------------------------------- */

static void
job_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    sc_far_job_clear((ScFarJob *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
job_get_ended(PyObject *self, void *Py_UNUSED(closure))
{
    ScFarJob *job = (ScFarJob *)self;
    return PyBool_FromLong(atomic_load(&job->state) == SC_FAR_ENDED);
}

static PyGetSetDef job_getset[] = {
    {"ended", job_get_ended, NULL,
     "It has run to its end, or was told that it will not.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot job_slots[] = {
    {Py_tp_doc, (void *)"A call on its way through an InterpreterPool."},
    {Py_tp_dealloc, SC_SLOT(job_dealloc)},
    {Py_tp_getset, job_getset},
    {0, NULL},
};

static PyType_Spec job_spec = {
    .name = "sidecar._core.InterpreterJob",
    .basicsize = sizeof(ScFarJob),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = job_slots,
};

int
sc_far_job_type(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    return sc_type_add(module, &st->interpreter_job_type, &job_spec, NULL,
                       NULL);
}

#endif
