"""synchronaut's own tests against ``sidecar.compat.synchronaut``."""

from __future__ import annotations

from compat.project import Excluded, Project

PROJECT = Project(
    name="synchronaut",
    sdist="synchronaut==0.3.5",
    takes_long=True,
    redirect={"synchronaut": "sidecar.compat.synchronaut"},
    pythons=("3.11", "3.13", "3.14"),
    needs=("fastapi", "httpx", "pydantic", "pytest-asyncio", "pytest-trio", "trio", "uvloop"),
    tests=("tests",),
    also=("pyproject.toml",),
    excluded=(
        Excluded(
            "tests/test_fastapi.py",
            "a SyntaxError before Python 3.12, with synchronaut itself as well: quotes nested in f-strings",
            pythons=("3.11",),
        ),
    ),
)
