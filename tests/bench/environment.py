"""A virtual environment for each interpreter that is measured, under ``build/bench``.

Sidecar is built and installed into it anew each time; the peers are installed there and nowhere else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PEERS = ("asgiref", "synchronicity")


def find_python(named: str) -> str:
    """``"3.11"`` is ``python3.11`` on ``PATH``, or pyenv's; else a path or a command. Ends the program if absent."""
    command = f"python{named}" if named[:1].isdigit() else named
    found = shutil.which(command)
    candidates = [found] if found else []
    if named[:1].isdigit() and shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
        candidates += map(str, sorted(Path(root, "versions").glob(f"{named}.*/bin/python3")))
    failed = ""
    for candidate in candidates:
        asked = [candidate, "-c", "import sys; print(sys.executable)"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        failed = f"; {candidate} does not run: {done.stderr.strip()[:200]}"
    sys.exit(f"tests/bench: no {command} that runs: name an interpreter's version or path{failed}")


def prepare(python: str, *packages: str) -> Path:
    """The interpreter of an environment with Sidecar, its peers and ``packages``."""
    tag = "import sys; print(sys.implementation.cache_tag + getattr(sys, 'abiflags', ''))"
    asked = [python, "-c", tag]
    name = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    folder = ROOT / "build" / "bench" / name
    inside = folder / "bin" / "python"
    print(f"preparing {folder.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    if not inside.exists():
        run([python, "-m", "venv", str(folder)])
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, *PEERS, *packages])
    built = f"--config-settings=build-dir={folder / 'sidecar'}"
    run([*pip, "--force-reinstall", "--no-deps", built, str(ROOT)])
    return inside


def build_floor(python: Path) -> Path:
    """Compile ``floor.c`` for the interpreter; the folder to import it from."""
    folder = python.parent.parent
    include = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('include'))"]).strip()
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    compiler = compiler if shutil.which(compiler) else "cc"
    options = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-isystem", include]
    run([compiler, *options, str(HERE / "floor.c"), "-o", str(folder / "floor.so")])
    return folder


def run(command: list[str]) -> str:
    """Its output. Ends the program, with what it said, where it fails.

    It runs away from the checkout, whose ``sidecar`` folder is not the installed package.
    """
    (ROOT / "build").mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=ROOT / "build", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"tests/bench: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
