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

__all__ = ["VERSION", "pack", "unpack", "with_time_left"]

VERSION = 1
# Bytes. uWSGI's spooler takes 64 KiB for all that a job is told.
LIMIT = 16 * 1024
# What ``with_time_left()`` adds to that, at most.
_TIME_LEFT = 64


def pack(request: Request) -> bytes:
    """Its parent in the trace is the request's own span.

    It has no deadline, as for work that outlives the request; ``with_time_left()`` adds one.
    """
    headers = request.headers()
    told: dict[str, Any] = {"v": VERSION, "id": request.id, "traceparent": request.traceparent}
    for name in ("tracestate", "baggage"):
        if name in headers:
            longer = {**told, name: headers[name]}
            if len(_dumped(longer)) <= LIMIT:
                told = longer
    return _dumped(told)


def with_time_left(packed: bytes, request: Request) -> bytes:
    """The same, for work that the request waits for: with the seconds that it has left just now."""
    left = request.time_left()
    return packed if left is None else b'%s,"left":%.6f}' % (packed[:-1], left)


def _dumped(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def unpack(packed: bytes) -> Request | None:
    """The request that was packed, here; ``None``: it is none, which the log says."""
    try:
        if len(packed) > LIMIT + _TIME_LEFT:
            raise ValueError(f"{len(packed)} bytes are too many")
        told = json.loads(packed)
        if not isinstance(told, dict) or told.get("v") != VERSION:
            raise ValueError("it is of another version of Sidecar's")
        texts = [told.get(name) for name in ("id", "traceparent", "tracestate", "baggage")]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise ValueError("it has what is no text")
        left = told.get("left")
        if left is not None and (isinstance(left, bool) or not isinstance(left, (int, float)) or not left >= 0):
            raise ValueError("its time left is no number of seconds")
    except (ValueError, RecursionError) as error:
        logger.warning("an envelope is ignored, and its work runs without a request: %s", error)
        return None
    # What has no time left has a deadline that has passed.
    policy = sidecar.Policy(trust="always", deadline=None if left is None else max(left, 1e-9))
    return _core._make_request(policy, *texts)
