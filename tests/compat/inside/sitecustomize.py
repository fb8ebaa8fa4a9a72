"""Inside a project's tests: its names are Sidecar's, in this process and in those that it starts."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from types import ModuleType
from typing import Any


class Alias(importlib.abc.Loader):
    """The very module that stands behind another name, not a copy of it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._spec: Any = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has put the alias's there


class Redirect(importlib.abc.MetaPathFinder):
    def __init__(self, targets: dict[str, str]) -> None:
        self._targets = targets

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        for known, ours in self._targets.items():
            if name == known or name.startswith(known + "."):
                real = ours + name[len(known) :]
                there = importlib.util.find_spec(real)
                if there is None:
                    return None
                is_package = there.submodule_search_locations is not None
                return importlib.machinery.ModuleSpec(name, Alias(real), is_package=is_package)
        return None


sys.meta_path.insert(0, Redirect(json.loads(os.environ["SIDECAR_COMPAT_REDIRECT"])))
