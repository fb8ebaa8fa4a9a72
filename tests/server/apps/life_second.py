"""``life`` once more, from a module of its own: a second mount."""

from __future__ import annotations

from life import application

__all__ = ["application"]
