"""gunicorn's logger with the request in its access log: ``logger_class = "sidecar.gunicorn_log.Logger"``.

``access_log_format`` may then use ``%(id)s``, ``%(trace_id)s`` and ``%(span_id)s``, beside gunicorn's own.
``%({x-request-id}o)s``, the response's header, needs no logger class.
"""

from __future__ import annotations

from typing import Any

from gunicorn import glogging  # type: ignore[import-not-found,import-untyped,unused-ignore]

from sidecar import _core

__all__ = ["Logger"]


class Logger(glogging.Logger):  # type: ignore[misc,unused-ignore]
    """gunicorn's own, with the atoms ``id``, ``trace_id`` and ``span_id``: ``-`` for a request without a scope."""

    def atoms(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> dict[str, Any]:
        atoms: dict[str, Any] = super().atoms(resp, req, environ, request_time)
        request = environ.get("sidecar.request")
        if isinstance(request, _core.Request):
            atoms.update(id=request.id, trace_id=request.trace_id, span_id=request.span_id)
        return atoms
