"""The C interface, from extensions that are built here: one in C, one in C++."""

from __future__ import annotations

import contextvars
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import sidecar

INCLUDE = Path(sidecar.__file__).parent / "include"
var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

# Both a C11 and a C++11 program.
SOURCE = r"""
#include <sidecar.h>
#include <string.h>

static PyObject *
facts(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    const Sidecar_API *api = Sidecar_Import();
    if (api == NULL) {
        return NULL;
    }
    return Py_BuildValue("nii", (Py_ssize_t)api->size, api->version, SIDECAR_API_HAS(api, worker_stop));
}

static PyObject *
start(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    const Sidecar_API *api = Sidecar_Import();
    if (api == NULL || api->worker_start(api) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stop(PyObject *self, PyObject *timeout)
{
    (void)self;
    const Sidecar_API *api = Sidecar_Import();
    if (api == NULL || api->worker_stop(api, PyFloat_AsDouble(timeout)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* serve(view, steps): call view(request) once and again for each step, in one request; (id, results). */
static PyObject *
serve(PyObject *self, PyObject *args)
{
    PyObject *view, *results = NULL;
    int steps;
    (void)self;
    const Sidecar_API *api = Sidecar_Import();
    if (api == NULL || !PyArg_ParseTuple(args, "Oi", &view, &steps)) {
        return NULL;
    }
    Sidecar_Request *request = api->request_begin(api);
    if (request == NULL) {
        return NULL;
    }
    PyObject *object = api->request_object(request);
    results = PyList_New(0);
    for (int i = 0; results != NULL && i <= steps; i++) {
        if (i > 0 && api->request_enter(request) < 0) {
            Py_CLEAR(results);
            break;
        }
        PyObject *result = PyObject_CallFunctionObjArgs(view, object, NULL);
        if (result == NULL || PyList_Append(results, result) < 0) {
            Py_CLEAR(results);
        }
        Py_XDECREF(result);
        api->request_exit(request);
    }
    Py_DECREF(object);
    PyObject *answer = NULL;
    if (results != NULL && strlen(api->request_id(request)) == SIDECAR_REQUEST_ID_LENGTH) {
        answer = Py_BuildValue("sO", api->request_id(request), results);
    }
    api->request_end(request);
    api->request_end(NULL);
    Py_XDECREF(results);
    return answer;
}

static PyObject *
enter_twice(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    const Sidecar_API *api = Sidecar_Import();
    Sidecar_Request *request = api == NULL ? NULL : api->request_begin(api);
    if (request == NULL) {
        return NULL;
    }
    int rc = api->request_enter(request);
    api->request_exit(request);
    api->request_end(request);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"facts", facts, METH_NOARGS, NULL},
    {"start", start, METH_NOARGS, NULL},
    {"stop", stop, METH_O, NULL},
    {"serve", serve, METH_VARARGS, NULL},
    {"enter_twice", enter_twice, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "NAME", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_NAME(void)
{
    return PyModule_Create(&module);
}
""".replace("Py_NewRef(Py_None)", "(Py_INCREF(Py_None), Py_None)")


def build(folder: Path, compiler: str, standard: str, suffix: str, name: str) -> ModuleType:
    source = folder / f"{name}.{suffix}"
    source.write_text(SOURCE.replace("NAME", name))
    built = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [compiler, f"-std={standard}", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command += ["-isystem", sysconfig.get_path("include"), f"-I{INCLUDE}", str(source), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location(name, built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(
    scope="module",
    params=[("gcc", "cc", "c11", "c", "consumer_c"), ("g++", "c++", "c++11", "cpp", "consumer_cpp")],
    ids=["c", "cpp"],
)
def consumer(request, tmp_path_factory):
    *names, standard, suffix, name = request.param
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        pytest.skip(f"no compiler: {' or '.join(names)}")
    return build(tmp_path_factory.mktemp("capi"), compiler, standard, suffix, name)


def test_size_and_version(consumer):
    size, version, has_worker_stop = consumer.facts()
    assert version == 1
    assert size >= 10 * 8
    assert has_worker_stop == 1


def test_start_and_stop(consumer):
    assert not sidecar.is_running()
    consumer.start()
    assert sidecar.is_running()
    consumer.start()
    consumer.stop(5.0)
    assert not sidecar.is_running()
    consumer.stop(5.0)


def test_errors_pass_on(consumer, monkeypatch):
    def fail(*arguments):
        raise LookupError("not today")

    monkeypatch.setattr(sidecar, "shutdown", fail)
    with pytest.raises(LookupError, match="not today"):
        consumer.stop(5.0)
    monkeypatch.setattr(sidecar, "get_bridge", fail)
    with pytest.raises(LookupError, match="not today"):
        consumer.start()


def test_a_request(consumer):
    def view(request):
        before = var.get()
        var.set("set in the request")
        assert sidecar.current() is request
        return before, request.id

    var.set("outer")
    own, results = consumer.serve(view, 2)
    assert results == [("outer", own), ("set in the request", own), ("set in the request", own)]
    assert sidecar.current() is None
    assert var.get() == "outer"
    other, _ = consumer.serve(view, 0)
    assert other != own


def test_an_error_in_a_request_is_kept(consumer):
    def view(request):
        raise LookupError("the view's")

    with pytest.raises(LookupError, match="the view's"):
        consumer.serve(view, 0)
    assert sidecar.current() is None


def test_a_request_is_entered_once_at_a_time(consumer):
    with pytest.raises(RuntimeError, match="already entered"):
        consumer.enter_twice()
    assert sidecar.current() is None


def test_requests_hold_nothing(consumer):
    def view(request):
        return None

    for _ in range(1000):  # without the GIL it takes some hundreds until CPython's own lists are full
        consumer.serve(view, 1)
    blocks = sys.getallocatedblocks()
    for _ in range(200):
        consumer.serve(view, 1)
    assert sys.getallocatedblocks() - blocks < 100
