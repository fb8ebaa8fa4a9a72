"""What a stub says of a function: a ``def``, or, where it has several faces, a Protocol of them."""

from __future__ import annotations

import ast
import collections.abc
import concurrent.futures
import contextlib
import dataclasses
import inspect
import typing
import warnings
from collections.abc import Callable
from typing import Any

from sidecar import _wrap_common as common
from sidecar.synchronizer.kinds import is_coroutine_function, unwrapped
from sidecar.type_stubs.crossing import EMPTY, Crossing, blocking, is_awaitable, like_variable, uses, yielded
from sidecar.type_stubs.evaluate import (
    arguments_of,
    innermost,
    is_type_variable,
    overloads_of,
    replaced,
    signature_of,
)
from sidecar.type_stubs.names import Names

_Sign = inspect.Signature
INDENT = "    "
ANYTHING = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL, annotation=Any),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD, annotation=Any),
    ]
)


@dataclasses.dataclass
class Way:
    """One way of calling a function: `__call__`, `aio`, `future`."""

    name: str
    is_async: bool
    signature: _Sign


class BothContextsOf:
    """Stands for the type of what `with` and `async with` take alike, of that value."""

    def __init__(self, value: Any) -> None:
        self.__origin__ = BothContextsOf
        self.__args__ = (value,)

    def copy_with(self, arguments: tuple[Any, ...]) -> BothContextsOf:
        return BothContextsOf(*arguments)

    def __call__(self) -> None:
        """Callable, as ``typing`` wants the members of its unions."""


class Functions:
    """Writes functions, in the names of one module."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._made: dict[str, Any] = {}  # the type variables of nested classes

    def annotation(self, annotation: Any) -> str:
        if isinstance(annotation, BothContextsOf):
            return f"{self.names.dotted(self.names.dialect.both_contexts)}[{self.annotation(annotation.__args__[0])}]"
        if typing.get_origin(annotation) is not None and any(
            isinstance(each, BothContextsOf) for each in arguments_of(annotation)
        ):
            return " | ".join(map(self.annotation, annotation.__args__))
        return self.names.text(annotation)

    # -- one definition -------------------------------------------------------------

    def parameters(self, signature: _Sign, first: str | None = None, positional: bool = False) -> str:
        """The text between the brackets. ``first``: ``self`` or ``cls``; ``positional``: which is not a name."""
        given = list(signature.parameters.values())
        parts = [first] if first else []
        only = [each for each in given if each.kind is each.POSITIONAL_ONLY]
        parts += map(self._parameter, only)
        if only or (first and positional):
            parts.append("/")
        variadic = False
        for each in given[len(only) :]:
            if each.kind is each.VAR_POSITIONAL:
                variadic = True
            elif each.kind is each.KEYWORD_ONLY and not variadic:
                parts.append("*")
                variadic = True
            parts.append(self._parameter(each))
        return ", ".join(parts)

    def _parameter(self, parameter: inspect.Parameter) -> str:
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        text = stars.get(typing.cast(Any, parameter.kind), "") + parameter.name
        equals = "="
        if parameter.annotation is not EMPTY:
            text += f": {self.annotation(parameter.annotation)}"
            equals = " = "
        elif self.names.dialect.modern:
            text += f": {self.names.typing('Any')}"
            equals = " = "
        if parameter.default is EMPTY:
            return text
        # A NewType's value is a literal of another type.
        known = not hasattr(parameter.annotation, "__supertype__")
        return text + equals + (literal(parameter.default, "...") if known else "...")

    def returned(self, signature: _Sign, name: str = "") -> str:
        found = signature.return_annotation
        if found is EMPTY and self.names.dialect.modern:
            return " -> None" if name == "__init__" else f" -> {self.names.typing('Any')}"
        return "" if found is EMPTY else f" -> {self.annotation(found)}"

    def definition(
        self,
        way: Way,
        first: str | None = None,
        positional: bool = False,
        decorators: tuple[str, ...] = (),
        doc: str | None = None,
    ) -> str:
        head = f"{'async ' if way.is_async else ''}def {way.name}"
        lines = [*(f"@{each}" for each in decorators)]
        lines.append(
            f"{head}({self.parameters(way.signature, first, positional)}){self.returned(way.signature, way.name)}:"
        )
        if doc and (text := docstring(doc, self.names.dialect.modern)) is not None:
            lines.append(indented(text))
        lines.append(f"{INDENT}...")
        return "\n".join(lines) + "\n"

    def definitions(
        self, variants: list[Way], first: str | None, positional: bool, doc: str | None, *decorators: str
    ) -> str:
        """One definition, or its overloads."""
        if len(variants) == 1:
            return self.definition(variants[0], first, positional, decorators, doc)
        marks = (self.names.typing("overload"), *decorators)
        return "\n".join(
            self.definition(each, first, positional, marks, None if index else doc)
            for index, each in enumerate(variants)
        )

    # -- several faces --------------------------------------------------------------

    def spec(
        self, name: str, ways: list[list[Way]], doc: str | None, around: tuple[Any, ...] = ()
    ) -> tuple[str, str]:
        """The Protocol of a function's faces, and what an attribute of that type says.

        ways: the overloads of each way.
        around: the type variables of the class that it is in: a nested class has none of them, but its own.
        """
        inner, given = self._inner_variables(ways, around)
        if inner:
            ways = [[_with_variables(way, inner) for way in overloads] for overloads in ways]
        title = f"__{name.lstrip('_') or name}_spec"
        own = [new for _, new in inner.values()]
        protocol = self.names.extension("Protocol")
        variables = f"[{', '.join(map(self.names.variable, own))}]" if own else ""
        bodies = [
            self.definitions(overloads, "self", True, doc if overloads[0].name != "future" else None)
            for overloads in ways
        ]
        body = "\n".join(bodies)
        applied = f"[{', '.join(given)}]" if given else ""
        return f"class {title}({protocol}{variables}):\n{indented(body)}", f"{title}{applied}"

    def _inner_variables(
        self, ways: list[list[Way]], around: tuple[Any, ...]
    ) -> tuple[dict[int, tuple[Any, Any]], list[str]]:
        used: dict[int, list[int]] = {}
        for way in (way for overloads in ways for way in overloads):
            for variable, sign in _uses_of(way):
                used.setdefault(id(variable), []).append(sign)
        inner: dict[int, tuple[Any, Any]] = {}
        given: list[str] = []
        for variable in (*around, SELF):
            signs = set(used.get(id(variable), ()))
            if signs:
                new = self._inner(variable, signs)
                inner[id(variable)] = (variable, new)
                given.append(
                    self.names.extension("Self") if variable is SELF else self.names.variable(variable)
                )
        return inner, given

    def _inner(self, variable: Any, signs: set[int]) -> Any:
        base = (
            "SUPERSELF" if variable is SELF else f"{self.names.variable(variable).rpartition('.')[2]}_INNER"
        )
        ways: dict[str, Any] = {}
        if type(variable).__name__ == "TypeVar":
            ways = {"covariant": signs == {1}, "contravariant": signs == {-1}}
        for name in (base, f"{base}_2", f"{base}_3"):  # one of each variance
            made = self._made.get(name)
            if made is None:
                made = self._made[name] = like_variable(variable, name, **ways)
                self.names.declare(made, name)
            if all(getattr(made, f"__{way}__") is wanted for way, wanted in ways.items()):
                break
        return made


_type_variable: Any = typing.TypeVar
SELF: Any = _type_variable("SELF")  # stands for `Self`


def _is_self(annotation: Any) -> bool:
    return (
        getattr(annotation, "_name", None) == "Self"
        or getattr(annotation, "__name__", None) == "Self"
        and (getattr(annotation, "__module__", "") in ("typing", "typing_extensions"))
    )


def map_signature(signature: _Sign, given: Callable[[Any], Any], returned: Callable[[Any], Any]) -> _Sign:
    parameters = [
        each if each.annotation is EMPTY else each.replace(annotation=given(each.annotation))
        for each in signature.parameters.values()
    ]
    found = signature.return_annotation
    return signature.replace(
        parameters=parameters, return_annotation=EMPTY if found is EMPTY else returned(found)
    )


def _annotations(way: Way) -> list[tuple[Any, int]]:
    found = [
        (each.annotation, -1) for each in way.signature.parameters.values() if each.annotation is not EMPTY
    ]
    result = way.signature.return_annotation
    return found if result is EMPTY else [*found, (result, 1)]


def _uses_of(way: Way) -> list[tuple[Any, int]]:
    found = []
    for annotation, sign in _annotations(way):
        if isinstance(annotation, BothContextsOf):
            annotation = annotation.__args__[0]
        found += uses(replaced(annotation, lambda each: SELF if _is_self(each) else each), sign)
    return found


def _with_variables(way: Way, inner: dict[int, tuple[Any, Any]]) -> Way:
    def one(each: Any) -> Any:
        if _is_self(each):
            each = SELF
        if type(each).__name__ in ("ParamSpecArgs", "ParamSpecKwargs") and id(each.__origin__) in inner:
            new = inner[id(each.__origin__)][1]
            return new.args if type(each).__name__ == "ParamSpecArgs" else new.kwargs
        return inner[id(each)][1] if is_type_variable(each) and id(each) in inner else each

    def change(annotation: Any) -> Any:
        return replaced(annotation, one)

    return Way(way.name, way.is_async, map_signature(way.signature, change, change))


# -- the faces of a Synchronizer's function ---------------------------------------------


def without_first(signature: _Sign) -> tuple[_Sign, Any]:
    """Without ``self`` or ``cls``, and that parameter's annotation."""
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        return signature, EMPTY
    if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return signature, EMPTY
    return signature.replace(parameters=parameters[1:]), parameters[0].annotation


def bound(signature: _Sign) -> _Sign:
    """A method's, for who has the object: a type variable for the type of ``self`` is ``Self``."""
    left, first = without_first(signature)
    inner = arguments_of(first)[0] if typing.get_origin(first) is type and arguments_of(first) else first
    if not is_type_variable(inner):
        return left

    def change(annotation: Any) -> Any:
        return replaced(annotation, lambda each: self_type() if each is inner else each)

    return map_signature(left, change, change)


def self_type() -> Any:
    found = getattr(typing, "Self", None)
    if found is None:
        import typing_extensions

        found = typing_extensions.Self
    return found


def faces_of(
    original: Any, crossing: Crossing, signature: _Sign, both: Callable[[Any], Any], future: bool
) -> list[Way]:
    """The faces of one function, or of one of its overloads, that have the signature of ``original``."""
    inner = unwrapped(original)
    result = signature.return_annotation
    said = typing.get_origin(result) is contextlib.AbstractAsyncContextManager
    if common.is_async_context_function(original) and result is not EMPTY and not said:
        result = contextlib.AbstractAsyncContextManager[yielded(result)[0]]  # type: ignore[misc]
    awaited = is_coroutine_function(original) and not inspect.isasyncgenfunction(inner)
    is_async = awaited or (result is not EMPTY and is_awaitable(result))
    called = aio = result
    if result is not EMPTY:
        called = blocking(crossing.outward(result), both, awaited)
        inner_result = result
        if is_async and not awaited:
            inner_result = arguments_of(result)[-1] if arguments_of(result) else Any
        aio = crossing.outward(inner_result)
    outside = map_signature(signature, crossing.outward, lambda found: found)
    ways = [
        Way("__call__", False, outside.replace(return_annotation=called)),
        Way("aio", is_async, outside.replace(return_annotation=aio)),
    ]
    if future and is_async:
        value = Any if called is EMPTY else called
        waiting: Any = concurrent.futures.Future
        held: Any = FutureOf(value) if isinstance(value, BothContextsOf) else waiting[value]
        ways.append(Way("future", False, outside.replace(return_annotation=held)))
    return ways


def FutureOf(value: Any) -> Any:
    return concurrent.futures.Future[Any]


def signatures_of(function: Any, *classes: type, method: bool = False) -> list[tuple[Any, _Sign]]:
    """Of a function, or of its overloads, each with the function that it is of."""
    variants = overloads_of(function)
    found = []
    for each in variants or [function]:
        signature = signature_of(each, *classes)
        if variants and is_coroutine_function(function):
            # Overloads of a coroutine function may be written without `async`.
            signature = _as_written(signature, each)
        found.append((function if variants else each, bound(signature) if method else signature))
    return found


def _as_written(signature: _Sign, overload: Any) -> _Sign:
    result = signature.return_annotation
    if inspect.iscoroutinefunction(overload) or result is EMPTY or not is_awaitable(result):
        return signature
    return signature.replace(return_annotation=arguments_of(result)[-1])


# -- the other side: to_async, to_sync ----------------------------------------------------


def turned(name: str, side: str, original: Any, signature: _Sign) -> Way:
    """The one face that ``to_async`` or ``to_sync`` makes of a function."""
    result = signature.return_annotation
    known = result is not EMPTY
    if side == "async":
        if common.is_async(original):
            return plain(name, original, signature)
        if common.is_generator_function(original):
            gives, takes = yielded(result) if known else (Any, Any)
            generator: Any = collections.abc.AsyncGenerator
            return Way(name, False, signature.replace(return_annotation=generator[gives, takes]))
        if common.is_context_function(original):
            held: Any = contextlib.AbstractAsyncContextManager[yielded(result)[0] if known else Any]  # type: ignore[misc]
            return Way(name, False, signature.replace(return_annotation=held))
        return Way(name, True, signature)
    return Way(name, False, signature.replace(return_annotation=_made_sync(original, result)))


def _made_sync(original: Any, result: Any) -> Any:
    from sidecar._core import Stream

    stream: Any = Stream
    if common.is_async_generator_function(original):
        return stream[yielded(result)[0] if result is not EMPTY else Any]
    if common.is_async_context_function(original):
        return contextlib.AbstractContextManager[yielded(result)[0] if result is not EMPTY else Any]  # type: ignore[misc]
    if common.is_coroutine_function(original) or result is EMPTY:
        return result
    arguments = arguments_of(result)
    origin = typing.get_origin(result) or result
    if is_awaitable(result):
        return arguments[-1] if arguments else Any
    if origin is contextlib.AbstractAsyncContextManager:
        return contextlib.AbstractContextManager[arguments[0] if arguments else Any]  # type: ignore[misc]
    if origin in (
        collections.abc.AsyncGenerator,
        collections.abc.AsyncIterator,
        collections.abc.AsyncIterable,
    ):
        return stream[arguments[0] if arguments else Any]
    return result


def plain(name: str, function: Any, signature: _Sign) -> Way:
    """A function as it is."""
    result = signature.return_annotation
    if common.is_context_function(function) and result is not EMPTY:
        held: Any = contextlib.AbstractContextManager[yielded(result)[0]]  # type: ignore[misc]
        return Way(name, False, signature.replace(return_annotation=held))
    if common.is_async_context_function(function) and result is not EMPTY:
        if typing.get_origin(result) is not contextlib.AbstractAsyncContextManager:
            held = contextlib.AbstractAsyncContextManager[yielded(result)[0]]  # type: ignore[misc]
            signature = signature.replace(return_annotation=held)
        return Way(name, False, signature)
    # An async generator function has no `yield` in a stub: it returns the generator.
    inner = innermost(function)
    return Way(name, is_coroutine_function(function) and not inspect.isasyncgenfunction(inner), signature)


# -- text -------------------------------------------------------------------------


def indented(text: str) -> str:
    return "\n".join(INDENT + line if line else line for line in text.split("\n"))


def docstring(doc: str, escape: bool) -> str | None:
    """The literal, not indented; None where it cannot be one."""
    text = inspect.cleandoc(doc)
    quotes = '"""'
    if '"""' in text:
        if "'''" not in text:
            quotes = "'''"
        elif not escape:
            warnings.warn("both \"\"\" and ''' quote blocks are in a docstring: it is left out", stacklevel=2)
            return None
    text = text.replace("\\", "\\\\")
    if quotes in text:
        text = text.replace('"""', '\\"\\"\\"')
    if "\n" in text:
        return f"{quotes}{text}\n{quotes}"
    if text.endswith(quotes[0]):
        text = f"{text[:-1]}\\{quotes[0]}"
    return f"{quotes}{text}{quotes}"


def literal(value: Any, other: str) -> str:
    """A value as source where it is a plain literal; else ``other``."""
    text = repr(value)
    if type(value) not in _LITERALS or len(text) > 200:
        return other
    try:
        return text if ast.literal_eval(text) == value else other
    except (ValueError, SyntaxError):
        return other


_LITERALS = (bool, int, float, str, bytes, type(None), tuple, list, dict)
