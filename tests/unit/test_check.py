"""``python -m sidecar check``: what it finds in configurations of uWSGI's and gunicorn's, and where."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar import _support
from sidecar import gunicorn as hooks
from sidecar.__main__ import main

# By ending: the same configuration.
SAME = {
    "uwsgi.ini": """\
# sidecar-none = 0
[other]
sidecar-none = 0
[uwsgi]
plugin = sidecar
need-app = true
module = shop
; a comment
sidecar-worker=8
  sidecar-deadline  =  soon
sidecar-max-calls = $(CALLS)
""",
    "uwsgi.yaml": """\
other:
  sidecar-none: 0
uwsgi:
  plugin: sidecar
  need-app: true   # a comment
  module: shop

  # sidecar-none: 0

  sidecar-worker: 8
  sidecar-deadline:  soon
  sidecar-max-calls: $(CALLS)
""",
    "uwsgi.json": """\
{
  "other": {"sidecar-none": 0},
  "uwsgi": {
    "plugin": "sidecar",
    "need-app": true,
    "module": "shop",
    "sidecar-worker": 8,
    "sidecar-deadline": "soon",
    "sidecar-max-calls": "$(CALLS)"
  }
}
""",
    "uwsgi.xml": """\
<uwsgi>
  <plugin>sidecar</plugin>
  <need-app/>
  <module>shop</module>
  <!-- <sidecar-none/> -->
  <sidecar-worker>8</sidecar-worker>
  <sidecar-deadline>soon</sidecar-deadline>
  <sidecar-max-calls>$(CALLS)</sidecar-max-calls>
</uwsgi>
""",
}
PLAIN = "plugin = sidecar\nneed-app = true\n"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SIDECAR_"):
            monkeypatch.delenv(name)


Check = Callable[..., "tuple[list[str], int]"]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Its findings, without the file's name, and the exit status; the last line is the sum."""
    monkeypatch.chdir(tmp_path)

    def check(text: str, name: str = "uwsgi.ini", section: str = "") -> tuple[list[str], int]:
        if name.endswith(".ini") and "[uwsgi]" not in text and "[web]" not in text:
            text = f"[uwsgi]\n{text}"
        (tmp_path / name).write_text(text)
        status = main(["check", name + section])
        *found, last = capsys.readouterr().out.splitlines()
        assert last.startswith(f"{name}: ")
        assert all(line.startswith(name) for line in found)
        return [line[len(name) + 1 :] for line in found], status

    return check


@pytest.fixture(params=["PyYAML", "own"])
def yaml_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyYAML":
        pytest.importorskip("yaml", reason="PyYAML is not installed: the own reader reads YAML")
    else:
        monkeypatch.setitem(sys.modules, "yaml", None)


def check_same(check: Check, name: str) -> None:
    text = SAME[name]
    lines = {word: text[: text.index(word)].count("\n") + 1 for word in ("sidecar-worker", "soon", "$(CALLS)")}
    found, status = check(text, name)
    assert status == 1
    assert found == [
        f"{lines['sidecar-worker']}: error: sidecar-worker is no option of Sidecar's; did you mean sidecar-workers?",
        f"{lines['soon']}: error: sidecar-deadline = soon: must be a number of seconds from 0 to 86400, not 'soon'",
        f"{lines['$(CALLS)']}: note: sidecar-max-calls = $(CALLS): not judged, for uWSGI fills it in at its start",
    ]


@pytest.mark.parametrize("name", ["uwsgi.ini", "uwsgi.json", "uwsgi.xml"])
def test_each_form(check: Check, name: str) -> None:
    check_same(check, name)


def test_yaml(check: Check, yaml_reader: None) -> None:
    check_same(check, "uwsgi.yaml")


def test_a_list_in_yaml(check: Check, yaml_reader: None) -> None:
    text = "uwsgi:\n  need-app: true\n  plugin:\n    - python3\n    - sidecar\n  sidecar-workers: 0\n"
    found, status = check(text, "uwsgi.yml")
    assert status == 1
    assert found[1].startswith("6: error: sidecar-workers = 0: ")
    assert found[0].startswith("4: note: plugin is a list: a uWSGI without libyaml, as pip's is, stops reading there")
    assert len(found) == 2


def test_quotes_in_yaml(check: Check, yaml_reader: None) -> None:
    text = "uwsgi:\n  plugin: sidecar\n  need-app: true\n  sidecar-trust: 'always'\n  \"sidecar-workers\": 3\n"
    found, status = check(text, "uwsgi.yml")
    assert status == 0
    assert len(found) == 1 and found[0].startswith("4: note: sidecar-trust is in quotes: ")


def test_lists_in_json(check: Check) -> None:
    text = '{"uwsgi": {"plugins": ["python3", "sidecar"], "need-app": true, "sidecar-mount": ["/a x=1", "/b"]}}'
    found, _ = check(text, "uwsgi.json")
    assert [line for line in found if "x is no option" in line] and [line for line in found if "/b: expected" in line]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("uwsgi.ini", "[web]\nplugin = sidecar\n", " error: has no section 'uwsgi'"),
        ("uwsgi.yaml", "web:\n  plugin: sidecar\n", " error: has no section 'uwsgi'"),
        ("uwsgi.json", '{"uwsgi": 5}', " error: has no section 'uwsgi'"),
        ("uwsgi.json", '{"uwsgi": {\n"a" 5}}', "2: error: is no JSON: "),
        ("uwsgi.xml", "<uwsgi>\n<a></uwsgi>", "2: error: is no XML: mismatched tag"),
        ("uwsgi.xml", "<web/>", " error: has no section 'uwsgi'"),
        ("uwsgi.toml", "", " error: is no configuration that is known by its ending: .ini, .yaml"),
    ],
)
def test_files_that_are_none(check: Check, name: str, text: str, reason: str) -> None:
    found, status = check(text, name)
    assert status == 1
    assert len(found) == 1 and found[0].startswith(reason)


def test_yaml_that_is_none(check: Check, yaml_reader: None) -> None:
    found, status = check("uwsgi:\n  plugin: sidecar\n  what\n  is: this\n", "uwsgi.yaml")
    assert status == 1
    assert "error: is no" in found[0]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("none.ini", "none.py"):
        assert main(["check", str(tmp_path / name)]) == 1
        assert "error: cannot be read: No such file" in capsys.readouterr().out


def test_another_section(check: Check) -> None:
    text = "[uwsgi]\nsidecar-none = 1\n[web]\n" + PLAIN
    assert check(text)[1] == 1
    assert check(text, section=":web") == ([], 0)


def test_nothing_to_say(check: Check) -> None:
    text = """
plugin = python3, sidecar
module = shop
need-app = true
single-interpreter = true
mount = /api=api:app
harakiri = 30
sidecar-deadline-margin = 2
sidecar-trust = 10.0.0.0/8, fd00::/8
sidecar-mount = /api/ deadline=5,trust=always
sidecar_folder = /srv
set-placeholder = sidecar-x=1
"""
    assert check(text) == ([], 0)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("sidecar_max_calls = 5", "4: error: sidecar_max_calls is no option of Sidecar's; did you mean sidecar-max"),
        ("sidecar-workers = 0", "4: error: sidecar-workers = 0: workers must be a whole number from 1 on"),
        ("sidecar-mount = /api", "4: error: sidecar-mount = /api: expected a mountpoint and options, such as /api"),
        ("sidecar-mount = / workers=3", "4: error: sidecar-mount = / workers=3: workers is the same for all requests"),
        ("sidecar-mount = /api deadline=3", "4: warning: sidecar-mount = /api deadline=3: no `mount` here has that"),
        ("sidecar-name = %n", "4: note: sidecar-name = %n: not judged"),
        ("sidecar-name = @(name.txt)", "4: note: sidecar-name = @(name.txt): not judged"),
        ("sidecar-name = %(shop)", "4: note: sidecar-name = %(shop): not judged"),
        ("include = more.ini", "4: note: more.ini is not looked at: check it, too"),
        ("ugreen = true", "4: warning: ugreen: its requests get no scope from the plugin; use gevent or threads"),
        ("harakiri = 1", "4: warning: harakiri = 1 is not above the margin (1 s): requests have no deadline"),
        ("harakiri = 9\nsidecar-deadline-margin = 9", "4: warning: harakiri = 9 is not above the margin (9 s)"),
        ("harakiri = 9\nsidecar-deadline = 9", "4: warning: harakiri = 9 ends a worker before the deadline (9 s) ends"),
        ("harakiri = 9\nsidecar-deadline = 0", "4: warning: harakiri = 9 ends a worker before the deadline (no limit)"),
        ("module = a\nmount = /b=b", "5: warning: there are several applications and no `single-interpreter = true`"),
        ("mount = /a=a\nmount = /b=b", "5: warning: there are several applications and no `single-interpreter"),
        ("plugin = python3", "2: warning: sidecar is named before python3, whose Python it needs: plugin = py"),
    ],
)
def test_one_finding(check: Check, lines: str, found: str) -> None:
    got, status = check(PLAIN + lines + "\n")
    assert len(got) == 1 and got[0].startswith(found), got
    assert status == ("error" in found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sidecar-workers = 3", " error: `plugin = sidecar` is missing: uWSGI ignores the options of Sidecar's"),
        ("master = true", " warning: `plugin = sidecar` is missing: nothing here switches Sidecar on"),
        ("plugin = sidecar\nmodule = a", " warning: `need-app = true` is missing"),
        ("plugin = sidecar\nmodule = a\nneed-app = false", " warning: `need-app = true` is missing"),
    ],
)
def test_what_is_missing(check: Check, text: str, found: str) -> None:
    got, status = check(text)
    assert len(got) == 1 and got[0].startswith(found), got
    assert status == ("error" in found)


@pytest.mark.parametrize(
    "plugins",
    [
        "plugins = python3,sidecar",
        "plugin = python3\nplugin = sidecar",
        "need-plugin = 0:sidecar",
        "plugin = /srv/app/sidecar_plugin.so",
        "plugin = $(PLUGINS)",
        "ini = the_plugins.ini",
    ],
)
def test_a_plugin_by_any_other_name(check: Check, plugins: str) -> None:
    found, status = check(f"{plugins}\nsidecar-workers = 3\n")
    assert status == 0
    assert not [line for line in found if "note" not in line]


def test_what_the_guide_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    guide = (Path(__file__).parents[2] / "docs/guide/configuration.md").read_text().splitlines()
    shown = [line.strip() for line in guide if line.startswith("    uwsgi.ini")]
    monkeypatch.chdir(tmp_path)
    lines = ["sidecar-max-call = 5", "sidecar-deadline = 60", "harakiri = 30", "sidecar-name = $(SITE)"]
    Path("uwsgi.ini").write_text("\n".join(["[uwsgi]", PLAIN, *lines]).replace("\n\n", "\n"))
    assert main(["check", "uwsgi.ini"]) == 1
    assert capsys.readouterr().out.splitlines() == shown


# -- gunicorn --------------------------------------------------------------------------

HOOK = "from sidecar.gunicorn import configure, post_fork\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("configure(worker=8)", "2: error: TypeError: worker is no option of Sidecar's; did you mean workers?"),
        ("configure(\n  workers=0)", ": error: ValueError: workers: workers must be a whole number from 1 on"),
        ("what?", "2: error: SyntaxError: "),
        ("import no_such_module_of_ours", "2: error: ModuleNotFoundError: "),
        ("raise SystemExit(3)", "2: error: SystemExit: 3"),
        ("raw_env = ['SIDECAR_TRUST=everybody']", " error: SIDECAR_TRUST = everybody: trust: "),
        ("worker_class = 'eventlet'", " warning: worker_class eventlet is not covered"),
        ("worker_class = 'shop.Worker'", " note: worker_class shop.Worker is not judged"),
        ("class worker_class: pass", " warning: worker_class worker_class is not covered"),
        ("configure(deadline=60)", " warning: deadline = 60 s is not below timeout (30 s), which ends the"),
        ("timeout = 1", " warning: requests have no deadline, for timeout (1 s) is not above the margin (1 s)"),
        ("def post_fork(server, worker): pass", "2: warning: post_fork is one of its own: it must call sidecar"),
        ("configure(workers=3)\ndel post_fork", " error: `from sidecar.gunicorn import post_fork` is missing: the op"),
        ("del post_fork", " error: `from sidecar.gunicorn import post_fork` is missing: Sidecar is not switched on"),
    ],
)
def test_a_finding_in_gunicorns(check: Check, text: str, found: str) -> None:
    got, status = check(HOOK + text + "\n", "gunicorn.conf.py")
    assert len(got) == 1 and found in got[0], got
    assert status == ("error" in found)


@pytest.mark.parametrize(
    "text",
    [
        "configure(workers=3, deadline=20)",
        "threads = 4\nconfigure(deadline=60)",
        "worker_class = 'gevent'",
        "worker_class = 'gunicorn.workers.gthread.ThreadWorker'",
        "worker_class = 'uvicorn_worker.UvicornWorker'",
        "timeout = 0",
        "ours = post_fork\ndef post_fork(server, worker):\n    ours(server, worker)",
        "import sidecar.gunicorn\ndef post_fork(server, worker):\n    sidecar.gunicorn.post_fork(server, worker)",
        "def post_fork(server, worker):\n    from sidecar.gunicorn import post_fork as ours\n    ours(server, worker)",
    ],
)
def test_nothing_to_say_of_gunicorns(check: Check, text: str) -> None:
    assert check(HOOK + text + "\n", "gunicorn.conf.py") == ([], 0)


def test_the_environment_counts_for_gunicorn(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_WORKERS", "some")
    found, status = check(HOOK, "gunicorn.conf.py")
    assert status == 1 and "SIDECAR_WORKERS must be a whole number, not 'some'" in found[0]


def test_a_check_configures_nothing_here(check: Check) -> None:
    hooks.configure(workers=2)
    try:
        check(HOOK + "configure(workers=3)\n", "gunicorn.conf.py")
        assert hooks._configured == _support._configured == {"workers": 2}
    finally:
        hooks.configure()
    assert hooks._configured == _support._configured == {}


def test_the_help_says_that_the_file_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "to check it is to run it" in " ".join(capsys.readouterr().out.split())
