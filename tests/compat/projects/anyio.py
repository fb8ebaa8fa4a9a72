"""anyio's own tests against ``sidecar.compat.anyio``; the rest of anyio is anyio."""

from __future__ import annotations

from compat.project import Project

PROJECT = Project(
    name="anyio",
    sdist="anyio==4.16.0",
    older={"3.9": "anyio==4.12.1"},
    redirect={"anyio.from_thread": "sidecar.compat.anyio.from_thread"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    # Without Trio, whose loop is none of asyncio's: anyio skips its tests itself.
    needs=(
        "anyio==4.16.0; python_version >= '3.10'",
        "anyio==4.12.1; python_version < '3.10'",
        "blockbuster",
        "exceptiongroup; python_version < '3.11'",
        "psutil",
        "pytest-mock",
        "sniffio",
        "trustme",
        "uvloop",
    ),
    # All that use portals or anyio.from_thread in any way, and what looks at the names of all modules.
    tests=(
        "tests/test_from_thread.py",
        "tests/test_to_thread.py",
        "tests/test_tempfile.py",
        "tests/test_all_attributes.py",
    ),
    also=("pyproject.toml", "tests/__init__.py", "tests/conftest.py"),
    # Its options name it as a plugin, which pytest may load, by a finder of its own, before it loads ours.
    arguments=("--assert=plain",),
)
