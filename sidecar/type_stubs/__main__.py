"""``python -m sidecar.type_stubs``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidecar.type_stubs import StubError
from sidecar.type_stubs.emit import emitted_stub_text, emitted_text
from sidecar.type_stubs.files import difference, imported, place_of_stub, stub_text, write

_DESCRIPTION = """\
Write stubs (.pyi) for modules that hold wrappers of a Synchronizer, of to_async and to_sync, so that type checkers
and editors know both faces of them. The modules are imported.
"""
_EPILOG = """\
A stub is written beside its module, or below --out as the package would have it. The current folder is on the path.
Exit status: 0; with --check 1 where a file is not as it should be; 2 where a module is bad.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m sidecar.type_stubs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "modules", nargs="+", metavar="MODULE", help="full name of a module, as import takes it"
    )
    made.add_argument("-o", "--out", metavar="FOLDER", type=Path, help="write below this folder")
    made.add_argument(
        "--emit",
        metavar="NAME",
        help="write a readable module NAME that offers what MODULE does, and its stub, below --out (default: .)",
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing; show what would change, status 1 if any"
    )
    made.add_argument("--print", action="store_true", help="write to standard output, not to files")
    return made


def files(options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The files that are wanted, with their text."""
    for name in options.modules:
        module = imported(name)
        if options.emit is None:
            path = Path(f"{name}.pyi") if options.print else place_of_stub(module, options.out)
            yield path, stub_text(module)
            continue
        path = (options.out or Path()).joinpath(*options.emit.split(".")).with_suffix(".py")
        yield path, emitted_text(module, options.emit)
        yield path.with_suffix(".pyi"), emitted_stub_text(module, options.emit)


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser()
    options = made.parse_args(arguments)
    if options.emit is not None and len(options.modules) > 1:
        made.error("--emit takes one module")
    if options.emit is not None and (
        options.emit in options.modules or not all(part.isidentifier() for part in options.emit.split("."))
    ):
        made.error(f"--emit {options.emit}: the name of another module is wanted")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    stale = False
    try:
        for path, text in files(options):
            if options.print:
                sys.stdout.write(text)
            elif options.check:
                found = difference(path, text)
                sys.stdout.write(found)
                stale = stale or bool(found)
            else:
                print(f"{path}: {'written' if write(path, text) else 'unchanged'}")
    except StubError as error:
        print(f"{made.prog}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{made.prog}: {error}", file=sys.stderr)
        return 2
    return 1 if stale else 0


if __name__ == "__main__":
    warnings.simplefilter("default")
    sys.exit(main())
