"""A gunicorn configuration that has a post_fork already: it calls Sidecar's."""

from typing import Any

import sidecar.gunicorn


def post_fork(server: Any, worker: Any) -> None:
    sidecar.gunicorn.post_fork(server, worker)
    worker.log.info("worker %s is ready", worker.pid)
