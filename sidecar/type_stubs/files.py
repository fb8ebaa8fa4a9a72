"""Modules by name, and the files that are written for them."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import types
from pathlib import Path

from sidecar.type_stubs import StubError
from sidecar.type_stubs.stub import HEADER, ModuleStub


def imported(name: str) -> types.ModuleType:
    """The module, imported; ``StubError`` says what is wrong with it."""
    if not name or name.endswith((".py", ".pyi")) or os.sep in name:
        hint = name.replace(".pyi", "").replace(".py", "").replace(os.sep, ".").strip(".")
        raise StubError(f"{name!r} is a file, not the name of a module" + (f": try {hint!r}" if hint else ""))
    if name.startswith(".") or not all(part.isidentifier() for part in name.split(".")):
        raise StubError(f"{name!r} is not the full name of a module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise StubError(f"no module named {error.name!r} (looked in {_looked_in()})") from None
        raise StubError(f"{name!r} imports {error.name!r}, which is not there") from error
    except Exception as error:
        raise StubError(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
    except SystemExit as error:
        raise StubError(
            f"{name!r} ends the process when it is imported ({error}): is it a script?"
        ) from error


def _looked_in() -> str:
    return ", ".join(repr(each or os.getcwd()) for each in sys.path[:3]) + (
        ", ..." if len(sys.path) > 3 else ""
    )


def stub_text(module: types.ModuleType) -> str:
    """A whole stub file."""
    return f"{HEADER.format(module=module.__name__)}\n\n{ModuleStub(module).build().source()}"


def place_of_stub(module: types.ModuleType, folder: Path | None) -> Path:
    """Where a type checker looks for it."""
    source = getattr(module, "__file__", None)
    if source is None and folder is None:
        raise StubError(f"{module.__name__!r} has no file that a stub could be beside: name a folder (--out)")
    is_package = hasattr(module, "__path__")
    if folder is None:
        assert source is not None
        path = Path(source)
        return (
            path.with_name("__init__.pyi")
            if is_package
            else path.with_name(module.__name__.rpartition(".")[2] + ".pyi")
        )
    parts = module.__name__.split(".")
    return (
        folder.joinpath(*parts, "__init__.pyi")
        if is_package
        else folder.joinpath(*parts[:-1], f"{parts[-1]}.pyi")
    )


def write(path: Path, text: str) -> bool:
    """Write it where it differs, whole or not at all; whether it did."""
    if present(path) == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
    return True


def present(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def difference(path: Path, text: str) -> str:
    """What would change; empty where nothing does."""
    old = present(path)
    before = "/dev/null" if old is None else str(path)
    lines = difflib.unified_diff(
        (old or "").splitlines(keepends=True),
        text.splitlines(keepends=True),
        before,
        f"{path} (as it should be)",
    )
    return "".join(lines)
