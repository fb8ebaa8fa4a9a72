"""The table of options: what is generated of it, what it takes, and what wins."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sidecar
from sidecar import _option_table, _options
from sidecar import gunicorn as hooks
from sidecar._option_table import BY_NAME, TABLE, Option, nearest

ROOT = Path(__file__).parents[2]
SECRET = Option("pass_phrase", "text", "server", "what it is", "none", secret=True)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SIDECAR_"):
            monkeypatch.delenv(name)


# -- the table ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "make"),
    [("plugin/option_table.h", _option_table.c_header), ("docs/reference/options.md", _option_table.reference)],
)
def test_what_is_generated_is_up_to_date(path: str, make: Any) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == make(), "python -m sidecar._option_table --write"


def test_the_command_writes_and_compares(tmp_path: Path) -> None:
    script = [sys.executable, _option_table.__file__, "--root", str(tmp_path)]
    for folder in ("plugin", "docs/reference"):
        (tmp_path / folder).mkdir(parents=True)
    missing = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert missing.returncode == 1 and missing.stdout.count("is not up to date") == 2
    assert subprocess.run([*script, "--write"], timeout=60).returncode == 0
    assert subprocess.run(script, timeout=60).returncode == 0
    (tmp_path / "plugin/option_table.h").write_text("edited by hand")
    assert subprocess.run(script, capture_output=True, timeout=60).returncode == 1


def test_each_row_configures_what_it_says() -> None:
    bridge = inspect.signature(sidecar.Sidecar).parameters
    for option in TABLE:
        if option.configures == "request":
            value = 5.0 if option.kind == "seconds" else option.value or "X-Some"
            sidecar.Policy(**{option.name: value})
        elif option.configures == "bridge":
            default = bridge[option.name].default
            assert default == option.value or default is None, option.name
        else:
            assert option.name == "deadline_margin"
    assert all(option.configures == "request" for option in TABLE if option.by_mount)


def test_names_in_every_style() -> None:
    option = BY_NAME["deadline_margin"]
    assert (option.uwsgi, option.variable) == ("sidecar-deadline-margin", "SIDECAR_DEADLINE_MARGIN")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sidecar-max-call", "sidecar-max-calls"),
        ("sidecar-timeout", "sidecar-cleanup-timeout"),
        ("sidecar_trsut", "sidecar-trust"),
        ("SIDECAR_WORKER", "sidecar-workers"),
        ("sidecar-motorcycle", None),
    ],
)
def test_the_nearest_name(written: str, meant: str | None) -> None:
    assert nearest(written, [option.uwsgi for option in TABLE]) == meant


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", " 8 ", 8),
        ("max_queue", "0", 0),
        ("deadline", "2.5", 2.5),
        ("deadline", "1e1", 10.0),
        ("deadline", "86400", 86400.0),
        ("disconnect", "off", "off"),
        ("trust", "10.0.0.0/8, fd00::/8", "10.0.0.0/8, fd00::/8"),
    ],
)
def test_texts_that_are_taken(name: str, text: str, value: object) -> None:
    assert BY_NAME[name].parse(text) == value
    assert _options.take(BY_NAME[name], "x", text) == value


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("workers", "8.0", "must be a whole number, not '8.0'"),
        ("workers", "1_0", "must be a whole number, not '1_0'"),
        ("workers", "٣", "must be a whole number"),
        ("workers", "0", "must be a whole number from 1 on, not '0'"),
        ("deadline", "nan", "must be a number of seconds from 0 to 86400, not 'nan'"),
        ("deadline", "inf", "must be a number of seconds"),
        ("deadline", "86401", "must be a number of seconds from 0 to 86400"),
        ("deadline", "-1", "must be a number of seconds"),
        ("cleanup_timeout", "0x10", "must be a number of seconds"),
        ("disconnect", "never", "must be close, reset or off, not 'never'"),
        ("name", "a\nb", "must be a line of text that is not empty"),
        ("name", "", "must be a line of text that is not empty"),
    ],
)
def test_texts_that_are_not_taken(name: str, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="^" + reason.replace("(", r"\(")):
        BY_NAME[name].parse(text)
    with pytest.raises(ValueError, match="^sidecar-x = "):
        _options.take(BY_NAME[name], "sidecar-x", text)


@pytest.mark.parametrize(("name", "value"), [("workers", True), ("deadline", True), ("trust", 5), ("workers", 1.0)])
def test_values_of_another_type(name: str, value: object) -> None:
    with pytest.raises(TypeError, match="must be"):
        BY_NAME[name].check(value)


# -- what wins ------------------------------------------------------------------------


def test_given_then_environment_then_default() -> None:
    environ = {"SIDECAR_WORKERS": "3", "SIDECAR_MAX_CALLS": "7"}
    settings = _options.resolve({"workers": 8}, environ)
    assert (settings["workers"].value, settings["workers"].source) == (8, "option")
    assert (settings["max_calls"].value, settings["max_calls"].source) == (7, "environment")
    assert (settings["max_queue"].value, settings["max_queue"].source) == (65536, "default")
    assert _options.arguments_of(settings, "bridge") == {"workers": 8, "max_calls": 7}
    assert _options.arguments_of(settings, "request") == {}


@pytest.mark.parametrize(
    ("variables", "limit", "deadline"),
    [
        ({}, 30, 29.0),
        ({"SIDECAR_DEADLINE_MARGIN": "2.5"}, 30, 27.5),
        ({"SIDECAR_DEADLINE": "3"}, 30, 3.0),
        ({"SIDECAR_DEADLINE": "0"}, 30, None),
        ({}, 1, None),
        ({}, 0, None),
        ({}, None, None),
    ],
)
def test_a_deadline_is_derived_from_the_servers_limit(
    variables: dict[str, str], limit: float | None, deadline: float | None
) -> None:
    expected = {} if deadline is None else {"deadline": deadline}
    assert _options.request_options(variables, limit) == expected


def test_a_variable_of_the_bridge_does_not_hinder_requests() -> None:
    assert _options.request_options({"SIDECAR_WORKERS": "none"}) == {}
    assert _options.bridge_options({"SIDECAR_TRUST": "everybody", "SIDECAR_NAME": "shop"}) == {"name": "shop"}
    assert _options.bridge_options({"SIDECAR_SHUTDOWN_TIMEOUT": "2.5"}) == {"shutdown_timeout": 2.5}


def lines(given: dict[str, Any], environ: dict[str, str], limit: int = 0) -> list[str]:
    bound = _options.Limit(limit, "harakiri")
    return list(_options.lines_of(_options.resolve(given, environ, bound), bound))


def test_what_is_logged() -> None:
    assert lines({}, {}) == ["configuration: all defaults"]
    assert lines({"workers": 8}, {"SIDECAR_TRUST": "always"}, 30) == [
        "configuration: trust = always (environment)",
        "configuration: deadline = 29 s (harakiri less the margin)",
        "configuration: workers = 8 (option)",
    ]
    assert lines({"deadline": 0.0}, {}) == ["configuration: deadline = no limit (option)"]


def test_what_does_not_go_together_is_logged() -> None:
    assert lines({}, {}, 1)[-1] == (
        "configuration: requests have no deadline, for harakiri (1 s) is not above the margin (1 s): set deadline or "
        "deadline_margin"
    )
    late = "configuration: deadline = 60 s is not below harakiri (30 s), which ends the worker first"
    assert lines({"deadline": 60.0}, {}, 30)[-1] == late
    assert "deadline = no limit is not below harakiri" in lines({"deadline": 0.0}, {}, 30)[-1]
    assert len(lines({"deadline": 29.5}, {}, 30)) == 1


def test_a_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_options, "TABLE", (SECRET,))
    settings = _options.resolve({"pass_phrase": "sesame"}, {})
    assert list(_options.lines_of(settings)) == ["configuration: pass_phrase = **** (option)"]
    number = dataclasses.replace(SECRET, kind="count")
    for refuse in (
        lambda: _options.take(number, "sidecar-pass-phrase", "sesame"),
        lambda: _options._read(number, "sesame"),
    ):
        with pytest.raises(ValueError) as refused:
            refuse()
        assert "sesame" not in str(refused.value)


# -- overrides ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("deadline=30,trust=always", {"deadline": 30.0, "trust": "always"}),
        ("trust=10.0.0.0/8, fd00::/8 , deadline = 5", {"trust": "10.0.0.0/8,fd00::/8", "deadline": 5.0}),
        ("sidecar-cleanup-timeout=1,disconnect=off", {"cleanup_timeout": 1.0, "disconnect": "off"}),
        ("cleanup-timeout=0", {"cleanup_timeout": 0.0}),
        ("deadline=0", {"deadline": None}),
    ],
)
def test_overrides(text: str, options: dict[str, Any]) -> None:
    into: dict[str, Any] = {"deadline": 29.0, "request_id_header": "X-Id"}
    _options.parse_overrides(text, into)
    assert into == {"deadline": 29.0, "request_id_header": "X-Id", **options}
    sidecar.Policy(**into)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("deadlin=30", "deadlin is no option of Sidecar's; did you mean deadline"),
        ("deadline=soon", "deadline=soon: must be a number of seconds"),
        ("trust=everybody", "trust=everybody: trust: "),
        ("trust=always,disconnect=never", "disconnect=never: disconnect must be"),
        ("workers=3", "workers is the same for all requests of a worker; may differ: trust, deadline"),
        ("request-id-header=X", "request-id-header is the same for all requests"),
        ("30", "'30' is no list of options"),
        ("", "'' is no list of options"),
        ("=5", " is no option of Sidecar's"),
    ],
)
def test_wrong_overrides(text: str, reason: str) -> None:
    into: dict[str, Any] = {}
    with pytest.raises(ValueError, match=reason):
        _options.parse_overrides(text, into)
    assert into == {}


# -- uWSGI's ----------------------------------------------------------------------------


def test_uwsgis_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_TRUST", "always")
    monkeypatch.setenv("SIDECAR_WORKERS", "9")
    made = _options.UWSGI({"workers": "8", "cleanup_timeout": "2"}, ["/api deadline=5,trust=untrusted"], 30)
    assert made.bridge_arguments() == {"workers": 8}
    assert made.policy_arguments("") == {"trust": "always", "deadline": 29.0, "cleanup_timeout": 2.0}
    assert made.policy_arguments("/api")["deadline"] == 5.0
    assert made.policy_arguments("/api/")["trust"] == "untrusted"
    assert made.policy_arguments("/apis") == made.policy_arguments("/")
    assert made.value("shutdown_timeout") == 5.0
    assert made.lines()[-1] == "configuration of /api: deadline=5,trust=untrusted (sidecar-mount)"


def test_the_mountpoint_of_the_root() -> None:
    made = _options.UWSGI({}, ["/ deadline=5", "/ trust=always"], 0)
    assert made.policy_arguments("") == made.policy_arguments("/") == {"deadline": 5.0, "trust": "always"}


@pytest.mark.parametrize(
    ("given", "mounts", "reason"),
    [
        ({"workers": "0"}, [], "^sidecar-workers = 0: workers must be a whole number from 1 on"),
        ({"trust": "everybody"}, [], "^sidecar-trust = everybody: trust: "),
        ({"request_id_header": "two words"}, [], "^sidecar-request-id-header = two words: "),
        ({}, ["/api"], "^sidecar-mount = /api: expected a mountpoint and options"),
        ({}, ["deadline=5 trust=always"], "expected a mountpoint and options"),
        ({}, ["/api deadline=soon"], "^sidecar-mount = /api deadline=soon: deadline=soon: must be"),
    ],
)
def test_what_uwsgi_refuses(given: dict[str, str], mounts: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _options.UWSGI(given, mounts, 0)


def test_uwsgi_refuses_what_the_environment_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_TRUST", "everybody")
    with pytest.raises(ValueError, match="^SIDECAR_TRUST = everybody: trust: "):
        _options.UWSGI({}, [], 0)


def test_names_that_no_option_took() -> None:
    made = _options.UWSGI({}, [], 0)
    known = ["sidecar-max-calls", "sidecar-mount"]
    made.check_names(["sidecar_folder"], known)
    with pytest.raises(ValueError, match="^sidecar-max-call is no .*; did you mean sidecar-max-calls"):
        made.check_names(["sidecar-max-call"], known)
    with pytest.raises(ValueError, match="^sidecar_max_calls is no .*; did you mean sidecar-max-calls"):
        made.check_names(["sidecar_max_calls"], known)


# -- gunicorn's -------------------------------------------------------------------------


@pytest.fixture
def configure() -> Any:
    yield hooks.configure
    hooks.configure()


def test_configure(configure: Any) -> None:
    configure(workers=8, trust="always")
    assert hooks._configured == {"workers": 8, "trust": "always"}
    sidecar.shutdown()
    assert sidecar.get_bridge()._workers == 8
    configure(max_calls=5)
    sidecar.shutdown()
    assert hooks._configured == {"max_calls": 5}
    assert sidecar.get_bridge()._workers != 8


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"worker": 8}, TypeError, "^worker is no option of Sidecar's; did you mean workers"),
        ({"motorcycle": "red"}, TypeError, "^motorcycle is no option of Sidecar's$"),
        ({"workers": "8"}, ValueError, "^workers: workers must be a whole number"),
        ({"trust": 5}, TypeError, "^trust: trust must be a string"),
        ({"deadline": -1}, ValueError, "^deadline: deadline must be a number of seconds"),
        ({"deadline_margin": "1"}, TypeError, "^deadline_margin: must be a number of seconds"),
        ({"cleanup_timeout": 1e9}, ValueError, "^cleanup_timeout: must be .* from 0 to 3600"),
    ],
)
def test_configure_refuses(configure: Any, options: dict[str, Any], kind: type[Exception], reason: str) -> None:
    configure(max_calls=5)
    with pytest.raises(kind, match=reason):
        configure(**options)
    assert hooks._configured == {"max_calls": 5}
