"""For ``uwsgi --build-plugin``: the same recipe as ``python -m sidecar uwsgi-plugin``.

uWSGI runs this with the Python that ``$PYTHON`` names; it must be the one whose headers the plugin needs. It has
written its header beside where it was started, and has its flags in the environment.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

# uWSGI gives no file name: the folder is what its command names.
SOURCES = Path(sys.argv[sys.argv.index("--extra-plugin") + 1]).resolve()
BUILDER = Path(".uwsgi_plugins_builder").resolve()


def load_recipe():
    for path in (SOURCES.parent / "cli", SOURCES.parent / "sidecar" / "cli"):
        if (path / "uwsgi_plugin.py").exists():
            spec = importlib.util.spec_from_file_location("sidecar_recipe", path / "uwsgi_plugin.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise SystemExit(f"sidecar: no recipe beside {SOURCES}: install sidecar again")


recipe = load_recipe()
header = (BUILDER / "uwsgi.h").read_bytes().decode("latin-1")
flags = os.environb[b"UWSGI_PLUGINS_BUILDER_CFLAGS"].decode("latin-1")
recipe.write_stand_ins(BUILDER / "stand-ins")

NAME = "sidecar"
GCC_LIST = sorted(path.stem for path in SOURCES.glob("*.c"))
CFLAGS = [
    "-std=gnu11",
    "-fvisibility=hidden",
    "-D_GNU_SOURCE",
    # uWSGI hands them to a shell.
    *map(shlex.quote, recipe.defines(header, flags, "uwsgi --build-plugin")),
    *(
        f"{option} {shlex.quote(str(folder))}"
        for option, folder in (
            ("-isystem", BUILDER),
            ("-isystem", recipe.find_python_header()),
            ("-idirafter", BUILDER / "stand-ins"),
            ("-I", SOURCES),
            ("-I", recipe.find_folders()[1]),
        )
    ),
]
LDFLAGS = []
LIBS = []
# Where Python is a plugin of uWSGI's, it is loaded first.
REQUIRES = [] if "ULEP(python)" in flags else ["python3"]
