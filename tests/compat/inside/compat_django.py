"""A pytest plugin for Django's own tests: what its ``runtests.py`` does before and after them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest


class _Django:
    """Set up for the folders of tests that pytest was given, with SQLite in memory."""

    def __init__(self, tests: Path, labels: list[str]) -> None:
        sys.path.insert(0, str(tests))
        os.environ["DJANGO_SETTINGS_MODULE"] = "test_sqlite"
        self._runtests: Any = __import__("runtests")
        _, self._state = self._runtests.setup_run_tests(0, None, None, labels)
        self._runner: Any = None
        self._databases: Any = None

    def begin(self) -> None:
        from django.test.runner import DiscoverRunner

        self._runner = DiscoverRunner(verbosity=0, interactive=False)
        self._runner.setup_test_environment()
        self._databases = self._runner.setup_databases()

    def end(self) -> None:
        if self._runner is not None:
            if self._databases is not None:
                self._runner.teardown_databases(self._databases)
            self._runner.teardown_test_environment()
        self._runtests.teardown_run_tests(self._state)


_key = pytest.StashKey[_Django]()


def pytest_configure(config: pytest.Config) -> None:
    folders = [Path(argument) for argument in config.args]
    config.stash[_key] = _Django(config.rootpath / folders[0].parent, [folder.name for folder in folders])


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_key].begin()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that empty the database's tables come after those that rely on what is in them."""
    from django.test import SimpleTestCase, TestCase

    def order(item: pytest.Item) -> int:
        cls = getattr(item, "cls", None) or object
        return 0 if issubclass(cls, TestCase) else 2 if issubclass(cls, SimpleTestCase) and cls.databases else 1

    items.sort(key=order)


def pytest_unconfigure(config: pytest.Config) -> None:
    django = config.stash.get(_key, None)
    if django is not None:
        django.end()
