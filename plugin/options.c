/* The options: their texts as uWSGI reads them.  What they amount to is made
 * of these by sidecar._options, in each interpreter. */
#include "plugin.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "option_table.h"

ScOptions sc_options = {.shutdown_timeout = 5};

typedef enum { COUNT, SECONDS, TEXT } Kind;

typedef struct {
    const char *name; /* as in Python */
    Kind kind;
    double least;
    double most;
    const char *text; /* NULL: not given */
} Given;

/* The module reads the variable as it is imported. */
static void
serve_asgi(char *Py_UNUSED(option), char *value, void *Py_UNUSED(target))
{
    if (setenv("SIDECAR_ASGI", value, 1) != 0) {
        uwsgi_error("[sidecar] sidecar-asgi: setenv()");
        exit(1);
    }
    /* A copy: uWSGI's loader writes a zero where the colon is. */
    add_exported_option(SC_TEXT("module"),
                        uwsgi_str(SC_TEXT("sidecar.serve_asgi:application")),
                        0);
}

#define ROW(name, uwsgi_name, kind, least, most, help) \
    {#name, kind, least, most, NULL},
static Given given[] = {SC_OPTIONS(ROW)};
#undef ROW
enum { GIVEN = sizeof(given) / sizeof(given[0]) };

#define ROW(name, uwsgi_name, kind, least, most, help) AT_##name,
enum { SC_OPTIONS(ROW) };
#undef ROW

static struct uwsgi_string_list *mounts;

/* -- as uWSGI reads them ---------------------------------------------------
 */

static void
refuse(const char *option, const char *value, const char *reason)
{
    uwsgi_log("[sidecar] %s = %s: must be %s\n", option, value, reason);
    exit(1);
}

/* What is too few, sidecar.Sidecar judges. */
static void
check_count(const char *option, const char *value)
{
    char *end;
    errno = 0;
    long count = strtol(value, &end, 10);
    if (end == value || *end != '\0' || errno != 0 || count < 0 ||
        count > INT_MAX) {
        refuse(option, value, "a whole number");
    }
}

static void
check_seconds(const char *option, const char *value, const Given *row)
{
    char *end;
    errno = 0;
    double seconds = strtod(value, &end);
    if (end == value || *end != '\0' || errno != 0 ||
        !(seconds >= row->least && seconds <= row->most)) {
        char reason[80];
        snprintf(reason, sizeof(reason), "a number of seconds from %g to %g",
                 row->least, row->most);
        refuse(option, value, reason);
    }
}

static void
take(char *option, char *value, void *target)
{
    Given *row = target;
    if (row->kind == COUNT) {
        check_count(option, value);
    }
    else if (row->kind == SECONDS) {
        check_seconds(option, value, row);
    }
    row->text = value;
}

#define ROW(name, uwsgi_name, kind, least, most, help) \
    {SC_TEXT(uwsgi_name),                              \
     required_argument,                                \
     0,                                                \
     SC_TEXT(help),                                    \
     take,                                             \
     &given[AT_##name],                                \
     0},
struct uwsgi_option sc_option_table[] = {
    SC_OPTIONS(ROW){
        SC_TEXT("sidecar-mount"), required_argument, 0,
        SC_TEXT("other values for the application at a mountpoint: /api "
                "trust=always,deadline=5 (may be given several times)"),
        uwsgi_opt_add_string_list, &mounts, 0},
    {SC_TEXT("sidecar-asgi"), required_argument, 0,
     SC_TEXT("serve an ASGI application, package.module:app, on the worker's "
             "bridge"),
     serve_asgi, NULL, 0},
    {SC_TEXT("sidecar-stats"), required_argument, 0,
     SC_TEXT("serve uWSGI's stats with the requests in flight, at a unix "
             "socket's path or an address of this machine"),
     sc_stats_set_address, NULL, 0},
    {SC_TEXT("sidecar-stats-anywhere"), no_argument, 0,
     SC_TEXT("let sidecar-stats listen beyond this machine"),
     sc_stats_set_anywhere, NULL, 0},
    {NULL, 0, 0, NULL, NULL, NULL, 0},
};
#undef ROW

/* -- for Python ------------------------------------------------------------
 */

static int
append_text(PyObject *list, const char *bytes)
{
    PyObject *text = PyUnicode_DecodeFSDefault(bytes);
    int rc = text != NULL ? PyList_Append(list, text) : -1;
    Py_XDECREF(text);
    return rc;
}

static PyObject *
texts_given(void)
{
    PyObject *texts = PyDict_New();
    for (int i = 0; texts != NULL && i < GIVEN; i++) {
        if (given[i].text == NULL) {
            continue;
        }
        PyObject *text = PyUnicode_DecodeFSDefault(given[i].text);
        if (text == NULL ||
            PyDict_SetItemString(texts, given[i].name, text) < 0) {
            Py_CLEAR(texts);
        }
        Py_XDECREF(text);
    }
    return texts;
}

static PyObject *
texts_of_mounts(void)
{
    PyObject *texts = PyList_New(0);
    for (struct uwsgi_string_list *one = mounts; texts != NULL && one != NULL;
         one = one->next) {
        if (append_text(texts, one->value) < 0) {
            Py_CLEAR(texts);
        }
    }
    return texts;
}

/* A sidecar._options.UWSGI of the attached interpreter: a new reference, or
 * NULL with a Python error set. */
static PyObject *
configuration(void)
{
    PyObject *made = NULL;
    PyObject *module = PyImport_ImportModule("sidecar._options");
    PyObject *texts = module != NULL ? texts_given() : NULL;
    PyObject *of_mounts = texts != NULL ? texts_of_mounts() : NULL;
    if (of_mounts != NULL) {
        made = PyObject_CallMethod(module, "UWSGI", "OOi", texts, of_mounts,
                                   uwsgi.harakiri_options.workers);
    }
    Py_XDECREF(of_mounts);
    Py_XDECREF(texts);
    Py_XDECREF(module);
    return made;
}

/* -- settled ----------------------------------------------------------------
 */

static bool
is_ours(const char *name)
{
    return strncmp(name, "sidecar-", 8) == 0 ||
           strncmp(name, "sidecar_", 8) == 0;
}

/* uWSGI takes a name of its configuration that no option has for a variable of
 * the configuration's own, and says nothing. */
static int
check_names(PyObject *made)
{
    PyObject *written = PyList_New(0), *known = PyList_New(0), *none = NULL;
    int rc = written != NULL && known != NULL ? 0 : -1;
    for (int i = 0; rc == 0 && i < uwsgi.exported_opts_cnt; i++) {
        struct uwsgi_opt *one = uwsgi.exported_opts[i];
        if (!one->configured && is_ours(one->key)) {
            rc = append_text(written, one->key);
        }
    }
    for (struct uwsgi_option *one = uwsgi.options;
         rc == 0 && one != NULL && one->name != NULL; one++) {
        if (is_ours(one->name)) {
            rc = append_text(known, one->name);
        }
    }
    if (rc == 0) {
        none = PyObject_CallMethod(made, "check_names", "OO", written, known);
        rc = none != NULL ? 0 : -1;
    }
    Py_XDECREF(none);
    Py_XDECREF(written);
    Py_XDECREF(known);
    return rc;
}

static int
log_lines(PyObject *made)
{
    PyObject *lines = PyObject_CallMethod(made, "lines", NULL);
    Py_ssize_t count = lines != NULL ? PyList_Size(lines) : -1;
    int rc = count >= 0 ? 0 : -1;
    for (Py_ssize_t i = 0; rc == 0 && i < count; i++) {
        PyObject *line = PyUnicode_EncodeFSDefault(PyList_GET_ITEM(lines, i));
        rc = line != NULL ? 0 : -1;
        if (line != NULL) {
            uwsgi_log("[sidecar] %s\n", PyBytes_AS_STRING(line));
            Py_DECREF(line);
        }
    }
    Py_XDECREF(lines);
    return rc;
}

/* NULL for None, or with a Python error set; else kept for ever. */
static char *
keep_text(PyObject *made, const char *name)
{
    char *kept = NULL;
    PyObject *value = PyObject_CallMethod(made, "value", "s", name);
    PyObject *bytes = value != NULL && value != Py_None
                          ? PyUnicode_EncodeFSDefault(value)
                          : NULL;
    if (bytes != NULL) {
        kept = uwsgi_str(PyBytes_AS_STRING(bytes));
    }
    Py_XDECREF(bytes);
    Py_XDECREF(value);
    return kept;
}

static int
keep_values(PyObject *made)
{
    PyObject *seconds =
        PyObject_CallMethod(made, "value", "s", "shutdown_timeout");
    if (seconds != NULL) {
        sc_options.shutdown_timeout = PyFloat_AsDouble(seconds);
        Py_DECREF(seconds);
    }
    if (!PyErr_Occurred()) {
        sc_options.request_id_header = keep_text(made, "request_id_header");
    }
    if (!PyErr_Occurred()) {
        sc_options.deadline_header = keep_text(made, "deadline_header");
    }
    return PyErr_Occurred() ? -1 : 0;
}

int
sc_options_settle(void)
{
    PyObject *made = configuration();
    int rc = made != NULL && check_names(made) == 0 && log_lines(made) == 0
                 ? keep_values(made)
                 : -1;
    Py_XDECREF(made);
    return rc;
}

PyObject *
sc_options_policy_arguments(const char *mountpoint, size_t length)
{
    PyObject *arguments = NULL, *made = configuration();
    PyObject *where =
        made != NULL
            ? PyUnicode_DecodeFSDefaultAndSize(mountpoint, (Py_ssize_t)length)
            : NULL;
    if (where != NULL) {
        arguments = PyObject_CallMethod(made, "policy_arguments", "O", where);
    }
    Py_XDECREF(where);
    Py_XDECREF(made);
    return arguments;
}

PyObject *
sc_options_bridge_arguments(void)
{
    PyObject *made = configuration();
    PyObject *arguments =
        made != NULL ? PyObject_CallMethod(made, "bridge_arguments", NULL)
                     : NULL;
    Py_XDECREF(made);
    return arguments;
}

int
sc_options_parse_overrides(const char *text, PyObject *into)
{
    PyObject *none = NULL, *shown = PyUnicode_DecodeFSDefault(text);
    PyObject *module =
        shown != NULL ? PyImport_ImportModule("sidecar._options") : NULL;
    if (module != NULL) {
        none =
            PyObject_CallMethod(module, "parse_overrides", "OO", shown, into);
    }
    int rc = none != NULL ? 0 : -1;
    Py_XDECREF(none);
    Py_XDECREF(module);
    Py_XDECREF(shown);
    return rc;
}

/* -- in a worker -------------------------------------------------------------
 */

/* Of a mountpoint or the text of a sidecar-mount: "/" is the one without. */
static size_t
length_of_mountpoint(const char *at, size_t longest)
{
    size_t length = 0;
    while (length < longest && at[length] != '\0' && at[length] != ' ') {
        length++;
    }
    while (length > 0 && at[length - 1] == '/') {
        length--;
    }
    return length;
}

static bool
has_app(const char *mountpoint, size_t length)
{
    for (int id = 0; id < uwsgi_apps_cnt; id++) {
        const struct uwsgi_app *app = &uwsgi_apps[id];
        if (app->callable != NULL &&
            length_of_mountpoint(app->mountpoint, app->mountpoint_len) ==
                length &&
            memcmp(app->mountpoint, mountpoint, length) == 0) {
            return true;
        }
    }
    return false;
}

void
sc_options_check_mounts(void)
{
    for (struct uwsgi_string_list *one = mounts;
         one != NULL && uwsgi.mywid == 1; one = one->next) {
        size_t length = length_of_mountpoint(one->value, SIZE_MAX);
        if (!has_app(one->value, length)) {
            uwsgi_log("[sidecar] sidecar-mount = %s: no application is "
                      "mounted there (yet)\n",
                      one->value);
        }
    }
}
