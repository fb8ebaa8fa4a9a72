"""What a stub says of a class that ``to_async`` or ``to_sync`` has made."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from collections.abc import Iterator
from typing import Any

from sidecar._wrap_class import _Attribute
from sidecar._wrap_common import side_of
from sidecar.type_stubs import members
from sidecar.type_stubs.classes import Classes, ClassText, returning_none, same
from sidecar.type_stubs.crossing import EMPTY, yielded
from sidecar.type_stubs.evaluate import UNIONS, arguments_of, replaced, signature_of
from sidecar.type_stubs.functions import (
    ANYTHING,
    Way,
    bound,
    map_signature,
    plain,
    self_type,
    signatures_of,
    turned,
)

_TURNED_DUNDERS = {
    "async": {
        "__aenter__": "__enter__",
        "__aexit__": "__exit__",
        "__aiter__": "__iter__",
        "__anext__": "__next__",
    },
    "sync": {
        "__enter__": "__aenter__",
        "__exit__": "__aexit__",
        "__iter__": "__aiter__",
        "__next__": "__anext__",
    },
}


class FaceText(ClassText):
    """A class that ``to_async`` or ``to_sync`` has made: all members are its own, inherited ones as well."""

    def __init__(self, classes: Classes, face: Any, title: str) -> None:
        super().__init__(classes, face, title)
        self.face = face
        self.side: str = face.__sidecar_side__.split()[0]
        self.real: Any = vars(face)["__wrapped__"]._cls
        self.around = tuple(getattr(self.real, "__parameters__", ()))

    def outward(self, annotation: Any) -> Any:
        """The class's own objects come and go as faces."""
        return replaced(annotation, lambda each: self.face if each is self.real else each)

    def _of_data(self, annotation: Any) -> Any:
        """A container that the object keeps is handed out as it is, with the real objects in it."""
        found = self.outward(annotation)
        origin = typing.get_origin(found)
        members_of = found.__args__ if origin in UNIONS and origin is not None else (found,)
        return Any if any(self._is_within(each) for each in members_of) else found

    def _is_within(self, annotation: Any) -> bool:
        inner: list[Any] = []

        def noted(part: Any) -> Any:
            inner.append(part)
            return part

        for each in arguments_of(annotation):
            replaced(each, noted)
        return typing.get_origin(annotation) is not self.face and any(each is self.face for each in inner)

    def bases(self) -> list[Any]:
        found: Any = typing.Generic
        return [found[self.around]] if self.around else []

    def text(self) -> str:
        # A generic's own class as an argument is written with the face's name.
        self.names.call_it(self.real, self.names.here(self.face) or self.title)
        return super().text()

    def fields(self) -> Iterator[tuple[str, str]]:
        found: dict[str, str] = {}
        for base in reversed(self.real.__mro__):
            if base is not object and not base.__module__ == "typing":
                found.update(members.fields(self.names, base, self._of_data))
        for name, annotation in members.set_on_self(self.real).items():
            if (
                not name.startswith("_")
                and name not in found
                and inspect.getattr_static(self.real, name, None) is None
            ):
                found[name] = f"{name}: {self.names.text(self._of_data(annotation))}"
        return iter([(name, line) for name, line in found.items() if not name.startswith("_")])

    def members(self) -> Iterator[tuple[str, Any]]:
        annotated = {name for name, _ in self.fields()}
        for name, value in list(vars(self.face).items()):
            dunder = name.startswith("__") and name.endswith("__")
            if name in members.HIDDEN or name.startswith("__sidecar_") or name in annotated:
                continue
            if name == "__class_getitem__" or (name.startswith("_") and not dunder):
                continue
            if name == "__init__" and self.real.__init__ is object.__init__:
                continue
            yield name, value

    def member(self, name: str, value: Any) -> str | None:
        if name == "on_pool" and name not in dir(self.real):
            return self._on_pool()
        if isinstance(value, _Attribute):
            static = inspect.getattr_static(self.real, name)
            if isinstance(static, type):
                return self.nested(name, static)
            if not isinstance(static, property) and hasattr(static, "__set__"):
                return f"{name}: {self.names.typing('Any')}"  # of a class in C
            return super().member(name, static)
        twin = _TURNED_DUNDERS[self.side].get(name)
        if twin is not None and not hasattr(self.real, name):
            return self._turned_dunder(name, twin)
        if name == "__init__":
            return self._init()
        static = inspect.getattr_static(self.real, name)
        first, marks = ("self", ())
        if isinstance(static, (staticmethod, classmethod)):
            kind = type(static).__name__
            first, marks = (None if kind == "staticmethod" else "cls"), (kind,)  # type: ignore[assignment]
            static = static.__func__
        if isinstance(static, (functools.partialmethod, functools.singledispatchmethod)):
            static = static.func
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        side = side_of(function)
        ways = []
        for each, signature in signatures_of(static, self.real):
            inner = map_signature(signature, self.outward, self.outward)
            way = turned(name, side, each, inner) if side else plain(name, each, inner)
            ways.append(Way(name, way.is_async, self._without(way.signature) if first else way.signature))
        return self.functions.definitions(ways, first, False, static.__doc__, *marks)

    def _init(self) -> str:
        if not inspect.isfunction(inspect.getattr_static(self.real, "__init__")):
            return self.functions.definition(
                Way("__init__", False, ANYTHING.replace(return_annotation=None)), "self"
            )
        ways = [
            Way("__init__", False, map_signature(returning_none(each, True), self.outward, self.outward))
            for _, each in signatures_of(self.real.__init__, self.real, method=True)
        ]
        return self.functions.definitions(ways, "self", False, self.real.__init__.__doc__)

    def _any(self) -> inspect.Signature:
        """Whatever a class in C takes; ``object``'s own takes nothing."""
        return inspect.Signature() if self.real.__init__ is object.__init__ else ANYTHING

    def _on_pool(self) -> str:
        initial = inspect.getattr_static(self.real, "__init__")
        if inspect.isfunction(initial):
            signatures = [each for _, each in signatures_of(initial, self.real, method=True)]
        else:
            signatures = [self._any()]
        ways = [
            Way(
                "on_pool",
                True,
                map_signature(each, self.outward, same).replace(return_annotation=self_type()),
            )
            for each in signatures
        ]
        return self.functions.definitions(ways, "cls", False, "Construct one on the pool.", "classmethod")

    def _turned_dunder(self, name: str, twin: str) -> str:
        function = getattr(self.real, twin)
        signature = bound(map_signature(signature_of(function, self.real), self.outward, self.outward))
        result = signature.return_annotation
        if name in ("__aiter__", "__iter__"):
            signature = signature.replace(return_annotation=self._iterates(result, name))
        elif name in ("__aexit__", "__exit__"):
            # A face's exit always says whether it has suppressed the error.
            signature = signature.replace(return_annotation=None if result is None else bool)
        return self.functions.definition(
            Way(name, name in ("__aenter__", "__aexit__", "__anext__"), signature),
            "self",
            False,
            (),
            function.__doc__,
        )

    def _iterates(self, result: Any, name: str) -> Any:
        step = {"__aiter__": "__next__", "__iter__": "__anext__"}[name]
        item = yielded(result)[0] if result is not EMPTY else Any
        own = result is self.face or getattr(result, "_name", None) == "Self"
        if own and hasattr(self.real, step):
            item = signature_of(getattr(self.real, step), self.real).return_annotation
            item = Any if item is EMPTY else self.outward(item)
        iterator: Any = collections.abc.Iterator
        generator: Any = collections.abc.AsyncGenerator
        return iterator[item] if name == "__iter__" else generator[item, None]
