"""What annotations become on the other side: the library's classes their wrappers, async types blocking ones."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import typing
from collections.abc import Callable
from typing import Any

from sidecar.synchronizer.translate import KEYS
from sidecar.type_stubs.evaluate import (
    UNIONS,
    Place,
    arguments_of,
    is_type_variable,
    replaced,
    with_arguments,
)

EMPTY = inspect.Parameter.empty

_ITERABLES = {
    collections.abc.AsyncGenerator: (collections.abc.Generator, typing.Generator),
    collections.abc.AsyncIterator: (collections.abc.Iterator, typing.Iterator),
    collections.abc.AsyncIterable: (collections.abc.Iterable, typing.Iterable),
}
_AWAITABLES = (collections.abc.Awaitable, collections.abc.Coroutine)
_Replace = Callable[[Any], Any]


def number_of(wrapper: Any) -> int | None:
    """Of the Synchronizer that has made it; None if none has."""
    if is_type_variable(wrapper):
        known = _variables.get(id(wrapper))
        return None if known is None else known[1]
    for name in getattr(wrapper, "__dict__", ()):
        if (
            isinstance(name, str)
            and name.startswith(f"{KEYS}original_")
            and name.rpartition("_")[2].isdigit()
        ):
            return int(name.rpartition("_")[2])
    return None


def original_of(wrapper: Any) -> Any:
    """What a wrapper that has a number is one of."""
    if is_type_variable(wrapper):
        return _variables[id(wrapper)][2]
    return vars(wrapper)[f"{KEYS}original_{number_of(wrapper)}"]


# Type variables keep no attributes that could be listed: theirs, the Synchronizer's number, the library's own.
_variables: dict[int, tuple[Any, int, Any]] = {}


def wrapped_variable(owner: Any, variable: Any, name: str | None = None, module: str | None = None) -> Any:
    """A Synchronizer's own type variable for one of the library's: in stubs its bound is the wrapper of that one's."""
    key = owner._translator.wrapper_key
    present = getattr(variable, key, None)
    if present is not None and (name is None or present.__name__ == name):
        return present
    made: Any = like_variable(variable, name or variable.__name__)
    made.__module__ = module or variable.__module__
    setattr(variable, key, made)
    _variables[id(made)] = (made, owner._translator.number, variable)
    return made


class Crossing:
    """One Synchronizer's border: its wrappers, by what they wrap."""

    def __init__(self, number: int, external: dict[type, Any] | None = None) -> None:
        self.number = number
        self._external = external or {}
        self.variables: dict[int, tuple[Any, Any]] = {}

    @classmethod
    def of(cls, owner: Any) -> Crossing:
        translator = owner._translator
        return cls(translator.number, {key: value[0] for key, value in translator._external.items()})

    def outward(self, annotation: Any) -> Any:
        """With wrappers for the library's classes."""
        return replaced(annotation, self._one)

    def _one(self, annotation: Any) -> Any:
        if is_type_variable(annotation):
            return self._variable(annotation)
        kind = type(annotation).__name__
        if kind in ("ParamSpecArgs", "ParamSpecKwargs"):
            new = self._variable(annotation.__origin__)
            return annotation if new is annotation.__origin__ else getattr(new, kind[9:].lower())
        origin = typing.get_origin(annotation)
        plain = annotation if origin is None else origin
        if not isinstance(plain, type):
            return annotation
        wrapper = self._external.get(plain) or vars(plain).get(f"{KEYS}wrapper_{self.number}")
        if wrapper is None or vars(wrapper).get(f"{KEYS}original_{self.number}", plain) is not plain:
            return annotation
        return wrapper if origin is None else wrapper[arguments_of(annotation)]

    def _variable(self, variable: Any) -> Any:
        """One that is bound to a class of the library is another one outside."""
        given = getattr(variable, f"{KEYS}wrapper_{self.number}", None)
        if given is not None:
            return given
        if id(variable) in self.variables:
            return self.variables[id(variable)][1]
        made = variable
        if type(variable).__name__ == "TypeVar":
            # A bound by name stays: it is looked up where the stub is.
            bound, limits = variable.__bound__, variable.__constraints__
            new_bound = None if bound is None else self.outward(bound_of(variable))
            new_limits = tuple(map(self.outward, limits))
            if new_limits != limits or (bound is not None and new_bound is not bound_of(variable)):
                made = like_variable(variable, variable.__name__, bound=new_bound, constraints=new_limits)
        self.variables[id(variable)] = (variable, made)
        return made


def bound_of(variable: Any) -> Any:
    """Its bound, looked up where the variable was made."""
    bound = variable.__bound__
    return bound if bound is None else Place(variable.__module__, {}).evaluated(bound)


def like_variable(variable: Any, name: str, **changes: Any) -> Any:
    """Another type variable of the same kind."""
    if type(variable).__name__ != "TypeVar":
        return type(variable)(name)
    given: dict[str, Any] = {
        "bound": variable.__bound__,
        "constraints": variable.__constraints__,
        "covariant": variable.__covariant__,
        "contravariant": variable.__contravariant__,
    }
    given.update(changes)
    make: Any = typing.TypeVar
    return make(name, *given.pop("constraints"), **given)


# -- from async to blocking, and back ---------------------------------------------------


def blocking(annotation: Any, both: _Replace, awaited: bool) -> Any:
    """What a blocking caller gets of it. Only what is returned counts, and the members of a union.

    both: makes the type of what both `with` and `async with` take.
    awaited: a coroutine function's result: what is async in it comes out as it is, context managers apart.
    """
    origin = typing.get_origin(annotation) or annotation
    arguments = arguments_of(annotation)
    if origin in UNIONS and arguments:
        new = tuple(blocking(each, both, awaited) for each in arguments)
        return annotation if new == arguments else with_arguments(annotation, new)
    if not isinstance(origin, collections.abc.Hashable):
        return annotation
    if origin is contextlib.AbstractAsyncContextManager:
        return both(arguments[0] if arguments else Any)
    if awaited:
        return annotation
    if origin in _AWAITABLES:
        return blocking(arguments[-1], both, True) if arguments else Any
    if origin in _ITERABLES:
        abstract, alias = _ITERABLES[origin]
        outer: Any = alias if type(annotation).__module__ == "typing" else abstract
        if not arguments:
            return outer
        if origin is collections.abc.AsyncGenerator:
            return outer[arguments[0], arguments[1] if len(arguments) > 1 else None, None]
        return outer[arguments]
    return annotation


def is_awaitable(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in _AWAITABLES


def yielded(annotation: Any) -> tuple[Any, Any]:
    """What an iterator's annotation says that it gives, and that it takes."""
    arguments = arguments_of(annotation)
    return (arguments[0] if arguments else Any), (arguments[1] if len(arguments) > 1 else None)


# -- variance ---------------------------------------------------------------------

_COVARIANT = frozenset(
    (
        tuple,
        type,
        frozenset,
        collections.abc.Sequence,
        collections.abc.Iterable,
        collections.abc.Iterator,
        collections.abc.Collection,
        collections.abc.Container,
        collections.abc.Reversible,
        collections.abc.Set,
        collections.abc.Awaitable,
        collections.abc.AsyncIterable,
        collections.abc.AsyncIterator,
        collections.abc.ValuesView,
        collections.abc.KeysView,
        contextlib.AbstractContextManager,
        contextlib.AbstractAsyncContextManager,
    )
)
# By position: 1 for what comes out, -1 for what goes in, 0 for both.
_MIXED = {
    collections.abc.Mapping: (0, 1),
    collections.abc.ItemsView: (1, 1),
    collections.abc.Generator: (1, -1, 1),
    collections.abc.AsyncGenerator: (1, -1),
    collections.abc.Coroutine: (1, -1, 1),
}


def uses(annotation: Any, sign: int) -> list[tuple[Any, int]]:
    """The type variables in it, each with the way that it is used: out (1), in (-1), both (0)."""
    if type(annotation) in (list, tuple):
        return [use for each in annotation for use in uses(each, sign)]
    if type(annotation).__name__ in ("ParamSpecArgs", "ParamSpecKwargs"):
        return [(annotation.__origin__, 0)]
    if is_type_variable(annotation):
        return [(annotation, sign)]
    arguments = arguments_of(annotation)
    if not arguments:
        return []
    origin = typing.get_origin(annotation)
    if origin is collections.abc.Callable:
        ways: tuple[int, ...] = (*(-1 for _ in arguments[1:]), 1)
    elif origin in UNIONS or origin in _COVARIANT:
        ways = tuple(1 for _ in arguments)
    elif origin in _MIXED:
        ways = _MIXED[origin][: len(arguments)]
    else:
        ways = tuple(map(_variance, getattr(origin, "__parameters__", ())))
        ways = ways if len(ways) == len(arguments) else tuple(0 for _ in arguments)
    return [use for each, way in zip(arguments, ways) for use in uses(each, sign * way)]


def _variance(variable: Any) -> int:
    if getattr(variable, "__covariant__", False):
        return 1
    return -1 if getattr(variable, "__contravariant__", False) else 0
