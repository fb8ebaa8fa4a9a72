"""Starlette's own tests of its WSGI middleware against sidecar.compat.starlette_wsgi."""

from compat.project import Project
from compat.projects.starlette_portal import PROJECT as PORTAL

PROJECT = Project(
    name="starlette",
    sdist="starlette==1.10.0",
    older={"3.9": "starlette==0.49.3"},
    redirect={"starlette.middleware.wsgi": "sidecar.compat.starlette_wsgi"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    needs=PORTAL.needs,
    tests=("tests",),
    also=("pyproject.toml",),
    # Trio's loop is another than asyncio's, for which WSGIApp is.
    arguments=("-k", "test_wsgi.py and not trio", "--assert=plain"),
)
