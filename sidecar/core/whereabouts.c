#include "core/whereabouts.h"

#include <stdio.h>
#include <string.h>

/* Deeper chains of coroutines are looked at so far. */
enum { DEEPEST = 200 };

/* Of a coroutine, a generator, an async generator: the attributes that mean
 * the same. */
typedef struct {
    const char *code;
    const char *frame;
    const char *awaited;
} Kind;

static const Kind kinds[] = {
    {"cr_code", "cr_frame", "cr_await"},
    {"gi_code", "gi_frame", "gi_yieldfrom"},
    {"ag_code", "ag_frame", "ag_await"},
};

/* New reference, or NULL: there is none, or it is None. */
static PyObject *
attribute(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL) {
        PyErr_Clear();
    }
    else if (value == Py_None) {
        Py_CLEAR(value);
    }
    return value;
}

/* A code's or an object's str, for as long as the object lives; "?": none. */
static void
copy_text(PyObject *object, const char *name, char *text, size_t room)
{
    PyObject *value = attribute(object, name);
    const char *found =
        value && PyUnicode_Check(value) ? PyUnicode_AsUTF8(value) : NULL;
    PyErr_Clear();
    snprintf(text, room, "%s", found ? found : "?");
    Py_XDECREF(value);
}

static long
number(PyObject *object, const char *name)
{
    PyObject *value = attribute(object, name);
    long found = value && PyLong_Check(value) ? PyLong_AsLong(value) : 0;
    PyErr_Clear();
    Py_XDECREF(value);
    return found;
}

/* NULL: of another type, whose attributes may be Python code. */
static const Kind *
kind_of(PyObject *coro)
{
    if (PyCoro_CheckExact(coro)) {
        return &kinds[0];
    }
    if (PyGen_CheckExact(coro)) {
        return &kinds[1];
    }
    return PyAsyncGen_CheckExact(coro) ? &kinds[2] : NULL;
}

void
sc_whereabouts_name(PyObject *coro, char *text, size_t room)
{
    char name[128], file[256];
    const Kind *kind = kind_of(coro);
    PyObject *code = kind ? attribute(coro, kind->code) : NULL;
    if (code == NULL) {
        snprintf(text, room, "%s", Py_TYPE(coro)->tp_name);
        return;
    }
    copy_text(coro, "__qualname__", name, sizeof(name));
    copy_text(code, "co_filename", file, sizeof(file));
    snprintf(text, room, "%s at %s:%ld", name, file,
             number(code, "co_firstlineno"));
    Py_DECREF(code);
}

typedef struct {
    char name[128];
    char file[256];
    long line;
} Place;

static bool
find_place(PyObject *coro, const Kind *kind, Place *place)
{
    PyObject *frame = attribute(coro, kind->frame);
    PyObject *code = frame ? attribute(frame, "f_code") : NULL;
    if (code != NULL) {
        copy_text(code, "co_name", place->name, sizeof(place->name));
        copy_text(code, "co_filename", place->file, sizeof(place->file));
        place->line = number(frame, "f_lineno");
    }
    Py_XDECREF(frame);
    Py_XDECREF(code);
    return code != NULL;
}

void
sc_whereabouts_await(PyObject *coro, char *text, size_t room)
{
    Place place = {"", "", 0}, found;
    char awaited[160] = "";
    PyObject *at = Py_NewRef(coro);
    text[0] = '\0';
    for (int depth = 0; at != NULL && depth < DEEPEST; depth++) {
        const Kind *kind = kind_of(at);
        if (kind == NULL || !find_place(at, kind, &found)) {
            break;
        }
        if (strstr(found.file, "/asyncio/") == NULL) {
            place = found;
            awaited[0] = '\0';
        }
        else if (awaited[0] == '\0') {
            snprintf(awaited, sizeof(awaited), ", awaiting asyncio's %s",
                     found.name);
        }
        PyObject *next = attribute(at, kind->awaited);
        Py_SETREF(at, next);
    }
    Py_XDECREF(at);
    if (place.line > 0) {
        snprintf(text, room, "%s:%ld in %s%s", place.file, place.line,
                 place.name, awaited);
    }
}
