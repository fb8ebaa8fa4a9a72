"""``python -m sidecar.type_stubs``: what it writes, checks and refuses."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidecar
from sidecar.type_stubs import StubError, stub_of, write_stub
from sidecar.type_stubs.__main__ import main

STUBBED = Path(__file__).resolve().parents[1] / "stubs"
PACKAGES = Path(sidecar.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from, that is the current one; what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def module(folder: Path, text: str, name: str = "library") -> str:
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()
    return name


LIBRARY = '''\
"""A library."""
from __future__ import annotations
from sidecar.synchronizer import Synchronizer
synchronizer = Synchronizer()
async def _square(number: int) -> int:
    """Squared."""
    return number * number
square = synchronizer.wrap(_square, "square", __name__)
'''


def test_a_function_has_three_faces(folder: Path) -> None:
    assert (
        stub_of(module(folder, LIBRARY))
        == '''\
# Made by `python -m sidecar.type_stubs library`: what is changed here is lost with the next run.

"""A library."""

import concurrent.futures
import sidecar.synchronizer
import typing_extensions

synchronizer: sidecar.synchronizer.Synchronizer

async def _square(number: int) -> int:
    """Squared."""
    ...

class __square_spec(typing_extensions.Protocol):
    def __call__(self, /, number: int) -> int:
        """Squared."""
        ...

    async def aio(self, /, number: int) -> int:
        """Squared."""
        ...

    def future(self, /, number: int) -> concurrent.futures.Future[int]:
        ...

square: __square_spec
'''
    )


def test_beside_the_module_or_in_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module(folder, LIBRARY, "package.inner")
    (folder / "package" / "__init__.py").write_text("from package.inner import square as square\n")
    assert main(["package", "package.inner"]) == 0
    assert capsys.readouterr().out.count(": written") == 2
    assert "from package.inner import square as square" in (folder / "package" / "__init__.pyi").read_text()
    assert (folder / "package" / "inner.pyi").read_text() == stub_of("package.inner")
    assert main(["package", "package.inner", "--out", "typings"]) == 0
    for each in ("__init__.pyi", "inner.pyi"):
        assert (folder / "typings" / "package" / each).read_text() == (folder / "package" / each).read_text()
    capsys.readouterr()
    assert main(["package.inner"]) == 0
    assert capsys.readouterr().out.endswith("inner.pyi: unchanged\n")
    assert write_stub("package.inner", folder / "other") == folder / "other" / "package" / "inner.pyi"


def test_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = module(folder, LIBRARY)
    assert main([name, "--check"]) == 1  # there is none
    assert "+square: __square_spec" in capsys.readouterr().out and not (folder / "library.pyi").exists()
    assert main([name]) == 0
    capsys.readouterr()
    assert main([name, "--check"]) == 0
    assert capsys.readouterr().out == ""
    path = folder / "library.pyi"
    path.write_text(path.read_text().replace("number: int", "number: str"))
    stale = path.read_text()
    assert main([name, "--check"]) == 1
    out = capsys.readouterr().out
    assert "-    def __call__(self, /, number: str) -> int:" in out
    assert "+    def __call__(self, /, number: int) -> int:" in out
    assert path.read_text() == stale


def test_the_command(folder: Path) -> None:
    for name in ("shop.py", "shop_impl.py"):
        shutil.copy(STUBBED / name, folder)

    def run(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "sidecar.type_stubs", *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
        )

    printed = run("shop", "--print")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert run("shop", seed="7").returncode == 0
    assert (folder / "shop.pyi").read_text() == printed.stdout
    checked = run("--check", "shop", seed="8")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    shown = run("--help")
    assert shown.returncode == 0
    for option in ("--out", "--emit", "--check", "--print", "MODULE"):
        assert option in shown.stdout


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nowhere", None, "no module named 'nowhere' (looked in "),
        ("nowhere.inner", None, "no module named 'nowhere' (looked in "),
        ("library.py", None, "'library.py' is a file, not the name of a module: try 'library'"),
        ("some/library.py", None, "try 'some.library'"),
        ("some-library", None, "'some-library' is not the full name of a module"),
        (".library", None, "is not the full name of a module"),
        ("library", "import not_there\n", "'library' imports 'not_there', which is not there"),
        ("library", "1 / 0\n", "'library' cannot be imported: ZeroDivisionError: division by zero"),
        ("library", "def (\n", "'library' cannot be imported: SyntaxError"),
        ("library", "raise SystemExit(3)\n", "ends the process when it is imported (3): is it a script?"),
        ("sys", None, "'sys' has no file that a stub could be beside: name a folder (--out)"),
    ],
)
def test_bad_modules(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, said: str
) -> None:
    if text is not None:
        module(folder, text, name)
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("python -m sidecar.type_stubs: ") and error.count("\n") == 1
    if name != "sys":
        with pytest.raises(StubError):
            stub_of(name)


def test_bad_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([], "required"),
        (["a", "b", "--emit", "c"], "--emit takes one module"),
        (["a", "--emit", "a"], "the name of another module is wanted"),
        (["a", "--emit", "a/b.py"], "the name of another module is wanted"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def lines_of(folder: Path, text: str) -> list[str]:
    head = "from __future__ import annotations\nfrom sidecar import to_async, to_sync\n"
    head += "from sidecar.synchronizer import Synchronizer, classproperty\nimport typing\nimport contextlib\n"
    return stub_of(module(folder, f"{head}synchronizer = Synchronizer()\n{text}")).splitlines()


def test_names_that_only_checkers_know(folder: Path) -> None:
    lines = lines_of(
        folder,
        "if typing.TYPE_CHECKING:\n"
        "    import _typeshed\n    from decimal import Decimal as D\n    T = typing.TypeVar('T')\n"
        "async def load(a: D, b: _typeshed.StrPath | None, c: list[T], d: Unknown) -> dict[str, T]: ...\n"
        "load = synchronizer.wrap(load, 'load', __name__)\n",
    )
    call = (
        "    def __call__(self, /, a: decimal.Decimal, b: _typeshed.StrPath | None, c: list[T], d: Unknown)"
    )
    assert f"{call} -> dict[str, T]:" in lines
    assert {"import decimal", "import _typeshed", 'T = typing.TypeVar("T")'} <= set(lines)


def test_members_that_hide_builtins(folder: Path) -> None:
    lines = lines_of(
        folder,
        "class _Store:\n"
        "    async def list(self) -> list[int]: ...\n"
        "    def str(self) -> str: ...\n"
        "Store = synchronizer.wrap(_Store, 'Store', __name__)\n",
    )
    assert "        async def aio(self, /) -> builtins.list[int]:" in lines
    assert "    def str(self) -> builtins.str:" in lines


def test_docstrings_are_what_they_were(folder: Path) -> None:
    docs = [r"Back\slash", 'Has """ in it', "Has ''' and \"\"\" in it", 'Ends with "', "Two\n\n    lines\n"]
    text = "".join(
        f"@to_async\ndef f{i}() -> int:\n    {doc!r}\n    return 1\n" for i, doc in enumerate(docs)
    )
    found: dict[str, Any] = {}
    exec("\n".join(["import typing", *lines_of(folder, text)]), found)
    import inspect

    assert [inspect.getdoc(found[f"f{i}"]) for i in range(len(docs))] == [
        inspect.cleandoc(doc) for doc in docs
    ]


def test_properties_and_class_properties(folder: Path) -> None:
    lines = lines_of(
        folder,
        "class _Store:\n"
        "    @property\n    async def size(self) -> int: ...\n"
        "    @property\n    def name(self) -> str: ...\n"
        "    @name.setter\n    def name(self, value: str) -> None: ...\n"
        "    @classproperty\n    @classmethod\n    def kind(cls) -> str: ...\n"
        "Store = synchronizer.wrap(_Store, 'Store', __name__)\n",
    )
    text = "\n".join(lines)
    assert "    @property\n    def size(self) -> int:" in text
    assert "    @name.setter\n    def name(self, value: str) -> None:" in text
    assert "    @sidecar.synchronizer.classproperty\n    @classmethod\n    def kind(cls) -> str:" in text


def test_external_classes_and_callbacks_in_signatures(folder: Path) -> None:
    lines = lines_of(
        folder,
        "class _Inside: ...\n"
        "class Outside: ...\n"
        "synchronizer.register_external_wrapper_class(_Inside, Outside, translate_in=id, translate_out=id)\n"
        "async def pair(one: _Inside) -> typing.Optional[typing.Tuple[_Inside, typing.List[_Inside]]]: ...\n"
        "pair = synchronizer.wrap(pair, 'pair', __name__)\n",
    )
    assert (
        "    def __call__(self, /, one: Outside) -> typing.Tuple[Outside, typing.List[Outside]] | None:"
        in lines
    )


def test_what_is_offered_again(folder: Path) -> None:
    module(folder, LIBRARY, "pack.inner")
    (folder / "pack" / "__init__.py").write_text("")
    name = module(
        folder,
        "import asyncio\nfrom decimal import Decimal\nfrom pack.inner import square, _square\n"
        "from json import dumps as dumps\n"
        "__all__ = ['square', 'Decimal', 'LIMIT']\n__version__ = '1'\nLIMIT = 3\n",
        "pack.outer",
    )
    lines = stub_of(name).splitlines()
    assert (
        "from pack.inner import square as square" in lines
        and "from decimal import Decimal as Decimal" in lines
    )
    assert not any("_square" in line or "dumps" in line or "asyncio" in line for line in lines)
    assert {"LIMIT: int", "__version__: str", "__all__ = ['square', 'Decimal', 'LIMIT']"} <= set(lines)
