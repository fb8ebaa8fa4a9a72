"""What a class says of itself beside its methods: bases, fields, the kinds of class with a syntax of their own."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import reprlib
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from sidecar._core import Stream
from sidecar._wrap_async import AsyncContext
from sidecar._wrap_sync import SyncContext
from sidecar.type_stubs.crossing import EMPTY
from sidecar.type_stubs.evaluate import annotations_of, place_of_class, signature_of
from sidecar.type_stubs.functions import literal
from sidecar.type_stubs.names import Names

# Python's own bookkeeping, and what a class statement makes by itself.
HIDDEN = frozenset(
    f"__{name}__"
    for name in (
        "module dict weakref doc annotations qualname orig_bases parameters slots static_attributes firstlineno"
        " match_args abstractmethods annotate annotate_func annotations_cache type_params"
        " dataclass_fields dataclass_params protocol_attrs non_callable_proto_members callable_proto_members_only"
        " total required_keys optional_keys readonly_keys mutable_keys closed extra_items getnewargs"
        " wrapped sidecar_side sidecar_builder"
    ).split()
)
_PROTOCOL = frozenset(("_is_protocol", "_is_runtime_protocol", "__subclasshook__", "_abc_impl"))


def is_typed_dict(cls: Any) -> bool:
    return type(cls).__name__ == "_TypedDictMeta"


def is_named_tuple(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, tuple) and isinstance(vars(cls).get("_fields"), tuple)


def is_protocol(cls: Any) -> bool:
    return bool(vars(cls).get("_is_protocol", False))


def bases_of(cls: Any) -> list[Any]:
    """As they were written, generics with their arguments."""
    if is_typed_dict(cls):
        found = [each for each in vars(cls).get("__orig_bases__", ()) if each is not typing.TypedDict]
        return found
    found = list(vars(cls).get("__orig_bases__", cls.__bases__))
    return [each for each in found if each is not object]


def head(names: Names, cls: Any, title: str, bases: list[str]) -> str:
    """The class statement, decorators above it."""
    lines = []
    if is_protocol(cls) and vars(cls).get("_is_runtime_protocol"):
        lines.append(f"@{names.typing('runtime_checkable')}")
    if "__dataclass_fields__" in vars(cls):
        lines.append(f"@{_dataclass(names, cls)}")
    if vars(cls).get("__final__"):
        lines.append(f"@{names.typing('final')}")
    arguments = list(bases)
    if is_typed_dict(cls):
        arguments = arguments or [names.typing("TypedDict")]
        if not cls.__total__:
            arguments.append("total=False")
    elif is_named_tuple(cls) and tuple in cls.__bases__:
        arguments = [names.typing("NamedTuple")]
    else:
        meta = type(cls)
        if meta is not type and not any(isinstance(base, meta) for base in cls.__bases__):
            arguments.append(f"metaclass={names.path(meta)}")
    lines.append(f"class {title}({', '.join(arguments)}):" if arguments else f"class {title}:")
    return "\n".join(lines)


def _dataclass(names: Names, cls: Any) -> str:
    params = vars(cls).get("__dataclass_params__")
    given = [
        f"{name}={getattr(params, name)!r}"
        for name, default in _DATACLASS
        if params is not None and getattr(params, name, default) != default
    ]
    if all(
        field.kw_only for field in dataclasses.fields(cls) if hasattr(field, "kw_only")
    ) and sys.version_info >= (3, 10):
        if dataclasses.fields(cls):
            given.append("kw_only=True")
    return names.dotted("dataclasses.dataclass") + (f"({', '.join(given)})" if given else "")


_DATACLASS = (
    ("init", True),
    ("repr", True),
    ("eq", True),
    ("order", False),
    ("unsafe_hash", False),
    ("frozen", False),
)


def fields(names: Names, cls: Any, outward: Any) -> Iterator[tuple[str, str]]:
    """Annotated attributes: the name, and its line."""
    place = place_of_class(cls)
    inherited: set[str] = set()
    if is_typed_dict(cls):
        for base in bases_of(cls):
            inherited |= set(getattr(base, "__annotations__", ()))
    for name, annotation in annotations_of(cls).items():
        if name in inherited:
            continue
        found = place.evaluated(annotation)
        text = names.text(outward(found))
        yield name, f"{name}: {text}{_default(names, cls, name)}"


def _default(names: Names, cls: Any, name: str) -> str:
    if is_named_tuple(cls):
        return " = ..." if name in cls._field_defaults else ""
    field = vars(cls).get("__dataclass_fields__", {}).get(name)
    if field is None or getattr(field, "_field_type", None) is not getattr(dataclasses, "_FIELD"):
        return ""
    if not field.init:
        return f" = {names.dotted('dataclasses.field')}(init=False)"
    given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return " = ..." if given else ""


def is_made(cls: Any, name: str, value: Any) -> bool:
    """Whether it is in the class without having been written there."""
    if name in HIDDEN or name.startswith(("_abc_", "__sidecar_")) or name in annotations_of(cls):
        return True
    if is_protocol(cls) or any(map(is_protocol, cls.__bases__)):
        if name in _PROTOCOL or (name == "__init__" and value.__module__ in ("typing", "typing_extensions")):
            return True
    if "__dataclass_fields__" in vars(cls):
        file = getattr(getattr(value, "__code__", None), "co_filename", "")
        if file == "<string>" or (name == "__repr__" and file in (dataclasses.__file__, reprlib.__file__)):
            return True
    if "__dataclass_fields__" in vars(cls) and name in ("__hash__", "__replace__"):
        return not hasattr(value, "__code__") or value.__module__ == "dataclasses"
    if is_named_tuple(cls) and tuple in cls.__bases__:
        own = name in cls._fields or name in (
            "_fields",
            "_field_defaults",
            "_make",
            "_replace",
            "_asdict",
            "__new__",
        )
        return own or name in ("__repr__", "__getnewargs__", "_field_types", "__replace__")
    if issubclass(cls, enum.Enum):
        written = isinstance(value, cls) or not (name.startswith("_") and name.endswith("_"))
        return not written and not (hasattr(value, "__code__") and value.__module__ == cls.__module__)
    return type(value).__name__ in ("member_descriptor", "getset_descriptor")


def constant(names: Names, cls: Any, name: str, value: Any) -> str:
    """A class attribute without an annotation."""
    if isinstance(cls, type) and issubclass(cls, enum.Enum) and isinstance(value, cls):
        return f"{value.name} = {literal(value.value, '...')}"
    return f"{name}: {kind_of(names, value)}"


def kind_of(names: Names, value: Any) -> str:
    """The type of a value that nobody has annotated."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"{names.builtin('type')}[{names.path(value)}]"
    cls = type(value)
    if cls in (list, set, frozenset, dict, tuple):
        return _container(names, value, names.builtin(cls.__name__))
    if callable(value) and cls.__module__ in ("builtins", "functools"):
        return f"{names.typing('Callable')}[..., {names.typing('Any')}]"
    if cls.__module__ in ("typing", "__main__") or "<locals>" in cls.__qualname__:
        return names.typing("Any")
    for kind, public in _OBJECTS.items():
        if isinstance(value, kind):
            given = ", ".join([names.typing("Any")] * (2 if "Generator" in public else 1))
            return f"{names.dotted(public)}[{given}]"
    wanted = len(getattr(cls, "__parameters__", ()))
    every = ", ".join([names.typing("Any")] * wanted) if wanted else ""
    return names.path(cls) + (f"[{every}]" if every else "")


# What to_async and to_sync make of an iterator, a stream, a context manager.
_OBJECTS: dict[type, str] = {
    types.AsyncGeneratorType: "collections.abc.AsyncGenerator",
    AsyncContext: "contextlib.AbstractAsyncContextManager",
    SyncContext: "contextlib.AbstractContextManager",
    Stream: "sidecar.Stream",
}


def _container(names: Names, value: Any, outer: str) -> str:
    def common_of(values: Any) -> str:
        found = sorted({kind_of(names, each) for each in values})
        return " | ".join(found) if 0 < len(found) <= 3 else names.typing("Any")

    if isinstance(value, dict):
        return f"{outer}[{common_of(value)}, {common_of(value.values())}]"
    if isinstance(value, tuple):
        return (
            f"{outer}[{', '.join(kind_of(names, each) for each in value)}]"
            if 0 < len(value) < 9
            else f"{outer}[()]"
            if not value
            else f"{outer}[{common_of(value)}, ...]"
        )
    return f"{outer}[{common_of(value)}]"


# -- what __init__ and others set on self -------------------------------------------------


def set_on_self(cls: type) -> dict[str, Any]:
    """Attributes that the methods of a class and its bases set: annotated, or a parameter's, or anything."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError, IndexError):
            continue
        place = place_of_class(base)
        for node in getattr(tree, "body", ()):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.args.args:
                function = inspect.getattr_static(base, node.name, None)
                for name, annotation in _set_in(node, function, place):
                    if name not in found or found[name] is Any:
                        found[name] = annotation
    return found


def _set_in(node: Any, function: Any, place: Any) -> Iterator[tuple[str, Any]]:
    me = node.args.args[0].arg
    for inner in ast.walk(node):
        if isinstance(inner, ast.AnnAssign) and _is_of(inner.target, me):
            yield inner.target.attr, place.evaluated(ast.unparse(inner.annotation))  # type: ignore[union-attr]
        elif isinstance(inner, ast.Assign):
            for target in inner.targets:
                if _is_of(target, me):
                    yield target.attr, _value(inner.value, function)  # type: ignore[attr-defined]


def _is_of(target: ast.expr, me: str) -> bool:
    return isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == me


def _value(node: ast.expr, function: Any) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (bool, int, float, str, bytes):
        return type(node.value)
    if isinstance(node, ast.Name) and inspect.isfunction(function):
        parameter = signature_of(function).parameters.get(node.id)
        if parameter is not None and parameter.annotation is not EMPTY:
            return parameter.annotation
    return Any


def is_abstract(value: Any) -> bool:
    return bool(getattr(value, "__isabstractmethod__", False))
