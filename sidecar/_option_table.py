"""The one table of options: uWSGI's, gunicorn's, Python's and the environment's are made of it.

``python -m sidecar._option_table --write`` writes what is generated of it, in a checkout: ``plugin/option_table.h``
and ``docs/reference/options.md``. It imports nothing of Sidecar's, so it runs as a script as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BY_NAME", "TABLE", "UWSGI_ONLY", "Option", "c_header", "nearest", "reference"]

_HOUR = 3600.0
_DAY = 86400.0
_COUNT = re.compile(r"[0-9]+", re.ASCII)
_SECONDS = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Option:
    """One row.

    name: as Python has it; the other names come from it.
    kind: ``count``, ``seconds``, ``choice``, ``header`` (a header's name), ``trust``, or ``text``.
    configures: ``request`` (an argument of ``sidecar.Policy``), ``bridge`` (of ``sidecar.Sidecar``), or ``server``
        (the plugin or the hook itself).
    help: what it is, in lower case, without a full stop.
    default: in words; ``under_uwsgi`` those of uWSGI's own help, where they differ.
    value: the default, where it is one value.
    least, most: of a count or seconds; ``most`` is ``None`` where there is none.
    by_mount: whether one mountpoint, or one route, may have another value.
    secret: whether its value is masked wherever it is shown.
    """

    name: str
    kind: str
    configures: str
    help: str
    default: str
    value: Any = None
    least: float = 0
    most: float | None = None
    choices: tuple[str, ...] = ()
    by_mount: bool = False
    secret: bool = False
    under_uwsgi: str = ""

    @property
    def uwsgi(self) -> str:
        return "sidecar-" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"SIDECAR_{self.name.upper()}"

    def convert(self, text: str) -> Any:
        """The value that a text stands for; within its bounds or not. Raises ValueError."""
        text = text.strip()
        if self.kind == "count":
            if not _COUNT.fullmatch(text):
                raise ValueError(f"must be a whole number, not {text!r}")
            return int(text)
        if self.kind == "seconds":
            if not _SECONDS.fullmatch(text):
                raise ValueError(f"must be a number of seconds{self._bounds()}, not {text!r}")
            return float(text)
        return text

    def parse(self, text: str) -> Any:
        """Likewise, within its bounds. Raises ValueError."""
        value = self.convert(text)
        self.check(value, text)
        return value

    def check(self, value: Any, text: object = None) -> None:
        """Raises TypeError or ValueError for a value that is none of this option's, shown as ``text``."""
        shown = value if text is None else text
        if self.kind in ("count", "seconds"):
            self._check_number(value, shown)
        elif not isinstance(value, str):
            raise TypeError(f"must be a string, not {shown!r}")
        elif self.choices and value not in self.choices:
            raise ValueError(f"must be {_one_of(self.choices)}, not {shown!r}")
        elif not value or not value.isprintable():
            raise ValueError(f"must be a line of text that is not empty, not {shown!r}")

    def _check_number(self, value: Any, shown: object) -> None:
        whole = self.kind == "count"
        what = "a whole number" if whole else "a number of seconds"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError(f"must be {what}, not {shown!r}")
        if not (self.least <= value and (self.most is None or value <= self.most)):
            raise ValueError(f"must be {what}{self._bounds()}, not {shown!r}")

    def _bounds(self) -> str:
        return f" from {self.least:g} on" if self.most is None else f" from {self.least:g} to {self.most:g}"

    def show(self, value: Any) -> str:
        """The value for an operator's eyes."""
        if self.secret:
            return "****"
        if self.kind == "seconds":
            return "no limit" if value is None or value == float("inf") else f"{value:g} s"
        return str(value)


def _one_of(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


TABLE = (
    Option(
        "trust",
        "trust",
        "request",
        "whose inbound ids, traces, baggage and deadlines are taken: untrusted (nobody's), always, or addresses "
        "separated by commas (10.0.0.0/8, fd00::/8)",
        "untrusted",
        "untrusted",
        by_mount=True,
    ),
    Option(
        "request_id_header",
        "header",
        "request",
        "the header with a request's id, in and out",
        "X-Request-ID",
        "X-Request-ID",
    ),
    Option(
        "deadline",
        "seconds",
        "request",
        "how many seconds a request may take; 0: no limit",
        "the server's own limit (uWSGI's harakiri; the timeout of a sync worker of gunicorn's) less the margin",
        most=_DAY,
        by_mount=True,
        under_uwsgi="harakiri less the margin",
    ),
    Option(
        "deadline_margin",
        "seconds",
        "server",
        "how many seconds before the server's own limit a request's deadline is",
        "1",
        1.0,
        most=_HOUR,
    ),
    Option(
        "deadline_header",
        "header",
        "request",
        "the inbound header with a request's time-out (2.5, or 250ms), where its sender is trusted",
        "none is taken",
    ),
    Option(
        "disconnect",
        "choice",
        "request",
        "when a client counts as gone: close (it has closed its side), reset (it has closed all), off",
        "close",
        "close",
        choices=("close", "reset", "off"),
        by_mount=True,
    ),
    Option(
        "cleanup_timeout",
        "seconds",
        "request",
        "how many seconds the work of a request that has ended gets to clean up",
        "5",
        5.0,
        most=_HOUR,
        by_mount=True,
    ),
    Option(
        "workers",
        "count",
        "bridge",
        "how many threads each worker has for blocking code",
        "its processors and 4, at most 32",
        least=1,
    ),
    Option(
        "max_calls",
        "count",
        "bridge",
        "how many run_sync calls and streams may be in flight in each worker; one more is answered with 503",
        "any number",
        least=1,
    ),
    Option(
        "max_queue",
        "count",
        "bridge",
        "how many jobs may wait for one of these threads, and how many calls of run_cpu for a worker of theirs",
        "65536",
        65536,
    ),
    Option(
        "queue_wait",
        "seconds",
        "bridge",
        "how many seconds a job waits for room in that queue, in turn, before it is refused",
        "0",
        0.0,
        most=_HOUR,
    ),
    Option(
        "cpu",
        "text",
        "bridge",
        "where run_cpu runs: auto, threads, interpreters, processes, or a cluster of Dask's (dask://host:port)",
        "auto",
        "auto",
    ),
    Option(
        "cpu_workers",
        "count",
        "bridge",
        "how many calls of run_cpu may run at a time in each worker",
        "as many as it may use processors",
        least=1,
    ),
    Option(
        "name",
        "text",
        "bridge",
        "the name of each worker's bridge, in thread names (its first 8 characters) and messages",
        "Sidecar",
        "Sidecar",
    ),
    Option(
        "shutdown_timeout",
        "seconds",
        "bridge",
        "how many seconds a worker that ends gives the coroutines that still run to finish their cleanup",
        "5",
        5.0,
        most=_HOUR,
    ),
)
BY_NAME = {option.name: option for option in TABLE}
# What only the plugin's own code reads, in plugin/options.c; by its name there.
UWSGI_ONLY = {
    "sidecar-asgi": "serve an ASGI application, `package.module:app`, on the worker's bridge",
    "sidecar-stats": "serve uWSGI's stats with the requests in flight: a unix socket's path, or `127.0.0.1:PORT`",
    "sidecar-stats-anywhere": "let `sidecar-stats` listen beyond this machine",
    "sidecar-mount": "other values for the application at a mountpoint; may be given several times",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names was probably meant: compared without Sidecar's own prefix, whatever its style."""
    import difflib  # as below: not with `import sidecar`

    by_stem = {_stem(one): one for one in known}
    found = difflib.get_close_matches(_stem(name), by_stem, 1, 0.6)
    return by_stem[found[0]] if found else None


def _stem(name: str) -> str:
    stem = name.lower().replace("-", "_")
    return stem[len("sidecar_") :] if stem.startswith("sidecar_") else stem


# -- what is generated --------------------------------------------------------------

# By a developer: what only this needs is not imported with `import sidecar`.

_COMMAND = "python -m sidecar._option_table --write"


def c_header() -> str:
    """``plugin/option_table.h``: one macro, a line for each option."""
    import textwrap

    lines = [
        f"/* Generated by `{_COMMAND}`: edit",
        " * sidecar/_option_table.py.",
        " *",
        " * X(name, uWSGI's name, kind, least, most, help): kind is COUNT, SECONDS or",
        " * TEXT (which Python judges); most is 0 where there is none. */",
        "/* clang-format off */",
        "#define SC_OPTIONS(X) \\",
    ]
    for option in TABLE:
        kind = option.kind.upper() if option.kind in ("count", "seconds") else "TEXT"
        most = f"{option.most or 0:g}"
        lines.append(f'    X({option.name}, "{option.uwsgi}", {kind}, {option.least:g}, {most}, \\')
        words = textwrap.wrap(f"{option.help} (default: {option.under_uwsgi or option.default})", 66)
        quoted = [f'"{part}{" " if at + 1 < len(words) else ""}"' for at, part in enumerate(words)]
        lines += [f"      {part} \\" for part in quoted[:-1]]
        lines.append(f"      {quoted[-1]}) \\")
    lines[-1] = lines[-1][: -len(" \\")]
    return "\n".join(lines) + "\n"


_TITLES = (
    ("request", "Requests", "Also arguments of `sidecar.Policy`, `WSGIMiddleware` and `ASGIMiddleware`."),
    ("bridge", "The worker", "Also arguments of `sidecar.Sidecar`; here of the bridge that each worker has."),
    ("server", "The server", "What the plugin or the hook itself does with them."),
)
_START = f"""# Options

<!-- Generated by `{_COMMAND}`: edit sidecar/_option_table.py. -->

One option has one name everywhere, `deadline_margin` for example:

| where | how |
|---|---|
| uWSGI's configuration | `sidecar-deadline-margin = 2` |
| `gunicorn.conf.py` | `configure(deadline_margin=2)`, from `sidecar.gunicorn` |
| the environment | `SIDECAR_DEADLINE_MARGIN=2` |

The server's configuration wins over the environment. What is wrong ends the server, or its worker, at the start, with
the reason; `python -m sidecar check FILE` says so without starting it. How each server takes its options:
[uWSGI](../guide/uwsgi.md#options), [gunicorn](../guide/gunicorn.md#options).
"""
_END = """
Options that are marked with * may have another value for one mountpoint of uWSGI's:
`sidecar-mount = /api trust=always,deadline=5`.

## Only in uWSGI's configuration

| option | |
|---|---|
"""


def reference() -> str:
    """``docs/reference/options.md``."""
    parts = [_START]
    for configures, title, says in _TITLES:
        parts.append(f"\n## {title}\n\n{says}\n\n| option | value | default | |\n|---|---|---|---|\n")
        parts += _rows(configures)
    only = [f"| `{name}` | {says} |\n" for name, says in UWSGI_ONLY.items()]
    return "".join([*parts, _END, *only])


def _rows(configures: str) -> Iterator[str]:
    for option in TABLE:
        if option.configures == configures:
            mark = "*" if option.by_mount else ""
            yield f"| `{option.name}`{mark} | {_kind_in_words(option)} | {option.default} | {option.help} |\n"


def _kind_in_words(option: Option) -> str:
    if option.kind == "choice":
        return ", ".join(f"`{word}`" for word in option.choices)
    if option.kind == "count":
        return f"a whole number{option._bounds()}"
    if option.kind == "seconds":
        return f"seconds, 0 to {option.most or _DAY:,.0f}"
    return {"header": "a header's name", "trust": "words, or addresses", "text": "a text"}[option.kind]


def main(argv: list[str] | None = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(description="What is generated of the table of options, in a checkout.")
    parser.add_argument("--write", action="store_true", help="write it; without, say whether it is up to date")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    arguments = parser.parse_args(argv)
    stale = 0
    for name, text in (("plugin/option_table.h", c_header()), ("docs/reference/options.md", reference())):
        path = arguments.root / name
        if arguments.write:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not up to date: {_COMMAND}")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
