"""The wrappers' and run_cpu's types, as mypy and pyright see them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sidecar

CHECKED = sorted((Path(__file__).resolve().parents[1] / "typing").glob("*.py"))
PACKAGES = Path(sidecar.__file__).parents[1]


def needs(checker: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(checker) is None,
        reason=f"{checker} is not installed (there may be none for this Python yet)",
    )


def check(tmp_path: Path, *arguments: str) -> None:
    environment = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(arguments)} on {sidecar.__file__}:\n{done.stdout}{done.stderr}"


@needs("mypy")
def test_mypy(tmp_path: Path) -> None:
    check(tmp_path, "mypy", "--strict", *map(str, CHECKED))


@needs("basedpyright")
def test_pyright(tmp_path: Path) -> None:
    configuration = {
        "include": [str(file) for file in CHECKED],
        "extraPaths": [str(PACKAGES)],
        "pythonVersion": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "typeCheckingMode": "strict",
        # mypy's ignores are not pyright's; and one that ignores nothing is an error.
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    path = tmp_path / "pyrightconfig.json"
    path.write_text(json.dumps(configuration))
    check(tmp_path, "basedpyright", "--project", str(path))
