#include "middleware/start_response.h"

#include <stddef.h>
#include <structmember.h>

#include "core/module.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *start_response;
    PyObject *header; /* (name, value) */
    ScRequest *request;
    PyObject *method; /* or NULL */
    bool called;
} StartResponse;

/* Whether a header of the application's or the server's is the id's, in any
 * case.  What is no pair of a str and something is left to the server to
 * refuse. */
static bool
is_request_id(StartResponse *self, PyObject *header)
{
    PyObject *name;
    if (PyTuple_Check(header) && PyTuple_GET_SIZE(header) == 2) {
        name = Py_NewRef(PyTuple_GET_ITEM(header, 0));
    }
    else if (PyList_Check(header) && PyList_GET_SIZE(header) == 2) {
        name = PySequence_GetItem(header, 0);
        if (name == NULL) {
            PyErr_Clear();
            return false;
        }
    }
    else {
        return false;
    }
    ScText text = {NULL, 0}, ours = {NULL, 0};
    bool same = sc_request_text(name, &text) &&
                sc_request_text(PyTuple_GET_ITEM(self->header, 0), &ours) &&
                text.length == ours.length &&
                PyOS_strnicmp(text.at, ours.at, (Py_ssize_t)text.length) == 0;
    Py_DECREF(name);
    return same;
}

static int
remove_request_ids(StartResponse *self, PyObject *headers)
{
    for (Py_ssize_t i = PyList_GET_SIZE(headers) - 1; i >= 0; i--) {
        PyObject *header = PySequence_GetItem(headers, i);
        if (header == NULL) {
            return -1;
        }
        bool found = is_request_id(self, header);
        Py_DECREF(header);
        if (found && PyList_SetSlice(headers, i, i + 1, NULL) < 0) {
            return -1;
        }
    }
    return 0;
}

/* The application's headers may be a list it uses again: ours go into a copy.
 */
static PyObject *
headers_with_id(StartResponse *self, PyObject *headers)
{
    PyObject *copy = PyList_CheckExact(headers)
                         ? PyList_GetSlice(headers, 0, PY_SSIZE_T_MAX)
                         : PySequence_List(headers);
    if (copy == NULL) {
        return NULL;
    }
    if (remove_request_ids(self, copy) < 0 ||
        PyList_Append(copy, self->header) < 0) {
        Py_DECREF(copy);
        return NULL;
    }
    return copy;
}

static PyObject *
attribute_or_null(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL) {
        PyErr_Clear();
    }
    return value;
}

/* A second start_response replaces the headers of the first.  gunicorn keeps
 * the first ones and adds the second: take ours out of what it keeps. */
static int
forget_first_id(StartResponse *self)
{
    PyObject *server = attribute_or_null(self->start_response, "__self__");
    if (server == NULL) {
        return 0;
    }
    int rc = 0;
    PyObject *kept = attribute_or_null(server, "headers");
    if (kept != NULL && PyList_CheckExact(kept)) {
        rc = remove_request_ids(self, kept);
    }
    Py_XDECREF(kept);
    Py_DECREF(server);
    return rc;
}

static PyObject *
start_response_call(PyObject *op, PyObject *const *args, size_t nargsf,
                    PyObject *kwnames)
{
    StartResponse *self = (StartResponse *)op;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs < 2 || nargs + nkw > 3) {
        PyErr_Format(PyExc_TypeError,
                     "start_response() takes a status, a list of headers and, "
                     "perhaps, exc_info, in this order; %zd positional and "
                     "%zd keyword arguments were given",
                     nargs, nkw);
        return NULL;
    }
    if (atomic_load(&self->request->owner.verdict) == SC_VERDICT_LEFT) {
        return sc_owner_raise(&self->request->owner, SC_VERDICT_LEFT, NULL,
                              NULL);
    }
    if (self->called && forget_first_id(self) < 0) {
        return NULL;
    }
    PyObject *headers = headers_with_id(self, args[1]);
    if (headers == NULL) {
        return NULL;
    }
    self->called = true;
    PyObject *passed[3] = {args[0], headers,
                           nargs + nkw == 3 ? args[2] : NULL};
    PyObject *write = PyObject_Vectorcall(self->start_response, passed,
                                          (size_t)nargs, kwnames);
    Py_DECREF(headers);
    return write;
}

PyObject *
sc_start_response_new(ScState *st, PyObject *start_response, PyObject *request,
                      PyObject *method)
{
    PyTypeObject *type = st->start_response_type;
    StartResponse *self = (StartResponse *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = start_response_call;
    self->start_response = Py_NewRef(start_response);
    self->request = (ScRequest *)Py_NewRef(request);
    self->method = Py_XNewRef(method);
    self->header =
        PyTuple_Pack(2, self->request->policy->id_header, self->request->id);
    if (self->header == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

bool
sc_is_answered(ScState *st)
{
    return PyErr_ExceptionMatches(st->error_deadline) ||
           PyErr_ExceptionMatches(st->error_overloaded);
}

bool
sc_is_head(PyObject *method)
{
    return method != NULL && PyUnicode_Check(method) &&
           PyUnicode_CompareWithASCIIString(method, "HEAD") == 0;
}

/* `started`: it may have been called, and wants to be told why it is again. */
static PyObject *
late_body(PyObject *start_response, PyObject *request, PyObject *error,
          bool started)
{
    PyObject *function = sc_state_import("sidecar._request", "answer_late");
    PyObject *body =
        function ? PyObject_CallFunction(function, "OOOi", start_response,
                                         request, error, (int)started)
                 : NULL;
    Py_XDECREF(function);
    return body;
}

PyObject *
sc_start_response_late_bare(ScState *st, PyObject *start_response,
                            PyObject *request, bool head)
{
    if (!sc_is_answered(st)) {
        return NULL;
    }
    PyObject *error = sc_error_take();
    PyObject *body = late_body(start_response, request, error, false);
    if (body == NULL) {
        /* It was too late for that. */
        PyErr_Clear();
        sc_error_restore(Py_NewRef(error));
    }
    else if (head) {
        Py_SETREF(body, PyBytes_FromStringAndSize(NULL, 0));
    }
    Py_DECREF(error);
    return body;
}

PyObject *
sc_start_response_late(PyObject *started)
{
    StartResponse *self = (StartResponse *)started;
    ScState *st = self->request->owner.st;
    if (!sc_is_answered(st)) {
        return NULL;
    }
    PyObject *error = sc_error_take();
    PyObject *body =
        late_body(started, (PyObject *)self->request, error, self->called);
    if (body != NULL && sc_is_head(self->method)) {
        Py_SETREF(body, PyBytes_FromStringAndSize(NULL, 0));
    }
    Py_DECREF(error);
    return body;
}

static PyObject *
start_response_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.StartResponse around %R>",
                                ((StartResponse *)op)->start_response);
}

static int
start_response_traverse(PyObject *op, visitproc visit, void *arg)
{
    StartResponse *self = (StartResponse *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->start_response);
    Py_VISIT(self->header);
    Py_VISIT(self->request);
    return 0;
}

static int
start_response_clear(PyObject *op)
{
    StartResponse *self = (StartResponse *)op;
    Py_CLEAR(self->header);
    Py_CLEAR(self->method);
    Py_CLEAR(self->start_response);
    Py_CLEAR(self->request);
    return 0;
}

static void
start_response_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    start_response_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef start_response_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(StartResponse, vectorcall),
     READONLY, NULL},
    {"__wrapped__", T_OBJECT_EX, offsetof(StartResponse, start_response),
     READONLY, "The server's own."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot start_response_slots[] = {
    {Py_tp_doc,
     (void *)"The server's start_response, the request's id added."},
    {Py_tp_call, SC_SLOT(PyVectorcall_Call)},
    {Py_tp_members, start_response_members},
    {Py_tp_repr, SC_SLOT(start_response_repr)},
    {Py_tp_traverse, SC_SLOT(start_response_traverse)},
    {Py_tp_clear, SC_SLOT(start_response_clear)},
    {Py_tp_dealloc, SC_SLOT(start_response_dealloc)},
    {0, NULL},
};

static PyType_Spec start_response_spec = {
    .name = "sidecar.StartResponse",
    .basicsize = sizeof(StartResponse),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = start_response_slots,
};

int
sc_start_response_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    if (sc_type_add(module, &st->start_response_type, &start_response_spec,
                    NULL, NULL) < 0) {
        return -1;
    }
    return 0;
}
