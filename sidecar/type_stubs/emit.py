"""Readable modules: each wrapper a ``def`` or a class with its signature, that calls what the Synchronizer has made."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

from sidecar._wrap_class import _Attribute
from sidecar._wrap_common import side_of
from sidecar.synchronizer.functions import Method
from sidecar.synchronizer.kinds import FACE
from sidecar.type_stubs.classes import ProxyText, is_face
from sidecar.type_stubs.crossing import EMPTY, Crossing, original_of
from sidecar.type_stubs.evaluate import signature_of
from sidecar.type_stubs.faces import FaceText
from sidecar.type_stubs.functions import (
    INDENT,
    BothContextsOf,
    Way,
    bound,
    docstring,
    faces_of,
    indented,
    literal,
    map_signature,
    signatures_of,
    turned,
)
from sidecar.type_stubs.stub import ModuleStub, is_wrapper

HEADER = (
    "# Made by `python -m sidecar.type_stubs --emit {name} {module}`: "
    "what is changed here is lost with the next run."
)


def emitted_text(module: types.ModuleType, name: str) -> str:
    return _Module(module, name).text()


def emitted_stub_text(module: types.ModuleType, name: str) -> str:
    """The stub beside it: what `module` offers otherwise is imported from there."""
    header = HEADER.format(module=module.__name__, name=name)
    return f"{header}\n\n{_EmittedStub(module, name=name).build().source()}"


class _EmittedStub(ModuleStub):
    def _add(self, name: str, value: Any) -> None:
        if is_wrapper(value) or name in self._annotations:
            super()._add(name, value)
        else:
            self.parts.append(f"from {self.held.__name__} import {name} as {name}\n")


class _Module:
    def __init__(self, module: types.ModuleType, name: str) -> None:
        self.held = module
        self.name = name
        self.stub = _EmittedStub(module, name=name)
        self.names = self.stub.names
        self.functions = self.stub.functions
        self.written: dict[int, str] = {}

    def text(self) -> str:
        # The order matters: bases first, as the library has made them.
        parts, others = [], []
        for name in self.stub._order():
            value = vars(self.held).get(name)
            if self.stub._export(name, value) == "" or not self.stub._is_own(name, value):
                if self.stub._export(name, value):
                    others.append(name)
                continue
            if not is_wrapper(value):
                if name in vars(self.held):
                    others.append(name)
            elif isinstance(value, type):
                if id(value) in self.written:
                    parts.append(f"{name} = {self.written[id(value)]}\n")
                else:
                    parts.append(self._class(name, value))
                    self.written[id(value)] = name
            else:
                parts.append(self._function(name, value))
        head = [HEADER.format(module=self.held.__name__, name=self.name) + "\n"]
        if self.held.__doc__:
            head.append(f"{docstring(self.held.__doc__, True)}\n")
        head.append("from __future__ import annotations\n")
        head.append(self._imports())
        if others:
            head.append("".join(f"{name} = _library.{name}\n" for name in others))
        exported = getattr(self.held, "__all__", None)
        if isinstance(exported, (list, tuple)):
            parts.append(f"__all__ = {list(exported)!r}\n")
        return "\n".join([*head, *parts])

    def _imports(self) -> str:
        imports = sorted(each for each in self.names.imports if each and each not in (self.name, "typing"))
        lines = [
            "import typing\n",
            f"import {self.held.__name__} as _library",
            "from sidecar.type_stubs import emitted as _emitted",
        ]
        if imports or self.names.variables:
            lines.append("\nif typing.TYPE_CHECKING:")
            lines += [f"{INDENT}import {each}" for each in imports]
            lines += [f"{INDENT}{each}" for each in self.names.variables.values()]
        return "\n".join(lines) + "\n"

    # -- one function ---------------------------------------------------------------

    def body(
        self,
        way: Way,
        call: str,
        first: str | None = None,
        decorators: tuple[str, ...] = (),
        doc: str | None = None,
        result: bool = True,
    ) -> str:
        """A ``def`` that calls ``call``."""
        head = f"{'async ' if way.is_async else ''}def {way.name}"
        source = call.partition("(")[0].replace("super()", "_library")
        lines = [f"@{each}" for each in decorators]
        lines.append(
            f"{head}({self._parameters(way.signature, first, source)}){self.functions.returned(way.signature)}:"
        )
        if doc:
            lines.append(indented(docstring(doc, True) or ""))
        start = ("return " if result else "") + ("await " if way.is_async else "")
        lines.append(f"{INDENT}{start}{call}({_arguments(way.signature)})")
        return "\n".join(lines) + "\n"

    def _parameters(self, signature: inspect.Signature, first: str | None, source: str) -> str:
        """With defaults that work: literals, or the original's own."""
        marked = {}
        for each in signature.parameters.values():
            if each.default is not EMPTY and literal(each.default, "") == "":
                marked[each.name] = f"_emitted.default({self._whose}, {each.name!r})"
        text = self.functions.parameters(signature, first)
        for name, wanted in marked.items():
            parameter = signature.parameters[name]
            written = self.functions._parameter(parameter)
            text = text.replace(written, written[: -len("...")] + wanted, 1)
        return text

    _whose = ""

    def _function(self, name: str, face: Any) -> str:
        whose = self._whose = f"_library.{name}"
        side = side_of(face)
        if side is not None:
            _, signature = signatures_of(face.__wrapped__)[0]
            return self.body(turned(name, side, face.__wrapped__, signature), whose, None, (), face.__doc__)
        ways = self._ways(face, Crossing.of(face.__dict__[FACE]))
        if not hasattr(face, "aio"):
            return self.body(Way(name, False, ways[0].signature), whose, None, (), ways_doc(face))
        return self._with_faces(name, ways, whose, None, f"_emitted.function({whose}", ways_doc(face))

    def _ways(self, face: Any, crossing: Crossing, *classes: type, method: bool = False) -> list[Way]:
        original = original_of(face)
        signature = signature_of(original, *classes)
        return faces_of(original, crossing, bound(signature) if method else signature, BothContextsOf, True)

    def _with_faces(
        self, name: str, ways: list[Way], whose: str, first: str | None, decorator: str, doc: str | None
    ) -> str:
        parts, given = [], []
        for way in ways[1:]:
            inner = f"_{name.strip('_')}_{way.name}"
            given.append(f"{way.name}={inner}")
            parts.append(
                self.body(Way(inner, way.is_async, way.signature), f"{whose}.{way.name}", first, (), doc)
            )
        mark = f"{decorator}, {', '.join(given)})"
        parts.append(self.body(Way(name, False, ways[0].signature), whose, first, (mark,), doc))
        return "\n".join(parts)

    # -- one class ------------------------------------------------------------------

    def _class(self, name: str, cls: Any) -> str:
        own = f"_library.{name}"
        bases = [f"{own}[{own}.__parameters__]" if getattr(cls, "__parameters__", ()) else own]
        bases += [self.written[id(base)] for base in cls.__bases__ if id(base) in self.written]
        parts = [f"{docstring(cls.__doc__, True)}\n"] if cls.__doc__ else []
        if is_face(cls):
            parts += ["__slots__ = ()\n"]
        parts += self._face_members(name, cls) if is_face(cls) else self._proxy_members(name, cls)
        head = f"@_emitted.stands_for({own})\nclass {name}({', '.join(bases)}):"
        return f"{head}\n{indented(chr(10).join(parts) or '...' + chr(10))}"

    def _proxy_members(self, name: str, cls: Any) -> Iterator[str]:
        text = ProxyText(self.stub.classes, cls, name)
        for member, value in text.members():
            self._whose = f"_library.{name}.{member}"
            if isinstance(value, Method):
                ways = self._ways(value.face, text.crossing, text.original, method=True)
                first = "cls" if value._of_class else "self"
                start = f"_emitted.method(_library.{name}"
                yield self._with_faces(member, ways, f"super().{member}", first, start, ways_doc(value.face))
            elif isinstance(value, staticmethod):
                ways = self._ways(value.__func__, text.crossing, text.original)
                if hasattr(value.__func__, "aio"):
                    start = f"_emitted.method(_library.{name}"
                    yield self._with_faces(member, ways, self._whose, None, start, ways_doc(value.__func__))
                else:
                    way = Way(member, False, ways[0].signature)
                    yield self.body(way, self._whose, None, ("staticmethod",), ways_doc(value.__func__))
            elif isinstance(value, property):
                yield self._property(member, value, text)
            elif member == "__init__":
                yield self._init(text.original, text.outward)
            elif inspect.isfunction(value) and FACE in value.__dict__ and not member.startswith("__"):
                ways = self._ways(value, text.crossing, text.original, method=True)
                index = 1 if member in ("aclose",) else 0
                way = Way(member, ways[index].is_async and bool(index), ways[index].signature)
                yield self.body(way, f"super().{member}", "self", (), ways_doc(value))

    def _init(self, real: Any, outward: Any) -> str:
        signature = map_signature(bound(signature_of(real.__init__, real)), outward, outward)
        signature = signature.replace(return_annotation=None)
        return self.body(
            Way("__init__", False, signature), "super().__init__", "self", (), real.__init__.__doc__, False
        )

    def _property(self, name: str, prop: property, text: Any) -> str:
        parts = []
        for function, mark, part in (
            (prop.fget, "property", "fget"),
            (prop.fset, f"{name}.setter", "fset"),
            (prop.fdel, f"{name}.deleter", "fdel"),
        ):
            if function is None:
                continue
            signature = signatures_of(function, text.original)[0][1]
            way = text.getter(name, function, signature)
            rest = text._without(way.signature)
            taken = ", ".join(["self", *rest.parameters])
            line = f"{self._whose}.{part}({taken})"
            lines = [
                f"@{mark}",
                f"def {name}({self.functions.parameters(rest, 'self')}){self.functions.returned(rest)}:",
            ]
            if part == "fget" and prop.__doc__:
                lines.append(indented(docstring(prop.__doc__, True) or ""))
            lines.append(f"{INDENT}{'return ' if part == 'fget' else ''}{line}")
            parts.append("\n".join(lines) + "\n")
        return "\n".join(parts)

    def _face_members(self, name: str, face: Any) -> Iterator[str]:
        text = FaceText(self.stub.classes, face, name)
        self.names.call_it(text.real, name)
        for member, value in text.members():
            static = inspect.getattr_static(text.real, member, None)
            self._whose = f"_library.{name}.{member}"
            if member == "__init__":
                yield self._init(text.real, text.outward)
            elif isinstance(value, _Attribute) or member.startswith("__") or member == "on_pool":
                continue  # data, and what Python itself calls: inherited
            else:
                yield self._face_method(member, value, static, text)

    def _face_method(self, member: str, value: Any, static: Any, text: FaceText) -> str:
        of_object = not isinstance(static, (staticmethod, classmethod))
        marks = () if of_object else ("staticmethod",)
        inner = static if of_object else static.__func__
        inner = getattr(inner, "func", inner)
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        _, signature = signatures_of(inner, text.real)[0]
        way = turned(
            member,
            side_of(function) or text.side,
            inner,
            map_signature(signature, text.outward, text.outward),
        )
        rest = way.signature if isinstance(static, staticmethod) else text._without(way.signature)
        call = f"super().{member}" if of_object else self._whose
        return self.body(
            Way(member, way.is_async, rest), call, "self" if of_object else None, marks, inner.__doc__
        )


def ways_doc(face: Any) -> str | None:
    doc: str | None = original_of(face).__doc__
    return doc


def _arguments(signature: inspect.Signature) -> str:
    parts = []
    for each in signature.parameters.values():
        if each.kind is each.VAR_POSITIONAL:
            parts.append(f"*{each.name}")
        elif each.kind is each.VAR_KEYWORD:
            parts.append(f"**{each.name}")
        elif each.kind is each.KEYWORD_ONLY:
            parts.append(f"{each.name}={each.name}")
        else:
            parts.append(each.name)
    return ", ".join(parts)


__all__ = ["emitted_stub_text", "emitted_text"]
