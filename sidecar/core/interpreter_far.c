/* The far side of a job: read it, call the function, write the answer. */
#include "core/interpreter_pool.h"

#if SC_HAS_OWN_GIL

#include <string.h>

/* More functions than these are forgotten, and asked for again. */
enum { FUNCTIONS = 4096 };

/* Borrowed, or NULL with an error set. */
static PyObject *
find_function(ScFarWorker *worker, const ScFarFunction *function)
{
    PyObject *number = PyLong_FromUnsignedLongLong(function->number);
    PyObject *found =
        number ? PyDict_GetItemWithError(worker->functions, number) : NULL;
    if (number != NULL && found == NULL && !PyErr_Occurred()) {
        PyObject *reference = PyUnicode_FromString(function->reference);
        PyObject *made =
            reference ? PyObject_CallOneArg(worker->resolve, reference) : NULL;
        Py_XDECREF(reference);
        if (PyDict_GET_SIZE(worker->functions) >= FUNCTIONS) {
            PyDict_Clear(worker->functions);
        }
        if (made != NULL &&
            PyDict_SetItem(worker->functions, number, made) == 0) {
            found = made; /* the dict has it */
        }
        Py_XDECREF(made);
    }
    Py_XDECREF(number);
    return found;
}

/* Does the pickle name the script's own module? */
static bool
is_of_main(const ScMessage *message)
{
    const Py_buffer *view = &message->shares[0]->view;
    return memmem(view->buf, (size_t)view->len, "__main__", 8) != NULL;
}

/* What was pickled: a tuple. */
static PyObject *
load(ScFarWorker *worker, ScMessage *message)
{
    if (is_of_main(message)) {
        PyObject *none = PyObject_CallNoArgs(worker->need_main);
        if (none == NULL) {
            return NULL;
        }
        Py_DECREF(none);
    }
    ScReader reader = {.message = message, .views = &worker->views};
    Py_ssize_t count = (Py_ssize_t)message->share_count - 1;
    PyObject *payload = sc_message_get(&reader);
    PyObject *buffers = payload ? PyTuple_New(count) : NULL;
    PyObject *loaded = NULL;
    for (Py_ssize_t i = 0; buffers != NULL && i < count; i++) {
        PyObject *view = sc_message_get(&reader);
        if (view == NULL) {
            Py_CLEAR(buffers);
            break;
        }
        PyTuple_SET_ITEM(buffers, i, view);
    }
    if (buffers != NULL) {
        PyObject *stack[] = {payload, buffers};
        loaded =
            PyObject_Vectorcall(worker->loads, stack, 1, worker->kw_buffers);
    }
    if (payload != NULL) {
        /* Its memory goes with the job, whoever may still have the view. */
        PyObject *error = sc_error_take();
        PyObject *none = PyObject_CallMethod(payload, "release", NULL);
        if (none == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(none);
        if (error != NULL) {
            sc_error_restore(error);
        }
    }
    Py_XDECREF(buffers);
    Py_XDECREF(payload);
    return loaded;
}

typedef struct {
    PyObject *fn, *args, *kwargs; /* strong; kwargs may be NULL */
} Question;

static int
read_plain(ScFarWorker *worker, ScFarJob *job, Question *question)
{
    ScReader reader = {.message = &job->question, .views = &worker->views};
    question->args = sc_message_get(&reader);
    if (question->args == NULL) {
        return -1;
    }
    question->kwargs = sc_message_get_dict(&reader);
    return question->kwargs == NULL && PyErr_Occurred() ? -1 : 0;
}

/* (args, kwargs), or (fn, args, kwargs), where fn may be of no meaning. */
static int
read_pickled(ScFarWorker *worker, ScFarJob *job, Question *question)
{
    PyObject *loaded = load(worker, &job->question);
    if (loaded == NULL) {
        return -1;
    }
    Py_ssize_t at = PyTuple_GET_SIZE(loaded) - 2;
    if (job->kind == SC_FAR_PICKLED) {
        question->fn = Py_NewRef(PyTuple_GET_ITEM(loaded, 0));
    }
    question->args = Py_NewRef(PyTuple_GET_ITEM(loaded, at));
    question->kwargs = Py_NewRef(PyTuple_GET_ITEM(loaded, at + 1));
    Py_DECREF(loaded);
    return 0;
}

static int
read_question(ScFarWorker *worker, ScFarJob *job, Question *question)
{
    if (job->kind != SC_FAR_PICKLED) {
        question->fn = Py_XNewRef(find_function(worker, job->function));
        if (question->fn == NULL) {
            return -1;
        }
    }
    return job->kind == SC_FAR_NAMED ? read_plain(worker, job, question)
                                     : read_pickled(worker, job, question);
}

/* In a context of its own; inside the request, where there is one. */
static PyObject *
call(ScFarWorker *worker, ScFarJob *job, const Question *question)
{
    PyObject *result = NULL;
    if (job->envelope != NULL) {
        PyObject *envelope = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(job->envelope), PyBytes_GET_SIZE(job->envelope));
        if (envelope != NULL) {
            result = PyObject_CallFunctionObjArgs(
                worker->run_inside, envelope, question->fn, question->args,
                question->kwargs ? question->kwargs : Py_None, NULL);
            Py_DECREF(envelope);
        }
        return result;
    }
    PyObject *context = PyContext_New();
    if (context != NULL && PyContext_Enter(context) == 0) {
        result = PyObject_Call(question->fn, question->args, question->kwargs);
        PyObject *error = sc_error_take();
        PyContext_Exit(context);
        if (error != NULL) {
            sc_error_restore(error);
        }
    }
    Py_XDECREF(context);
    return result;
}

/* What came of it; true: it is written. */
static bool
write_result(ScFarWorker *worker, ScFarJob *job, PyObject *result)
{
    int rc = sc_message_put(&worker->answer, result);
    worker->outcome = SC_FAR_PLAIN;
    if (rc != SC_MESSAGE_NOT_PLAIN) {
        return rc == SC_MESSAGE_DONE;
    }
    worker->outcome = SC_FAR_LOADED;
    PyObject *name = PyUnicode_FromString(job->name);
    PyObject *packed = name ? PyObject_CallFunctionObjArgs(worker->pack_result,
                                                           result, name, NULL)
                            : NULL;
    Py_XDECREF(name);
    if (packed == NULL) {
        return false;
    }
    rc = sc_message_put_payload(&worker->answer, PyTuple_GET_ITEM(packed, 0));
    for (Py_ssize_t i = 1; rc == 0 && i < PyTuple_GET_SIZE(packed); i++) {
        rc = sc_message_put_buffer(&worker->answer,
                                   PyTuple_GET_ITEM(packed, i));
    }
    Py_DECREF(packed);
    return rc == 0;
}

/* The error that is set: pickled, or, where even that fails, nothing. */
static void
write_error(ScFarWorker *worker, ScFarJob *job, bool began)
{
    PyObject *error = sc_error_take();
    sc_message_free(&worker->answer);
    worker->outcome = SC_FAR_FAILED;
    PyObject *name = PyUnicode_FromString(job->name);
    PyObject *packed = NULL;
    if (name != NULL && error != NULL) {
        packed = PyObject_CallFunctionObjArgs(
            worker->pack_error, error, name, began ? Py_True : Py_False, NULL);
    }
    if (packed == NULL ||
        sc_message_put_payload(&worker->answer, packed) < 0) {
        PyErr_Clear();
        sc_message_free(&worker->answer);
    }
    Py_XDECREF(packed);
    Py_XDECREF(name);
    Py_XDECREF(error);
}

void
sc_far_job_run(ScFarWorker *worker, ScFarJob *job)
{
    Question question = {0};
    PyObject *result = NULL;
    bool began = false, written = false;
    if (read_question(worker, job, &question) == 0) {
        began = true;
        result = call(worker, job, &question);
    }
    /* Whoever gets the result finds the arguments gone. */
    PyObject *error = sc_error_take();
    Py_XDECREF(question.fn);
    Py_XDECREF(question.args);
    Py_XDECREF(question.kwargs);
    if (error != NULL) {
        sc_error_restore(error);
    }
    if (result != NULL) {
        written = write_result(worker, job, result);
        Py_DECREF(result);
    }
    if (!written) {
        write_error(worker, job, began);
    }
}

#endif
