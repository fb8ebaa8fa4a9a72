"""``python -m sidecar check FILE``: a server's configuration, judged without starting the server."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar import _options
from sidecar._option_table import BY_NAME, TABLE, UWSGI_ONLY, nearest
from sidecar.cli import gunicorn_file, uwsgi_file
from sidecar.cli.finding import Finding, error, note, warning
from sidecar.cli.uwsgi_file import Entry

__all__ = ["add_arguments", "run"]

_KNOWN = (*(option.uwsgi for option in TABLE), *UWSGI_ONLY)
_BY_UWSGI_NAME = {option.uwsgi: option for option in TABLE}
# What uWSGI puts in the place of these is known at its start only.
_PLACEHOLDER = re.compile(r"\$\(|@\(|%\(|%[^%\s]")
_PLUGIN = {"plugin", "plugins", "need-plugin", "need-plugins"}
_MORE_FILES = {"ini", "yaml", "yml", "json", "js", "xml", "include", "inherit", "import-config", "config"}
# Their requests switch stacks below Python, which would mix their contexts.
_ENGINES = {"ugreen", "stackless", "fiber"}
_APPLICATION = {"sidecar-asgi", "module", "wsgi", "wsgi-file", "file", "mount", "worker-mount", "pyrun", "callable"}
_FALSE = {"false", "off", "no", "0"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a uWSGI .ini, .yaml, .json or .xml, or a gunicorn .py")
    parser.epilog = (
        "FILE:SECTION names another section than uwsgi. A gunicorn configuration is Python: to check it is to run it, "
        "as gunicorn --check-config does. The exit status is 1 where there is an error."
    )


def run(arguments: argparse.Namespace) -> int:
    name, section = arguments.file, "uwsgi"
    if not Path(name).exists() and ":" in name:
        name, _, section = name.rpartition(":")
    path = Path(name)
    # Those of no line last.
    findings = sorted(_check(path, section), key=lambda finding: (not finding.line, finding.line))
    for finding in findings:
        print(finding.line_of(name))
    counts = Counter(finding.severity for finding in findings)
    said = ", ".join(f"{count} {word}{'s' * (count != 1)}" for word, count in sorted(counts.items()))
    print(f"{name}: {said or 'nothing to say against it'}")
    return 1 if counts["error"] else 0


def _check(path: Path, section: str) -> Iterator[Finding]:
    if path.suffix == ".py":
        yield from gunicorn_file.check(path)
    elif path.suffix in uwsgi_file.READERS:
        try:
            entries = uwsgi_file.read(path, section)
        except uwsgi_file.FileError as refused:
            yield error(str(refused), refused.line)
        else:
            yield from _Uwsgi(entries).check()
    else:
        known = ", ".join([*uwsgi_file.READERS, ".py"])
        yield error(f"is no configuration that is known by its ending: {known}")


@dataclass
class _Uwsgi:
    entries: list[Entry]

    def check(self) -> Iterator[Finding]:
        ours = [entry for entry in self.entries if re.match(r"sidecar[-_]", entry.name)]
        values: dict[str, float] = {}
        for entry in ours:
            yield from self._check_option(entry, values)
        yield from self._check_form()
        more = self._named(_MORE_FILES)
        for entry in more:
            yield note(f"{entry.value} is not looked at: check it, too", entry.line)
        yield from self._check_plugins(bool(ours), bool(more))
        yield from self._check_times(values)
        if not more:
            yield from self._check_applications()
        for entry in self._named(_ENGINES):
            yield warning(f"{entry.name}: its requests get no scope from the plugin; use gevent or threads", entry.line)

    def _named(self, names: Iterable[str]) -> list[Entry]:
        return [entry for entry in self.entries if entry.name in names and entry.value.lower() not in _FALSE]

    def _check_option(self, entry: Entry, values: dict[str, float]) -> Iterator[Finding]:
        option = _BY_UWSGI_NAME.get(entry.name)
        if option is None and entry.name not in UWSGI_ONLY:
            if "_" in entry.name and entry.name.replace("_", "-") not in _KNOWN:
                return  # a variable of the configuration's own
            meant = nearest(entry.name, _KNOWN)
            perhaps = f"; did you mean {meant}?" if meant else ""
            yield error(f"{entry.name} is no option of Sidecar's{perhaps}", entry.line)
        elif _PLACEHOLDER.search(entry.value):
            yield note(f"{entry.name} = {entry.value}: not judged, for uWSGI fills it in at its start", entry.line)
        elif option is None:
            yield from self._check_mount(entry)
        else:
            try:
                value = _options.take(option, entry.name, entry.value)
            except ValueError as refused:
                yield error(str(refused), entry.line)
            else:
                if option.kind == "seconds":
                    values[option.name] = value

    def _check_mount(self, entry: Entry) -> Iterator[Finding]:
        if entry.name != "sidecar-mount":
            return
        try:
            where, overrides = _options.split_mount(entry.value)
            _options.parse_overrides(overrides, {})
        except ValueError as refused:
            text = str(refused)
            yield error(text if text.startswith(entry.name) else f"{entry.name} = {entry.value}: {text}", entry.line)
            return
        mounts = self._named({"mount", "worker-mount"})
        known = {mount.value.partition("=")[0].rstrip("/") for mount in mounts}
        if where not in known and where and not any(_PLACEHOLDER.search(mount.value) for mount in mounts):
            yield warning(f"{entry.name} = {entry.value}: no `mount` here has that mountpoint", entry.line)

    def _check_form(self) -> Iterator[Finding]:
        """YAML that only a uWSGI with libyaml reads as it is meant; pip's has none."""
        for form, says in (
            ("list", "is a list: a uWSGI without libyaml, as pip's is, stops reading there"),
            ("quotes", "is in quotes: to a uWSGI without libyaml, as pip's is, these are part of it"),
        ):
            first = next((entry for entry in self.entries if entry.form == form), None)
            if first is not None:
                yield note(f"{first.name} {says}", first.line)

    def _check_plugins(self, has_options: bool, has_more: bool) -> Iterator[Finding]:
        listed = [(one.strip(), entry) for entry in self._named(_PLUGIN) for one in entry.value.split(",")]
        names = [re.sub(r"_plugin\.so$", "", re.split(r"[/:]", one)[-1]) for one, _ in listed]
        unclear = any(_PLACEHOLDER.search(one) for one, _ in listed)
        if "sidecar" in names:
            at = names.index("sidecar")
            later = next((name for name in names[at:] if re.fullmatch(r"python[0-9.]*", name)), None)
            if later is not None:
                yield warning(
                    f"sidecar is named before {later}, whose Python it needs: plugin = {later}, sidecar",
                    listed[at][1].line,
                )
        elif not unclear and not has_more:
            if has_options:
                yield error("`plugin = sidecar` is missing: uWSGI ignores the options of Sidecar's that are here")
            else:
                yield warning("`plugin = sidecar` is missing: nothing here switches Sidecar on")

    def _check_times(self, values: dict[str, float]) -> Iterator[Finding]:
        harakiri = self._named({"harakiri"})
        if not harakiri or not harakiri[-1].value.isdecimal():
            return
        limit, line = int(harakiri[-1].value), harakiri[-1].line
        margin = values.get("deadline_margin", BY_NAME["deadline_margin"].value)
        deadline = values.get("deadline")
        if deadline is None and not self._named({"sidecar-deadline"}) and limit <= margin:
            yield warning(
                f"harakiri = {limit} is not above the margin ({margin:g} s): requests have no deadline, and uWSGI "
                "kills the worker",
                line,
            )
        elif deadline is not None and not 0 < deadline < limit:
            shown = f"{deadline:g} s" if deadline else "no limit"
            yield warning(f"harakiri = {limit} ends a worker before the deadline ({shown}) ends its request", line)

    def _check_applications(self) -> Iterator[Finding]:
        applications = self._named(_APPLICATION)
        mounts = [entry for entry in applications if entry.name.endswith("mount")]
        several = len(mounts) > 1 or (mounts and len(applications) > len(mounts))
        if several and not self._named({"single-interpreter"}):
            yield warning(
                "there are several applications and no `single-interpreter = true`: each but the first runs in an "
                "interpreter of its own, with a bridge of its own",
                mounts[-1].line,
            )
        if applications and not self._named({"need-app"}):
            yield warning("`need-app = true` is missing: uWSGI starts even where the application cannot be loaded")
