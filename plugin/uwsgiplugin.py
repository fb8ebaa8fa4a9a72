"""For ``uwsgi --build-plugin``: the same recipe as ``python -m sidecar uwsgi-plugin``.

uWSGI runs this with the Python that ``$PYTHON`` names; it must be the one whose headers the plugin needs. It has
written its header beside where it was started, and has its flags in the environment. It reads ``NAME``, ``GCC_LIST``
and so on from here.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any


def load_recipe(sources: Path) -> Any:
    for folder in (sources.parent / "cli", sources.parent / "sidecar" / "cli"):
        spec = importlib.util.spec_from_file_location("sidecar_recipe", folder / "uwsgi_plugin.py")
        if spec is not None and spec.loader is not None and (folder / "uwsgi_plugin.py").exists():
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise SystemExit(f"sidecar: no recipe beside {sources}: install sidecar again")


def options_of(recipe: Any, sources: Path, builder: Path, flags: str) -> list[str]:
    """For the compiler; uWSGI hands them to a shell."""
    header = (builder / "uwsgi.h").read_bytes().decode("latin-1")
    recipe.write_stand_ins(builder / "stand-ins")
    folders = (
        ("-isystem", builder),
        ("-isystem", recipe.find_python_header()),
        ("-idirafter", builder / "stand-ins"),
        ("-I", sources),
        ("-I", recipe.find_folders()[1]),
    )
    return [
        "-std=gnu11",
        "-fvisibility=hidden",
        "-D_GNU_SOURCE",
        *map(shlex.quote, recipe.defines(header, flags, "uwsgi --build-plugin")),
        *(f"{option} {shlex.quote(str(folder))}" for option, folder in folders),
    ]


NAME = "sidecar"
GCC_LIST: list[str] = []
CFLAGS: list[str] = []
LDFLAGS: list[str] = []
LIBS: list[str] = []
REQUIRES: list[str] = []

# uWSGI gives no file name: the folder is what its command names. Imported by whoever else, this does nothing.
if "--extra-plugin" in sys.argv:
    _sources = Path(sys.argv[sys.argv.index("--extra-plugin") + 1]).resolve()
    _flags = os.environb[b"UWSGI_PLUGINS_BUILDER_CFLAGS"].decode("latin-1")
    GCC_LIST = sorted(path.stem for path in _sources.glob("*.c"))
    _recipe = load_recipe(_sources)
    CFLAGS = options_of(_recipe, _sources, Path(".uwsgi_plugins_builder").resolve(), _flags)
    LIBS = [shlex.quote(path) for path in _recipe.libraries(_flags)]
    # Where Python is a plugin of uWSGI's, it is loaded first.
    REQUIRES = [] if "ULEP(python)" in _flags else ["python3"]
