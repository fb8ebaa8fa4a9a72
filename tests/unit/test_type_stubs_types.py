"""Generated stubs, as mypy and pyright see them and who uses them; one run of each."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sidecar

STUBBED = Path(__file__).resolve().parents[1] / "stubs"
PACKAGES = Path(sidecar.__file__).parents[1]

NEW_SYNTAX = '''
"""PEP 695 and, with defaults, PEP 696."""
from collections.abc import Awaitable, Callable
from sidecar import to_async
from sidecar.synchronizer import Synchronizer

synchronizer = Synchronizer()
type Two[X] = tuple[X, X]
type Number = int | float
class _Store[K, V{default}]:
    def __init__(self, key: K, value: V) -> None:
        self.key, self.value = key, value
    async def get(self) -> V: return self.value
    async def both(self, key: K) -> Two[K]: return key, key
    async def other[Z](self, z: Z) -> dict[K, Z]: return {{self.key: z}}
async def _first[T](items: list[T]) -> T: return items[0]
async def _listed[T: _Store[str, int]](item: T) -> list[T]: return [item]
async def _limited[T: (int, str)](item: T) -> T: return item
async def _called[**P, R](function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    return await function(*args, **kwargs)
async def _all[*Ts](*args: *Ts) -> tuple[*Ts]: return args
async def _number(number: Number) -> Number: return number
Store = synchronizer.wrap(_Store, "Store", __name__)
first = synchronizer.wrap(_first, "first", __name__)
listed = synchronizer.wrap(_listed, "listed", __name__)
limited = synchronizer.wrap(_limited, "limited", __name__)
called = synchronizer.wrap(_called, "called", __name__)
every = synchronizer.wrap(_all, "every", __name__)
number = synchronizer.wrap(_number, "number", __name__)
@to_async
class Shelf[T]:
    def __init__(self, item: T) -> None: self.item = item
    def get(self) -> T: return self.item
    def mapped[U](self, function: Callable[[T], U]) -> "Shelf[U]": return Shelf.__wrapped__(function(self.item))
'''

NEW_SYNTAX_CONSUMER = """
from typing import assert_type
import shop_new as shop

store = shop.Store("key", 3)
assert_type(store, shop.Store[str, int])
assert_type(store.get(), int)
assert_type(store.both("a"), tuple[str, str])
assert_type(store.other(b""), dict[str, bytes])
assert_type(shop.first([1]), int)
assert_type(shop.listed(store), list[shop.Store[str, int]])
assert_type(shop.limited("a"), str)
assert_type(shop.every(1, "a"), tuple[int, str])
assert_type(shop.number(1), int | float)
async def text(number: int) -> str: return str(number)
assert_type(shop.called(text, 3), str)
def {bare}
async def main() -> None:
    assert_type(await store.get.aio(), int)
    assert_type(await shop.first.aio(["a"]), str)
    shelf = shop.Shelf(3)
    assert_type(await shelf.get(), int)
    assert_type(await shelf.mapped(str), shop.Shelf[str])
shop.limited(b"")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
shop.first(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.both(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
"""


def run(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "MYPY_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stubs, of a library and of an emitted module of it, and who uses both; no sources of them."""
    sources = tmp_path_factory.mktemp("sources")
    for each in ("shop.py", "shop_impl.py"):
        shutil.copy(STUBBED / each, sources)
    folder = tmp_path_factory.mktemp("checked")
    modules = ["shop"]
    if sys.version_info >= (3, 12):
        has_defaults = sys.version_info >= (3, 13)
        (sources / "shop_new.py").write_text(NEW_SYNTAX.format(default=" = int" if has_defaults else ""))
        bare = (
            "bare(shop_: shop.Store[str]) -> None: assert_type(shop_.get(), int)"
            if has_defaults
            else "bare(): pass"
        )
        (folder / "new_consumer.py").write_text(NEW_SYNTAX_CONSUMER.format(bare=bare))
        modules.append("shop_new")
    run(sources, "sidecar.type_stubs", *modules, "--out", str(folder))
    run(sources, "sidecar.type_stubs", "shop", "--emit", "shop_faces", "--out", str(folder))
    consumer = (STUBBED / "shop_consumer.py").read_text()
    (folder / "shop_consumer.py").write_text(consumer)
    (folder / "faces_consumer.py").write_text(
        consumer.replace("import shop\n", "import shop_faces as shop\n")
    )
    (folder / "shop_faces.py").unlink()
    return folder


def needs(checker: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(checker) is None,
        reason=f"{checker} is not installed (there may be none for this Python yet)",
    )


@needs("mypy")
def test_mypy(checked: Path) -> None:
    files = sorted(each.name for each in checked.iterdir() if each.suffix in (".py", ".pyi"))
    run(checked, "mypy", "--strict", "--follow-imports=silent", *files)


@needs("basedpyright")
def test_pyright(checked: Path) -> None:
    configuration = {
        "include": ["*.py", "*.pyi"],
        "extraPaths": [str(PACKAGES)],
        "pythonVersion": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "typeCheckingMode": "strict",
        "reportMissingModuleSource": False,  # the sources are elsewhere
        # mypy's ignores are not pyright's; and one that ignores nothing is an error.
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    path = checked / "pyrightconfig.json"
    path.write_text(json.dumps(configuration))
    run(checked, "basedpyright", "--project", str(path))
