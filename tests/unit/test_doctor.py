"""``python -m sidecar doctor``: what is found, and what is said to be wrong."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest

import sidecar
from sidecar.__main__ import main
from sidecar._options import OPTIONS, VARIABLES
from sidecar.cli import doctor


@pytest.fixture
def ask(monkeypatch, capsys):
    """Its rows by name, and the exit status, with these options in the environment and no others."""

    def ask(**variables: str) -> tuple[dict[str, str], int]:
        for name in list(doctor.os.environ):
            if name.startswith("SIDECAR_"):
                monkeypatch.delenv(name)
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        status = main(["doctor"])
        lines = capsys.readouterr().out.splitlines()
        rows = (line.strip().partition("  ") for line in lines if line.startswith("  "))
        return {name.strip(): text.strip() for name, _, text in rows}, status

    return ask


def test_the_interpreter(ask):
    rows, status = ask()
    assert status == 0
    assert platform.python_version() in rows["Python"] and "GIL" in rows["Python"]
    assert rows["Sidecar"].startswith(sidecar.__version__)
    assert rows["(none is set)"]


def test_each_variable_is_read(ask):
    good = {
        "SIDECAR_REQUEST_ID_HEADER": "X-Trace",
        "SIDECAR_TRUST": "10.0.0.0/8",
        "SIDECAR_DEADLINE": "2.5",
        "SIDECAR_DEADLINE_HEADER": "X-Timeout",
        "SIDECAR_DEADLINE_MARGIN": "2",
        "SIDECAR_DISCONNECT": "reset",
        "SIDECAR_CLEANUP_TIMEOUT": "1",
        "SIDECAR_WORKERS": "3",
        "SIDECAR_MAX_CALLS": "7",
        "SIDECAR_MAX_QUEUE": "5",
        "SIDECAR_QUEUE_WAIT": "1",
        "SIDECAR_CPU": "processes",
        "SIDECAR_CPU_WORKERS": "2",
        "SIDECAR_NAME": "shop",
        "SIDECAR_SHUTDOWN_TIMEOUT": "2",
    }
    assert set(good) == set(VARIABLES) and len(OPTIONS) == 6
    rows, status = ask(**good)
    assert status == 0
    assert {name: rows[name] for name in good} == good


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SIDECAR_TRUST", "everybody"),
        ("SIDECAR_DEADLINE", "soon"),
        ("SIDECAR_DEADLINE_MARGIN", "some"),
        ("SIDECAR_DISCONNECT", "perhaps"),
        ("SIDECAR_MAX_CALLS", "0"),
        ("SIDECAR_REQUEST_ID_HEADER", "two words"),
    ],
)
def test_what_is_wrong_is_named(ask, name, text):
    rows, status = ask(**{name: text, "SIDECAR_MAX_QUEUE": "3"})
    assert status == 1
    assert rows[name].startswith("WRONG") and text in rows[name]
    assert rows["SIDECAR_MAX_QUEUE"] == "3"


def test_a_name_that_is_nearly_right(ask):
    rows, status = ask(SIDECAR_TRSUT="always", SIDECAR_OF_SOMEBODY_ELSES_MOTORCYCLE="red")
    assert status == 1
    assert rows["SIDECAR_TRSUT"].endswith("SIDECAR_TRUST?")
    assert rows["SIDECAR_OF_SOMEBODY_ELSES_MOTORCYCLE"] == "no option of Sidecar's"


def test_servers_that_hide_the_connection_are_shown(ask, monkeypatch):
    numbers = {"gunicorn": "25.0", "waitress": "3.0"}

    def version(name: str) -> str:
        if name in numbers:
            return numbers[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    rows, status = ask()
    assert status == 0
    assert rows["gunicorn 25.0"].startswith("yes")
    assert rows["waitress 3.0"].startswith("no: it shows no descriptor")
    assert not any(name.startswith("granian") for name in rows)
    assert rows["OpenTelemetry"].startswith("not installed")
    numbers.clear()
    assert "(no server is installed)" in ask()[0]
