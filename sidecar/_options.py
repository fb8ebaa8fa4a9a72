"""The options of requests as the environment gives them: ``SIDECAR_TRUST``, ``SIDECAR_DEADLINE`` and so on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["OPTIONS", "VARIABLES", "bridge_options", "request_options"]


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number of seconds, not {text!r}") from None


_KINDS: dict[str, Callable[[str], Any]] = {
    "request_id_header": str,
    "trust": str,
    "deadline": _seconds,
    "deadline_header": str,
    "disconnect": str,
    "cleanup_timeout": _seconds,
}
OPTIONS = tuple(_KINDS)
_MARGIN = "SIDECAR_DEADLINE_MARGIN"
# By option of a bridge: the least it may be.
_LEAST = {"workers": 1, "max_calls": 1, "max_queue": 0}
VARIABLES = (*(f"SIDECAR_{name.upper()}" for name in (*OPTIONS, *_LEAST)), _MARGIN)


def request_options(environ: Mapping[str, str], server_limit: float | None = None) -> dict[str, Any]:
    """Keyword arguments for ``sidecar.Policy`` and the middlewares.

    server_limit: seconds after which the server kills a worker whose request still runs. Where no deadline is
        given, it is that less a margin, ``SIDECAR_DEADLINE_MARGIN`` (1 s).

    Raises ValueError that names the variable.
    """
    options: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        variable = f"SIDECAR_{name.upper()}"
        text = environ.get(variable)
        if text is not None:
            options[name] = _read(variable, text, kind)
    if "deadline" in options:
        if options["deadline"] == 0:
            del options["deadline"]  # as uWSGI's option has it: no limit, nor the server's
    elif server_limit:
        margin = _read(_MARGIN, environ.get(_MARGIN, "1"), _seconds)
        if server_limit > margin:
            options["deadline"] = server_limit - margin
    return options


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"must be a whole number, not {text!r}")
    return int(text)


def bridge_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """``SIDECAR_WORKERS``, ``SIDECAR_MAX_CALLS``, ``SIDECAR_MAX_QUEUE``: arguments for this process's own bridge.

    Raises ValueError that names the variable.
    """
    options: dict[str, Any] = {}
    for name, least in _LEAST.items():
        variable = f"SIDECAR_{name.upper()}"
        text = environ.get(variable)
        if text is None:
            continue
        options[name] = _read(variable, text, _number)
        if options[name] < least:
            raise ValueError(f"{variable} must be {least} or more, not {text!r}")
    return options


def _read(variable: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{variable} {error}") from None
