"""Each project's own tests, from its source distribution, and an environment with what they need."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import venv
from pathlib import Path

from compat.project import Project

# pytest notes each test in os.environ, while this runs in threads.
_ENVIRONMENT = dict(os.environ)
_fetching = threading.Lock()


def folder() -> Path:
    """What is fetched and installed stays there."""
    named = os.environ.get("SIDECAR_COMPAT_FOLDER")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "build" / "compat" / "fetched"


def fetched(project: Project, python: str) -> Path:
    """The folder of its source distribution, unpacked. Several projects may have the same."""
    wanted = project.sdist_for(python)
    place = folder() / "sources" / wanted
    with _fetching:
        return _unpacked(wanted, place)


def _unpacked(wanted: str, place: Path) -> Path:
    if not place.exists():
        archives = place.with_name(wanted + ".archive")
        # Only this one as its source, not what builds it.
        _pip("download", "--no-deps", "--no-binary", wanted.partition("==")[0], "--dest", str(archives), wanted)
        (archive,) = archives.glob("*.tar.gz")
        new = place.with_name(wanted + ".new")
        shutil.rmtree(new, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(new, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (inner,) = new.iterdir()
        inner.rename(place)
        shutil.rmtree(new)
    return place


def copied(project: Project, python: str, where: Path) -> None:
    """Its tests, and not the package that they are about."""
    source = fetched(project, python)
    for name in (*project.tests, *project.also):
        target = where / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target)
        else:
            shutil.copy(source / name, target)


def environment(project: Project, python: str) -> Path:
    """The interpreter of an environment that has what its tests need, and no Sidecar."""
    needs = ["pytest", "pytest-timeout", *project.needs]
    of = "\n".join([sys.executable, sys.version, *needs])
    place = folder() / "environments" / f"{project.name}-{python}-{hashlib.sha256(of.encode()).hexdigest()[:8]}"
    interpreter = place / "bin" / "python"
    if not (place / ".whole").exists():
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, symlinks=True)
        _pip("--python", str(interpreter), "install", *needs)
        (place / ".whole").touch()
    return interpreter


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
