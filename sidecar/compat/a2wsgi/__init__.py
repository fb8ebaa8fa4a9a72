"""a2wsgi's names on Sidecar: applications of one kind for servers of the other."""

from __future__ import annotations

from sidecar.compat.a2wsgi.asgi import ASGIMiddleware
from sidecar.compat.a2wsgi.wsgi import WSGIMiddleware

__all__ = ("ASGIMiddleware", "WSGIMiddleware")

# Of the release whose behaviour this is.
VERSION = (1, 10, 10)
__version__ = ".".join(str(number) for number in VERSION)
