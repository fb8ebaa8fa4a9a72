"""The command and CMake each build a plugin that serves (uWSGI's own builder: test_plugin_recipe.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.cli import uwsgi_plugin as recipe

CHECKOUT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def check_serves(serve, uwsgi, folder: Path) -> None:
    command = uwsgi.command("--module", "checked", plugin_folder=folder)
    response = serve(*command, environment=uwsgi.environment).wait_ready().get("/plain")
    assert response.ids == [response.text]


def test_by_the_command(uwsgi, serve):
    check_serves(serve, uwsgi, uwsgi.plugin_folder)


def test_by_cmake(uwsgi, serve, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on PATH")
    tree = tmp_path / "tree"
    run(
        *("cmake", "-S", CHECKOUT, "-B", tree, *(["-G", "Ninja"] if shutil.which("ninja") else [])),
        *(f"-DPython_EXECUTABLE={uwsgi.python}", f"-DSIDECAR_UWSGI={uwsgi.binary}"),
        cwd=tmp_path,
    )
    run("cmake", "--build", tree, "--target", "sidecar_plugin", cwd=tmp_path)
    check_serves(serve, uwsgi, tree)


def test_another_copy_of_pyuwsgi_is_refused(uwsgi, serve, tmp_path):
    """The plugin needs the file it was built for, and would bring a second uWSGI that nobody has started."""
    if "ULEP(pyuwsgi)" not in recipe.ask(uwsgi.binary, "--cflags"):
        pytest.skip(f"{uwsgi.binary} is a program, no extension module")
    module = Path(recipe.libraries("ULEP(pyuwsgi)")[0])
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(module, copy)
    (copy / "pyuwsgi.libs").symlink_to(module.parent / "pyuwsgi.libs")
    folder = tmp_path / "plugin"
    done = subprocess.run(
        [uwsgi.python, "-m", "sidecar", "uwsgi-plugin", "--uwsgi", uwsgi.binary, "--output", folder],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    server = serve(*uwsgi.command("--module", "checked", plugin_folder=folder), environment=uwsgi.environment)
    assert server.wait() == 1
    assert "built for pyuwsgi in another place" in server.log


def test_pyuwsgi_in_another_environment_is_said(monkeypatch):
    monkeypatch.setattr(recipe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(recipe.BuildError, match="this uWSGI is pyuwsgi, and .* has none"):
        recipe.libraries("-DX=ULEP(pyuwsgi);ULEP(python)")
    assert recipe.libraries("-DX=ULEP(python)") == []
