"""The envelope: a request's id and trace on their way to another process.

One line of JSON, with a version, and a cap: what comes last in it is left out where it would be too long. What does not
parse on the far side is ignored, and the work runs without a request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sidecar
from sidecar import _core
from sidecar._support import logger

if TYPE_CHECKING:
    from sidecar._core import Request

__all__ = ["VERSION", "pack", "unpack"]

VERSION = 1
# Bytes. uWSGI's spooler takes 64 KiB for all that a job is told.
LIMIT = 16 * 1024


def pack(request: Request) -> bytes:
    """For work that outlives the request: it has no deadline.

    Its parent in the trace is the request's own span.
    """
    headers = request.headers()
    told: dict[str, Any] = {"v": VERSION, "id": request.id, "traceparent": request.traceparent}
    for name in ("tracestate", "baggage"):
        if name in headers:
            longer = {**told, name: headers[name]}
            if len(_dumped(longer)) <= LIMIT:
                told = longer
    return _dumped(told)


def _dumped(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def unpack(packed: bytes) -> Request | None:
    """The request that was packed, here; ``None``: it is none, which the log says."""
    try:
        if len(packed) > LIMIT:
            raise ValueError(f"{len(packed)} bytes are too many")
        told = json.loads(packed)
        if not isinstance(told, dict) or told.get("v") != VERSION:
            raise ValueError("it is of another version of Sidecar's")
        texts = [told.get(name) for name in ("id", "traceparent", "tracestate", "baggage")]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise ValueError("it has what is no text")
    except (ValueError, RecursionError) as error:
        logger.warning("an envelope is ignored, and its work runs without a request: %s", error)
        return None
    return _core._make_request(sidecar.Policy(trust="always"), *texts)
