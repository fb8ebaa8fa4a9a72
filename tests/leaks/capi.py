"""Scenarios: the C interface, through the extension that its own test builds."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from leaks.calls import refused
from leaks.measure import Scenarios

import sidecar

scenario = Scenarios()


def _build() -> Any:
    path = Path(__file__).resolve().parent.parent / "unit" / "test_capi.py"
    spec = importlib.util.spec_from_file_location("test_capi", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compiler = shutil.which("gcc") or shutil.which("cc")
    with tempfile.TemporaryDirectory() as folder:
        return module.build(Path(folder), compiler, "c11", "c", "consumer_c")


consumer = _build()


@scenario()
def the_import() -> None:
    assert consumer.facts()[1] == 1


@scenario(10)
def start_and_stop() -> None:
    consumer.start()
    consumer.start()
    assert sidecar.is_running()
    consumer.stop(5.0)
    consumer.stop(5.0)


@scenario()
def requests() -> None:
    def view(request: sidecar.Request) -> str:
        assert sidecar.current() is request
        return request.id

    assert len(consumer.serve(view, 2)[1]) == 3


@scenario()
def requests_that_fail() -> None:
    def view(request: sidecar.Request) -> None:
        raise LookupError([])

    refused(LookupError, consumer.serve, view, 0)


@scenario()
def entered_twice() -> None:
    refused(RuntimeError, consumer.enter_twice)
