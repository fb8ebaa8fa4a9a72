"""Annotations that are strings, evaluated."""

from __future__ import annotations

import importlib
import sys
import typing
from typing import Any

__all__ = ["evaluated_annotation"]


def evaluated_annotation(
    annotation: Any, *, globals_: dict[str, Any] | None = None, declaration_module: str | None = None
) -> Any:
    """What a string stands for, in ``globals_`` or in the module it was written in; anything else is itself.

    A module that it names without having imported it, under ``TYPE_CHECKING`` say, is imported.
    """
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        return annotation
    if globals_ is None:
        globals_ = {} if declaration_module is None else vars(importlib.import_module(declaration_module))
    namespace = dict(globals_)
    while True:
        try:
            return eval(annotation, namespace)
        except NameError as error:
            name = str(error).split("'")[1]
            if name in namespace or not annotation.startswith(f"{name}."):
                raise
            namespace[name] = _imported(annotation)


def _imported(path: str) -> Any:
    """The first of the modules of a dotted path; those inside it are imported as well, as far as they are any."""
    first, *rest = path.split(".")
    found = importlib.import_module(first)
    name = first
    for part in rest:
        name = f"{name}.{part}"
        try:
            importlib.import_module(name)
        except ImportError:
            break
    return sys.modules.get(first, found)
