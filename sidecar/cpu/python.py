"""The real interpreter, also where ``sys.executable`` is a server that has Python inside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

from sidecar.errors import CpuEngineError

__all__ = ["find_python"]

_CALLED_SO = re.compile(r"python(\d+(\.\d+)?)?[a-z]*(-dbg|-debug)?", re.ASCII)
_ASK = "import sys; print(sys.hexversion, sys.abiflags, sys.implementation.name)"
_SECONDS = 20.0
_found: dict[str, str] = {}


def find_python(configured: str) -> str:
    """An interpreter of this very version.

    configured: what multiprocessing would start. One that is not ``sys.executable`` somebody has chosen.
    Raises CpuEngineError that names what was tried.
    """
    if configured and configured != sys.executable:
        return configured
    if configured not in _found:
        _found[configured] = _find(configured)
    return _found[configured]


def _find(configured: str) -> str:
    if _is_plain_python(configured):
        return configured
    tried = []
    for path in dict.fromkeys(_candidates(configured)):
        reason = _refusal(path)
        if reason is None:
            return path
        tried.append(f"{path} ({reason})")
    raise CpuEngineError(
        f"no Python {'.'.join(map(str, sys.version_info[:3]))} was found to run worker processes with: tried "
        f"{', '.join(tried)}; name it with multiprocessing.set_executable() [{CpuEngineError.code}]"
    )


def _is_plain_python(path: str) -> bool:
    """Nothing embeds Python here, as far as its name tells."""
    return bool(path) and bool(_CALLED_SO.fullmatch(os.path.basename(path))) and "uwsgi" not in sys.modules


def _candidates(configured: str) -> Iterator[str]:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    names = (f"python{version}{sys.abiflags}", f"python{version}", "python3", "python")
    folders = (os.path.join(one, "bin") for one in (sys.prefix, sys.exec_prefix))
    base = (os.path.join(one, "bin") for one in (sys.base_prefix, sys.base_exec_prefix))
    for folder in (*folders, *base, sysconfig.get_config_var("BINDIR") or ""):
        if folder:
            yield from (os.path.join(folder, name) for name in names)
    own = getattr(sys, "_base_executable", None)
    if own and _CALLED_SO.fullmatch(os.path.basename(own)):
        yield own
    if configured and _CALLED_SO.fullmatch(os.path.basename(configured)):
        yield configured


def _refusal(path: str) -> str | None:
    """Why it is not the one; ``None``: it is."""
    if not os.access(path, os.X_OK):
        return "not there"
    try:
        asked = subprocess.run(
            [path, "-ISc", _ASK], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it does not run: {error}"
    own = " ".join(f"{sys.hexversion} {sys.abiflags} {sys.implementation.name}".split())
    told = " ".join(asked.stdout.split())
    return None if told == own else f"it is another Python: {told}, not {own}"
