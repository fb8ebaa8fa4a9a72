"""Stubs (``.pyi``) and readable modules for what a ``Synchronizer``, ``to_async`` and ``to_sync`` have made.

``python -m sidecar.type_stubs MODULE...``; ``stub_of`` and ``write_stub`` do the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BothContexts", "StubError", "emitted_of", "stub_of", "write_stub"]

_T_co = TypeVar("_T_co", covariant=True)


class BothContexts(Protocol[_T_co]):
    """What ``with`` and ``async with`` take alike: a Synchronizer's context managers, as stubs describe them."""

    def __enter__(self) -> _T_co: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool: ...

    async def __aenter__(self) -> _T_co: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool: ...


class StubError(Exception):
    """A module that no stub can be written of, and why."""


def stub_of(module: str) -> str:
    """The text of a module's stub. Imports the module; raises ``StubError`` where that fails."""
    from sidecar.type_stubs.files import imported, stub_text

    return stub_text(imported(module))


def emitted_of(module: str, name: str) -> str:
    """The text of a readable module that offers what ``module`` does; ``name`` is what it is going to be called."""
    from sidecar.type_stubs.emit import emitted_text
    from sidecar.type_stubs.files import imported

    return emitted_text(imported(module), name)


def write_stub(module: str, folder: str | Path | None = None) -> Path:
    """Write a module's stub, beside the module or, as a package would have it, below ``folder``. Returns its path."""
    from sidecar.type_stubs.files import imported, place_of_stub, stub_text, write

    held = imported(module)
    path = place_of_stub(held, None if folder is None else Path(folder))
    write(path, stub_text(held))
    return path
