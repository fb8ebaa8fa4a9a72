#include "sidecar.h"

#include <stddef.h>

#include "core/module.h"
#include "core/state.h"
#include "middleware/request_id.h"
#include "middleware/scope.h"

#if SIDECAR_REQUEST_ID_LENGTH != SC_REQUEST_ID_LENGTH
#error "sidecar.h and request_id.h disagree about the length of an id"
#endif

/* What the capsule holds: the public part first. */
typedef struct {
    Sidecar_API api;
    ScState *st; /* Borrowed: the module holds the capsule. */
} Exported;

struct Sidecar_Request {
    ScScope scope;
    char id[SC_REQUEST_ID_LENGTH + 1];
};

static int
worker_start(const Sidecar_API *Py_UNUSED(api))
{
    PyObject *started = NULL, *bridge = NULL;
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    if (sidecar != NULL) {
        bridge = PyObject_CallMethod(sidecar, "get_bridge", NULL);
    }
    if (bridge != NULL) {
        started = PyObject_CallMethod(bridge, "start", NULL);
    }
    Py_XDECREF(bridge);
    Py_XDECREF(sidecar);
    Py_XDECREF(started);
    return started != NULL ? 0 : -1;
}

static int
worker_stop(const Sidecar_API *Py_UNUSED(api), double timeout)
{
    PyObject *sidecar = PyImport_ImportModule("sidecar");
    if (sidecar == NULL) {
        return -1;
    }
    PyObject *stopped = PyObject_CallMethod(sidecar, "shutdown", "d", timeout);
    Py_DECREF(sidecar);
    Py_XDECREF(stopped);
    return stopped != NULL ? 0 : -1;
}

static Sidecar_Request *
request_begin(const Sidecar_API *api)
{
    Sidecar_Request *request = PyMem_Malloc(sizeof(*request));
    if (request == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (sc_scope_begin(((const Exported *)api)->st, &request->scope) < 0) {
        PyMem_Free(request);
        return NULL;
    }
    PyObject *id = sc_request_id(request->scope.request);
    memcpy(request->id, PyUnicode_1BYTE_DATA(id), SC_REQUEST_ID_LENGTH);
    request->id[SC_REQUEST_ID_LENGTH] = '\0';
    return request;
}

static int
request_enter(Sidecar_Request *request)
{
    return sc_scope_enter(&request->scope);
}

static void
request_exit(Sidecar_Request *request)
{
    sc_scope_exit(&request->scope);
}

static void
request_end(Sidecar_Request *request)
{
    if (request != NULL) {
        sc_scope_end(&request->scope);
        PyMem_Free(request);
    }
}

static const char *
request_id(Sidecar_Request *request)
{
    return request->id;
}

static PyObject *
request_object(Sidecar_Request *request)
{
    return Py_NewRef(request->scope.request);
}

static void
capsule_free(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, SIDECAR_CAPSULE));
}

int
sc_capi_init(PyObject *module)
{
    Exported *exported = PyMem_Malloc(sizeof(*exported));
    if (exported == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *exported = (Exported){
        .api =
            {
                .size = sizeof(Sidecar_API),
                .version = SIDECAR_API_VERSION,
                .worker_start = worker_start,
                .worker_stop = worker_stop,
                .request_begin = request_begin,
                .request_enter = request_enter,
                .request_exit = request_exit,
                .request_end = request_end,
                .request_id = request_id,
                .request_object = request_object,
            },
        .st = sc_state_of_module(module),
    };
    PyObject *capsule =
        PyCapsule_New(&exported->api, SIDECAR_CAPSULE, capsule_free);
    if (capsule == NULL) {
        PyMem_Free(exported);
        return -1;
    }
    int rc = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return rc;
}
