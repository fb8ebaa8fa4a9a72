"""``python -m sidecar uwsgi-plugin``: what it builds, prints and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.cli import uwsgi_plugin as recipe

SCRIPT = Path(recipe.__file__)


def run(
    *arguments: object, python: Path | str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "sidecar", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def build(uwsgi, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """With the interpreter that this uWSGI runs: another one is refused first."""
    return run("uwsgi-plugin", "--uwsgi", uwsgi.binary, "--output", folder, python=uwsgi.python, **environment)


def fake_uwsgi(folder: Path, script: str) -> Path:
    path = folder / "uwsgi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_command_is_needed():
    done = run()
    assert done.returncode == 2
    assert "uwsgi-plugin" in run("--help").stdout
    assert run("no-such-command").returncode == 2


def test_it_prints_the_lines_to_paste(uwsgi, tmp_path):
    command = [uwsgi.python, SCRIPT, "--uwsgi", uwsgi.binary, "--output", tmp_path / "a folder", "--strict"]
    # As CMake runs it: a script, with no sidecar to import.
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    plugin = tmp_path / "a folder" / "sidecar_plugin.so"
    assert plugin.exists()
    assert f"built {plugin} for {uwsgi.binary}" in done.stdout
    plugins = "sidecar" if uwsgi.is_embedded else f"{uwsgi.python_plugin}, sidecar"
    assert f"[uwsgi]\nplugins-dir = {plugin.parent}\nplugin = {plugins}\n" in done.stdout
    assert os.listdir(plugin.parent) == ["sidecar_plugin.so"]


def test_the_plugin_exports_one_symbol(uwsgi):
    command = ["nm", "-D", "--defined-only", uwsgi.plugin_folder / "sidecar_plugin.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The linker's own marks, where it links a library that has them, too (pyuwsgi).
    marks = {"__bss_start", "_edata", "_end"}
    assert {line.split()[-1] for line in done.stdout.splitlines()} - marks == {"sidecar_plugin"}


def test_the_uwsgi_beside_the_interpreter_comes_first(tmp_path, monkeypatch):
    beside = fake_uwsgi(tmp_path, "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert recipe.find_uwsgi(None) == beside
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert recipe.find_uwsgi(None) == beside
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(recipe.BuildError, match="no uWSGI beside .* and none on PATH"):
        recipe.find_uwsgi(None)


def test_a_binary_that_is_not_there(tmp_path):
    done = run("uwsgi-plugin", "--uwsgi", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    said = f"sidecar: no uWSGI at {tmp_path / 'none'}: name an executable file with --uwsgi PATH\n"
    assert done.stderr == said


def test_a_binary_that_is_no_uwsgi(tmp_path):
    done = run("uwsgi-plugin", "--uwsgi", fake_uwsgi(tmp_path, "echo what; exit 3"), "--output", tmp_path)
    assert done.returncode == 1
    assert "--cflags failed: is it a uWSGI binary? It said: what" in done.stderr


def test_a_uwsgi_without_python(tmp_path):
    flags = f'-DUWSGI_PLUGIN_DIR="\\\\"{tmp_path}\\\\""'
    done = run("uwsgi-plugin", "--uwsgi", fake_uwsgi(tmp_path, f"echo '{flags}'"), "--output", tmp_path)
    assert done.returncode == 1
    assert "has no Python: neither built in, nor as a plugin" in done.stderr
    assert "apt install uwsgi-plugin-python3" in done.stderr


def test_a_uwsgi_with_another_python(tmp_path):
    script = 'case "$1" in --python-version) echo 3.1.4;; *) echo "-DX=ULEP(python)";; esac'
    done = run("uwsgi-plugin", "--uwsgi", fake_uwsgi(tmp_path, script), "--output", tmp_path)
    assert done.returncode == 1
    assert "runs Python 3.1.4, and this is Python 3." in done.stderr
    assert "build the plugin with python3.1" in done.stderr


def test_no_compiler(uwsgi, tmp_path):
    done = build(uwsgi, tmp_path, CC="no-such-compiler")
    assert done.returncode == 1
    assert "the compiler that CC names is not there: no-such-compiler" in done.stderr


def test_no_compiler_on_the_path(tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(recipe.BuildError, match="no C compiler .*apt install gcc"):
        recipe.find_compiler()


def test_no_python_header(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(recipe.BuildError, match=f"no Python.h in {tmp_path}.*apt install python3"):
        recipe.find_python_header()


def test_a_compiler_that_fails(uwsgi, tmp_path):
    done = build(uwsgi, tmp_path, CC="false")
    assert done.returncode == 1
    assert "the compiler refused the plugin:\nfalse -shared" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written(uwsgi, tmp_path):
    (tmp_path / "file").write_text("")
    done = build(uwsgi, tmp_path / "file")
    assert done.returncode == 1
    assert f"cannot write {tmp_path / 'file' / 'sidecar_plugin.so'}" in done.stderr


def test_machines_without_the_libraries_headers(uwsgi, tmp_path):
    """The stand-ins describe the same structs as the headers that are here."""
    program = """
        #include <uwsgi.h>
        #include <stddef.h>
        #include <stdio.h>
        int main(void)
        {
            printf("%zu %zu %zu %zu %zu", sizeof(struct uwsgi_server), sizeof(struct wsgi_request),
                   sizeof(struct uwsgi_app), offsetof(struct uwsgi_server, cores),
                   offsetof(struct wsgi_request, additional_headers));
            return 0;
        }
    """
    (tmp_path / "uwsgi.h").write_text(recipe.ask(uwsgi.binary, "--dot-h"), encoding="latin-1")
    (tmp_path / "main.c").write_text(program)
    recipe.write_stand_ins(tmp_path / "stand-ins")
    flags = recipe.layout_flags(recipe.ask(uwsgi.binary, "--cflags"))
    sizes = []
    for first in ("-idirafter", "-isystem"):
        command = ["cc", "-D_GNU_SOURCE", *flags, f"-I{tmp_path}", first, str(tmp_path / "stand-ins")]
        command += [str(tmp_path / "main.c"), "-o", str(tmp_path / "main")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sizes.append(subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout)
    assert sizes[0] == sizes[1]


def test_the_sources_are_found():
    sources, include = recipe.find_folders()
    assert (sources / "plugin.c").exists()
    assert (include / "sidecar.h").exists()


def test_uwsgis_own_builder(uwsgi, tmp_path, serve):
    """``uwsgi --build-plugin`` makes the same of the installed sources."""
    sources, _ = recipe.find_folders()
    folder = tmp_path / "a folder"
    folder.mkdir()
    done = subprocess.run(
        [uwsgi.binary, "--build-plugin", sources],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHON": str(uwsgi.python)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "sidecar_plugin.so").exists()
    command = uwsgi.command("--module", "checked", plugin_folder=folder)
    response = serve(*command, environment=uwsgi.environment).wait_ready().get("/plain")
    assert response.ids == [response.text]
