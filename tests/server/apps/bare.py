"""An application that only says whether it has a request."""

from __future__ import annotations

import sidecar


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(sidecar.current()).encode()]
