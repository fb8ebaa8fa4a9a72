"""The type hints: the package is strict, the stubs say what the C part has, a consumer gets its types."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sidecar

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None,
    reason="mypy is not installed (there may be none for this Python yet)",
)


def check(tmp_path: Path, *arguments: str) -> None:
    """Run a checker away from the checkout, on the very package that is imported here."""
    environment = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")}
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


def test_package_is_strict(tmp_path: Path) -> None:
    check(tmp_path, "mypy", "--strict", "-p", "sidecar")


def test_consumer_sees_the_types(tmp_path: Path) -> None:
    # Its deliberate mistakes are ignored by name; one that is none any more is an unused ignore, an error.
    check(tmp_path, "mypy", "--strict", str(HERE / "consumer.py"))


# Modules that cannot be imported without a package, which is not to be had for every Python (gevent has no wheel for
# free-threaded CPython). An entry that is not needed is an error to stubtest: where the package is, they are checked.
NEEDED = {
    "sidecar._gevent": "gevent",
    "sidecar._opentelemetry": "opentelemetry",
    "sidecar.django": "django",
    "sidecar.flask": "flask",
    "sidecar.gunicorn_log": "gunicorn",
}


# What stubtest cannot see through: another's function under our name, a decorator's result, an alias of a type.
OPAQUE = (
    "sidecar.compat.asgiref.sync._P",
    "sidecar.compat.asgiref.sync.iscoroutinefunction",
    "sidecar.compat.asgiref.typing.ASGI2Application",
    "sidecar.compat.asgiref.wsgi.WsgiToAsgiInstance.run_wsgi_app",
)


def test_stubs_match_the_binary(tmp_path: Path) -> None:
    # On 3.9 mypy takes what a Python module imports for what it offers; the one stub file is the C part's.
    if sys.version_info < (3, 10):
        check(tmp_path, "mypy.stubtest", "--concise", "sidecar._core")
        return
    absent = [module for module, package in NEEDED.items() if importlib.util.find_spec(package) is None]
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("".join(name.replace(".", "[.]") + "\n" for name in (*absent, *OPAQUE)))
    check(tmp_path, "mypy.stubtest", "--concise", "--allowlist", str(allowed), "sidecar")
