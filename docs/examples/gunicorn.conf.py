"""A gunicorn configuration of one's own, with Sidecar's hook in it."""

from sidecar.gunicorn import post_fork  # noqa: F401

worker_class = "gthread"
threads = 4
