"""The same application once more, from a module of its own: a second mount."""

from __future__ import annotations

from checked import application

__all__ = ["application"]
