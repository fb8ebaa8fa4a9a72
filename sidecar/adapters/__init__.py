"""Applications of one kind for servers of the other: ``ASGIApp(app)`` is one of WSGI, ``WSGIApp(app)`` one of ASGI."""

from __future__ import annotations

from sidecar.adapters.asgi import ASGIApp
from sidecar.adapters.wsgi import WSGIApp

__all__ = ["ASGIApp", "WSGIApp"]
