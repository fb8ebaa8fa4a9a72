"""``synchronicity.type_stubs``: stubs by ``sidecar.type_stubs``, in the form that project's have.

``python -m sidecar.compat.synchronicity.type_stubs MODULE...``
"""

from __future__ import annotations

import importlib
import sys
import types
import typing
from pathlib import Path
from typing import Any

from sidecar.compat.synchronicity import combined_types
from sidecar.compat.synchronicity.interface import Interface
from sidecar.type_stubs.crossing import Crossing, blocking
from sidecar.type_stubs.evaluate import arguments_of, replaced
from sidecar.type_stubs.functions import indented
from sidecar.type_stubs.names import Dialect
from sidecar.type_stubs.stub import ModuleStub, Stub

__all__ = ["StubEmitter", "write_stub"]


def _dialect() -> Dialect:
    """Names as their readers import them: the project's own where those lead here."""
    package = __name__.rpartition(".")[0]
    own = sys.modules.get("synchronicity")
    name = "synchronicity" if own is not None and own is sys.modules.get(package) else package
    return Dialect(
        both_contexts=f"{name}.combined_types.AsyncAndBlockingContextManager",
        classproperty=f"{name}.classproperty",
        future=False,
        modern=False,
    )


class StubEmitter:
    """One module's stub, put together by hand, or from a module."""

    def __init__(self, target_module: str) -> None:
        self.target_module = target_module
        self._stub = Stub(target_module, _dialect())

    @classmethod
    def from_module(cls, module: types.ModuleType) -> StubEmitter:
        """Everything that is the module's own."""
        emitter = cls(module.__name__)
        emitter._stub = ModuleStub(module, _dialect()).build()
        return emitter

    def add_variable(self, annotation: Any, name: str) -> None:
        self._stub.add_variable(annotation, name)

    def add_literal(self, entity: Any, name: str) -> None:
        """An alias of ``typing.Literal[...]``."""
        self._stub.add_alias(entity, name)

    def add_function(self, func: Any, name: str, indentation_level: int = 0) -> None:
        text = self._stub.function(func, name)
        for _ in range(indentation_level):
            text = indented(text)
        self._stub.parts.append(text)

    def add_class(self, cls: Any, name: str) -> None:
        self._stub.add_class(cls, name)

    def add_type_var(self, type_var: Any, name: str) -> None:
        names = self._stub.names
        names.call_it(type_var, name)
        self._stub.parts.append(names.declaration(type_var, name) + "\n")

    def get_source(self) -> str:
        return self._stub.source()

    def _translate_annotation(
        self, annotation: Any, synchronizer: Any, interface: Interface | None, home_module: str | None = None
    ) -> Any:
        """What an annotation of the library's is outside: to who blocks, or to who awaits."""
        outside = Crossing.of(synchronizer).outward(annotation)
        if interface is not Interface.BLOCKING:
            return outside
        return replaced(outside, _blocking)


def _blocking(annotation: Any) -> Any:
    found = blocking(annotation, _both, False)
    # Of an awaitable of an awaitable both are waited for.
    return found if found is annotation or not arguments_of(found) else replaced(found, _blocking)


def _both(value: Any) -> Any:
    return combined_types.AsyncAndBlockingContextManager[value]


def write_stub(module_path: str) -> Path:
    """Write a module's stub beside it; returns the stub's path."""
    module = importlib.import_module(module_path)
    source = module.__file__
    if source is None:
        raise ValueError(f"{module_path} has no file that a stub could be beside")
    path = Path(source).with_suffix(".pyi")
    path.write_text(StubEmitter.from_module(module).get_source(), encoding="utf-8")
    return path


def main(arguments: typing.Sequence[str]) -> None:
    for module_path in arguments:
        print(f"Wrote {write_stub(module_path)}")


if __name__ == "__main__":
    main(sys.argv[1:])
