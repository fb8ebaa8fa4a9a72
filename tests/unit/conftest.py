"""A bridge of the test's own, and where its calls come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from streaming import in_thread

import sidecar


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    made = sidecar.Sidecar(name="tests", workers=2, cleanup_timeout=20)
    yield made
    assert made.shutdown()


@pytest.fixture(params=["main", "thread"])
def where(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The same from the main thread, which drives its own calls only, and from any other."""
    return (lambda function, *args: function(*args)) if request.param == "main" else in_thread
