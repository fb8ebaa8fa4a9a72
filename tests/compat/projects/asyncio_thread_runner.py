"""asyncio-thread-runner's own tests against ``sidecar.compat.asyncio_thread_runner``."""

from __future__ import annotations

from compat.project import Project

PROJECT = Project(
    name="asyncio-thread-runner",
    sdist="asyncio-thread-runner==1.0",
    redirect={"asyncio_thread_runner": "sidecar.compat.asyncio_thread_runner"},
    pythons=("3.11", "3.13", "3.14"),
    needs=(),
    tests=("tests",),
)
