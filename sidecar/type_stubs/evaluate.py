"""What a function's annotations mean: strings and forward references are looked up where the function is."""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

TYPE_VARIABLES = frozenset(("TypeVar", "ParamSpec", "TypeVarTuple"))
UNIONS: tuple[Any, ...] = (typing.Union, getattr(types, "UnionType", typing.Union))

# Modules that only type checkers can import, as sources name them below `if TYPE_CHECKING`.
for_checkers: set[str] = {"_typeshed"}


def is_type_variable(annotation: object) -> bool:
    return type(annotation).__name__ in TYPE_VARIABLES


def is_literal(annotation: object) -> bool:
    return typing.get_origin(annotation) is typing.Literal or (
        getattr(getattr(annotation, "__origin__", None), "_name", None) == "Literal"
    )


def arguments_of(annotation: Any) -> tuple[Any, ...]:
    """Its type arguments; none where they are values, as a ``Literal``'s are."""
    if is_literal(annotation) or isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
        return ()
    found = getattr(annotation, "__args__", ())
    return found if isinstance(found, tuple) else ()


def with_arguments(annotation: Any, arguments: tuple[Any, ...]) -> Any:
    """The same generic with other arguments."""
    origin = typing.get_origin(annotation)
    if origin in UNIONS:
        if isinstance(annotation, getattr(types, "UnionType", ())):
            try:
                return functools.reduce(lambda left, right: left | right, arguments)
            except TypeError:  # a forward reference, say
                pass
        return typing.Union[arguments]
    if origin is collections.abc.Callable and not hasattr(annotation, "copy_with"):
        *parameters, result = arguments
        function_type: Any = collections.abc.Callable
        only = parameters[0] if len(parameters) == 1 else None
        if only is Ellipsis or type(only).__name__ in ("ParamSpec", "_ConcatenateGenericAlias"):
            return function_type[only, result]
        return function_type[list(parameters), result]
    if hasattr(annotation, "copy_with"):
        return annotation.copy_with(arguments)
    if isinstance(annotation, types.GenericAlias):
        made: Any = types.GenericAlias(typing.cast(Any, annotation.__origin__), arguments)
        return iter_unpacked(made) if getattr(annotation, "__unpacked__", False) else made
    return annotation.__origin__[arguments]


def iter_unpacked(alias: Any) -> Any:
    return next(iter(alias))


def replaced(annotation: Any, replace: Callable[[Any], Any]) -> Any:
    """The annotation with everything in it as ``replace`` wants it: from the inside to the outside."""
    if (
        type(annotation) is list
    ):  # a Callable's, or a ParamSpec's argument (which is a list itself before 3.10)
        return [replaced(each, replace) for each in annotation]
    arguments = arguments_of(annotation)
    if arguments:
        new = tuple(replaced(each, replace) for each in arguments)
        if any(mine is not theirs for mine, theirs in zip(new, arguments)):
            annotation = with_arguments(annotation, new)
    return replace(annotation)


# -- looking up -------------------------------------------------------------------


class Place:
    """Where annotations are looked up: a function's or a class's module, and what is nearer to it."""

    def __init__(
        self, module: str | None, nearer: Mapping[str, Any], namespace: Mapping[str, Any] | None = None
    ) -> None:
        self._module = module
        self._knows_checkers = False
        found = namespace if namespace is not None else vars(sys.modules.get(module or "", types))
        self.names: dict[str, Any] = {**vars(typing.cast(Any, __import__("builtins"))), **found, **nearer}

    def evaluated(self, annotation: Any) -> Any:
        """It, with strings and forward references in it looked up; unknown names stay forward references."""
        return replaced(annotation, self._looked_up)

    def _looked_up(self, annotation: Any) -> Any:
        text = getattr(annotation, "__forward_arg__", annotation)
        if not isinstance(text, str):
            return annotation
        try:
            found = self._eval(text)
        except Exception:
            try:
                found = self._expression(ast.parse(text.strip(), mode="eval").body)
            except Exception:
                return annotation
        return found if found is annotation or isinstance(found, str) else self.evaluated(found)

    def _eval(self, text: str) -> Any:
        try:
            return eval(text, dict(self.names))
        except NameError:
            if self._knows_checkers:
                raise
            self._knows_checkers = True
            self.names = {**names_for_checkers(self._module), **self.names}
            return eval(text, dict(self.names))

    def _expression(self, node: ast.expr) -> Any:
        """Where ``eval`` fails: unknown names, and operators that this Python does not have for types."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return typing.Union[self._expression(node.left), self._expression(node.right)]
        if isinstance(node, ast.Subscript):
            outer = self._expression(node.value)
            inner: Any = node.slice
            if is_literal(outer) or getattr(outer, "_name", None) == "Literal":
                return self._eval(ast.unparse(node))
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            arguments = tuple(self._expression(part) for part in parts)
            if isinstance(outer, typing.ForwardRef):
                return typing.ForwardRef(f"{outer.__forward_arg__}[{', '.join(map(_plain, arguments))}]")
            return outer[arguments if len(arguments) > 1 or isinstance(inner, ast.Tuple) else arguments[0]]
        if isinstance(node, ast.List):
            return [self._expression(each) for each in node.elts]
        if isinstance(node, ast.Constant):
            return self._looked_up(node.value)
        text = ast.unparse(node)
        try:
            return self._eval(text)
        except Exception:
            return self._for_checkers(text)

    def _for_checkers(self, text: str) -> Any:
        root, _, rest = text.partition(".")
        found = imports_for_checkers(self._module).get(root)
        if found is None:
            return typing.ForwardRef(text)
        module, name = found
        if name is None:
            for_checkers.add(module)
            return typing.ForwardRef(module + (f".{rest}" if rest else ""))
        try:
            value = getattr(__import__(module, fromlist=[name]), name)
            return eval(f"value.{rest}" if rest else "value", {"value": value})
        except Exception:
            for_checkers.add(module)
            return typing.ForwardRef(f"{module}.{text.replace(root, name, 1)}")


def _plain(annotation: Any) -> str:
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    return annotation.__qualname__ if isinstance(annotation, type) else repr(annotation)


# By module: another one of the same name is another module.
_trees: weakref.WeakKeyDictionary[types.ModuleType, ast.Module | None] = weakref.WeakKeyDictionary()
_for_checkers: weakref.WeakKeyDictionary[types.ModuleType, dict[str, Any]] = weakref.WeakKeyDictionary()


def tree_of(name: str | None) -> ast.Module | None:
    """A module's source; None where there is none."""
    module = sys.modules.get(name or "")
    if module is None:
        return None
    if module not in _trees:
        try:
            _trees[module] = ast.parse(inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):
            _trees[module] = None
    return _trees[module]


def names_for_checkers(name: str | None) -> dict[str, Any]:
    """What a module imports and makes below ``if TYPE_CHECKING``, as far as that can be done now."""
    module = sys.modules.get(name or "")
    if module is None:
        return {}
    if module not in _for_checkers:
        known = dict(vars(module))
        before = set(known)
        for node in _checkers_only(name):
            try:
                exec(compile(ast.Module([node], []), "<type checking>", "exec"), known)
            except Exception:  # only type checkers know that module, say
                continue
        _for_checkers[module] = {key: value for key, value in known.items() if key not in before}
    return _for_checkers[module]


def _checkers_only(module: str | None) -> Iterator[ast.stmt]:
    tree = tree_of(module)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            yield from node.body


def imports_for_checkers(module: str | None) -> dict[str, tuple[str, str | None]]:
    """What is imported below ``if TYPE_CHECKING``: names, and the module and the name there."""
    return dict(imported(list(_checkers_only(module)), module))


def imported(body: list[ast.stmt], module: str | None) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """The names that statements import."""
    held = sys.modules.get(module or "")
    package = getattr(held, "__package__", None) or ""
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                yield (alias.asname or root), (alias.name if alias.asname else root, None)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*outer, *([node.module] if node.module else [])])
            for alias in node.names:
                yield (alias.asname or alias.name), (base, alias.name)


def annotations_of(obj: Any) -> dict[str, Any]:
    """A function's or a class's own annotations, as they are written."""
    if sys.version_info >= (3, 14):
        import annotationlib

        try:
            return annotationlib.get_annotations(obj, format=annotationlib.Format.FORWARDREF)
        except Exception:
            return {}
    found = (
        vars(obj).get("__annotations__", {}) if isinstance(obj, type) else getattr(obj, "__annotations__", {})
    )
    return dict(found) if isinstance(found, Mapping) else {}


def innermost(function: Any) -> Any:
    """The function that decorators have wrapped."""
    try:
        return inspect.unwrap(function)
    except ValueError:
        return function


def place_of(function: Any, *classes: type) -> Place:
    """Where a function's annotations are looked up; ``classes``: those around it."""
    inner = innermost(function)
    while isinstance(inner, functools.partial):
        inner = inner.func
    nearer: dict[str, Any] = {}
    for holder in (*classes, inner):
        nearer.update((each.__name__, each) for each in getattr(holder, "__type_params__", ()))
    code, cells = getattr(inner, "__code__", None), getattr(inner, "__closure__", None) or ()
    for name, cell in zip(getattr(code, "co_freevars", ()), cells):
        try:
            nearer[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return Place(getattr(inner, "__module__", None), nearer, getattr(inner, "__globals__", None))


def place_of_class(cls: type) -> Place:
    return Place(cls.__module__, {each.__name__: each for each in getattr(cls, "__type_params__", ())})


# -- signatures -------------------------------------------------------------------


def signature_of(function: Any, *classes: type) -> inspect.Signature:
    """Its parameters through all its decorators, with annotations that are looked up.

    A decorator's ``*args, **kwargs`` are those of what it wraps; parameters and annotations of its own are added.
    """
    place = place_of(function, *classes)
    signature = _through(function)
    own = annotations_of(function)
    parameters = [
        each.replace(annotation=place.evaluated(own.get(each.name, each.annotation)))
        for each in signature.parameters.values()
    ]
    result = own.get("return", signature.return_annotation)
    return signature.replace(parameters=parameters, return_annotation=place.evaluated(result))


def _through(function: Any) -> inspect.Signature:
    inner = getattr(function, "__wrapped__", None)
    try:
        own = _plain_signature(function)
    except (TypeError, ValueError):  # a builtin
        return inspect.Signature(_ANY_PARAMETERS)
    if inner is None or not callable(inner):
        return own
    kinds = {each.kind for each in own.parameters.values()}
    if not kinds >= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return own
    below = _through(inner)
    mine = [each for each in own.parameters.values() if each.kind not in _VARIADIC]
    taken = {each.name for each in mine}
    theirs = [each for each in below.parameters.values() if each.name not in taken]
    try:
        return below.replace(parameters=_in_order([*mine, *theirs]))
    except ValueError:
        return below


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_ANY_PARAMETERS = [
    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
]


def _plain_signature(function: Any) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(
            function, follow_wrapped=False, annotation_format=annotationlib.Format.FORWARDREF
        )
    return inspect.signature(function, follow_wrapped=False)


def _in_order(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return sorted(parameters, key=lambda each: each.kind)


# -- overloads --------------------------------------------------------------------


def overloads_of(function: Any) -> list[Any]:
    """What ``@typing.overload`` has marked for it: by the registry, before Python 3.11 by its source."""
    inner = innermost(function)
    if sys.version_info >= (3, 11):
        found: list[Any] = []
        if inspect.isfunction(inner):
            found = list(typing.get_overloads(inner))
        if found:
            return found
    return _overloads_in_source(inner) if inspect.isfunction(inner) else []


def _overloads_in_source(function: Any) -> list[Any]:
    tree = tree_of(function.__module__)
    line = function.__code__.co_firstlineno
    for holder in ast.walk(tree) if tree is not None else ():
        body = getattr(holder, "body", None)
        for node in body if isinstance(body, list) else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function.__name__:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                if line in (first, node.lineno) and body is not None:
                    return [
                        _compiled(each, function) for each in body if _is_overload(each, function.__name__)
                    ]
    return []


def _is_overload(node: ast.stmt, name: str) -> bool:
    return (
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name == name
        and any(ast.unparse(each).split(".")[-1] == "overload" for each in node.decorator_list)
    )


def _compiled(node: Any, function: Any) -> Any:
    """A function of that signature, whose annotations are strings and whose defaults do not matter."""
    copy = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(copy, (ast.FunctionDef, ast.AsyncFunctionDef))
    copy.decorator_list = []
    future = ast.parse("from __future__ import annotations").body
    made: dict[str, Any] = {}
    exec(
        compile(ast.fix_missing_locations(ast.Module([*future, copy], [])), "<overload>", "exec"),
        function.__globals__,
        made,
    )
    found = made[node.name]
    found.__module__, found.__qualname__ = function.__module__, function.__qualname__
    return found
