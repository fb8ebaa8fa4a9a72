"""The plugin's options: from where they are taken, for which application they count, and what is refused."""

from __future__ import annotations

import signal
import subprocess

import pytest
from harness import wait_for

from sidecar.cli import uwsgi_file

pytestmark = pytest.mark.usefixtures("first_uwsgi")

APP = """
import json, os
import sidecar

def application(environ, start_response):
    request, bridge = sidecar.current(), sidecar.get_bridge()
    shown = {
        "pid": os.getpid(),
        "id": request.id,
        "has_deadline": request.deadline is not None,
        "workers": bridge._workers,
        "name": bridge.name,
        "shutdown_timeout": bridge._shutdown_timeout,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]
"""


@pytest.fixture
def start(serve, uwsgi):
    """With these lines in its uwsgi.ini, and these variables; not waited for."""

    def start(*lines: str, options: tuple[str, ...] = (), **variables: str):
        files = {"options_app.py": APP, "uwsgi.ini": "\n".join(["[uwsgi]", *lines, ""])}
        command = uwsgi.command(*options, "--ini", "uwsgi.ini")
        return serve(*command, environment={**uwsgi.environment, **variables}, files=files)

    return start


def wait_for_workers(server):
    """Until both of those that live now have answered."""

    def ask() -> bool:
        try:
            pids.add(server.get().json()["pid"])
        except OSError:
            return False
        return len(pids & server.workers()) == 2

    pids: set[int] = set()
    wait_for(ask, "both workers answer", 20)


def said(server):
    """What the plugin has logged of its configuration."""
    mark = "[sidecar] configuration"
    return [line[len("[sidecar] ") :] for line in server.log.splitlines() if line.startswith(mark)]


def test_they_are_in_the_help(uwsgi):
    command = [part for part in uwsgi.command("--help") if "{socket}" not in part and part != "--http-socket"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=uwsgi.environment)
    assert "how many seconds before the server's own limit a request's deadline is (default: 1)" in done.stdout
    assert "--sidecar-mount" in done.stdout and "(default: harakiri less the margin)" in done.stdout


def test_the_ini_wins_over_the_environment(start):
    variables = {"SIDECAR_WORKERS": "9", "SIDECAR_TRUST": "always", "SIDECAR_SHUTDOWN_TIMEOUT": "2.5"}
    ini = ["module = options_app", "master = true", "processes = 2", "sidecar-workers = 3", "sidecar-name = shop"]
    server = start(*ini, **variables).wait_ready()
    shown = server.get(X_Request_Id="theirs").json()
    assert shown["id"] == "theirs"
    assert (shown["workers"], shown["name"], shown["shutdown_timeout"]) == (3, "shop", 2.5)
    assert said(server) == [
        "configuration: trust = always (environment)",
        "configuration: workers = 3 (option)",
        "configuration: name = shop (option)",
        "configuration: shutdown_timeout = 2.5 s (environment)",
    ]
    # Once for each start, however many workers there are.
    wait_for_workers(server)
    server.send(signal.SIGHUP)
    wait_for(lambda: len(said(server)) == 8, "it is said again")
    wait_for_workers(server)
    assert len(said(server)) == 8


def test_a_header_by_the_environment(start):
    server = start("module = options_app", SIDECAR_REQUEST_ID_HEADER="X-Trace-Me").wait_ready()
    answer = server.get()
    assert dict(answer.headers)["X-Trace-Me"] == answer.json()["id"]


def test_all_defaults(start):
    server = start("module = options_app", "single-interpreter = true").wait_ready()
    assert said(server) == ["configuration: all defaults"]
    assert server.get().json()["has_deadline"] is False


def test_a_deadline_from_harakiri(start):
    server = start("module = options_app", "master = true", "harakiri = 30").wait_ready()
    assert said(server) == ["configuration: deadline = 29 s (harakiri less the margin)"]
    assert server.get().json()["has_deadline"] is True


def test_what_does_not_go_together_is_said(start):
    server = start("module = options_app", "master = true", "harakiri = 30", "sidecar-deadline = 60").wait_ready()
    assert said(server)[-1] == (
        "configuration: deadline = 60 s is not below harakiri (30 s), which ends the worker first"
    )


# -- by mountpoint ---------------------------------------------------------------------

MOUNTS = [
    "single-interpreter = true",
    "manage-script-name = true",
    "mount = /=second_app:application",
    "mount = /api=options_app:application",
]


@pytest.fixture
def start_mounts(serve, uwsgi):
    def start(*lines: str, mounts: list[str] = MOUNTS, **variables: str):
        files = {
            "options_app.py": APP,
            "second_app.py": APP,
            "uwsgi.ini": "\n".join(["[uwsgi]", *mounts, *lines, ""]),
        }
        command = uwsgi.command("--ini", "uwsgi.ini")
        return serve(*command, environment={**uwsgi.environment, **variables}, files=files).wait_ready("/plain")

    return start


def test_one_mountpoint_has_other_values(start_mounts):
    server = start_mounts("sidecar-mount = /api trust=always,deadline=5")
    api, other = (server.get(path, X_Request_Id="theirs").json() for path in ("/api/x", "/x"))
    assert api["id"] == "theirs" and api["has_deadline"] is True
    assert other["id"] != "theirs" and other["has_deadline"] is False
    assert said(server)[-1] == "configuration of /api: trust=always,deadline=5 (sidecar-mount)"


def test_the_root_is_a_mountpoint_and_a_deadline_can_be_taken_away(start_mounts):
    server = start_mounts("sidecar-deadline = 7", "sidecar-mount = / deadline=0", "sidecar-mount = /api trust=always")
    api, other = (server.get(path).json()["has_deadline"] for path in ("/api/x", "/x"))
    assert (api, other) == (True, False)
    assert "no application is mounted there" not in server.log


@pytest.mark.parametrize("lazy", [[], ["lazy-apps = true"]], ids=["preforked", "lazy"])
def test_the_bridge_of_another_interpreter_has_the_same_options(start_mounts, lazy):
    server = start_mounts(*lazy, "sidecar-workers = 3", "sidecar-shutdown-timeout = 2", mounts=MOUNTS[1:])
    # uWSGI's own end, with or without a plugin: it finalizes Python with interpreters left.
    server.allow("Fatal Python error: PyInterpreterState_Delete: remaining subinterpreters")
    shown = [server.get(path).json() for path in ("/", "/api")]
    assert [(each["workers"], each["shutdown_timeout"]) for each in shown] == [(3, 2.0)] * 2
    assert "runs in a sub-interpreter of its own" in server.log


@pytest.mark.parametrize("lazy", [False, True], ids=["preforked", "lazy"])
def test_a_mountpoint_without_an_application_is_said_once(start_mounts, lazy):
    lines = ["sidecar-mount = /shop trust=always", "master = true", "processes = 2", "sidecar-mount = /api deadline=3"]
    server = start_mounts(*lines, *(["lazy-apps = true"] if lazy else []))
    alarm = "[sidecar] sidecar-mount = /shop trust=always: no application is mounted there (yet)"
    wait_for(lambda: alarm in server.log, "the first worker says so")
    # A worker that is told to end while it starts shows a traceback.
    wait_for_workers(server)
    assert server.stop() == 0
    assert server.log.count("no application is mounted there") == 1


# -- refusing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("sidecar-max-call = 5", "sidecar-max-call is no option of Sidecar's; did you mean sidecar-max-calls?"),
        ("sidecar_max_calls = 5", "sidecar_max_calls is no option of Sidecar's; did you mean sidecar-max-calls?"),
        ("sidecar-motorcycle = red", "sidecar-motorcycle is no option of Sidecar's ("),
        ("sidecar-deadline = 1 ; day", "[sidecar] sidecar-deadline = 1 ; day: must be a number of seconds from 0 to"),
        ("sidecar-deadline-margin = 0x10", "sidecar-deadline-margin = 0x10: must be a number of seconds"),
        ("sidecar-disconnect = never", 'sidecar-disconnect = never: disconnect must be "close"'),
        ("sidecar-trust = everybody", "sidecar-trust = everybody: trust: "),
        ("sidecar-request-id-header = a b", "sidecar-request-id-header = a b: request_id_header must be the name of"),
        ("sidecar-mount = /api", "sidecar-mount = /api: expected a mountpoint and options"),
        ("sidecar-mount = /api workers=3", "workers is the same for all requests of a worker"),
        ("sidecar-mount = /api deadlin=3", "deadlin is no option of Sidecar's; did you mean deadline?"),
    ],
)
def test_what_is_wrong_ends_uwsgi_at_its_start(start, line, reason):
    server = start("module = options_app", "master = true", line)
    assert server.wait() == 1
    assert reason in server.log
    assert "spawned uWSGI" not in server.log


def test_what_is_wrong_in_the_environment(start):
    server = start("module = options_app", SIDECAR_TRUST="everybody")
    assert server.wait() == 1
    assert "[sidecar] the configuration is wrong: SIDECAR_TRUST = everybody: trust: " in server.log


def test_a_variable_of_the_configurations_own_may_be_declared(start):
    lines = ["set-placeholder = sidecar-threads=3", "sidecar_folder = /srv", "sidecar-workers = %(sidecar-threads)"]
    server = start("module = options_app", *lines).wait_ready()
    assert server.get().json()["workers"] == 3


# -- the check reads a file as uWSGI does ------------------------------------------------

FILES = {
    "ini": "; no\n[other]\nx-none = 1\n[uwsgi]\n  x-one=1 ; 2\t\n# no\nx-two = a=b\nx-three\nx-one = 3\n",
    "yaml": "other:\n  x-none: 1\nuwsgi:\n  # no\n  x-one: 1 2 # no\n\n  x-two: a=b:c\n",
    "xml": "<uwsgi><!-- no --><x-one>1</x-one>\n<x-two/><x-one>a=b</x-one></uwsgi>",
    "json": '{"other": {"x-none": 1}, "uwsgi": {"x-one": 1, "x-two": ["a", "b"], "x-three": true, "x-four": false}}',
}


@pytest.mark.parametrize("form", FILES)
def test_the_check_reads_what_uwsgi_reads(uwsgi, tmp_path, form):
    path = tmp_path / f"uwsgi.{form}"
    path.write_text(FILES[form])
    command = [str(uwsgi.binary), f"--{form}", str(path), "--show-config", "--no-server"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=uwsgi.environment)
    if ";uWSGI instance configuration" not in done.stdout + done.stderr:
        pytest.skip(f"{uwsgi.binary} was built without {form}")
    shown = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("x-")]
    assert shown and "x-none" not in str(shown)
    assert [f"{entry.name} = {entry.value}" for entry in uwsgi_file.read(path)] == shown
