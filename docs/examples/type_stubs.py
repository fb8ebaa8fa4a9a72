"""Stubs of a module with wrappers, their check, and a readable module of it; see docs/guide/type-stubs.md."""

import asyncio
import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path

from sidecar.type_stubs import write_stub
from sidecar.type_stubs.__main__ import main

LIBRARY = '''
from sidecar import to_async
from sidecar.synchronizer import Synchronizer

synchronizer = Synchronizer(name="library")


@synchronizer.wrap
async def square(x: int) -> int:
    """The number times itself."""
    return x * x


@to_async
class Account:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.balance = 0

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance
'''


def stub() -> None:
    text = write_stub("library").read_text()
    for line in text.splitlines():
        if line.startswith(("square", "    def __call__", "    async def", "    owner")):
            print(line)
    # ->     def __call__(self, /, x: int) -> int:
    # ->     async def aio(self, /, x: int) -> int:
    # -> square: __square_spec
    # ->     owner: str
    # ->     async def deposit(self, amount: int) -> int:
    # ->     async def on_pool(cls, owner: str) -> typing_extensions.Self:


def check(folder: Path) -> None:
    print(main(["--check", "library"]))  # -> 0
    source = folder / "library.pyi"
    source.write_text(source.read_text().replace("x: int", "x: str"))
    with contextlib.redirect_stdout(io.StringIO()) as difference:
        status = main(["--check", "library"])
    print(status)  # -> 1
    print("+    def __call__(self, /, x: int) -> int:" in difference.getvalue().splitlines())  # -> True


def emit(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        main(["library", "--emit", "faces", "--out", str(folder)])
    importlib.invalidate_caches()
    faces = importlib.import_module("faces")
    print(faces.square(3), asyncio.run(faces.square.aio(4)))  # -> 9 16
    print(Path(faces.square.__code__.co_filename).name)  # -> faces.py
    faces.synchronizer.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "library.py").write_text(LIBRARY)
        sys.path.insert(0, name)
        stub()
        check(folder)
        emit(folder)
