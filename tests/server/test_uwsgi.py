"""``plugin = sidecar``: every way to run a WSGI application under uWSGI."""

from __future__ import annotations

import itertools
import signal
import subprocess

import pytest
from harness import wait_for
from server.process import (
    check_many,
    check_workers,
    leave_background_tasks,
    wait_drained,
    wait_for_workers,
    wait_logged,
)

REQUESTS = 200
CLIENTS = 8


def rows():
    """Without a master uWSGI has one worker only: it would leave a second one behind."""
    for master, lazy, threads, mounts in itertools.product((True, False), repeat=4):
        for processes in (1, 2) if master else (1,):
            words = [
                "master" if master else "no-master",
                "lazy" if lazy else "preforked",
                "threads" if threads else "one-thread",
                "mounts" if mounts else "one-app",
                f"{processes}-processes",
            ]
            options = ["--processes", str(processes)]
            options += ["--master"] * master + ["--lazy-apps"] * lazy + ["--threads", "4"] * threads
            if mounts:
                options += ["--single-interpreter", "--manage-script-name"]
                options += ["--mount", "/one=checked:application", "--mount", "/two=second:application"]
            else:
                options += ["--module", "checked"]
            yield pytest.param(options, ["/one", "/two"] if mounts else [""], processes, id="-".join(words))


@pytest.mark.parametrize(("options", "prefixes", "processes"), list(rows()))
def test_matrix(serve, uwsgi, options, prefixes, processes):
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment)
    server.wait_ready(f"{prefixes[0]}/plain")
    paths = [f"{prefixes[at % len(prefixes)]}/check" for at in range(REQUESTS)]
    check_many(server, paths, CLIENTS)
    for prefix in prefixes:
        check_workers(server, prefix)
    pids = leave_background_tasks(server, processes, prefixes[0])
    wait_logged(server)
    # SIGTERM drains (die-on-term); without a master it ends the one worker just so.
    server.stop(signal.SIGTERM)
    wait_drained(server, pids)


@pytest.fixture
def one(serve, uwsgi):
    """A common production setting: a master, two workers of two threads."""
    options = ["--master", "--processes", "2", "--threads", "2", "--module", "checked"]
    options += ["--log-format", "logged=%(request_id) uri=%(uri)"]
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready()
    # A worker that is not yet up would miss the signal that ends the server.
    wait_for_workers(server, 2)
    return server


def test_the_apps_own_header_is_replaced(one):
    response = one.get("/own_header")
    assert response.ids == [response.text]


def test_an_inbound_id_is_not_adopted(one):
    for name in ("X_Request_Id", "x_request_id"):
        response = one.get("/environ_id", **{name: "theirs"})
        assert response.ids == [response.text] != ["theirs"]
    many = one.get("/environ_id", X_Request_Id="theirs", x_Request_ID="and again")
    assert many.ids == [many.text]


def test_write(one):
    response = one.get("/write")
    assert response.text == f"written {response.ids[0]}"


def test_files(one):
    response = one.get("/file")
    assert response.body == (one.folder / "file.bin").read_bytes()
    assert len(response.ids) == 1
    assert one.get("/file_in_memory").body == b"0123456789"


def test_an_app_that_raises(one):
    one.allow("announced boom")
    # uWSGI closes the connection without an answer.
    with pytest.raises((ConnectionError, OSError)):
        one.get("/boom")
    assert one.get("/boom_later").text == "first\n"
    check_many(one, ["/check"] * 20)
    assert check_workers(one)


def test_headers_after_an_error(one):
    # uWSGI's start_response returns with the error set, which Python takes for one of its own.
    one.allow("announced boom", "uwsgi_spit.* returned a result with an (error|exception) set")
    response = one.get("/twice")
    assert response.status == 503
    assert len(response.ids) == 1
    assert response.ids != ["mine"]


def test_uwsgis_answer_for_an_app_that_raises(serve, uwsgi):
    options = ["--module", "checked", "--catch-exceptions"]
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready()
    server.allow("announced boom")
    response = server.get("/boom")
    assert response.status == 500
    assert len(response.ids) == 1


def test_the_access_log_has_the_id(one):
    responses = one.get_many(["/plain", "/own_header", "/check", "/file"] * 3, 4)
    lines = [f"logged={response.ids[0]} uri=" for response in responses]
    # uWSGI writes them once the client has its answer.
    wait_for(lambda: all(line in one.log for line in lines), "a line for each")


def test_a_whole_buffer_of_headers_is_served(one):
    """The id needs no room in the buffer that the headers fill."""
    response = one.get("/plain", **{f"X_Filler_{at}": "x" * 500 for at in range(15)})
    assert response.ids == [response.text]


# -- ending ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_stop_drains(serve, uwsgi, number):
    """Without die-on-term: there SIGQUIT stops at once, too, and with it SIGQUIT reloads."""
    command = uwsgi.command("--master", "--processes", "2", "--threads", "2", "--module", "checked")
    command.remove("--die-on-term")
    server = serve(*command, environment=uwsgi.environment).wait_ready()
    pids = leave_background_tasks(server, 2)
    wait_logged(server)
    server.stop(number)
    wait_drained(server, pids)


def test_a_reload_drains_and_goes_on(one):
    before = leave_background_tasks(one, 2)
    one.send(signal.SIGHUP)
    wait_drained(one, before)
    one.wait_ready()
    check_many(one, ["/check"] * 50)
    after = leave_background_tasks(one, 2)
    assert not before & after
    one.stop()
    wait_drained(one, after)


@pytest.mark.parametrize("lazy", [False, True], ids=["preforked", "lazy"])
def test_respawned_workers(serve, uwsgi, lazy):
    """A worker that has served its number of requests is replaced by one that is as good."""
    options = ["--master", "--processes", "2", "--module", "checked", "--max-requests", "100"]
    options += ["--min-worker-lifetime", "0"]
    options += ["--lazy-apps"] * lazy
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready()
    before = leave_background_tasks(server, 2)
    check_many(server, ["/check"] * 240, CLIENTS)
    wait_for(lambda: list(server.folder.glob("drained-*")), "a worker ends, drained")

    def all_are_back() -> bool:
        spawned, gone = server.log.count("pawned uWSGI worker"), server.log.count("killed successfully")
        leaving = server.log.count("Seeya!") - gone
        return spawned - gone == 2 and not leaving and (not lazy or server.log.count("WSGI app 0 (") == spawned)

    wait_for(all_are_back, "two workers are up again")
    after = leave_background_tasks(server, 2)
    assert after - before
    # A worker that the master is just about to replace does not hear of the end.
    wait_for(all_are_back, "nobody is being replaced")
    server.stop()
    wait_drained(server, before | after)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_while_a_request_waits(serve, uwsgi, number, threads):
    """The signal's handler runs inside of the request: nothing may hang there."""
    options = ["--master", "--threads", str(threads), "--module", "checked"]
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready()
    client = server.leave_request("/sleep", until="asleep")
    server.stop(number, seconds=15)
    client.close()


# -- refusing --------------------------------------------------------------------


def build_plugin(uwsgi, folder, script):
    """The plugin, by the recipe with something changed in it."""
    source = f"""
import sys
from pathlib import Path
from sidecar.cli import uwsgi_plugin as recipe
{script}
recipe.build(Path({str(uwsgi.binary)!r}), Path({str(folder)!r}))
"""
    done = subprocess.run([uwsgi.python, "-c", source], capture_output=True, text=True, env=uwsgi.environment)
    assert done.returncode == 0, done.stderr


def test_another_build_of_uwsgi_is_refused(serve, uwsgi, tmp_path):
    script = "ask = recipe.ask; recipe.ask = lambda *a: ask(*a) + ' -DOTHER' * (a[1:] == ('--cflags',))"
    build_plugin(uwsgi, tmp_path, script)
    command = uwsgi.command("--module", "checked", plugin_folder=tmp_path)
    server = serve(*command, environment=uwsgi.environment)
    assert server.wait() == 1
    assert "[sidecar] this plugin was built for another uWSGI: expected uWSGI 2." in server.log
    assert ", found uWSGI 2." in server.log
    assert "python -m sidecar uwsgi-plugin --uwsgi PATH" in server.log


def test_another_python_is_refused(serve, uwsgi, tmp_path):
    build_plugin(uwsgi, tmp_path, "recipe.sysconfig.get_python_version = lambda: '3.99'")
    command = uwsgi.command("--module", "checked", plugin_folder=tmp_path)
    server = serve(*command, environment=uwsgi.environment)
    assert server.wait() == 1
    said = "[sidecar] this plugin was built for another Python: expected Python 3.99, found Python 3."
    assert said in server.log


def test_a_python_without_sidecar_is_refused(serve, uwsgi, tmp_path):
    (tmp_path / "sidecar.py").write_text("raise ImportError('announced: no sidecar here')\n")
    environment = {**uwsgi.environment}
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    server = serve(*uwsgi.command("--master", "--module", "checked"), environment=environment)
    server.allow("announced: no sidecar here")
    assert server.wait() == 1
    assert "[sidecar] cannot import sidecar: Python 3." in server.log
    assert str(tmp_path) in server.log


@pytest.mark.parametrize("value", ["soon", "-1", "4000", "5s"])
def test_a_bad_option_is_refused(serve, uwsgi, value):
    command = uwsgi.command("--module", "checked", "--sidecar-shutdown-timeout", value)
    server = serve(*command, environment=uwsgi.environment)
    assert server.wait() == 1
    assert f"[sidecar] sidecar-shutdown-timeout = {value}: must be a number of seconds" in server.log


def test_engines_that_mix_contexts_are_served_and_said_to_be_uncovered(serve, uwsgi):
    options = ["--module", "bare", "--async", "2"]
    options += ["--ugreen"] if uwsgi.is_embedded else ["--plugin", "ugreen", "--ugreen"]
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready("/")
    response = server.get("/")
    assert response.status == 200
    assert response.text == "None"
    assert response.ids == []
    assert server.log.count("[sidecar] uWSGI switches 2 requests on one stack") == 1
