"""asgiref's own tests against sidecar.compat.asgiref."""

from compat.project import Excluded, Project

PROJECT = Project(
    name="asgiref",
    sdist="asgiref==3.13.0",
    # The newest for Python 3.9.
    older={"3.9": "asgiref==3.11.1"},
    redirect={"asgiref": "sidecar.compat.asgiref"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    needs=("pytest-asyncio", "packaging"),
    tests=("tests",),
    excluded=(
        Excluded(
            "tests/test_benchmark_local.py",
            "measures, and is skipped without pytest-benchmark; ours is tests/bench/compat_asgiref.py",
            may_lack=True,
        ),
    ),
)
