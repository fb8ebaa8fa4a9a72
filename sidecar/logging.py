"""Log records that say which request they belong to.

``RequestFilter`` adds the ids to each record, for any formatter to show; ``RequestFormatter`` shows them without a
filter. Both look up the request where the record is made, so it may be made anywhere the request is known: in a view,
in its coroutines, on the pool's threads, in detached work, while the body is sent. ``add_request`` does the same for
structlog.

::

    LOGGING = {
        "version": 1,
        "filters": {"request": {"()": "sidecar.logging.RequestFilter"}},
        "formatters": {"line": {"format": "%(levelname)s %(request_id)s %(message)s"}},
        "handlers": {"err": {"class": "logging.StreamHandler", "filters": ["request"], "formatter": "line"}},
        "root": {"handlers": ["err"]},
    }
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from sidecar import _core

if TYPE_CHECKING:
    from sidecar._core import Request

__all__ = ["FIELDS", "RequestFilter", "RequestFormatter", "add_request"]

FIELDS = ("request_id", "trace_id", "span_id")
"""What a record gets, as attributes; structlog's event, as keys."""


class RequestFilter(logging.Filter):
    """Gives each record ``request_id``, ``trace_id`` and ``span_id``. It lets all of them pass.

    On a handler it sees every record that gets there. On a logger it sees those logged by that very logger, not by
    its children: as with any filter of ``logging``.

    A record that has one of them (from ``extra=``, or from a filter that saw it first) keeps it. A handler that
    formats on another thread (``logging.handlers.QueueListener``) wants the filter on the ``QueueHandler``.

    default: what they are outside of a request.
    """

    def __init__(self, name: str = "", *, default: str = "-") -> None:
        super().__init__(name)
        self.default = default

    def filter(self, record: logging.LogRecord) -> bool:
        _add(record, self.default)
        return True


class RequestFormatter(logging.Formatter):
    """A formatter whose lines have the request's ids, with or without the filter.

    Its default format is ``DEFAULT_FORMAT``; any other may use ``%(request_id)s``, ``%(trace_id)s``, ``%(span_id)s``,
    in each of logging's styles. Arguments are those of ``logging.Formatter``; ``default`` is as for the filter.
    """

    DEFAULT_FORMAT = "%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s"

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: str = "%",
        validate: bool = True,
        *,
        defaults: Mapping[str, Any] | None = None,
        default: str = "-",
    ) -> None:
        if fmt is None:
            fmt = _in_style(self.DEFAULT_FORMAT, style)
        more: dict[str, Any] = {} if defaults is None else {"defaults": defaults}  # 3.10+
        super().__init__(fmt, datefmt, style, validate, **more)  # type: ignore[arg-type]
        self.default = default

    def format(self, record: logging.LogRecord) -> str:
        _add(record, self.default)
        return super().format(record)


def add_request(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: adds ``request_id``, ``trace_id`` and ``span_id`` inside a request, nothing outside.

    A key that the event has stays as it is. It must run where the event is logged: before a processor that hands
    events to another thread.
    """
    request = _core.current()
    if request is not None:
        for field in FIELDS:
            if field not in event_dict:
                event_dict[field] = _value(request, field)
    return event_dict


def _add(record: logging.LogRecord, default: str) -> None:
    known = record.__dict__
    missing = [field for field in FIELDS if field not in known]
    if missing:
        request = _core.current()
        for field in missing:
            known[field] = default if request is None else _value(request, field)


def _value(request: Request, field: str) -> str:
    value: str = getattr(request, "id" if field == "request_id" else field)
    return value


def _in_style(fmt: str, style: str) -> str:
    """A format of the %-style in another one."""
    opening, closing = {"{": ("{", "}"), "$": ("${", "}")}.get(style, ("%(", ")s"))
    return fmt.replace(")s", closing).replace("%(", opening)
