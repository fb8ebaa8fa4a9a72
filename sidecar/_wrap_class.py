"""Faces of whole classes: an instance of a face holds the real object, and turns its calls about.

The class is held, not inherited from: its own methods go on calling each other as they were written.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import types
import weakref
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


# Lists, tuples and dicts, exactly these: faces in them are translated, too.
_CONTAINERS = frozenset((list, tuple, dict))

# What has made a class's face, by its kind: it is made once, and a derived class's face derives from it.
_builders: weakref.WeakKeyDictionary[type, dict[Any, weakref.ref[Builder]]] = weakref.WeakKeyDictionary()


def _mapped(one: Callable[[Any], Any], obj: Any, inside: tuple[int, ...] = ()) -> Any:
    """With ``one`` done to what is in it: a copy where something changes, else the container itself."""
    kind = type(obj)
    if kind not in _CONTAINERS:
        return one(obj)
    if id(obj) in inside:
        return obj
    inside = (*inside, id(obj))
    items = list(obj.values() if kind is dict else obj)
    new = [_mapped(one, item, inside) for item in items]
    if all(mine is old for mine, old in zip(new, items)):
        return obj
    return dict(zip(obj, new)) if kind is dict else kind(new)


class Face:
    """Base of all faces. What has no face of its own (data, properties, private names) is the real object's."""

    __slots__ = (_OBJECT, _CONTEXT, "__weakref__")

    __wrapped__: Any
    __sidecar_builder__: Any
    __sidecar_object__: Any
    __sidecar_context__: Any

    def __getattr__(self, name: str) -> Any:
        if name in (_OBJECT, _CONTEXT):
            raise RuntimeError(f"{type(self).__qualname__}.__init__() was not called")
        return self.__sidecar_builder__.handed_out(self, getattr(held(self), name))

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

    # Where the class has none of its own: several faces of one object are equal.

    def __eq__(self, other: object) -> bool:
        return held(self) is held(other) if isinstance(other, Face) else NotImplemented

    def __hash__(self) -> int:
        return object.__hash__(held(self))

    def __copy__(self) -> Any:
        return _face_of(type(self), copy.copy(held(self)))

    def __deepcopy__(self, memo: Any) -> Any:
        return _face_of(type(self), copy.deepcopy(held(self), memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The object's, but for its class: by its name there may be only the face to be found."""
        obj = held(self)
        reduced = obj.__reduce_ex__(protocol)
        if isinstance(reduced, str):
            return _face_of, (type(self), obj)
        function, args, *rest = reduced
        own = type(self).__wrapped__ if type(obj) is type(self).__wrapped__ else None
        function, *args = (_ITS_CLASS if each is own else each for each in (function, *args))
        state, items, pairs = (*rest, None, None, None)[:3]
        # Iterators of the object's would be pickled with it.
        return _restored, (type(self), function, args, state, list(items or ()), list(pairs or ()))


# In a pickle: the class that the face is of.
_ITS_CLASS = "sidecar: the class itself"


def _face_of(face_class: Any, obj: Any) -> Any:
    face = object.__new__(face_class)
    object.__setattr__(face, _OBJECT, obj)
    return face


def _restored(
    face_class: Any, function: Any, args: list[Any], state: Any, items: list[Any], pairs: list[Any]
) -> Any:
    """What ``pickle`` does with what an object has been reduced to."""
    function, *args = (face_class.__wrapped__ if each == _ITS_CLASS else each for each in (function, *args))
    obj = function(*args)
    if state is not None:
        if hasattr(obj, "__setstate__"):
            obj.__setstate__(state)
        else:
            own, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            if own:
                vars(obj).update(own)
            for name, value in (slots or {}).items():
                setattr(obj, name, value)
    for item in items:
        obj.append(item)
    for key, value in pairs:
        obj[key] = value
    return _face_of(face_class, obj)


def held(face: Any) -> Any:
    return object.__getattribute__(face, _OBJECT)


def real(value: Any) -> Any:
    """An argument as the real object wants it."""
    if type(value) in _CONTAINERS:
        return _mapped(real, value)
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
        found = getattr(self._cls if face is None else held(face), self._name)
        return owner.__sidecar_builder__.handed_out(face, found)

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

    def made(self) -> Any:
        """The face that the class has already, unless its base classes have got theirs since; else a new one."""
        present = self._beside(self.cls)
        if present is not None and present.face.__bases__ == self._bases():
            return present.face
        face = self.build()
        with contextlib.suppress(TypeError):
            _builders.setdefault(self.cls, {})[self._kind()] = weakref.ref(self)
        return face

    def build(self) -> Any:
        cls = self.cls
        names: dict[str, Any] = {
            "__slots__": (),
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__wrapped__": _Wrapped(cls),
            "__sidecar_side__": self.side,
            "__sidecar_builder__": self,
            "__init__": self.constructor(),
            "__class_getitem__": classmethod(_subscripted),
        }
        # Not dir(): an enumeration's leaves out methods.
        for name in dict.fromkeys(name for base in cls.__mro__ for name in vars(base)):
            if name not in names and (member := self._member(name)) is not None:
                names[name] = member
        names.update(self.protocols())
        self.face = types.new_class(cls.__name__, self._bases(), exec_body=lambda space: space.update(names))
        return self.face

    def of(self, obj: Any) -> Any:
        """The face of an object that exists already: that of its own class, where there is one."""
        face = object.__new__(self._nearest(type(obj)).face)
        setattr(face, _OBJECT, obj)
        return face

    def _kind(self) -> tuple[object, ...]:
        """Which of a class's faces it is."""
        return self.side, id(self.bridge)

    def _nearest(self, cls: type) -> Builder:
        if cls is not self.cls and self.cls in cls.__mro__:  # not one by abc's register()
            for base in cls.__mro__[: cls.__mro__.index(self.cls)]:
                other = self._beside(base)
                if other is not None and issubclass(other.face, self.face):
                    return other
        return self

    def _beside(self, cls: type) -> Builder | None:
        """What has made the other class's face of this kind."""
        try:
            found = _builders.get(cls, {}).get(self._kind())
        except TypeError:  # a class that cannot be hashed
            return None
        builder = None if found is None else found()
        return builder if builder is not None and builder.bridge is self.bridge else None

    def _bases(self) -> tuple[type, ...]:
        """Of a derived class's face: the faces that its base classes have."""
        found: list[type] = []
        for base in self.cls.__mro__[1:]:
            builder = self._beside(base)
            if builder is not None and not any(issubclass(each, builder.face) for each in found):
                found.append(builder.face)
        return tuple(found) or (Face,)

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
        """A result of the class itself is handed out as a face: a method's ``self``, what a class method made.

        So it is in lists, tuples and dicts.
        """
        if type(result) in _CONTAINERS:
            return _mapped(functools.partial(self.handed_out, face), result)
        return self.handed_out(face, result)

    def handed_out(self, face: Any, result: Any) -> Any:
        """The same of data: a container of the object's is the one that it keeps, and never a copy."""
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


def _subscripted(face: Any, arguments: Any) -> Any:
    """A generic's face is generic, too; any other may be written so in annotations."""
    return types.GenericAlias(face, arguments) if getattr(face.__wrapped__, "__parameters__", ()) else face


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
