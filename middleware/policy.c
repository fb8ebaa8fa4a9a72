#include "middleware/policy.h"

#include <stddef.h>
#include <structmember.h>

#include "core/clock.h"
#include "core/module.h"

static const int64_t DEFAULT_CLEANUP = INT64_C(5000000000);
enum { HEADER_LIMIT = 256 };

/* -- options ------------------------------------------------------------- */

static bool
is_token_byte(char byte)
{
    return sc_is_digit(byte) || sc_is_lower(byte) || sc_is_upper(byte) ||
           (byte != '\0' && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static PyObject *
lower_case(const char *name, Py_ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(name, size);
    for (Py_ssize_t i = 0; bytes != NULL && i < size; i++) {
        char *byte = &PyBytes_AS_STRING(bytes)[i];
        *byte = sc_is_upper(*byte) ? (char)(*byte + 32) : *byte;
    }
    return bytes;
}

/* A header's name (RFC 9110, section 5.6.2), and its key in WSGI's environ:
 * HTTP_, upper case, '_' for '-' (PEP 3333; RFC 3875, section 4.1.18). */
static int
take_header(PyObject *value, const char *option, PyObject **header,
            PyObject **key, PyObject **lower)
{
    Py_ssize_t size = 0;
    const char *name =
        PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, &size) : NULL;
    bool good = name != NULL && size > 0 && size <= HEADER_LIMIT;
    char text[sizeof("HTTP_") + HEADER_LIMIT] = "HTTP_";
    for (Py_ssize_t i = 0; good && i < size; i++) {
        good = is_token_byte(name[i]);
        char upper = sc_is_lower(name[i]) ? (char)(name[i] - 32) : name[i];
        text[5 + i] = upper == '-' ? '_' : upper;
    }
    if (!good) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError,
                     "%s must be the name of a header, such as X-Request-ID, "
                     "not %R",
                     option, value);
        return -1;
    }
    Py_XSETREF(*header, Py_NewRef(value));
    Py_XSETREF(*key, PyUnicode_InternFromString(text));
    Py_XSETREF(*lower, lower_case(name, size));
    return *key != NULL && *lower != NULL ? 0 : -1;
}

static int
take_trust(ScPolicy *self, PyObject *value)
{
    char error[SC_TRUST_ERROR_SIZE];
    Py_ssize_t size;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError,
                     "trust must be a string: untrusted, always, or "
                     "addresses separated by commas; not %R",
                     value);
        return -1;
    }
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    if (text == NULL) {
        return -1;
    }
    if (!sc_trust_parse(&self->trust, (ScText){text, (size_t)size}, error)) {
        PyErr_Format(PyExc_ValueError, "trust: %s", error);
        return -1;
    }
    return 0;
}

static int
take_seconds(PyObject *value, const char *option, bool zero, int64_t *ns)
{
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        seconds = -1.0;
    }
    if (PyBool_Check(value) || !(zero ? seconds >= 0.0 : seconds > 0.0)) {
        PyErr_Format(PyExc_ValueError,
                     "%s must be a number of seconds %s, not %R", option,
                     zero ? "from 0 on" : "above 0", value);
        return -1;
    }
    int64_t taken = sc_clock_from_seconds(seconds);
    *ns = taken > SC_NEVER / 2 ? SC_NEVER : taken;
    return 0;
}

static int
take_disconnect(ScPolicy *self, PyObject *value)
{
    static const char *const words[] = {"close", "reset", "off"};
    for (int i = 0; PyUnicode_Check(value) && i < 3; i++) {
        if (PyUnicode_CompareWithASCIIString(value, words[i]) == 0) {
            self->disconnect = (ScDisconnect)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "disconnect must be \"close\", \"reset\" or \"off\", not %R",
                 value);
    return -1;
}

static int
take_option(ScPolicy *self, PyObject *name, PyObject *value)
{
    const char *option = PyUnicode_AsUTF8(name);
    if (option == NULL) {
        return -1;
    }
    if (strcmp(option, "request_id_header") == 0) {
        return take_header(value, option, &self->id_header, &self->id_key,
                           &self->id_name);
    }
    if (strcmp(option, "trust") == 0) {
        return take_trust(self, value);
    }
    if (strcmp(option, "deadline") == 0) {
        return value == Py_None
                   ? 0
                   : take_seconds(value, option, false, &self->deadline);
    }
    if (strcmp(option, "deadline_header") == 0) {
        return value == Py_None
                   ? 0
                   : take_header(value, option, &self->timeout_header,
                                 &self->timeout_key, &self->timeout_name);
    }
    if (strcmp(option, "disconnect") == 0) {
        return take_disconnect(self, value);
    }
    if (strcmp(option, "cleanup_timeout") == 0) {
        return take_seconds(value, option, true, &self->cleanup);
    }
    PyErr_Format(PyExc_TypeError,
                 "there is no option %R; there are request_id_header, trust, "
                 "deadline, deadline_header, disconnect and cleanup_timeout",
                 name);
    return -1;
}

ScPolicy *
sc_policy_new(ScState *st, PyObject *kwargs)
{
    PyTypeObject *type = st->policy_type;
    ScPolicy *self = (ScPolicy *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->deadline = SC_NEVER;
    self->cleanup = DEFAULT_CLEANUP;
    self->id_header = Py_NewRef(st->header_request_id);
    self->id_key = Py_NewRef(st->key_request_id);
    self->id_name = Py_NewRef(st->asgi_header_name);
    PyObject *name, *value;
    Py_ssize_t position = 0;
    while (kwargs != NULL && PyDict_Next(kwargs, &position, &name, &value)) {
        if (take_option(self, name, value) < 0) {
            Py_DECREF((PyObject *)self);
            return NULL;
        }
    }
    return self;
}

ScPolicy *
sc_policy_take(ScState *st, PyObject *kwargs)
{
    PyObject *given = PyDict_GetItemString(kwargs, "policy");
    if (given == NULL) {
        return sc_policy_new(st, kwargs);
    }
    if (!Py_IS_TYPE(given, st->policy_type)) {
        PyErr_Format(PyExc_TypeError,
                     "policy must be a sidecar.Policy, not %R", given);
        return NULL;
    }
    if (PyDict_GET_SIZE(kwargs) > 1) {
        PyErr_SetString(PyExc_TypeError,
                        "policy takes the place of all other options");
        return NULL;
    }
    return (ScPolicy *)Py_NewRef(given);
}

int
sc_policy_arguments(const char *name, PyObject *args, PyObject *kwargs,
                    PyObject **app, PyObject **options)
{
    *app = NULL;
    *options = kwargs ? PyDict_Copy(kwargs) : PyDict_New();
    if (*options == NULL) {
        return -1;
    }
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    PyObject *given = nargs == 1 ? PyTuple_GET_ITEM(args, 0)
                                 : PyDict_GetItemString(*options, "app");
    if (given == NULL || nargs > 1) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes an application and keyword options, not "
                     "%zd positional arguments",
                     name, nargs);
        Py_CLEAR(*options);
        return -1;
    }
    *app = Py_NewRef(given);
    if (nargs == 0 && PyDict_DelItemString(*options, "app") < 0) {
        Py_CLEAR(*options);
        Py_CLEAR(*app);
        return -1;
    }
    return 0;
}

ScPolicy *
sc_policy_default(ScState *st)
{
    return (ScPolicy *)st->default_policy;
}

/* -- an inbound deadline ---------------------------------------------------
 */

/* Digits, at most nine, at the beginning of the text; how many. */
static size_t
take_digits(ScText *text, int64_t *number)
{
    size_t count = 0;
    *number = 0;
    while (count < text->length && count < 10 &&
           sc_is_digit(text->at[count])) {
        *number = *number * 10 + (text->at[count++] - '0');
    }
    text->at += count;
    text->length -= count;
    return count;
}

/* The fraction behind a point, in nanoseconds. */
static bool
take_fraction(ScText *text, int64_t *ns)
{
    *ns = 0;
    if (text->length == 0 || text->at[0] != '.') {
        return true;
    }
    text->at++;
    text->length--;
    int64_t unit = INT64_C(100000000);
    size_t count = 0;
    while (count < text->length && sc_is_digit(text->at[count])) {
        *ns += (text->at[count++] - '0') * unit;
        unit /= 10;
    }
    text->at += count;
    text->length -= count;
    return count > 0;
}

bool
sc_policy_parse_timeout(ScText text, int64_t *ns)
{
    int64_t whole, fraction;
    text = sc_text_trim(text);
    size_t digits = text.length ? take_digits(&text, &whole) : 0;
    if (digits == 0 || digits > 9 || !take_fraction(&text, &fraction)) {
        return false;
    }
    *ns = whole * INT64_C(1000000000) + fraction;
    if (sc_text_is(text, "ms")) {
        *ns /= 1000;
        return true;
    }
    return text.length == 0 || sc_text_is(text, "s");
}

/* -- the type ------------------------------------------------------------ */

static PyObject *
policy_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ScState *st = sc_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(args) > 0) {
        return PyErr_Format(PyExc_TypeError,
                            "Policy() takes keyword arguments only");
    }
    return (PyObject *)sc_policy_new(st, kwargs);
}

static PyObject *
get_deadline(ScPolicy *self, void *Py_UNUSED(closure))
{
    if (self->deadline == SC_NEVER) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)self->deadline / 1e9);
}

static int
policy_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
policy_dealloc(ScPolicy *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->id_header);
    Py_CLEAR(self->id_key);
    Py_CLEAR(self->id_name);
    Py_CLEAR(self->timeout_name);
    Py_CLEAR(self->timeout_header);
    Py_CLEAR(self->timeout_key);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMemberDef policy_members[] = {
    {"request_id_header", T_OBJECT_EX, offsetof(ScPolicy, id_header), READONLY,
     "The header with the request's id, in and out."},
    {"deadline_header", T_OBJECT, offsetof(ScPolicy, timeout_header), READONLY,
     "The inbound header with a request's time-out, or None."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef policy_getset[] = {
    {"deadline", (getter)get_deadline, NULL,
     "Seconds that a request may take, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    policy_doc,
    "Policy(**options)\n--\n\n"
    "What is done with requests.  Its options are those of the middlewares:\n"
    "request_id_header=\"X-Request-ID\", trust=\"untrusted\" (or \"always\", "
    "or addresses,\n\"10.0.0.0/8, fd00::/8\"), deadline=None (seconds), "
    "deadline_header=None,\ndisconnect=\"close\" (or \"reset\", \"off\"), "
    "cleanup_timeout=5.0 (seconds).\n\n"
    "Raises TypeError for an option that is none, ValueError for a bad "
    "value.");

static PyType_Slot policy_slots[] = {
    {Py_tp_doc, (void *)policy_doc},
    {Py_tp_new, SC_SLOT(policy_new)},
    {Py_tp_members, policy_members},
    {Py_tp_getset, policy_getset},
    {Py_tp_traverse, SC_SLOT(policy_traverse)},
    {Py_tp_dealloc, SC_SLOT(policy_dealloc)},
    {0, NULL},
};

static PyType_Spec policy_spec = {
    .name = "sidecar.Policy",
    .basicsize = sizeof(ScPolicy),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = policy_slots,
};

int
sc_policy_init(PyObject *module)
{
    ScState *st = sc_state_of_module(module);
    st->key_request_id = PyUnicode_InternFromString("HTTP_X_REQUEST_ID");
    st->header_request_id = PyUnicode_InternFromString("X-Request-ID");
    st->asgi_header_name = PyBytes_FromString("x-request-id");
    if (st->key_request_id == NULL || st->asgi_header_name == NULL ||
        st->header_request_id == NULL ||
        sc_type_add(module, &st->policy_type, &policy_spec, NULL, "Policy") <
            0) {
        return -1;
    }
    st->default_policy = (PyObject *)sc_policy_new(st, NULL);
    return st->default_policy != NULL ? 0 : -1;
}
