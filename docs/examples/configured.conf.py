"""A gunicorn configuration with options of Sidecar's."""

from sidecar.gunicorn import configure, post_fork  # noqa: F401

configure(workers=8, trust="10.0.0.0/8", deadline=20)
