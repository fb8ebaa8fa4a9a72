"""a2wsgi's own tests against sidecar.compat.a2wsgi."""

from compat.project import Project

PROJECT = Project(
    name="a2wsgi",
    sdist="a2wsgi==1.10.10",
    redirect={"a2wsgi": "sidecar.compat.a2wsgi"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    needs=("pytest-asyncio", "httpx", "starlette", "baize"),
    tests=("tests",),
)
