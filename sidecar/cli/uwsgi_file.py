"""uWSGI's configuration files, read as uWSGI reads them: ini, yaml, json and xml."""

from __future__ import annotations

import importlib
import json
import re
import xml.parsers.expat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["READERS", "Entry", "FileError", "read"]


@dataclass(frozen=True)
class Entry:
    """One ``name = value``.

    line: from 1 on; 0: not known.
    form: ``list`` or ``quotes``, where it is written so in YAML.
    """

    name: str
    value: str
    line: int
    form: str = ""


class FileError(Exception):
    """The file is no configuration; the message says why. line: as an entry's."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def read(path: Path, section: str = "uwsgi") -> list[Entry]:
    """The entries of one section, in their order. Raises FileError."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from None
    entries = READERS[path.suffix](text, section)
    if entries is None:
        raise FileError(f"has no section {section!r}")
    return list(entries)


def _read_ini(text: str, section: str) -> list[Entry] | None:
    """As core/ini.c does: a comment is a line of its own, and what follows the first ``=`` is the value."""
    entries, current, found = [], "", False
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r")
        if not line or line[0] in ";#":
            continue
        if line[0] == "[":
            current = line[1:-1]
            found = found or current == section
        elif current == section:
            name, _, value = line.partition("=")
            entries.append(Entry(name.rstrip(" \t"), value.lstrip(" \t"), number))
    return entries if found else None


# -- yaml -----------------------------------------------------------------------------


def _read_yaml(text: str, section: str) -> list[Entry] | None:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        return _read_plain_yaml(text, section)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", error)
        raise FileError(f"is no YAML: {problem}", mark.line + 1 if mark else 0) from None
    sections = root.value if isinstance(root, yaml.MappingNode) else []
    return next((list(_of_yaml_nodes(node)) for name, node in sections if name.value == section), None)


def _of_yaml_nodes(section: Any) -> Iterator[Entry]:
    for key, node in section.value if isinstance(section.value, list) else ():
        in_list = isinstance(node.value, list)
        for value in node.value if in_list else [node]:
            form = "list" if in_list else "quotes" if "quotes" in (_form(key), _form(value)) else ""
            yield Entry(str(key.value), str(value.value), value.start_mark.line + 1, form)


def _form(node: Any) -> str:
    return "quotes" if node.style in ("'", '"') else ""


_PAIR = re.compile(r"([^:]+?)\s*:(?:\s+(.*))?$")


def _read_plain_yaml(text: str, section: str) -> list[Entry] | None:
    """What uWSGI itself accepts: ``section:``, below it ``name: value``, or ``name:`` and ``- value`` below that."""
    entries, inside, found, name = [], False, False, ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).rstrip()
        stripped = line.lstrip()
        if not stripped or stripped == "---":
            continue
        if line == stripped and not stripped.startswith("- "):
            pair = _PAIR.match(stripped)
            inside = pair is not None and _unquoted(pair.group(1)) == section and not pair.group(2)
            found = found or inside
        elif inside and stripped.startswith("- "):
            entries.append(Entry(name, _unquoted(stripped[2:].strip()), number, "list"))
        elif inside:
            pair = _PAIR.match(stripped)
            if pair is None:
                raise FileError(f"is not what uWSGI reads: expected `name: value`, not {stripped!r}", number)
            name = _unquoted(pair.group(1))
            if pair.group(2):
                value = pair.group(2).strip()
                quoted = (name, _unquoted(value)) != (pair.group(1), value)
                entries.append(Entry(name, _unquoted(value), number, "quotes" if quoted else ""))
    return entries if found else None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


# -- json and xml ---------------------------------------------------------------------


def _read_json(text: str, section: str) -> list[Entry] | None:
    try:
        root = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"is no JSON: {error.msg}", error.lineno) from None
    options = root.get(section) if isinstance(root, dict) else None
    if not isinstance(options, dict):
        return None
    entries = []
    for name, given in options.items():
        # The parser tells no lines; a name stands where it is written.
        at = text.find(json.dumps(name))
        line = text.count("\n", 0, at) + 1 if at >= 0 else 0
        for value in given if isinstance(given, list) else [given]:
            entries.append(Entry(name, _json_text(value), line))
    return entries


def _json_text(value: Any) -> str:
    return "1" if value is True else "0" if value in (False, None) else str(value)


def _read_xml(text: str, section: str) -> list[Entry] | None:
    entries: list[Entry] = []
    path: list[str] = []
    found: list[bool] = []
    words: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        words.clear()
        if name == "uwsgi":
            found.append(True)
        elif name == "app" and "mountpoint" in attributes:
            entries.append(Entry("mount", f"{attributes['mountpoint']}=", parser.CurrentLineNumber))

    def end(name: str) -> None:
        if len(path) > 1 and path[-2] == "uwsgi":
            entries.append(Entry(name, "".join(words).strip() or "1", parser.CurrentLineNumber))
        path.pop()

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = words.append
    try:
        parser.Parse(text.encode("utf-8", "surrogateescape"), True)
    except xml.parsers.expat.ExpatError as error:
        raise FileError(f"is no XML: {xml.parsers.expat.ErrorString(error.code)}", error.lineno) from None
    return entries if found else None


READERS: dict[str, Callable[[str, str], list[Entry] | None]] = {
    ".ini": _read_ini,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
    ".js": _read_json,
    ".xml": _read_xml,
}
