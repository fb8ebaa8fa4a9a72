"""synchronicity's own tests, and its README's examples, against ``sidecar.compat.synchronicity``."""

from __future__ import annotations

from compat.project import Excluded, Project

_SPIES = "replaces the private Synchronizer._translate_scalar_in/_out; that the decorators work is tested beside it"

PROJECT = Project(
    name="synchronicity",
    sdist="synchronicity==0.12.7",
    takes_long=True,
    redirect={"synchronicity": "sidecar.compat.synchronicity"},
    pythons=("3.11", "3.13", "3.14"),
    needs=(
        "console-ctrl",
        "gevent>=24.2.1; python_version >= '3.11' and python_version < '3.13'",
        "mypy",
        "mypy-extensions",
        "pytest-asyncio>=0.24.0",
        "pytest-markdown-docs>=0.7.1",
        "sigtools>=4.0.1",
        # For mypy, which finds the names of a stub's imports there; Python imports ours.
        "synchronicity==0.12.7",
        "typing-extensions>=4.12.2",
    ),
    tests=("test", "README.md"),
    also=("conftest.py", "pyproject.toml"),
    # Scripts that tests start in processes of their own, and modules that are for mypy: no docstrings to run.
    arguments=("--markdown-docs", "--ignore=test/support", "--ignore=test/type_stub_helpers"),
    excluded=(
        Excluded("test/synchronicity_test.py::test_no_input_translation", _SPIES),
        Excluded("test/synchronicity_test.py::test_no_output_translation", _SPIES),
        Excluded(
            "test/synchronicity_test.py::test_synchronizer_unexpected_thread_death",
            "breaks the loop through the private Synchronizer._stopping; no thread of its own runs a bridge's loop",
        ),
        Excluded(
            "test/tracebacks_test.py::test_full_traceback_flag",
            "counts the frames of synchronicity's own code in a traceback; a bridge has none to show",
        ),
    ),
)
