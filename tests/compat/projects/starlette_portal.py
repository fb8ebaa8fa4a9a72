"""Starlette's own tests, whose TestClient drives each application through a portal: through ours here."""

from __future__ import annotations

from compat.project import Excluded, Project

PROJECT = Project(
    name="starlette_portal",
    sdist="starlette==1.10.0",
    older={"3.9": "starlette==0.49.3"},
    takes_long=True,
    redirect={"anyio.from_thread": "sidecar.compat.anyio.from_thread"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    needs=(
        "anyio==4.16.0; python_version >= '3.10'",
        "anyio==4.12.1; python_version < '3.10'",
        "blockbuster",
        "exceptiongroup; python_version < '3.11'",
        "httpx<0.29",
        "httpx2[zstd]>=2; python_version >= '3.11'",
        "itsdangerous",
        "jinja2",
        "opentelemetry-api; python_version >= '3.11'",
        "opentelemetry-sdk; python_version >= '3.11'",
        "python-multipart>=0.0.18",
        "pyyaml",
        "starlette==1.10.0; python_version >= '3.11'",
        "starlette==0.49.3; python_version < '3.11'",
        "trio",
    ),
    tests=("tests",),
    also=("pyproject.toml",),
    excluded=(
        Excluded("*trio", "each test runs on asyncio and on Trio, whose loop is another than asyncio's"),
        Excluded(
            "tests/test_staticfiles.py::test_staticfiles_with_invalid_dir_permissions_returns_401",
            "it takes away the permission to read a file, which root has all the same; fails so with anyio, too",
        ),
    ),
)
