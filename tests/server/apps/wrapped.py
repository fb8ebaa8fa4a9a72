"""``checked`` for servers that have neither plugin nor hook: the middleware around it."""

from __future__ import annotations

import sys

import checked

import sidecar

if "gevent.monkey" in sys.modules:
    from green import application as inner
else:
    inner = checked.application

application = sidecar.WSGIMiddleware(inner)

if __name__ == "__main__":
    from werkzeug.serving import run_simple

    run_simple(f"unix://{sys.argv[1]}", 0, application, threaded=True)
