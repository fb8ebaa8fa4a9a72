"""What ``check`` has to say of one place in a file."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding", "error", "note", "warning"]


@dataclass(frozen=True)
class Finding:
    """severity: ``error`` (Sidecar would not start, or do nothing), ``warning``, ``note``. line: 0: of none."""

    severity: str
    text: str
    line: int = 0

    def line_of(self, name: str) -> str:
        return f"{name}{f':{self.line}' if self.line else ''}: {self.severity}: {self.text}"


def error(text: str, line: int = 0) -> Finding:
    return Finding("error", text, line)


def warning(text: str, line: int = 0) -> Finding:
    return Finding("warning", text, line)


def note(text: str, line: int = 0) -> Finding:
    return Finding("note", text, line)
