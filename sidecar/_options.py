"""Options as they are given, by the environment and by a server's own configuration, and what they amount to.

What there is stands in ``_option_table``. Nothing is imported here by a call that the environment's options of the
bridge need: a child of a fork makes its bridge by them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sidecar._option_table import BY_NAME, TABLE, Option, nearest

__all__ = [
    "OPTIONS",
    "VARIABLES",
    "Limit",
    "Setting",
    "arguments_of",
    "bridge_options",
    "configures",
    "conflicts_of",
    "judge",
    "judge_variables",
    "lines_of",
    "parse_overrides",
    "request_options",
    "resolve",
    "split_mount",
    "take",
    "take_keywords",
]

# The names of those of requests, and all variables.
OPTIONS = tuple(option.name for option in TABLE if option.configures == "request")
VARIABLES = tuple(option.variable for option in TABLE)
_DEFAULT = "default"
_ALL_DEFAULTS = "configuration: all defaults"
_ENVIRONMENT = "environment"


class Limit(NamedTuple):
    """The server's own: after so many seconds it kills a worker whose request still runs; 0: never."""

    seconds: float
    name: str


class Setting(NamedTuple):
    """What an option amounts to, and where that comes from."""

    option: Option
    value: Any
    source: str

    @property
    def is_given(self) -> bool:
        return self.source != _DEFAULT


def resolve(
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    limit: Limit | None = None,
    groups: Iterable[str] = ("request", "bridge", "server"),
    said: str = "option",
) -> dict[str, Setting]:
    """Every option, by name: as it is given, else the environment's, else its default.

    given: values, by name, that were judged before; ``said`` is their source.
    limit: where no deadline is given, it is that less the margin.

    Raises ValueError that names the variable.
    """
    settings = {}
    for option in TABLE:
        if option.configures not in groups:
            continue
        if option.name in given:
            settings[option.name] = Setting(option, given[option.name], said)
            continue
        text = environ.get(option.variable)
        value, source = (option.value, _DEFAULT) if text is None else (_read(option, text), _ENVIRONMENT)
        settings[option.name] = Setting(option, value, source)
    deadline, margin = settings.get("deadline"), settings.get("deadline_margin")
    if limit is not None and deadline and margin and not deadline.is_given and limit.seconds > margin.value:
        left = limit.seconds - margin.value
        settings["deadline"] = Setting(deadline.option, left, f"{limit.name} less the margin")
    return settings


def _read(option: Option, text: str) -> Any:
    try:
        return option.parse(text)
    except ValueError as error:
        raise ValueError(f"{option.variable} {_reason(option, error)}") from None


def _reason(option: Option, error: Exception) -> str:
    return "has a wrong value" if option.secret else str(error)


def arguments_of(settings: Mapping[str, Setting], configures: str) -> dict[str, Any]:
    """Of those that are given, the keyword arguments of ``sidecar.Policy`` or of ``sidecar.Sidecar``."""
    return {
        name: setting.value
        for name, setting in settings.items()
        # A deadline of 0 is none, and not the server's either.
        if setting.option.configures == configures
        and setting.is_given
        and not (name == "deadline" and not setting.value)
    }


def request_options(environ: Mapping[str, str], server_limit: float | None = None) -> dict[str, Any]:
    """Keyword arguments for ``sidecar.Policy`` and the middlewares.

    server_limit: seconds after which the server kills a worker whose request still runs. Where no deadline is
        given, it is that less a margin, ``SIDECAR_DEADLINE_MARGIN`` (1 s).

    Raises ValueError that names the variable.
    """
    limit = Limit(server_limit, "the server's") if server_limit else None
    return arguments_of(resolve({}, environ, limit, ("request", "server")), "request")


def bridge_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """``SIDECAR_WORKERS``, ``SIDECAR_MAX_CALLS`` and so on: arguments for this process's own bridge.

    Raises ValueError that names the variable.
    """
    return arguments_of(resolve({}, environ, None, ("bridge",)), "bridge")


def judge(option: Option, value: Any) -> None:
    """As the very type that the option configures does. Raises TypeError or ValueError with the reason."""
    import sidecar

    if option.configures == "bridge":
        sidecar.Sidecar(**{option.name: value})
    elif option.configures == "request" and not (option.name == "deadline" and value == 0):
        sidecar.Policy(**{option.name: value})
    option.check(value)


def take(option: Option, written: str, text: str) -> Any:
    """The value of a text that a configuration gives under the name ``written``. Raises ValueError with both."""
    try:
        value = option.convert(text)
        judge(option, value)
    except (TypeError, ValueError) as error:
        shown = option.show(text) if option.secret else text
        raise ValueError(f"{written} = {shown}: {_reason(option, error)}") from None
    return value


def judge_variables(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> None:
    """Those that the environment gives, further than ``resolve`` does. Raises ValueError that names the variable."""
    for setting in settings.values():
        if setting.source == _ENVIRONMENT:
            take(setting.option, setting.option.variable, environ[setting.option.variable])


def configures(name: str) -> str:
    return BY_NAME[name].configures


def take_keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names in Python, judged.

    Raises TypeError for a name that is none, and what ``judge`` does.
    """
    for name, value in given.items():
        option = BY_NAME.get(name)
        if option is None:
            raise TypeError(f"{name} is no option of Sidecar's{_perhaps(name, BY_NAME)}")
        try:
            judge(option, value)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name}: {_reason(option, error)}") from None
    return dict(given)


def _perhaps(name: str, known: Iterable[str]) -> str:
    meant = nearest(name, known)
    return f"; did you mean {meant}?" if meant else ""


def lines_of(settings: Mapping[str, Setting], limit: Limit | None = None) -> Iterator[str]:
    """For the log of a server's start: what is not at its default, and its conflicts."""
    given = [setting for setting in settings.values() if setting.is_given]
    for setting in given:
        yield f"configuration: {setting.option.name} = {_show(setting)} ({setting.source})"
    if not given:
        yield _ALL_DEFAULTS
    for line in conflicts_of(settings, limit):
        yield f"configuration: {line}"


def conflicts_of(settings: Mapping[str, Setting], limit: Limit | None) -> Iterator[str]:
    """What does not go together."""
    if limit is None or not limit.seconds:
        return
    deadline, margin = settings["deadline"], settings["deadline_margin"]
    if not deadline.is_given:
        yield (
            f"requests have no deadline, for {limit.name} ({limit.seconds:g} s) is not above the "
            f"margin ({margin.value:g} s): set deadline or deadline_margin"
        )
    elif not deadline.value or deadline.value >= limit.seconds:
        yield (
            f"deadline = {_show(deadline)} is not below {limit.name} ({limit.seconds:g} s), which ends the worker first"
        )


def _show(setting: Setting) -> str:
    if setting.option.name == "deadline" and not setting.value:
        return "no limit"
    return setting.option.show(setting.value)


# -- overrides, for one mountpoint or one route --------------------------------------


def parse_overrides(text: str, into: dict[str, Any]) -> None:
    """Update keyword arguments of ``sidecar.Policy`` from ``deadline=30,trust=always``.

    A name is Python's, or uWSGI's, with or without ``sidecar-``. A piece without ``=`` belongs to the value before
    it: ``trust=10.0.0.0/8,fd00::/8``. Raises ValueError that names what is wrong; then nothing is updated.
    """
    update: dict[str, Any] = {}
    for written, value in _pairs(text):
        option = _overridable(written)
        try:
            taken = option.convert(value)
            judge(option, taken)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{written}={value}: {error}") from None
        # None: no limit, whatever the others have.
        update[option.name] = None if option.name == "deadline" and taken == 0 else taken
    into.update(update)


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if equals:
            pairs.append((name.strip(), value.strip()))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{piece.strip()}")
        else:
            raise ValueError(f"{text!r} is no list of options: expected deadline=30,trust=always or the like")
    return pairs


def _overridable(written: str) -> Option:
    name = written.replace("-", "_")
    name = name[len("sidecar_") :] if name.startswith("sidecar_") else name
    option = BY_NAME.get(name)
    names = [option.name for option in TABLE if option.by_mount]
    if option is None:
        raise ValueError(f"{written} is no option of Sidecar's{_perhaps(written, names)}")
    if not option.by_mount:
        raise ValueError(f"{written} is the same for all requests of a worker; may differ: {', '.join(names)}")
    return option


# -- uWSGI ---------------------------------------------------------------------------


class UWSGI:
    """Its configuration, in the process that reads it and in each interpreter of its workers.

    given: the texts of its options, by the option's name in Python.
    mounts: the texts of ``sidecar-mount``.
    harakiri: seconds; 0: none.

    Raises ValueError that names what is wrong.
    """

    def __init__(self, given: Mapping[str, str], mounts: Iterable[str], harakiri: int) -> None:
        self._limit = Limit(harakiri, "harakiri")
        self._given = {name: take(BY_NAME[name], BY_NAME[name].uwsgi, text) for name, text in given.items()}
        self._mounts: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []
        for text in mounts:
            self._mount(text)
        self._settings = resolve(self._given, os.environ, self._limit)
        judge_variables(self._settings, os.environ)

    def _mount(self, text: str) -> None:
        where, overrides = split_mount(text)
        try:
            parse_overrides(overrides, self._mounts.setdefault(where, {}))
        except ValueError as error:
            raise ValueError(f"sidecar-mount = {text}: {error}") from None
        self._lines.append(f"configuration of {where or '/'}: {overrides} (sidecar-mount)")

    def check_names(self, written: Iterable[str], known: Iterable[str]) -> None:
        """Those that begin as ours do and no option took: uWSGI takes them for variables of its configuration."""
        known = list(known)
        for name in written:
            if "_" in name and name.replace("_", "-") not in known:
                continue  # hardly meant for an option
            raise ValueError(
                f"{name} is no option of Sidecar's{_perhaps(name, known)} "
                "(set-placeholder makes a variable of such a name)"
            )

    def lines(self) -> list[str]:
        lines = list(lines_of(self._settings, self._limit))
        return [*(line for line in lines if line != _ALL_DEFAULTS or not self._lines), *self._lines]

    def value(self, name: str) -> Any:
        return self._settings[name].value

    def bridge_arguments(self) -> dict[str, Any]:
        return {name: value for name, value in self._given.items() if BY_NAME[name].configures == "bridge"}

    def policy_arguments(self, mountpoint: str) -> dict[str, Any]:
        return {**arguments_of(self._settings, "request"), **self._mounts.get(_mountpoint(mountpoint), {})}

    def unknown_mounts(self, mountpoints: Iterable[str]) -> list[str]:
        known = {_mountpoint(one) for one in mountpoints}
        return [where or "/" for where in self._mounts if where not in known]


def split_mount(text: str) -> tuple[str, str]:
    """``/api trust=always``: the mountpoint, and the rest. Raises ValueError."""
    where, _, overrides = text.strip().partition(" ")
    if not overrides.strip() or "=" in where:
        raise ValueError(
            f"sidecar-mount = {text}: expected a mountpoint and options, such as /api trust=always,deadline=5"
        )
    return _mountpoint(where), overrides.strip()


def _mountpoint(text: str) -> str:
    """As it is compared: the application of ``/`` is the one without a mountpoint."""
    return text.rstrip("/")
