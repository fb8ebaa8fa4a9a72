"""gunicorn's hooks: each worker gets a bridge, each request a scope.

Either of the two turns it on::

    gunicorn -c python:sidecar.gunicorn app:application

    from sidecar.gunicorn import post_fork      # in a gunicorn.conf.py

Options come from the environment (gunicorn's ``raw_env`` as well), ``SIDECAR_TRUST`` and so on, or from the
configuration file, which wins::

    from sidecar.gunicorn import configure, post_fork

    configure(workers=8, trust="always")

A sync worker's deadline is gunicorn's ``timeout`` less the margin, ``deadline_margin`` (1 s), unless one is given.

``post_fork`` alone suffices. A configuration with a ``post_fork`` of its own calls this one from it. Sync,
threaded, gevent and ASGI workers, with and without ``--preload``.
"""

from __future__ import annotations

import _thread
import functools
import os
from collections.abc import Callable
from typing import Any

import sidecar
from sidecar import _options, _stopping, _support

__all__ = ["configure", "post_fork", "worker_exit"]

_THREADED = {"gunicorn.workers.sync", "gunicorn.workers.gthread"}
_WATCHED = {"gunicorn.workers.sync"}
# They serve ASGI applications: gunicorn's own, and uvicorn's two.
_ASGI = {"gunicorn.workers.gasgi", "uvicorn_worker._workers", "uvicorn.workers"}
# Patches the worker after post_fork, before it loads the application.
_PATCHING = {"gunicorn.workers.ggevent"}

# What the configuration file says; workers inherit it.
_configured: dict[str, Any] = {}


def configure(**options: Any) -> None:
    """Sidecar's options, in gunicorn's configuration file: by the names of docs/reference/options.md.

    They win over the environment. A second call takes the place of the first, as a reload's does.
    Raises TypeError for a name that is none, TypeError or ValueError for a value.
    """
    taken = _options.take_keywords(options)
    _configured.clear()
    _configured.update(taken)
    # An application that is preloaded may make its bridge before the fork.
    _support._configured.clear()
    bridge = {name: value for name, value in taken.items() if _options.configures(name) == "bridge"}
    _support.configure_bridge(bridge)


def post_fork(server: Any, worker: Any) -> None:
    """Start the worker's bridge, and put the middleware around the application it will load.

    The bridge is drained when the worker ends, whether or not the configuration names ``worker_exit``.
    """
    kinds = {base.__module__ for base in type(worker).__mro__}
    # A worker of these serves one request at a time, in the thread that gunicorn watches.
    watched = bool(kinds & _WATCHED) and not kinds & _PATCHING
    options = _settle(worker, _options.Limit(worker.cfg.timeout if watched else 0, "timeout"))
    wrap: Any = sidecar.ASGIMiddleware if kinds & _ASGI else sidecar.WSGIMiddleware
    _wrap_loader(worker, bool(kinds & _PATCHING), functools.partial(wrap, **options), wrap)
    _ensure_drain(server)
    if kinds & _THREADED and not kinds & _PATCHING:
        _tell_stopping(worker)
        _quit_without_waiting(worker)
    if kinds & (_THREADED | _ASGI):
        sidecar.get_bridge().start()
    elif not kinds & _PATCHING:
        worker.log.warning(
            "sidecar: worker class %s is not covered yet (sync, gthread, gevent and ASGI's are): "
            "a call may block the whole worker",
            type(worker).__qualname__,
        )


def _settle(worker: Any, limit: _options.Limit) -> dict[str, Any]:
    """Read and judge the options, and log them: once for the operator, else for whoever debugs."""
    settings = _options.resolve(_configured, os.environ, limit, said="configure()")
    _options.judge_variables(settings, os.environ)
    log = worker.log.info if worker.age == 1 else worker.log.debug
    for line in _options.lines_of(settings, limit):
        log("sidecar: %s", line)
    return _options.arguments_of(settings, "request")


def worker_exit(server: Any, worker: Any) -> None:
    """Drain the worker's bridge: cancel what still runs, and wait for its cleanup, a bounded time.

    Before the interpreter joins the threads of a threaded worker, one of which may wait in ``run_sync``.
    """
    sidecar.shutdown()


def _wrap_loader(worker: Any, starts: bool, wrap: Callable[[Any], Any], wrapped: type) -> None:
    """Wrap the application when the worker has loaded it: after this hook, unless it was preloaded.

    starts: start the bridge just before that, where it could not be started sooner.
    wrapped: of what type one is that needs it no more.
    """
    load = worker.load_wsgi

    @functools.wraps(load)
    def load_wsgi() -> None:
        if starts:
            sidecar.get_bridge().start()
        load()
        for name in ("wsgi", "asgi"):
            application = getattr(worker, name, None)
            if application is not None and not isinstance(application, wrapped):
                setattr(worker, name, wrap(application))

    worker.load_wsgi = load_wsgi


def _tell_stopping(worker: Any) -> None:
    """Have the bridge told when gunicorn asks the worker to end its requests and go (SIGTERM)."""
    handle_exit = worker.handle_exit
    # Of gunicorn's patience, as long as a shutdown has for the clean-up, and a second.
    seconds = max(worker.cfg.graceful_timeout - sidecar.get_bridge()._shutdown_timeout - 1.0, 0.0)

    @functools.wraps(handle_exit)
    def handle_exit_and_tell(*signal: Any) -> None:
        handle_exit(*signal)
        # What the signal has interrupted may hold the lock that this takes, or the one that threading takes.
        _thread.start_new_thread(_stopping.begin, (seconds,))

    # Before the worker installs it as its handler.
    worker.handle_exit = handle_exit_and_tell


def _quit_without_waiting(worker: Any) -> None:
    """Keep a threaded worker's SIGQUIT from hanging in the worker's own handler.

    That shuts the pool down, for which it takes a lock that is not reentrant; where the signal comes while the main
    thread hands out a request, it holds that lock itself, until the master kills the worker. The interpreter's exit,
    which follows, shuts the pool down as well.
    """
    bases = {base.__module__: base for base in reversed(type(worker).__mro__)}
    gthread: Any = bases.get("gunicorn.workers.gthread")
    # A handler of somebody else's is left alone.
    if gthread is not None and type(worker).handle_quit is gthread.handle_quit:
        of_all_workers: Any = bases["gunicorn.workers.base"]
        # Before the worker installs it as its handler.
        worker.handle_quit = functools.partial(of_all_workers.handle_quit, worker)


def _ensure_drain(server: Any) -> None:
    """Have this worker's copy of the settings drain at its exit, after the configuration's own hook."""
    configured = server.cfg.worker_exit
    if configured is worker_exit:
        return

    def exit_and_drain(server: Any, worker: Any) -> None:
        try:
            configured(server, worker)
        finally:
            worker_exit(server, worker)

    server.cfg.set("worker_exit", exit_and_drain)
