"""Faces of whole classes: an instance of a face holds the real object, and turns its calls about.

The class is held, not inherited from: its own methods go on calling each other as they were written.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar._wrap_common import cut, look_like

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

_OBJECT = "__sidecar_object__"
_CONTEXT = "__sidecar_context__"

# Special methods that are about the face itself, or have a twin on the other side.
_OWN = frozenset(
    f"__{name}__"
    for name in (
        "new init init_subclass class class_getitem getattr getattribute setattr delattr del dict weakref slots"
        " module doc reduce reduce_ex getstate setstate getnewargs getnewargs_ex copy deepcopy subclasshook set_name"
        " get set delete repr str dir sizeof call enter exit iter next aenter aexit aiter anext await mro_entries"
        " instancecheck subclasscheck prepare annotations annotate qualname name post_init match_args"
    ).split()
)


class Face:
    """Base of all faces. What has no face of its own (data, properties, private names) is the real object's."""

    __slots__ = (_OBJECT, _CONTEXT, "__weakref__")

    __sidecar_object__: Any
    __sidecar_context__: Any

    def __getattr__(self, name: str) -> Any:
        if name in (_OBJECT, _CONTEXT):
            raise RuntimeError(f"{type(self).__qualname__}.__init__() was not called")
        return getattr(held(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (_OBJECT, _CONTEXT):
            object.__setattr__(self, name, value)
        else:
            setattr(held(self), name, real(value))

    def __delattr__(self, name: str) -> None:
        delattr(held(self), name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(held(self))})

    def __repr__(self) -> str:
        return f"<{self.__sidecar_side__} {held(self)!r}>"

    def __str__(self) -> str:
        return str(held(self))


def held(face: Any) -> Any:
    return object.__getattribute__(face, _OBJECT)


def real(value: Any) -> Any:
    """An argument as the real object wants it."""
    return held(value) if isinstance(value, Face) else value


def call_real(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call the real thing, with the real objects behind faces."""
    try:
        return function(*map(real, args), **{name: real(value) for name, value in kwargs.items()})
    except BaseException as error:
        cut(error)
        raise


class _Wrapped:
    """``__wrapped__``: the class itself, or the object that an instance holds."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def __get__(self, face: Any, owner: Any = None) -> Any:
        return self._cls if face is None else held(face)


class _Attribute:
    """Data, properties, nested classes, private names: the real class's and the real object's."""

    def __init__(self, cls: type, name: str) -> None:
        self._cls = cls
        self._name = name
        static = inspect.getattr_static(cls, name)
        self.__doc__ = None if static is None else static.__doc__

    def __get__(self, face: Any, owner: Any = None) -> Any:
        return getattr(self._cls if face is None else held(face), self._name)

    def __set__(self, face: Any, value: Any) -> None:
        setattr(held(face), self._name, real(value))

    def __delete__(self, face: Any) -> None:
        delattr(held(face), self._name)


class Builder:
    """Makes one face of one class. Its two children know the two directions."""

    side = ""

    def __init__(self, cls: type, bridge: Sidecar | None) -> None:
        self.cls = cls
        self.bridge = bridge
        self.face: Any = None

    def build(self) -> Any:
        cls = self.cls
        names: dict[str, Any] = {
            "__slots__": (),
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__wrapped__": _Wrapped(cls),
            "__sidecar_side__": self.side,
            "__init__": self.constructor(),
            "__class_getitem__": classmethod(lambda face, _: face),
        }
        # Not dir(): an enumeration's leaves out methods.
        for name in dict.fromkeys(name for base in cls.__mro__ for name in vars(base)):
            if name not in names and (member := self._member(name)) is not None:
                names[name] = member
        names.update(self.protocols())
        self.face = types.new_class(cls.__name__, (Face,), exec_body=lambda space: space.update(names))
        return self.face

    def of(self, obj: Any) -> Any:
        """The face of an object that exists already."""
        face = object.__new__(self.face)
        setattr(face, _OBJECT, obj)
        return face

    def _member(self, name: str) -> Any:
        static = inspect.getattr_static(self.cls, name, None)
        if name.startswith("__") and name.endswith("__"):
            wanted = name not in _OWN and callable(static) and getattr(object, name, None) is not static
            return self.special(name) if wanted else None
        if name.startswith("_") or isinstance(static, type):
            return _Attribute(self.cls, name)
        if isinstance(static, (staticmethod, classmethod)):
            return self._of_class(name)
        if hasattr(static, "__set__") or not _is_method(static):
            return _Attribute(self.cls, name)
        turned = self.turned(self.bound(name), static, getattr(self.cls, name), True)
        # What is on this side already stays what it is.
        return _Attribute(self.cls, name) if turned is None else turned

    def _of_class(self, name: str) -> Any:
        function = getattr(self.cls, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return call_real(function, args, kwargs)

        turned = self.turned(call, function, function, False)
        return _Attribute(self.cls, name) if turned is None else staticmethod(turned)

    def bound(self, name: str) -> Callable[..., Any]:
        def method(face: Any, /, *args: Any, **kwargs: Any) -> Any:
            return call_real(getattr(held(face), name), args, kwargs)

        return method

    def special(self, name: str) -> Callable[..., Any]:
        """``len()``, ``==``, ``[]`` cannot be awaited: they are the real object's, called at once."""

        def method(face: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return self.back(face, call_real(getattr(type(held(face)), name), (face, *args), kwargs))
            except BaseException as error:
                cut(error)
                raise

        return look_like(method, getattr(self.cls, name))

    def back(self, face: Any, result: Any) -> Any:
        """A result of the class itself is handed out as a face: a method's ``self``, what a class method made."""
        if not isinstance(result, self.cls):
            return result
        return face if face is not None and held(face) is result else self.of(result)

    def constructor(self) -> Callable[..., None]:
        cls, construct = self.cls, self.construct

        def __init__(face: Any, /, *args: Any, **kwargs: Any) -> None:
            try:
                setattr(face, _OBJECT, construct(args, kwargs))
            except BaseException as error:
                cut(error)
                raise

        initial = inspect.getattr_static(cls, "__init__")
        return look_like(__init__, initial) if inspect.isfunction(initial) else __init__

    def special_call(self) -> dict[str, Any]:
        call = self.cls.__call__
        turned = self.turned(self.bound("__call__"), call, call, True)
        return {"__call__": self.special("__call__") if turned is None else turned}

    # What the directions differ in.

    def construct(self, args: Any, kwargs: Any) -> Any:
        """Make the real object."""
        raise NotImplementedError

    def turned(self, call: Callable[..., Any], like: Any, function: Any, method: bool) -> Any:
        """The other side of ``function``: it runs ``call``. None: it is on that side already."""
        raise NotImplementedError

    def protocols(self) -> dict[str, Any]:
        """The special methods of the other side."""
        raise NotImplementedError


def _is_method(static: Any) -> bool:
    methods = (functools.partialmethod, functools.singledispatchmethod)
    return isinstance(static, methods) or (callable(static) and hasattr(static, "__get__"))


def defines(cls: type, *names: str) -> bool:
    """Of its own or by inheritance; its metaclass does not count."""
    return all(any(vars(base).get(name) is not None for base in cls.__mro__) for name in names)


def context_of(face: Any, make: Callable[[Any, Any], Any], bridge: Sidecar | None) -> Any:
    """The one that keeps a face's stays."""
    try:
        return object.__getattribute__(face, _CONTEXT)
    except AttributeError:
        context = make(held(face), bridge)
        setattr(face, _CONTEXT, context)
        return context
