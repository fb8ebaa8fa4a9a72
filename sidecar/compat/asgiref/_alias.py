"""``sys.modules["asgiref"] = sidecar.compat.asgiref``, and ``asgiref.sync`` is ours, too: the module, not a copy."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OURS = "sidecar.compat.asgiref"


class _Loader(importlib.abc.Loader):
    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has put the other name's there


class _Finder(importlib.abc.MetaPathFinder):
    """Does nothing as long as ``asgiref`` is another package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package != "asgiref" or not rest or sys.modules.get("asgiref") is not sys.modules.get(OURS):
            return None
        name = f"{OURS}.{rest}"
        if importlib.util.find_spec(name) is None:
            return None
        loader: Any = _Loader(name)
        return ModuleSpec(fullname, loader)


def install() -> None:
    sys.meta_path.insert(0, _Finder())
