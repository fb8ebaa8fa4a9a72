# What deploy/demo and tests/run share: how they speak, how they see what is
# missing and install it, and their environments.  Sourced by bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
started=$SECONDS
log=$root/build/log.txt
missing=()

if [ -t 1 ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi

step() {
    printf '%s==>%s %s %s(%s s)%s\n' "$bold" "$plain" "$*" "$dim" "$((SECONDS - started))" "$plain"
}

say() {
    printf '    %s\n' "$*"
}

# Once a program's output is held back: quietly COMMAND...  On failure its last lines are shown.
quietly() {
    mkdir -p "$(dirname "$log")"
    printf '\n$ %s\n' "$*" >>"$log"
    local from
    from=$(wc -l <"$log")
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n "+$((from + 1))" "$log" | tail -n 40 >&2
        printf '%sThis failed:%s %s\nAll it said is in %s\n' "$red" "$plain" "$*" "$log" >&2
        return 1
    fi
}

# wants PACKAGE COMMAND...: the package is missing unless the command succeeds.
wants() {
    local package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        case " ${missing[*]-} " in
        *" $package "*) ;;
        *) missing+=("$package") ;;
        esac
    fi
}

can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# Install what is missing; 1 where this user cannot.  `missing` is empty or says what is left.
install_missing() {
    [ "${#missing[@]}" -gt 0 ] || return 0
    can_install || return 1
    step "Installing ${missing[*]}"
    quietly apt-get update || return 1
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" ||
        return 1
    missing=()
}

is_debians() {
    [ "$(readlink -f "$(command -v "$1")")" = "$(readlink -f /usr/bin/python3 2>/dev/null)" ]
}

has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
}

can_make_environments() {
    "$1" -c 'import ensurepip, venv'
}

compiles() {
    local compiler
    for compiler in cc gcc; do
        printf '#include <stdlib.h>\n' | "$compiler" -E - && return 0
    done
    return 1
}

# What it takes to compile an extension for this interpreter.
wants_to_compile_for() {
    local python=$1
    wants build-essential compiles
    if is_debians "$python"; then
        wants python3-dev has_headers "$python"
        wants python3-venv can_make_environments "$python"
    fi
}

check_python() {
    local python=$1
    if ! command -v "$python" >/dev/null; then
        printf '%sThere is no Python at "%s".%s Install python3, or set PYTHON to an interpreter.\n' \
            "$red" "$python" "$plain" >&2
        return 1
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9) or sys.implementation.name != "cpython")'; then
        printf '%sSidecar needs CPython 3.9 or newer;%s %s is %s\n' \
            "$red" "$plain" "$python" "$("$python" --version 2>&1)" >&2
        return 1
    fi
    "$python" -c 'import sys; print("%s, CPython %d.%d.%d" % ((sys.executable,) + sys.version_info[:3]))'
}

# A short name for an interpreter: 3.11-1a2b3c4d (two of one version are two).
name_python() {
    "$1" -c 'import hashlib, os, sys
where = os.path.realpath(sys.executable) + sys.version
print("%d.%d-%s" % (*sys.version_info[:2], hashlib.sha256(where.encode()).hexdigest()[:8]))'
}

# make_environment PYTHON FOLDER: a venv of exactly that interpreter.
make_environment() {
    local python=$1 folder=$2 name
    name=$(name_python "$python") || return 1
    if [ "$(cat "$folder/.made-for" 2>/dev/null)" = "$name" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
        return 0
    fi
    rm -rf "$folder"
    quietly "$python" -m venv "$folder" || return 1
    printf '%s\n' "$name" >"$folder/.made-for"
}

# install_packages FOLDER PIP-ARGUMENTS...: once for these arguments and the files they name.
install_packages() {
    local folder=$1 stamp wanted argument
    shift
    wanted=$(for argument in "$@"; do
        printf '%s\n' "$argument"
        if [ -f "$argument" ]; then cat "$argument"; fi
    done | sha256sum)
    stamp=$folder/.installed-$(printf '%s\n' "$@" | sha256sum | cut -c -8)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        quietly "$folder/bin/python" -m pip install --disable-pip-version-check "$@" || return 1
        printf '%s\n' "$wanted" >"$stamp"
    fi
}

# pip keeps the uWSGI it has built, Python and all, and would give it to another Python of the same version.
install_uwsgi() {
    install_packages "$1" --no-cache-dir uwsgi
}

# install_sidecar FOLDER BUILD-FOLDER PIP-ARGUMENTS...: the checkout, again whenever one of its files has changed.
install_sidecar() {
    local folder=$1 build=$2 stamp=$1/.sidecar
    shift 2
    if [ -e "$stamp" ] && [ -z "$(cd "$root" && find CMakeLists.txt pyproject.toml README.md LICENSE sidecar \
        middleware plugin -newer "$stamp" -not -name '*.pyc' -not -name __pycache__ -print -quit)" ]; then
        return 0
    fi
    # Touched first: what is edited while it builds is built again the next time.
    touch "$stamp.new"
    quietly "$folder/bin/python" -m pip install --disable-pip-version-check --no-deps --force-reinstall \
        --config-settings=build-dir="$build" "$@" "$root" || return 1
    mv "$stamp.new" "$stamp"
}
