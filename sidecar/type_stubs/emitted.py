"""What modules that ``--emit`` has written need when they run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from sidecar._wrap_class import Face
from sidecar.synchronizer.functions import Method
from sidecar.synchronizer.kinds import FACE
from sidecar.synchronizer.translate import KEYS

__all__ = ["default", "function", "method", "stands_for"]

_C = TypeVar("_C", bound=type)
_Decorator = Callable[[Callable[..., Any]], Any]


def default(function: Any, parameter: str) -> Any:
    """A parameter's default that cannot be written down: the object itself."""
    return inspect.signature(function).parameters[parameter].default


def _give(written: Any, face: Any, aio: Any, future: Any) -> Any:
    """The written function has the faces, and is known for what it stands for."""
    written.aio = aio
    written.future = face.future if future is None else future
    for key, value in vars(face).items():
        if key == FACE or key.startswith(KEYS):
            setattr(written, key, value)
    return written


def function(face: Any, aio: Any, future: Any = None) -> _Decorator:
    """A written function in place of a Synchronizer's, its other faces written as well."""
    return lambda written: _give(written, face, aio, future)


def method(cls: type, aio: Any, future: Any = None) -> _Decorator:
    """The same in a class: the method of ``cls`` that has the same name."""

    def decorator(written: Any) -> Any:
        found = inspect.getattr_static(cls, written.__name__)
        if isinstance(found, Method):
            return Method(_give(written, found.face, aio, future), found._of_class)
        return staticmethod(_give(written, found.__func__, aio, future))

    return decorator


def stands_for(made: type) -> Callable[[_C], _C]:
    """From now on the library's objects come out as instances of the written class."""

    def decorator(written: _C) -> _C:
        builder = vars(made).get("__sidecar_builder__")
        if issubclass(made, Face) and builder is not None:
            builder.face = written
            return written
        for key, original in list(vars(made).items()):
            if key.startswith(f"{KEYS}original_") and key.rpartition("_")[2].isdigit():
                setattr(written, key, original)
                setattr(original, f"{KEYS}wrapper_{key.rpartition('_')[2]}", written)
        return written

    return decorator
