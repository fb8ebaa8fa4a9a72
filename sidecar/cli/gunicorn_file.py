"""A configuration of gunicorn's, run as gunicorn runs it, and what it says of Sidecar."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidecar import _options, _support
from sidecar import gunicorn as hooks
from sidecar.cli.finding import Finding, error, note, warning

__all__ = ["check"]

_COVERED = {
    "sync",
    "gthread",
    "gevent",
    "gevent_pywsgi",
    "asgi",
    "uvicorn_worker.UvicornWorker",
    "uvicorn_worker.UvicornH11Worker",
    "uvicorn.workers.UvicornWorker",
    "uvicorn.workers.UvicornH11Worker",
}
_NOT_COVERED = {"eventlet", "tornado", "gunicorn.workers.geventlet.EventletWorker"}


def check(path: Path) -> Iterator[Finding]:
    """Runs the file. Its ``configure()`` counts for this check only."""
    kept = [(options, dict(options)) for options in (hooks._configured, _support._configured)]
    try:
        try:
            namespace = _run(path)
        except OSError as refused:
            yield error(f"cannot be read: {refused.strerror}")
            return
        except BaseException as raised:
            if isinstance(raised, KeyboardInterrupt):
                raise
            yield error(f"{type(raised).__name__}: {raised}", _line_of(path, raised))
            return
        yield from _judge(namespace, dict(hooks._configured))
    finally:
        for options, before in kept:
            options.clear()
            options.update(before)


def _run(path: Path) -> dict[str, Any]:
    code = compile(path.read_bytes(), str(path), "exec")
    namespace: dict[str, Any] = {"__builtins__": __builtins__, "__name__": "__config__", "__file__": str(path)}
    hooks.configure()
    exec(code, namespace)
    return namespace


def _line_of(path: Path, raised: BaseException) -> int:
    if isinstance(raised, SyntaxError) and raised.filename == str(path):
        return raised.lineno or 0
    frames = traceback.extract_tb(raised.__traceback__)
    return next((frame.lineno or 0 for frame in reversed(frames) if frame.filename == str(path)), 0)


def _judge(namespace: dict[str, Any], configured: dict[str, Any]) -> Iterator[Finding]:
    yield from _judge_hook(namespace, bool(configured))
    kind = namespace.get("worker_class", "sync")
    if kind == "sync" and namespace.get("threads", 1) > 1:
        kind = "gthread"
    yield from _judge_worker_class(kind)
    environ = dict(os.environ)
    for pair in namespace.get("raw_env", ()):
        name, _, value = str(pair).partition("=")
        environ[name] = value
    limit = _options.Limit(namespace.get("timeout", 30) if kind == "sync" else 0, "timeout")
    try:
        settings = _options.resolve(configured, environ, limit, said="configure()")
        _options.judge_variables(settings, environ)
    except ValueError as refused:
        yield error(str(refused))
        return
    for line in _options.conflicts_of(settings, limit):
        yield warning(line)


def _judge_hook(namespace: Mapping[str, Any], has_options: bool) -> Iterator[Finding]:
    found = namespace.get("post_fork")
    if found is hooks.post_fork:
        return
    if found is None:
        text = "`from sidecar.gunicorn import post_fork` is missing: "
        text += "the options given to configure() do nothing" if has_options else "Sidecar is not switched on"
        yield error(text)
    elif not _mentions_ours(found):
        yield warning(
            "post_fork is one of its own: it must call sidecar.gunicorn.post_fork(server, worker)", _line(found)
        )


def _mentions_ours(function: Any) -> bool:
    """Whether a function's own code names Sidecar's hook, directly or by an alias."""
    code = getattr(function, "__code__", None)
    if code is None:
        return True  # it cannot be told
    known = getattr(function, "__globals__", {})
    named = [known.get(name) for name in code.co_names]
    # Imported inside of it, the module is among the names as it is written.
    return any(one is hooks or one is hooks.post_fork for one in named) or (
        "post_fork" in code.co_names and bool({"sidecar", "sidecar.gunicorn"} & set(code.co_names))
    )


def _line(function: Any) -> int:
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code is not None else 0


def _judge_worker_class(kind: Any) -> Iterator[Finding]:
    if isinstance(kind, type):
        modules = {base.__module__ for base in kind.__mro__}
        if not modules & (hooks._THREADED | hooks._ASGI | hooks._PATCHING):
            yield warning(f"worker_class {kind.__qualname__} is not covered: a call may block the whole worker")
    elif kind in _NOT_COVERED:
        yield warning(f"worker_class {kind} is not covered: a call may block the whole worker")
    elif kind not in _COVERED and not re.match(r"gunicorn\.workers\.(sync|gthread|ggevent|gasgi)\.", str(kind)):
        yield note(f"worker_class {kind} is not judged: its name says not what it is")
