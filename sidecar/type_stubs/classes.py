"""What a stub says of a class: a plain one, a Synchronizer's proxies."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from sidecar._wrap_class import Face
from sidecar._wrap_common import side_of
from sidecar.synchronizer import classproperty
from sidecar.synchronizer.functions import Method
from sidecar.synchronizer.kinds import FACE
from sidecar.synchronizer.translate import KEYS
from sidecar.type_stubs import members
from sidecar.type_stubs.crossing import EMPTY, Crossing, number_of, original_of
from sidecar.type_stubs.evaluate import (
    annotations_of,
    is_type_variable,
    signature_of,
)
from sidecar.type_stubs.functions import (
    BothContextsOf,
    Functions,
    Way,
    bound,
    docstring,
    faces_of,
    indented,
    map_signature,
    plain,
    signatures_of,
    turned,
    without_first,
)

_Change = Callable[[Any], Any]


def is_face(cls: Any) -> bool:
    """A class that ``to_async`` or ``to_sync`` has made, not one that derives from it."""
    return isinstance(cls, type) and issubclass(cls, Face) and "__sidecar_side__" in vars(cls)


def same(annotation: Any) -> Any:
    return annotation


class Classes:
    """Writes classes, in the names of one module."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.names = functions.names

    def text(self, cls: Any, title: str) -> str:
        if is_face(cls):
            from sidecar.type_stubs.faces import FaceText

            return FaceText(self, cls, title).text()
        if any(name.startswith(f"{KEYS}original_") for name in vars(cls)):
            return ProxyText(self, cls, title).text()
        return ClassText(self, cls, title).text()


class ClassText:
    """A plain class; its children know the wrapped ones."""

    def __init__(self, classes: Classes, cls: Any, title: str) -> None:
        self.classes = classes
        self.functions = classes.functions
        self.names = classes.names
        self.cls = cls
        self.title = title
        self.around: tuple[Any, ...] = tuple(
            variable
            for variable in dict.fromkeys(getattr(cls, "__parameters__", ()))
            if is_type_variable(variable)
        )

    # What the children change.

    def outward(self, annotation: Any) -> Any:
        return annotation

    def bases(self) -> list[Any]:
        return [self.outward(each) for each in members.bases_of(self.cls)]

    def members(self) -> Iterator[tuple[str, Any]]:
        for name, value in list(vars(self.cls).items()):
            if not members.is_made(self.cls, name, value):
                yield name, value

    def fields(self) -> Iterator[tuple[str, str]]:
        return members.fields(self.names, self.cls, self.outward)

    def text(self) -> str:
        found = dict(self.members())
        with self.names.shadowed_by(set(found)):
            parts = []
            if self.cls.__doc__ and not self._doc_is_made():
                doc = docstring(self.cls.__doc__, self.names.dialect.modern)
                parts += [doc + "\n"] if doc is not None else []
            lines = [line for _, line in self.fields()]
            if lines:
                parts.append("\n".join(lines) + "\n")
            constants: list[str] = []
            for name, value in found.items():
                text = self.member(name, value)
                if text is not None and text.count("\n") == 0:
                    constants.append(text)
                elif text is not None:
                    parts.append(text)
            if constants:
                parts.insert(
                    len(parts) if not parts else min(len(parts), 1 + bool(lines)), "\n".join(constants) + "\n"
                )
        body = "\n".join(parts) or "...\n"
        title = members.head(self.names, self.cls, self.title, [self.base(each) for each in self.bases()])
        return f"{title}\n{indented(body)}"

    def base(self, base: Any) -> str:
        return self.names.text(base)

    def _doc_is_made(self) -> bool:
        doc = self.cls.__doc__
        if "__doc__" not in vars(self.cls) and "__doc__" not in dir(self.cls):
            return True
        if doc in ("An enumeration.", "Enum where members are also (and must be) ints"):
            return True  # Enum's own, before Python 3.11
        made = "__dataclass_fields__" in vars(self.cls) and doc.startswith(f"{self.cls.__name__}(")
        return made or (members.is_named_tuple(self.cls) and doc.startswith(f"{self.cls.__name__}("))

    # -- members --------------------------------------------------------------------

    def member(self, name: str, value: Any) -> str | None:
        """Its text: one line, or a definition."""
        if isinstance(value, staticmethod):
            return self.function(name, value.__func__, None, "staticmethod")
        if isinstance(value, classmethod):
            return self.function(name, value.__func__, "cls", "classmethod")
        if isinstance(value, property):
            return self.property(name, value)
        if isinstance(value, functools.cached_property):
            return self._cached(name, value)
        if isinstance(value, classproperty):
            return self.definition(name, value.fget.__func__, "cls", self._classproperty(), "classmethod")
        if isinstance(value, type) and value.__qualname__.startswith(f"{self.cls.__qualname__}."):
            return self.classes.text(value, name)
        if isinstance(value, Method):
            return self.method(name, value)
        if inspect.isroutine(value) or isinstance(
            value, (functools.partialmethod, functools.singledispatchmethod)
        ):
            return self.function(name, value, "self")
        return members.constant(self.names, self.cls, name, value)

    def _classproperty(self) -> str:
        return self.names.dotted(self.names.dialect.classproperty)

    def method(self, name: str, value: Method) -> str:
        raise NotImplementedError

    def nested(self, name: str, cls: type) -> str:
        """A class of the class's, not wrapped: where only the wrapper leads to it, it is written there."""
        if cls.__module__ == self.names.module and "." in cls.__qualname__:
            return self.classes.text(cls, name)
        return f"{name}: {self.names.builtin('type')}[{self.names.path(cls)}]"

    def function(self, name: str, function: Any, first: str | None, *decorators: str) -> str:
        marks = (
            (*decorators, self.names.dotted("abc.abstractmethod"))
            if members.is_abstract(function)
            else decorators
        )
        if isinstance(function, functools.partialmethod):
            function = function.func
        if isinstance(function, functools.singledispatchmethod):
            function = function.func
        return self.definition(name, function, first, *marks)

    def definition(self, name: str, function: Any, first: str | None, *decorators: str) -> str:
        ways = [self.way(name, each, signature) for each, signature in signatures_of(function, self.cls)]
        if first:
            ways = [Way(way.name, way.is_async, self._without(way.signature)) for way in ways]
            first = self._first(function, first)
        return self.functions.definitions(
            ways, first, False, inspect.getdoc(function) and function.__doc__, *decorators
        )

    def _without(self, signature: inspect.Signature) -> inspect.Signature:
        return without_first(signature)[0]

    def _first(self, function: Any, wanted: str) -> str:
        """``self`` may have an annotation of its own."""
        signature = signature_of(function, self.cls)
        given = list(signature.parameters.values())
        if not given or given[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            return wanted
        return (
            wanted
            if given[0].annotation is EMPTY
            else f"{wanted}: {self.names.text(self.outward(given[0].annotation))}"
        )

    def way(self, name: str, function: Any, signature: inspect.Signature) -> Way:
        side = side_of(function)
        if side is not None:
            return turned(name, side, function.__wrapped__, signature)
        if FACE in getattr(function, "__dict__", ()):
            return _blocking(name, function, signature, Crossing(number_of(function) or 0))
        return plain(name, function, map_signature(signature, self.outward, self.outward))

    def property(self, name: str, prop: property) -> str:
        parts = []
        for function, mark in (
            (prop.fget, "property"),
            (prop.fset, f"{name}.setter"),
            (prop.fdel, f"{name}.deleter"),
        ):
            if function is None:
                continue
            way = self.getter(name, function, signature_of(function, self.cls))
            rest = self._without(way.signature)
            marks = (
                (mark, self.names.dotted("abc.abstractmethod")) if members.is_abstract(function) else (mark,)
            )
            doc = function.__doc__ if mark == "property" else None
            parts.append(self.functions.definition(Way(name, False, rest), "self", False, marks, doc))
        return "\n".join(parts)

    def getter(self, name: str, function: Any, signature: inspect.Signature) -> Way:
        return self.way(name, function, signature)

    def _cached(self, name: str, value: Any) -> str:
        mark = self.names.dotted("functools.cached_property")
        return self.definition(name, value.func, "self", mark)


def _blocking(name: str, function: Any, signature: inspect.Signature, crossing: Crossing) -> Way:
    """The blocking face only."""
    called = faces_of(original_of(function), crossing, signature, BothContextsOf, False)[0]
    return Way(name, False, called.signature)


class ProxyText(ClassText):
    """A Synchronizer's wrapper class."""

    def __init__(self, classes: Classes, cls: Any, title: str) -> None:
        super().__init__(classes, cls, title)
        self.original = original_of(cls)
        self.crossing = _crossing_of(cls)
        # As the wrapper has them: its own may be other ones.
        given = getattr(self.original, "__parameters__", ())
        self.around = tuple(self.crossing.outward(each) for each in given)

    def outward(self, annotation: Any) -> Any:
        return self.crossing.outward(annotation)

    def fields(self) -> Iterator[tuple[str, str]]:
        return members.fields(self.names, self.original, self.outward)

    def members(self) -> Iterator[tuple[str, Any]]:
        written = vars(self.original)
        for name, value in list(vars(self.cls).items()):
            if name in members.HIDDEN or name.startswith(("_abc_", "__sidecar_")):
                continue
            if name in annotations_of(self.original):
                continue
            if name == "__init__" and name not in written:
                continue
            if members.is_protocol(self.original) and name in (
                "_is_protocol",
                "_is_runtime_protocol",
                "__subclasshook__",
            ):
                continue
            yield name, value

    def member(self, name: str, value: Any) -> str | None:
        if isinstance(value, staticmethod) and hasattr(value.__func__, "aio"):
            return self._faces(name, value.__func__, False, True)
        if inspect.isfunction(value) and FACE not in value.__dict__ and hasattr(value, "__wrapped__"):
            if name in ("__init__", "__aenter__", "__aexit__", "__enter__", "__exit__", "__next__"):
                return self._special(name, value)
        if isinstance(value, type):
            return self.classes.text(value, name) if number_of(value) else self.nested(name, value)
        return super().member(name, value)

    def method(self, name: str, value: Method) -> str:
        return self._faces(name, value.face, True, value._of_class)

    def _faces(self, name: str, face: Any, bound_first: bool, of_class: bool) -> str:
        function = original_of(face)
        future = self.names.dialect.future
        variants = [
            faces_of(each, self.crossing, signature, BothContextsOf, future)
            for each, signature in signatures_of(function, self.original, method=bound_first)
        ]
        ways = [list(each) for each in zip(*variants)]
        spec, applied = self.functions.spec(name, ways, function.__doc__, self.around)
        if of_class and "[" not in applied:
            applied = f"{self.names.typing('ClassVar')}[{applied}]"
        return f"{spec}\n{name}: {applied}\n"

    def _special(self, name: str, value: Any) -> str:
        """``__init__`` and what enters and leaves: made beside the faces."""
        function = value.__wrapped__
        first = "self"
        if name == "__init__":
            variants = signatures_of(function, self.original, method=True)
            ways = [
                Way(
                    name,
                    False,
                    map_signature(
                        returning_none(each, self.names.dialect.modern), self.outward, self.outward
                    ),
                )
                for _, each in variants
            ]
            return self.functions.definitions(ways, first, False, function.__doc__)
        signature = bound(signature_of(function, self.original))
        found = faces_of(function, self.crossing, signature, BothContextsOf, False)
        called, awaited = found[0], found[1]
        way = awaited if name.startswith("__a") else called
        is_async = name.startswith("__a") and awaited.is_async
        return self.functions.definition(
            Way(name, is_async, way.signature), first, False, (), function.__doc__
        )

    def way(self, name: str, function: Any, signature: inspect.Signature) -> Way:
        if FACE in getattr(function, "__dict__", ()):
            ways = faces_of(original_of(function), self.crossing, signature, BothContextsOf, False)
            way = ways[1] if name in ("__aiter__", "__anext__", "aclose") else ways[0]
            return Way(name, way.is_async and way is ways[1], way.signature)
        return super().way(name, function, signature)


def returning_none(signature: inspect.Signature, wanted: bool) -> inspect.Signature:
    if signature.return_annotation is EMPTY and wanted:
        return signature.replace(return_annotation=None)
    return signature


def _crossing_of(cls: Any) -> Crossing:
    """By the faces that know their Synchronizer; a class without any knows its number."""
    for value in vars(cls).values():
        function = value.face if isinstance(value, Method) else getattr(value, "__func__", value)
        owner = getattr(function, "__dict__", {}).get(FACE)
        if owner is not None:
            return Crossing.of(owner)
    return Crossing(number_of(cls) or 0)
