"""What crosses a Synchronizer's border: the library's objects inside, their proxies outside."""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from sidecar._wrap_common import shown

# What begins with "_abc_" is no member to typing.Protocol before Python 3.12.
KEYS = "_abc_sidecar_"

_numbers = itertools.count(1)
_CONTAINERS = frozenset((list, tuple, dict))
# Nothing of these types is ever translated.
_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray))


class Translator:
    """The two directions of one Synchronizer.

    A proxy has its object in its ``__dict__``; a wrapped class or function has its wrapper there, under a name of
    this Synchronizer. ``proxies`` finds the proxy of an object, as long as somebody has it.
    """

    def __init__(self, enter: Callable[[Any], Any]) -> None:
        self.number = number = next(_numbers)
        self.wrapper_key = f"{KEYS}wrapper_{number}"
        self.original_key = f"{KEYS}original_{number}"
        self._enter = enter
        self._lock = threading.RLock()
        self._proxies: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._external: dict[type, tuple[type, Callable[[Any], Any]]] = {}
        self._external_back: dict[type, tuple[type, Callable[[Any], Any]]] = {}

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    # -- one object -----------------------------------------------------------------

    def original_of(self, proxy: Any) -> Any:
        """The object behind a proxy; anything else is itself."""
        try:
            held: dict[str, Any] = object.__getattribute__(proxy, "__dict__")
        except AttributeError:
            return proxy
        found = held.get(self.original_key, proxy)
        return proxy if found is not proxy and self.is_copied(held) else found

    def is_copied(self, held: Any) -> bool:
        """Decorators copy what a face holds: then what they have wrapped is the face."""
        wrapped = held.get("__wrapped__")
        return wrapped is not None and self.original_key in getattr(wrapped, "__dict__", ())

    def wrapper_of(self, original: Any) -> Any:
        """What a class or function was wrapped as; None if it was not."""
        return vars(original).get(self.wrapper_key)

    def scalar_in(self, obj: Any) -> Any:
        if isinstance(obj, type):
            external = self._external_back.get(obj)
            return vars(obj).get(self.original_key, obj) if external is None else external[0]
        if type(obj) in self._external_back:
            return self._external_back[type(obj)][1](obj)
        return self.original_of(obj)

    def scalar_out(self, obj: Any) -> Any:
        if isinstance(obj, type):
            external = self._external.get(obj)
            return vars(obj).get(self.wrapper_key, obj) if external is None else external[0]
        cls = type(obj)
        if cls in self._external:
            return self._external[cls][1](obj)
        wrapper = vars(cls).get(self.wrapper_key)
        if wrapper is not None:
            return self.proxy_of(obj, wrapper)
        return self._enter(obj)

    def proxy_of(self, obj: Any, wrapper: Any) -> Any:
        """The one proxy of an object, made where there is none."""
        with self._lock:
            proxy = self._proxies.get(id(obj))
            if proxy is None:
                proxy = wrapper.__new__(wrapper)
                proxy.__dict__[self.original_key] = obj
                self._proxies[id(obj)] = proxy
            return proxy

    def adopt(self, proxy: Any, obj: Any) -> None:
        """``proxy`` was constructed, and ``obj`` with it."""
        proxy.__dict__[self.original_key] = obj
        with self._lock:
            self._proxies[id(obj)] = proxy
        if type(proxy) is not vars(type(obj)).get(self.wrapper_key) and hasattr(obj, "__dict__"):
            # A subclass of the wrapper has state and methods of its own: it must come back as long as obj does.
            obj.__dict__[self.wrapper_key] = proxy

    def is_known(self, obj: Any) -> bool:
        """Whether it is a wrapper or a proxy of this Synchronizer."""
        bases = obj.__mro__ if isinstance(obj, type) else type(obj).__mro__
        held = getattr(obj, "__dict__", {})
        return self.original_key in held or any(self.original_key in vars(base) for base in bases)

    def nearest_original(self, cls: type) -> Any:
        """The class behind a wrapper class, or behind the nearest wrapper that it derives from."""
        for base in cls.__mro__:
            if self.original_key in vars(base):
                return vars(base)[self.original_key]
        return cls

    def register(
        self, original: type, wrapper: type, inward: Callable[[Any], Any], outward: Callable[[Any], Any]
    ) -> None:
        present = self._external.get(original)
        if present is not None and present[0] is not wrapper:
            raise RuntimeError(f"{shown(original)} already has the external wrapper {shown(present[0])}")
        present = self._external_back.get(wrapper)
        if present is not None and present[0] is not original:
            raise RuntimeError(f"{shown(wrapper)} is already the external wrapper of {shown(present[0])}")
        self._external[original] = (wrapper, outward)
        self._external_back[wrapper] = (original, inward)

    # -- many of them ---------------------------------------------------------------

    def inward(self, obj: Any) -> Any:
        return obj if type(obj) in _PLAIN else _map(self.scalar_in, obj, None)

    def outward(self, obj: Any) -> Any:
        return obj if type(obj) in _PLAIN else _map(self.scalar_out, obj, None)


def _map(scalar: Callable[[Any], Any], obj: Any, done: dict[int, Any] | None) -> Any:
    """Lists, tuples and dicts, exactly these, are copied where something in them changes; else they are themselves."""
    kind = type(obj)
    if kind in _PLAIN:
        return obj
    if kind not in _CONTAINERS:
        return scalar(obj)
    if done is None:
        done = {}
    elif id(obj) in done:
        return done[id(obj)]
    done[id(obj)] = obj  # one that contains itself is left as it is there
    inner = functools.partial(_map, scalar, done=done)
    if kind is dict:
        found: Any = {key: inner(value) for key, value in list(obj.items())}
        changed = any(found[key] is not value for key, value in list(obj.items()) if key in found)
    else:
        items = list(obj)
        new = [inner(item) for item in items]
        changed = any(mine is not theirs for mine, theirs in zip(new, items))
        found = new if kind is list else tuple(new)
    if changed:
        done[id(obj)] = found
        return found
    return obj
