"""Starlette's own tests of its WSGI middleware against sidecar.compat.starlette_wsgi."""

from compat.project import Excluded, Project
from compat.projects.starlette_portal import PROJECT as PORTAL

PROJECT = Project(
    name="starlette",
    sdist="starlette==1.10.0",
    older={"3.9": "starlette==0.49.3"},
    redirect={"starlette.middleware.wsgi": "sidecar.compat.starlette_wsgi"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    needs=PORTAL.needs,
    tests=("tests/middleware/test_wsgi.py",),
    also=("pyproject.toml", "tests/conftest.py", "tests/types.py", "tests/__init__.py", "tests/middleware/__init__.py"),
    arguments=("--assert=plain",),
    excluded=(Excluded("*trio", "it runs on Trio's loop, which is another than asyncio's, for which WSGIApp is"),),
)
