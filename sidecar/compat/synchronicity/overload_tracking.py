"""Overloads, to be asked for: ``typing`` itself remembers them since Python 3.11 only."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator
from typing import Any
from unittest import mock

__all__ = ["Untrackable", "get_overloads", "overloads", "patched_overload"]

overloads: dict[tuple[str, str], list[Any]] = {}
_overload = typing.overload


class Untrackable(Exception):
    """What has no module and no name of its own."""


def _place(function: Any) -> tuple[str, str]:
    if isinstance(function, (staticmethod, classmethod)):
        function = function.__func__
    try:
        return function.__module__, function.__qualname__
    except AttributeError:
        raise Untrackable from None


def _remember(function: Any) -> Any:
    try:
        overloads.setdefault(_place(function), []).append(function)
    except Untrackable:
        print(f"WARNING: can't track overloads for {function}")
    return _overload(function)


@contextlib.contextmanager
def patched_overload() -> Iterator[None]:
    """Meanwhile ``typing.overload`` remembers what it is given. For modules that are imported inside."""
    with mock.patch("typing.overload", _remember):
        yield


def get_overloads(f: Any) -> list[Any]:
    """The overloads of a function that were defined within ``patched_overload()``."""
    try:
        return overloads.get(_place(f), [])
    except Untrackable:
        return []
