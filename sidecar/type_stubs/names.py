"""How a stub writes types down: names, the imports that they need, type variables."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import contextlib
import dataclasses
import enum
import importlib
import importlib.util
import itertools
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from sidecar.type_stubs.crossing import Crossing, bound_of, number_of, original_of
from sidecar.type_stubs.evaluate import UNIONS, for_checkers, is_literal, is_type_variable


@dataclasses.dataclass(frozen=True)
class Dialect:
    """What our own stubs and those of another project differ in."""

    # Where `with` and `async with` go alike.
    both_contexts: str = "sidecar.type_stubs.BothContexts"
    classproperty: str = "sidecar.synchronizer.classproperty"
    # A third face beside __call__ and aio.
    future: bool = True
    # X | None, whatever the source says; type variables are declared where they are used.
    modern: bool = True


def default_of(variable: Any) -> Any:
    """A type variable's default (PEP 696); None where there is none."""
    found = getattr(variable, "__default__", None)
    return None if type(found).__name__ in ("NoDefaultType", "_NoDefaultType") or found is None else found


class Names:
    """The names of one module that is written."""

    def __init__(self, module: str, dialect: Dialect, namespace: Mapping[str, Any] | None = None) -> None:
        self.module = module
        self.dialect = dialect
        self.imports: set[str] = set()
        self.variables: dict[str, str] = {}  # type variables: the name, and its declaration
        self._declared: dict[int, tuple[str, Any]] = {}
        self._here: dict[int, tuple[str, Any]] = {}
        self._taken = set(namespace or ())
        self._shadows: list[set[str]] = []
        for name, value in (namespace or {}).items():
            if (isinstance(value, type) or is_type_variable(value)) and not name.startswith("__"):
                self._here.setdefault(id(value), (name, value))

    def here(self, obj: Any) -> str | None:
        """What the module itself calls it."""
        found = self._here.get(id(obj))
        return found[0] if found is not None and found[1] is obj else None

    def call_it(self, obj: Any, name: str) -> None:
        self._here[id(obj)] = (name, obj)

    @contextlib.contextmanager
    def shadowed_by(self, names: set[str]) -> typing.Iterator[None]:
        """Inside a class, its members hide builtins of the same name."""
        self._shadows.append(names)
        try:
            yield
        finally:
            self._shadows.pop()

    # -- classes and functions ----------------------------------------------------

    def dotted(self, text: str) -> str:
        """A name with its module, which is imported."""
        self.imports.add(text.rpartition(".")[0])
        return text

    def typing(self, name: str) -> str:
        return self.dotted(f"typing.{name}")

    def extension(self, name: str) -> str:
        return self.dotted(f"typing_extensions.{name}")

    def path(self, obj: Any) -> str:
        """Where it is to be found."""
        here = self.here(obj)
        if here is not None:
            return here
        qualname = str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", repr(obj)))
        qualname = qualname.rpartition("<locals>.")[2]
        module = getattr(obj, "__module__", None) or "builtins"
        if module == "builtins":
            return self.builtin(qualname)
        if module == self.module:
            return qualname
        module = _public(module, qualname, obj)
        if module == self.module:
            return qualname
        return self.dotted(f"{module}.{qualname}") if "." not in qualname else self._nested(module, qualname)

    def _nested(self, module: str, qualname: str) -> str:
        self.imports.add(module)
        return f"{module}.{qualname}"

    def builtin(self, name: str) -> str:
        if not hasattr(builtins, name):
            for candidate, value in vars(types).items():
                if getattr(value, "__name__", None) == name and isinstance(value, type):
                    return self.dotted(f"types.{candidate}")
        if name in self._taken or any(name in names for names in self._shadows):
            return self.dotted(f"builtins.{name}")
        return name

    # -- annotations ----------------------------------------------------------------

    def text(self, annotation: Any) -> str:
        """An annotation that was looked up, written down."""
        if annotation is None or annotation is type(None):
            return "None"
        if annotation is Ellipsis:
            return "..."
        if type(annotation) is list:
            return f"[{', '.join(map(self.text, annotation))}]"
        forward = getattr(annotation, "__forward_arg__", annotation)
        if isinstance(forward, str):
            return self._forward(forward)
        if is_type_variable(annotation):
            return self.variable(annotation)
        if type(annotation).__name__ in ("ParamSpecArgs", "ParamSpecKwargs"):
            return f"{self.text(annotation.__origin__)}.{type(annotation).__name__[9:].lower()}"
        if is_literal(annotation):
            return f"{self.typing('Literal')}[{', '.join(map(self._literal, annotation.__args__))}]"
        if hasattr(annotation, "__metadata__"):  # Annotated: for whoever reads it at run time
            return self.text(annotation.__origin__)
        if typing.get_origin(annotation) in UNIONS:
            return self._union(annotation)
        return self._other(annotation)

    def _other(self, annotation: Any) -> str:
        origin: Any = getattr(annotation, "__origin__", None)
        arguments = getattr(annotation, "__args__", ())
        if isinstance(annotation, type) and origin is None:
            return self.path(annotation)
        if getattr(annotation, "__unpacked__", False):
            return f"{self.extension('Unpack')}[{self.text(origin[arguments])}]"
        if origin is None:
            if isinstance(annotation, (types.FunctionType, types.BuiltinFunctionType)):
                return self.path(annotation)
            return self._special(annotation)
        name = self._outer(annotation, origin)
        if not arguments:
            # typing.List by itself; or tuple[()]
            return f"{name}[()]" if origin is tuple and not _is_bare(annotation) else name
        return f"{name}[{self._arguments(origin, arguments)}]"

    def _arguments(self, origin: Any, arguments: Any) -> str:
        if origin is collections.abc.Callable:
            *parameters, result = arguments
            only = parameters[0] if len(parameters) == 1 else None
            bare = (
                only is Ellipsis or type(only).__name__ == "ParamSpec" or "Concatenate" in type(only).__name__
            )
            before = self.text(only) if bare else self.text(list(parameters))
            return f"{before}, {self.text(result)}"
        if origin in _WITH_DEFAULT_EXIT and len(arguments) > 1 and _is_default_exit(arguments[1]):
            arguments = arguments[:1]  # since Python 3.13 only
        return ", ".join(
            self.text(list(each)) if isinstance(each, tuple) else self.text(each) for each in arguments
        )

    def _outer(self, annotation: Any, origin: Any) -> str:
        name = getattr(annotation, "_name", None)
        kind = type(annotation)
        if "Concatenate" in kind.__name__:
            return self.dotted(f"{kind.__module__}.Concatenate")
        if isinstance(name, str) and hasattr(typing, name) and kind.__module__ == "typing":
            if getattr(typing.cast(Any, getattr(typing, name)), "__origin__", None) is origin:
                return self.typing(name)
        return self.text(origin) if not isinstance(origin, type) else self.path(origin)

    def _special(self, form: Any) -> str:
        """``Any``, ``Self``, ``ClassVar``, an alias, a ``NewType``."""
        here = self.here(form)
        if here is not None:
            return here
        name = getattr(form, "_name", None) or getattr(form, "__name__", None)
        if not isinstance(name, str):
            return self.typing("Any")
        if hasattr(typing, name) and getattr(typing, name) is form:
            older = self.dialect.modern or sys.version_info < (3, 11) or name == "Self"
            return self.extension(name) if older and name in _NEWER else self.typing(name)
        module = getattr(form, "__module__", None) or "typing"
        if module == "typing":
            return self.typing(name)
        if module == self.module:
            return name
        return self.dotted(f"{_public(module, name, form)}.{name}")

    def _union(self, annotation: Any) -> str:
        members = [each for each in annotation.__args__ if each is not type(None)]
        optional = len(members) < len(annotation.__args__)
        if self.dialect.modern or isinstance(annotation, getattr(types, "UnionType", ())):
            if self.dialect.modern:
                return " | ".join([*map(self.text, members), *(["None"] if optional else [])])
            return " | ".join(map(self.text, annotation.__args__))
        if optional and len(members) == 1:
            return f"{self.typing('Optional')}[{self.text(members[0])}]"
        return f"{self.typing('Union')}[{', '.join(map(self.text, annotation.__args__))}]"

    def _literal(self, value: Any) -> str:
        return f"{self.path(type(value))}.{value.name}" if isinstance(value, enum.Enum) else repr(value)

    def _forward(self, text: str) -> str:
        """A name that nobody can look up now: as it is written; where it names a module, that is imported."""
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError:
            return repr(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                module = ast.unparse(node.value)
                if module in for_checkers or _is_module(module):
                    self.imports.add(module)
        return text

    # -- type variables -------------------------------------------------------------

    def variable(self, variable: Any) -> str:
        """Its name; where it is not another module's own, it is declared here."""
        here = self.here(variable)
        if here is not None:
            return here
        known = self._declared.get(id(variable))
        if known is not None and known[1] is variable:
            return known[0]
        name: str = variable.__name__
        if not self.dialect.modern:
            module = variable.__module__
            return name if module in (self.module, "typing", None) else self.dotted(f"{module}.{name}")
        for number in itertools.count(1):
            candidate = name if number == 1 else f"{name}_{number}"
            if candidate not in self._taken:
                self.declare(variable, candidate)
                break
            if self.variables.get(candidate) == self.declaration(variable, candidate):
                # PEP 695's are made anew for each function: one that says the same will do.
                self._declared[id(variable)] = (candidate, variable)
                break
        return candidate

    def declare(self, variable: Any, name: str) -> str:
        """The variable's declaration, under that name, above everything that uses it."""
        self._taken.add(name)
        self._declared[id(variable)] = (name, variable)
        self.variables[name] = ""  # its place: a bound may use other variables
        self.variables[name] = self.declaration(variable, name)
        return self.variables[name]

    def declaration(self, variable: Any, name: str) -> str:
        kind = type(variable).__name__
        details = [repr(name), *map(self.text, getattr(variable, "__constraints__", ()) or ())]
        bound = getattr(variable, "__bound__", None)
        if bound is not None and kind == "TypeVar":
            number = number_of(variable)
            if number is not None:  # one that a Synchronizer has made for its own classes
                bound = Crossing(number).outward(bound_of(original_of(variable)))
            details.append(f"bound={_quoted(self.text(bound))}")
        for each in ("covariant", "contravariant"):
            if getattr(variable, f"__{each}__", False):
                details.append(f"{each}=True")
        default = default_of(variable)
        if default is not None:
            details.append(f"default={self.text(list(default) if isinstance(default, tuple) else default)}")
        plain = kind == "TypeVar" and default is None
        maker = self.typing(kind) if plain else self.extension(kind)
        return f"{name} = {maker}({', '.join(details).replace(repr(name), _quoted(name), 1)})"


# Later than Python 3.9's typing: a stub takes them from where all checkers find them.
_NEWER = frozenset(
    "Self Never LiteralString TypeAlias Concatenate ParamSpec Required NotRequired Unpack TypeGuard TypeIs ReadOnly"
    " override TypeAliasType".split()
)
_WITH_DEFAULT_EXIT = (contextlib.AbstractContextManager, contextlib.AbstractAsyncContextManager)


def _is_default_exit(argument: Any) -> bool:
    found = getattr(argument, "__args__", ())
    return set(found) == {bool, type(None)}


def _is_bare(annotation: Any) -> bool:
    return type(annotation).__name__ in ("_SpecialGenericAlias", "_TupleType") or not hasattr(
        annotation, "__args__"
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _public(module: str, qualname: str, obj: Any) -> str:
    """The module's public name: `asyncio` for what `_asyncio` has made, `pathlib` for `pathlib._local`."""
    parts = module.split(".")
    for index, part in enumerate(parts):
        if not part.startswith("_") or part == "__main__":
            continue
        for candidate in (".".join(parts[:index]), ".".join([*parts[:index], part.lstrip("_")])):
            if candidate in sys.modules:
                found: Any = sys.modules[candidate]
                for name in qualname.split("."):
                    found = getattr(found, name, None)
                if found is obj:
                    return candidate
        break
    return module
