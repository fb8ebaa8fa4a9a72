"""Scenarios that leak, and one that does not: what the measure must tell apart."""

from __future__ import annotations

import ctypes
import os

from leaks.measure import Scenarios

scenario = Scenarios()
kept: list[object] = []
something = object()


@scenario()
def an_object() -> None:
    kept.append([object()])


@scenario()
def a_reference() -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(something))


@scenario(5)
def a_descriptor() -> None:
    os.dup(0)


@scenario()
def nothing() -> None:
    [object()]
