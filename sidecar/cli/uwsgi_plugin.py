"""Build ``sidecar_plugin.so`` for one uWSGI binary: the one recipe there is.

Run as ``python -m sidecar uwsgi-plugin``, and by CMake as a script of its own; so it imports nothing of
Sidecar's. The plugin is built with the header and the flags of the very binary that will load it, and carries
a hash of both: it refuses any other uWSGI.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

__all__ = ["BuildError", "add_arguments", "build", "find_uwsgi", "main", "run"]

PLUGIN = "sidecar_plugin.so"

# uwsgi.h includes the headers of the libraries its binary was built with, which a machine that only runs it
# need not have. It uses no more of them than these names, all behind pointers, and one version number.
STAND_INS = {
    "pcre.h": "typedef struct sc_pcre pcre; typedef struct sc_pcre_extra pcre_extra;",
    "pcre2.h": "typedef struct sc_pcre2_code pcre2_code;",
    "sys/capability.h": "typedef int cap_value_t;",
    "uuid/uuid.h": "",
    "zlib.h": "typedef struct sc_z_stream z_stream;",
    "openssl/conf.h": "",
    "openssl/err.h": "",
    "openssl/ssl.h": (
        "#define OPENSSL_VERSION_NUMBER 0x30000000L\n"
        "typedef struct sc_ssl SSL; typedef struct sc_ssl_ctx SSL_CTX; typedef struct sc_evp_md EVP_MD;\n"
        "typedef struct sc_evp_md_ctx EVP_MD_CTX; typedef struct sc_evp_cipher_ctx EVP_CIPHER_CTX;\n"
        "typedef struct sc_evp_pkey EVP_PKEY;"
    ),
}

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes"]


class BuildError(Exception):
    """The plugin cannot be built; the message says why and what to do."""


def find_uwsgi(given: str | None) -> Path:
    """The uWSGI binary to build for: the one given, else the one beside this Python, else one on ``PATH``.

    Raises ``BuildError`` where there is none.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise BuildError(f"no uWSGI at {given}: name an executable file with --uwsgi PATH")
        return Path(found).absolute()
    beside = Path(sys.executable).parent / "uwsgi"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("uwsgi")
    if found is None:
        raise BuildError(
            f"no uWSGI beside {sys.executable} and none on PATH: install one (pip install uwsgi), "
            "or name it with --uwsgi PATH"
        )
    return Path(found).absolute()


def ask(uwsgi: Path, *options: str) -> str:
    """What the binary prints for the options; its lines of start-up noise go elsewhere."""
    try:
        done = subprocess.run([str(uwsgi), *options], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{uwsgi} {' '.join(options)} does not run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BuildError(f"{uwsgi} {' '.join(options)} failed: is it a uWSGI binary? It said: {said[-500:]}")
    # The answer is followed by one newline that is not part of it.
    text = done.stdout.decode("latin-1")
    return text[:-1] if text.endswith("\n") else text


def hash_of(header: str, cflags: str) -> int:
    """FNV-1a of both, as plugin/abi.c makes it of the running uWSGI."""
    value = 0xCBF29CE484222325
    for byte in (header + cflags).encode("latin-1"):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def layout_flags(cflags: str) -> list[str]:
    """Those of the binary's flags that decide what its structs look like."""
    wanted = [flag for flag in shlex.split(cflags) if re.match(r"-[DUm]|-I/", flag)]
    return [flag for flag in wanted if not flag.startswith("-march=native")]


def version_of(cflags: str) -> str:
    found = re.search(r'-DUWSGI_VERSION="\\"([^"\\]+)', cflags)
    return found.group(1) if found else "?"


def python_plugin_of(uwsgi: Path, cflags: str) -> tuple[str, str]:
    """The name of uWSGI's Python plugin and the version of its Python: ("python", "3.11.7")."""
    if "ULEP(python)" in cflags:
        return "python", ask(uwsgi, "--python-version").strip()
    folder = re.search(r'-DUWSGI_PLUGIN_DIR="\\"([^"\\]+)', cflags)
    ours = f"python{sys.version_info[0]}{sys.version_info[1]}"
    plugins = Path(folder.group(1) if folder else ".")
    names = ("python3", ours, "python")
    for name in names:
        path = plugins / f"{name}_plugin.so"
        if path.exists():
            return name, ask(uwsgi, "--plugin", str(path), "--python-version").strip()
    files = ", ".join(f"{name}_plugin.so" for name in names)
    raise BuildError(
        f"{uwsgi} has no Python: neither built in, nor as a plugin in {plugins} (one of {files}). "
        "On Debian and Ubuntu: apt install uwsgi-plugin-python3"
    )


def check_python(uwsgi: Path, version: str) -> None:
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    theirs = ".".join(version.split(".")[:2])
    if ours != theirs:
        raise BuildError(
            f"{uwsgi} runs Python {version}, and this is Python {ours} ({sys.executable}): "
            f"build the plugin with python{theirs}, where sidecar is installed too"
        )


def find_folders() -> tuple[Path, Path]:
    """The plugin's sources and the folder of ``sidecar.h``: in an installed package, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for sources in (package / "plugin", package.parent / "plugin"):
        if (sources / "plugin.c").exists():
            return sources, package / "include"
    raise BuildError(f"no plugin sources in {package / 'plugin'}: install sidecar-bridge again")


def find_python_header() -> Path:
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").exists():
        minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise BuildError(
            f"no Python.h in {folder}: install Python's headers "
            f"(on Debian and Ubuntu: apt install python{minor}-dev)"
        )
    return folder


def find_compiler() -> list[str]:
    named = os.environ.get("CC")
    if named:
        command = shlex.split(named)
        if shutil.which(command[0]) is None:
            raise BuildError(f"the compiler that CC names is not there: {named}")
        return command
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildError(
        "no C compiler (cc, gcc, clang): install one (on Debian and Ubuntu: apt install gcc libc6-dev)"
    )


def libraries(cflags: str) -> list[str]:
    """What the plugin is linked with: nothing, as uWSGI's names are there when it is loaded.

    Only pyuwsgi is an extension module, whose names Python keeps from other libraries; so the plugin says that it
    needs that very file, which is loaded already.
    """
    if "ULEP(pyuwsgi)" not in cflags:
        return []
    found = importlib.util.find_spec("pyuwsgi")
    if found is None or found.origin is None:
        raise BuildError(
            f"this uWSGI is pyuwsgi, and {sys.executable} has none: build the plugin with the Python in whose "
            "environment pyuwsgi is, where sidecar is installed too"
        )
    return [str(Path(found.origin).absolute())]


def write_stand_ins(folder: Path) -> None:
    for name, text in STAND_INS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def defines(header: str, cflags: str, uwsgi: str) -> list[str]:
    """What plugin/abi.c compares the running uWSGI and its Python with."""
    return [
        f"-DSIDECAR_UWSGI_HASH=UINT64_C(0x{hash_of(header, cflags):016x})",
        f"-DSIDECAR_UWSGI_VERSION={as_c_string(version_of(cflags))}",
        f"-DSIDECAR_PYTHON_VERSION={as_c_string(sysconfig.get_python_version())}",
        f"-DSIDECAR_UWSGI_PATH={as_c_string(uwsgi)}",
    ]


def compile_plugin(work: Path, header: str, cflags: str, uwsgi: Path, strict: bool) -> Path:
    sources, include = find_folders()
    (work / "uwsgi").mkdir()
    (work / "uwsgi" / "uwsgi.h").write_bytes(header.encode("latin-1"))
    write_stand_ins(work / "stand-ins")
    built = work / PLUGIN
    # fmt: off
    command = [
        *find_compiler(), "-shared", "-fPIC", "-std=gnu11", "-O2", "-g", "-fvisibility=hidden",
        "-D_GNU_SOURCE",
        *layout_flags(cflags),
        *defines(header, cflags, str(uwsgi)),
        *WARNINGS, *(["-Werror"] if strict else []),
        "-isystem", str(work / "uwsgi"), "-isystem", str(find_python_header()),
        "-idirafter", str(work / "stand-ins"), f"-I{sources}", f"-I{include}",
        *sorted(str(path) for path in sources.glob("*.c")), *libraries(cflags), "-o", str(built),
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"the compiler refused the plugin:\n{shlex.join(command)}\n{done.stderr.strip()}")
    sys.stderr.write(done.stderr)
    return built


def as_c_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def add_requirement(built: Path, name: str) -> None:
    """Say in an ELF section that the Python plugin is loaded first; uWSGI reads it before it loads ours."""
    if shutil.which("objcopy") is None:
        raise BuildError("no objcopy: install binutils (on Debian and Ubuntu: apt install binutils)")
    section = built.with_suffix(".requires")
    section.write_text(f"requires={name}\n")
    command = ["objcopy", "--add-section", f"uwsgi={section}", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)}: {done.stderr.strip()}")


def build(uwsgi: Path, output: Path, *, strict: bool = False) -> tuple[Path, str]:
    """Build the plugin for a uWSGI binary into a folder.

    Returns the plugin's path and the name of uWSGI's Python plugin: ``"python"`` where it is built in.
    ``strict`` makes the compiler's warnings errors. Raises ``BuildError``.
    """
    cflags = ask(uwsgi, "--cflags")
    header = ask(uwsgi, "--dot-h")
    name, version = python_plugin_of(uwsgi, cflags)
    check_python(uwsgi, version)
    with tempfile.TemporaryDirectory(prefix="sidecar-plugin-") as work:
        built = compile_plugin(Path(work), header, cflags, uwsgi, strict)
        if "ULEP(python)" not in cflags:
            add_requirement(built, name)
        try:
            output.mkdir(parents=True, exist_ok=True)
            # Into place by a rename: a running uWSGI keeps the file it has.
            beside = output / f".{PLUGIN}.{os.getpid()}"
            shutil.copy2(built, beside)
            beside.replace(output / PLUGIN)
        except OSError as error:
            raise BuildError(f"cannot write {output / PLUGIN}: {error}") from error
    return (output / PLUGIN).absolute(), name


def configuration(plugin: Path, name: str) -> str:
    """The lines to paste into uwsgi.ini."""
    plugins = "sidecar" if name == "python" else f"{name}, sidecar"
    return f"[uwsgi]\nplugins-dir = {plugin.parent}\nplugin = {plugins}\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options, for a parser of its own or a subcommand's."""
    parser.add_argument(
        "--uwsgi", metavar="PATH", help="the uWSGI binary (default: the one beside this Python)"
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("."), help="where the plugin goes (default: here)"
    )
    parser.add_argument("--strict", action="store_true", help="the compiler's warnings are errors")


def run(arguments: argparse.Namespace) -> int:
    """Build, print what to paste; the exit status."""
    try:
        uwsgi = find_uwsgi(arguments.uwsgi)
        plugin, name = build(uwsgi, arguments.output, strict=arguments.strict)
    except BuildError as error:
        print(f"sidecar: {error}", file=sys.stderr)
        return 1
    print(f"built {plugin} for {uwsgi}\n\nAdd to your uwsgi.ini:\n\n{configuration(plugin, name)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The recipe as a script."""
    parser = argparse.ArgumentParser(description="Build the uWSGI plugin sidecar_plugin.so.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
