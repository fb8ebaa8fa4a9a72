"""Django's own tests with ``asgiref`` redirected to sidecar.compat.asgiref: those that go from side to side."""

from compat.project import Project

FOLDERS = (
    "async",
    "asgi",
    "auth_tests",
    "basic",
    "cache",
    "decorators",
    "deprecation",
    "dispatch",
    "generic_relations",
    "handlers",
    "httpwrappers",
    "middleware",
    "middleware_exceptions",
    "servers",
    "sessions_tests",
    "signals",
    "test_client",
    "test_client_regress",
    "transactions",
    "update_only_fields",
    "view_tests",
    "wsgi",
)

PROJECT = Project(
    name="django",
    sdist="django==6.0.10",
    # The newest for Python 3.9, and for 3.11.
    older={"3.9": "django==4.2.30", "3.11": "django==5.2.19"},
    takes_long=True,
    redirect={"asgiref": "sidecar.compat.asgiref"},
    pythons=("3.9", "3.11", "3.13", "3.14"),
    needs=(
        "django==4.2.30; python_version < '3.10'",
        "django==5.2.19; python_version == '3.11'",
        "django==6.0.10; python_version >= '3.12'",
        "jinja2",
        "tblib",
        "tzdata",
    ),
    tests=tuple(f"tests/{folder}" for folder in FOLDERS),
    also=(
        "tests/runtests.py",
        "tests/test_sqlite.py",
        "tests/urls.py",
        "tests/templates",
        "tests/utils_tests",
        "tests/mail",
    ),
    # Its own filters for warnings, not pytest's.
    arguments=("-p", "compat_django", "-p", "no:warnings", "-o", "python_files=test*.py"),
)
