#include "middleware/asgi_channel.h"

#include <stddef.h>
#include <structmember.h>

#include "core/await.h"
#include "core/module.h"
#include "middleware/asgi.h"
#include "middleware/asgi_coroutine.h"
#include "middleware/asgi_headers.h"
#include "middleware/scope.h"
#include "middleware/start_response.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ScState *st; /* The type holds the module, and so the state. */
    PyObject *inner;
    PyObject *request;
    bool complete;     /* the last of the response was sent */
    bool disconnected; /* the client went before that */
} Receive;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ScState *st;
    PyObject *inner;
    PyObject *request;
    Receive *receive; /* NULL: a websocket's */
    bool started;     /* the response */
} Send;

/* The message's type, borrowed from it; NULL, without an error, where it has
 * none, or is no message. */
static PyObject *
type_of_message(ScState *st, PyObject *message)
{
    PyObject *type = NULL;
    if (PyDict_Check(message)) {
        type = PyDict_GetItemWithError(message, st->str_type);
        if (type == NULL) {
            PyErr_Clear();
        }
    }
    return type != NULL && PyUnicode_Check(type) ? type : NULL;
}

static bool
is_text(PyObject *text, PyObject *known)
{
    if (text == known) {
        return true;
    }
    return PyUnicode_GET_LENGTH(text) == PyUnicode_GET_LENGTH(known) &&
           PyUnicode_Compare(text, known) == 0;
}

/* -- receive ---------------------------------------------------------------
 */

static void
received(ScAsgiCoroutine *coroutine, PyObject *message)
{
    Receive *self = (Receive *)coroutine->owner;
    PyObject *type = type_of_message(self->st, message);
    /* After its end every request is told so, the client still there. */
    if (type != NULL && !self->complete && !self->disconnected &&
        is_text(type, self->st->asgi_disconnect)) {
        self->disconnected = true;
        sc_scope_disconnected(self->st, self->request);
    }
}

static const ScAsgiWork receiving = {
    .name = "ASGIReceive",
    .returned = received,
};

static PyObject *
receive_call(PyObject *op, PyObject *const *args, size_t nargsf,
             PyObject *kwnames)
{
    Receive *self = (Receive *)op;
    PyObject *awaitable =
        PyObject_Vectorcall(self->inner, args, nargsf, kwnames);
    if (awaitable == NULL) {
        return NULL;
    }
    ScAsgiCoroutine *made = sc_asgi_coroutine_new(self->st, &receiving, op);
    if (made != NULL) {
        made->waiting = sc_await_iter(awaitable);
        if (made->waiting == NULL) {
            made->over = true;
            Py_CLEAR(made);
        }
    }
    Py_DECREF(awaitable);
    return (PyObject *)made;
}

PyObject *
sc_asgi_receive_new(ScState *st, PyObject *receive, PyObject *request)
{
    PyTypeObject *type = st->asgi_receive_type;
    Receive *self = (Receive *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = receive_call;
        self->st = st;
        self->inner = Py_NewRef(receive);
        self->request = Py_NewRef(request);
    }
    return (PyObject *)self;
}

/* -- send ------------------------------------------------------------------
 */

static bool
is_last(ScState *st, PyObject *message, PyObject *type)
{
    if (is_text(type, st->asgi_body)) {
        PyObject *more = PyDict_GetItemWithError(message, st->str_more_body);
        int rc = more ? PyObject_IsTrue(more) : 0;
        if (rc < 0 || PyErr_Occurred()) {
            PyErr_Clear();
        }
        return rc == 0;
    }
    return is_text(type, st->asgi_pathsend);
}

static bool
starts(ScState *st, PyObject *type, bool is_websocket)
{
    return is_websocket ? is_text(type, st->asgi_accept) ||
                              is_text(type, st->asgi_denial)
                        : is_text(type, st->asgi_start);
}

static PyObject *
send_call(PyObject *op, PyObject *const *args, size_t nargsf,
          PyObject *kwnames)
{
    Send *self = (Send *)op;
    ScState *st = self->st;
    PyObject *type = NULL, *message = NULL;
    if (PyVectorcall_NARGS(nargsf) == 1 && kwnames == NULL) {
        message = args[0];
        type = type_of_message(st, message);
    }
    if (type == NULL || !starts(st, type, self->receive == NULL)) {
        if (type != NULL && self->receive != NULL &&
            is_last(st, message, type)) {
            self->receive->complete = true;
        }
        return PyObject_Vectorcall(self->inner, args, nargsf, kwnames);
    }
    self->started = true;
    PyObject *marked = sc_asgi_message_with_id(st, message, self->request);
    if (marked == NULL) {
        return NULL;
    }
    PyObject *awaitable = PyObject_CallOneArg(self->inner, marked);
    Py_DECREF(marked);
    return awaitable;
}

PyObject *
sc_asgi_send_new(ScState *st, PyObject *send, PyObject *request,
                 PyObject *receive)
{
    PyTypeObject *type = st->asgi_send_type;
    Send *self = (Send *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = send_call;
        self->st = st;
        self->inner = Py_NewRef(send);
        self->request = Py_NewRef(request);
        self->receive = (Receive *)Py_XNewRef(receive);
    }
    return (PyObject *)self;
}

PyObject *
sc_asgi_send_late(PyObject *send, bool head)
{
    Send *self = (Send *)send;
    if (self->started || self->receive == NULL || !sc_is_answered(self->st)) {
        return NULL;
    }
    PyObject *error = sc_error_take();
    PyObject *function = sc_state_import("sidecar._request", "answer_late_by");
    PyObject *awaitable =
        function ? PyObject_CallFunction(function, "OOOO", send, self->request,
                                         error, head ? Py_True : Py_False)
                 : NULL;
    Py_XDECREF(function);
    if (awaitable == NULL) {
        PyErr_WriteUnraisable(send);
        sc_error_restore(error);
        return NULL;
    }
    Py_DECREF(error);
    return awaitable;
}

/* -- the types -------------------------------------------------------------
 */

static PyObject *
receive_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.ASGIReceive around %R>",
                                ((Receive *)op)->inner);
}

static int
receive_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Receive *)op)->inner);
    Py_VISIT(((Receive *)op)->request);
    return 0;
}

/* Not to NULL: a cycle may still call us.  A call of None says so. */
static int
receive_clear(PyObject *op)
{
    Py_XSETREF(((Receive *)op)->inner, Py_NewRef(Py_None));
    return 0;
}

static void
receive_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(((Receive *)op)->inner);
    Py_CLEAR(((Receive *)op)->request);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
send_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<sidecar.ASGISend around %R>",
                                ((Send *)op)->inner);
}

static int
send_traverse(PyObject *op, visitproc visit, void *arg)
{
    Send *self = (Send *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->inner);
    Py_VISIT(self->request);
    Py_VISIT(self->receive);
    return 0;
}

static int
send_clear(PyObject *op)
{
    Py_XSETREF(((Send *)op)->inner, Py_NewRef(Py_None));
    return 0;
}

static void
send_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(((Send *)op)->inner);
    Py_CLEAR(((Send *)op)->request);
    Py_CLEAR(((Send *)op)->receive);
    type->tp_free(op);
    Py_DECREF(type);
}

#define COMMON_MEMBERS(Type)                                         \
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Type, vectorcall), \
     READONLY, NULL},                                                \
    {                                                                \
        "__wrapped__", T_OBJECT_EX, offsetof(Type, inner), READONLY, \
            "The server's own."                                      \
    }

static PyMemberDef receive_members[] = {
    COMMON_MEMBERS(Receive),
    {"disconnected", T_BOOL, offsetof(Receive, disconnected), READONLY,
     "Whether the client was seen to go before the response was complete."},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef send_members[] = {
    COMMON_MEMBERS(Send),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot receive_slots[] = {
    {Py_tp_doc, (void *)"The server's receive, which tells of a disconnect."},
    {Py_tp_call, SC_SLOT(PyVectorcall_Call)},
    {Py_tp_members, receive_members},
    {Py_tp_repr, SC_SLOT(receive_repr)},
    {Py_tp_traverse, SC_SLOT(receive_traverse)},
    {Py_tp_clear, SC_SLOT(receive_clear)},
    {Py_tp_dealloc, SC_SLOT(receive_dealloc)},
    {0, NULL},
};

static PyType_Slot send_slots[] = {
    {Py_tp_doc, (void *)"The server's send, the request's id added."},
    {Py_tp_call, SC_SLOT(PyVectorcall_Call)},
    {Py_tp_members, send_members},
    {Py_tp_repr, SC_SLOT(send_repr)},
    {Py_tp_traverse, SC_SLOT(send_traverse)},
    {Py_tp_clear, SC_SLOT(send_clear)},
    {Py_tp_dealloc, SC_SLOT(send_dealloc)},
    {0, NULL},
};

#define CHANNEL_FLAGS                                                  \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | SC_TPFLAGS_VECTORCALL | \
     Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Spec receive_spec = {
    .name = "sidecar.ASGIReceive",
    .basicsize = sizeof(Receive),
    .flags = CHANNEL_FLAGS,
    .slots = receive_slots,
};

static PyType_Spec send_spec = {
    .name = "sidecar.ASGISend",
    .basicsize = sizeof(Send),
    .flags = CHANNEL_FLAGS,
    .slots = send_slots,
};

int
sc_asgi_channel_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    struct {
        PyObject **place;
        const char *text;
    } known[] = {
        {&st->asgi_start, "http.response.start"},
        {&st->asgi_body, "http.response.body"},
        {&st->asgi_pathsend, "http.response.pathsend"},
        {&st->asgi_disconnect, "http.disconnect"},
        {&st->asgi_accept, "websocket.accept"},
        {&st->asgi_denial, "websocket.http.response.start"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        *known[i].place = PyUnicode_InternFromString(known[i].text);
        if (*known[i].place == NULL) {
            return -1;
        }
    }
    if (sc_type_add(module, &st->asgi_receive_type, &receive_spec, NULL,
                    NULL) < 0) {
        return -1;
    }
    return sc_type_add(module, &st->asgi_send_type, &send_spec, NULL, NULL);
}
