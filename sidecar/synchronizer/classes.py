"""The wrapper of a class: its instances are proxies, each for one object of the library."""

from __future__ import annotations

import abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar._wrap_common import cut, look_like, shown
from sidecar.synchronizer.functions import Call, Method, async_face, blocking_face, faces
from sidecar.synchronizer.stays import Stays

if TYPE_CHECKING:
    from sidecar.synchronizer import Synchronizer

_T = typing.TypeVar("_T")
_R = typing.TypeVar("_R")

# About the object itself, or the making of its class: the proxy has its own.
_OWN = frozenset(
    f"__{name}__"
    for name in (
        "new init init_subclass del getattribute class_getitem dict weakref module doc qualname slots annotations"
        " annotate annotate_func annotations_cache provides orig_bases parameters type_params abstractmethods"
        " class set_name subclasshook static_attributes firstlineno match_args dataclass_fields dataclass_params"
        " post_init reduce reduce_ex getstate setstate copy deepcopy"
    ).split()
)
_AWAITED = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__anext__": "__next__", "aclose": "close"}
# Nothing to wrap in these: they stay the bases that they are.
_KEPT_BASES: tuple[Any, ...] = (object, abc.ABC, typing.Generic, typing.Protocol)


class classproperty(typing.Generic[_T, _R]):
    """A read-only property of a class: ``@classproperty`` above ``@classmethod``."""

    def __init__(self, fget: Callable[[type[_T]], _R]) -> None:
        if not isinstance(fget, classmethod):
            raise TypeError("classproperty expects a classmethod")
        self.fget: Any = fget
        self.__doc__ = fget.__doc__

    @typing.overload
    def __get__(self, obj: None, owner: type[_T]) -> _R: ...
    # Of an instance it is None to type checkers, so that nobody takes it for the instance's own.
    @typing.overload
    def __get__(self, obj: _T, owner: type[_T]) -> None: ...
    def __get__(self, obj: _T | None, owner: type[_T]) -> _R | None:
        result: _R = self.fget.__get__(None, owner)()
        return result


def wrap_class(owner: Synchronizer, cls: type, name: str | None, module: str | None) -> type:
    return _Builder(owner, cls).build(name, module)


class _Builder:
    def __init__(self, owner: Synchronizer, cls: type) -> None:
        self.owner = owner
        self.cls = cls
        self.key = owner._translator.original_key

    def build(self, name: str | None, module: str | None) -> type:
        cls, owner = self.cls, self.owner
        if not cls.__flags__ & (1 << 9):
            raise TypeError(f"{shown(cls)} is built in, and cannot be wrapped")
        bases = tuple(self._base(base, name is not None) for base in vars(cls).get("__orig_bases__", cls.__bases__))
        names = self._namespace()
        made = types.new_class(name or owner.class_prefix + cls.__name__, bases, exec_body=lambda ns: ns.update(names))
        made.__module__ = cls.__module__ if module is None else module
        made.__doc__ = cls.__doc__
        _give_annotations(cls, made)
        return made

    def _base(self, base: Any, named: bool) -> Any:
        origin = getattr(base, "__origin__", None)
        if base in _KEPT_BASES or origin in _KEPT_BASES:
            return base
        plain = base if origin is None else origin
        wrapper = self.owner._translator.wrapper_of(plain)
        if wrapper is None:
            if named:
                raise RuntimeError(
                    f"{shown(plain)} needs to be wrapped explicitly, with a name of its own, before {shown(self.cls)}"
                )
            wrapper = self.owner.wrap(plain)
        return wrapper if origin is None else wrapper[base.__args__]

    def _namespace(self) -> dict[str, Any]:
        cls = self.cls
        names: dict[str, Any] = {self.key: cls, "__init__": self._constructor()}
        for name, value in vars(cls).items():
            if name in _OWN or name.startswith("_abc_"):
                continue
            if getattr(value, self.owner._nowrap_key, False):
                names[name] = value
            elif name in ("__aenter__", "__aexit__") and self._has_stays():
                names.update(self._stays(name))
            elif name == "__aiter__":
                names.update(self._both_faces(name, "__iter__", value, False))
            elif name in _AWAITED and inspect.isroutine(value):
                names.update(self._both_faces(name, _AWAITED[name], value, True))
            else:
                made = self._member(name, value)
                if made is not None:
                    names[name] = made
        return names

    # -- members --------------------------------------------------------------------

    def _member(self, name: str, value: Any) -> Any:
        if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            return None
        if isinstance(value, staticmethod):
            return staticmethod(self._faces(value.__func__, value))
        if isinstance(value, classmethod):
            return self._class_method(value)
        if isinstance(value, property):
            return self._property(value)
        if isinstance(value, classproperty):
            call = Call(self.owner, value.fget.__func__)
            getter: Any = classmethod(self._of_class(blocking_face(call, value.fget.__func__)))
            return classproperty(getter)
        if isinstance(value, Method):  # a descriptor of the library's own making
            return value
        if isinstance(value, type):
            return self.owner.translate_out(value)
        if isinstance(value, (functools.cached_property, functools.partialmethod)) or (
            not callable(value) and hasattr(type(value), "__get__")
        ):
            return self._by_name(name, value)
        if callable(value):
            return self._method(value)
        return None

    def _faces(self, function: Any, marked: Any) -> Any:
        self.owner._copy_marks(marked, function)
        return faces(self.owner, function)

    def _method(self, function: Any) -> Any:
        face = faces(self.owner, function, method=True)
        return Method(face) if hasattr(face, "aio") else face

    def _class_method(self, method: Any) -> Any:
        face = self._faces(method.__func__, method)
        outer = self._of_class(face)
        if not hasattr(face, "aio"):
            return classmethod(outer)
        outer.aio, outer.future = self._of_class(face.aio), self._of_class(face.future)
        return Method(outer, of_class=True)

    def _of_class(self, face: Any) -> Any:
        """Called with a wrapper class, or one that derives from it: the library's own class is what it gets."""
        nearest = self.owner._translator.nearest_original

        if inspect.iscoroutinefunction(face):

            async def aio(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
                try:
                    return await face(nearest(cls), *args, **kwargs)
                except BaseException as error:
                    cut(error)
                    raise

            return look_like(aio, face)

        def outer(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return face(nearest(cls), *args, **kwargs)
            except BaseException as error:
                cut(error)
                raise

        return look_like(outer, face)

    def _property(self, prop: property) -> property:
        get, put, delete = (
            None if function is None else blocking_face(Call(self.owner, function, method=True), function)
            for function in (prop.fget, prop.fset, prop.fdel)
        )
        return property(get, put, delete, prop.__doc__)

    def _by_name(self, name: str, value: Any) -> Any:
        """Other descriptors: whatever they give is the object's own, asked for by name."""

        def get(real: Any) -> Any:
            return getattr(real, name)

        get.__qualname__ = f"{self.cls.__qualname__}.{name}"
        return property(blocking_face(Call(self.owner, get, method=True), get), doc=getattr(value, "__doc__", None))

    def _constructor(self) -> Any:
        owner, cls = self.owner, self.cls

        def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
            try:
                inward = owner.translate_in
                made = cls(*map(inward, args), **{name: inward(value) for name, value in kwargs.items()})
            except BaseException as error:
                cut(error)
                raise
            owner._translator.adopt(self, made)

        initial = inspect.getattr_static(cls, "__init__")
        return look_like(__init__, initial) if inspect.isfunction(initial) else __init__

    # -- async protocols --------------------------------------------------------------

    def _both_faces(self, name: str, sync_name: str, function: Any, inside: bool) -> dict[str, Any]:
        call = Call(self.owner, function, inside, method=True)
        blocking, awaiting = blocking_face(call, function), async_face(call, function)
        found = {name: awaiting}
        if sync_name == "__next__":
            blocking = _stopping(blocking, function)
        if sync_name not in vars(self.cls):
            found[sync_name] = blocking
        return found

    def _has_stays(self) -> bool:
        """Both are there, though not always in the same class: then one task does both."""
        return all(inspect.isroutine(getattr(self.cls, name, None)) for name in ("__aenter__", "__aexit__"))

    def _stays(self, name: str) -> dict[str, Any]:
        owner, original = self.owner, vars(self.cls)[name]
        key = f"{self.key}_stays"

        def stays(proxy: Any) -> Stays:
            found: Stays | None = proxy.__dict__.get(key)
            if found is None:
                found = proxy.__dict__.setdefault(key, Stays(owner, owner._translator.original_of(proxy)))
            return found

        enters = name == "__aenter__"

        def work(proxy: Any, exc_info: tuple[Any, ...]) -> Any:
            return stays(proxy).enter() if enters else stays(proxy).leave(exc_info)

        def blocking(self: Any, /, *exc_info: Any) -> Any:
            try:
                mine = stays(self)
                return owner.translate_out(mine.enter_blocking() if enters else mine.leave_blocking(exc_info))
            except BaseException as error:
                cut(error)
                raise

        async def awaiting(self: Any, /, *exc_info: Any) -> Any:
            try:
                return owner.translate_out(await owner._await(*work(self, exc_info)))
            except BaseException as error:
                cut(error)
                raise

        found: dict[str, Any] = {name: look_like(awaiting, original)}
        if _AWAITED[name] not in vars(self.cls):
            found[_AWAITED[name]] = look_like(blocking, original)
        return found


def _stopping(blocking: Any, like: Any) -> Any:
    def __next__(self: Any) -> Any:
        try:
            return blocking(self)
        except StopAsyncIteration as stop:
            raise StopIteration(*stop.args) from None
        except BaseException as error:
            cut(error)
            raise

    return look_like(__next__, like)


def _give_annotations(cls: type, made: Any) -> None:
    if sys.version_info >= (3, 14):
        made.__annotate__ = cls.__annotate__
    elif "__annotations__" in vars(cls):
        made.__annotations__ = vars(cls)["__annotations__"]
