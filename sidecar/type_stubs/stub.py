"""The stub of one module: which of its names belong to it, and what each is."""

from __future__ import annotations

import ast
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from sidecar._wrap_common import side_of
from sidecar.synchronizer.kinds import FACE
from sidecar.type_stubs import members
from sidecar.type_stubs.classes import Classes, is_face
from sidecar.type_stubs.crossing import Crossing, number_of, original_of
from sidecar.type_stubs.evaluate import (
    Place,
    annotations_of,
    imported,
    is_type_variable,
    tree_of,
)
from sidecar.type_stubs.functions import (
    BothContextsOf,
    Functions,
    Way,
    docstring,
    faces_of,
    plain,
    signatures_of,
    turned,
)
from sidecar.type_stubs.names import Dialect, Names

HEADER = "# Made by `python -m sidecar.type_stubs {module}`: what is changed here is lost with the next run."


def is_wrapper(obj: Any) -> bool:
    """Whether a Synchronizer, ``to_async`` or ``to_sync`` has made it."""
    if isinstance(obj, type):
        return is_face(obj) or number_of(obj) is not None
    held = getattr(obj, "__dict__", {})
    return side_of(obj) is not None or (FACE in held and number_of(obj) is not None)


class Stub:
    """One module's stub, that is put together part by part."""

    def __init__(
        self, module: str, dialect: Dialect | None = None, namespace: Mapping[str, Any] | None = None
    ) -> None:
        self.module = module
        self.names = Names(module, dialect or Dialect(), namespace)
        self.functions = Functions(self.names)
        self.classes = Classes(self.functions)
        self.doc: str | None = None
        self.parts: list[str] = []

    def source(self) -> str:
        """The text, imports first."""
        parts = list(self.parts)
        if self.names.variables:
            parts.insert(0, "".join(f"{line}\n" for line in self.names.variables.values()))
        imports = sorted(each for each in self.names.imports if each not in ("", "builtins.", self.module))
        if imports:
            parts.insert(0, "".join(f"import {module}\n" for module in imports))
        if self.doc:
            parts.insert(0, f"{self.doc}\n")
        return "\n".join(parts)

    # -- parts ------------------------------------------------------------------------

    def add_class(self, cls: type, name: str) -> None:
        self.parts.append(self.classes.text(cls, name))

    def add_function(self, function: Any, name: str) -> None:
        self.parts.append(self.function(function, name))

    def add_variable(self, annotation: Any, name: str) -> None:
        if isinstance(annotation, str):
            annotation = repr(annotation)
            self.parts.append(f"{name}: {annotation}\n")
        else:
            self.parts.append(f"{name}: {self.functions.annotation(annotation)}\n")

    def add_alias(self, value: Any, name: str) -> None:
        self.parts.append(f"{name} = {self.names.text(value)}\n")

    def function(self, function: Any, name: str) -> str:
        held = getattr(function, "__dict__", {})
        side = side_of(function)
        if side is not None:
            inner = function.__wrapped__
            ways = [turned(name, side, each, sign) for each, sign in signatures_of(inner)]
            return self.functions.definitions(ways, None, False, function.__doc__)
        if FACE in held and number_of(function) is not None:
            return self._synchronized(function, name)
        ways = [plain(name, each, sign) for each, sign in signatures_of(function)]
        return self.functions.definitions(ways, None, False, function.__doc__, *self._decorators(function))

    def _synchronized(self, face: Any, name: str) -> str:
        original, crossing = original_of(face), Crossing.of(face.__dict__[FACE])
        variants = [
            faces_of(each, crossing, signature, BothContextsOf, self.names.dialect.future)
            for each, signature in signatures_of(original)
        ]
        if hasattr(face, "aio"):
            spec, applied = self.functions.spec(
                name, [list(each) for each in zip(*variants)], original.__doc__
            )
            return f"{spec}\n{name}: {applied}\n"
        ways = [Way(name, False, each[0].signature) for each in variants]
        return self.functions.definitions(ways, None, False, original.__doc__, *self._decorators(original))

    def _decorators(self, function: Any) -> tuple[str, ...]:
        given = getattr(function, "__dataclass_transform__", None)
        if given is None:
            return ()
        details = []
        fields = given.get("field_specifiers")
        if fields:
            details.append(f"field_specifiers=({''.join(f'{self.names.path(each)}, ' for each in fields)}), ")
        for name, default in (
            ("eq_default", True),
            ("order_default", False),
            ("kw_only_default", False),
            ("frozen_default", False),
        ):
            if given.get(name, default) != default:
                details.append(f"{name}={given[name]!r}, ")
        return (f"{self.names.extension('dataclass_transform')}({''.join(details)})",)


# -- a whole module ----------------------------------------------------------------


class ModuleStub(Stub):
    """The stub of a module as it is imported."""

    def __init__(
        self, module: types.ModuleType, dialect: Dialect | None = None, name: str | None = None
    ) -> None:
        super().__init__(name or module.__name__, dialect, self._namespace(module))
        self.held = module
        self._annotations = annotations_of(module)
        self._imports = self._imported()
        self._all = getattr(module, "__all__", None)

    def _namespace(self, module: types.ModuleType) -> dict[str, Any]:
        """What can be called by its name here: not what the module only imports."""
        imports = self._imports_of(module)
        return {
            name: value
            for name, value in vars(module).items()
            if name not in imports and not isinstance(value, types.ModuleType)
        }

    def _imports_of(self, module: types.ModuleType) -> dict[str, tuple[str, str | None]]:
        tree = tree_of(module.__name__ if sys.modules.get(module.__name__) is module else None)
        found: dict[str, tuple[str, str | None]] = {}
        bodies = [tree.body] if tree is not None else []
        while bodies:
            body = bodies.pop()
            found.update(imported(body, module.__name__))
            for node in body:
                if isinstance(node, (ast.If, ast.Try, ast.With)):
                    bodies += [node.body, *(getattr(node, each, []) for each in ("orelse", "finalbody"))]
                    bodies += [handler.body for handler in getattr(node, "handlers", ())]
        return found

    def _imported(self) -> dict[str, tuple[str, str | None]]:
        return self._imports_of(self.held)

    def build(self) -> ModuleStub:
        if self.held.__doc__ and self.names.dialect.modern:
            self.doc = docstring(self.held.__doc__, True)
        exports = []
        for name in self._order():
            value = vars(self.held).get(name)
            export = self._export(name, value)
            if export:
                exports.append(export)
            elif export is None and self._is_own(name, value):
                self._add(name, value)
        if isinstance(self._all, (list, tuple)):
            self.parts.append(f"__all__ = {list(self._all)!r}\n")
        if exports:
            self.parts.insert(0, "".join(sorted(exports)))
        return self

    def _order(self) -> list[str]:
        return list(dict.fromkeys([*self._annotations, *vars(self.held)]))

    def _export(self, name: str, value: Any) -> str | None:
        """A name of another module that this one offers as well."""
        if name not in self._imports:
            return None
        module, original = self._imports[name]
        if is_wrapper(value) and not self._is_elsewhere(value, module, original):
            return None
        offered = name in self._all if isinstance(self._all, (list, tuple)) else self._is_near(name, module)
        if not offered:
            return ""
        if original is None:
            return f"import {module} as {name}\n" if name != module else f"import {module}\n"
        return f"from {module} import {original} as {name}\n"

    def _is_elsewhere(self, value: Any, module: str, original: str | None) -> bool:
        return original is not None and getattr(sys.modules.get(module), original, None) is value

    def _is_near(self, name: str, module: str) -> bool:
        near = module.split(".")[0] == self.held.__name__.split(".")[0]
        return near and not name.startswith("_") and module != "__future__"

    def _is_own(self, name: str, value: Any) -> bool:
        if name in self._imports or isinstance(value, types.ModuleType):
            return False
        if name.startswith("__") and name.endswith("__"):
            return name in self._annotations or (
                isinstance(value, str) and name in ("__version__", "__author__", "__license__")
            )
        home = getattr(value, "__module__", None)
        if is_wrapper(value):
            return True
        if (isinstance(value, type) or inspect.isfunction(value)) and home != self.held.__name__:
            # A source that cannot be read says nothing of its imports.
            return name in self._annotations or tree_of(self.held.__name__) is not None
        return True

    def _add(self, name: str, value: Any) -> None:
        names = self.names
        if name in self._annotations:
            found = Place(None, {}, vars(self.held)).evaluated(self._annotations[name])
            if (
                getattr(found, "_name", None) == "TypeAlias"
                or getattr(found, "__name__", None) == "TypeAlias"
            ):
                self.add_alias(value, name)
            else:
                self.add_variable(found, name)
        elif is_type_variable(value):
            if value.__name__ == name:
                names.call_it(value, name)
                if self.names.dialect.modern:
                    names.declare(value, name)
                else:
                    self.parts.append(names.declaration(value, name) + "\n")
        elif type(value).__name__ == "TypeAliasType":
            self._alias_type(name, value)
        elif isinstance(value, type) and not hasattr(value, "__origin__"):
            self._class(name, value)
        elif inspect.isfunction(value) or is_wrapper(value):
            self._function(name, value)
        elif type(value).__name__ == "NewType" or hasattr(value, "__supertype__"):
            base = names.text(value.__supertype__)
            self.parts.append(f'{name} = {names.typing("NewType")}("{name}", {base})\n')
        elif hasattr(value, "__origin__") or typing.get_origin(value) is not None or _is_special(value):
            self.add_alias(value, name)
        else:
            self._value(name, value)

    def _value(self, name: str, value: Any) -> None:
        """Anything else; what blocking or async objects have become is known by what they are."""
        self.parts.append(f"{name}: {members.kind_of(self.names, value)}\n")

    def _class(self, name: str, cls: Any) -> None:
        here = self.names.here(cls)
        if here is not None and here != name:
            self.parts.append(f"{name} = {here}\n")
        elif not is_wrapper(cls) and cls.__module__ != self.held.__name__:
            self.parts.append(f"{name} = {self.names.path(cls)}\n")
        else:
            self.add_class(cls, name)

    def _function(self, name: str, function: Any) -> None:
        if inspect.isfunction(function) and not is_wrapper(function) and "<lambda>" in function.__qualname__:
            self.add_variable(typing.Callable[..., Any], name)
        else:
            self.add_function(function, name)

    def _alias_type(self, name: str, alias: Any) -> None:
        variables = alias.__type_params__
        for each in variables:
            self.names.variable(each)
        given = ", ".join(self.names.variable(each) for each in variables)
        more = f", type_params=({given},)" if given else ""
        maker = self.names.extension("TypeAliasType")
        value = Place(self.held.__name__, {}).evaluated(alias.__value__)
        self.parts.append(f'{name} = {maker}("{name}", {self.names.text(value)}{more})\n')


def _is_special(value: Any) -> bool:
    return type(value).__module__ in ("typing", "typing_extensions") and hasattr(value, "_name")
