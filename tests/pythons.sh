# What tests/conformance/run and tests/compat/run share: which interpreters there
# are.  Sourced by bash, after deploy/lib.sh.

pythons_folder=${SIDECAR_PYTHONS:-${XDG_CACHE_HOME:-$HOME/.cache}/sidecar-pythons}

# The interpreter behind a version, a name or a path.
find_python() {
    local candidate
    for candidate in "$pythons_folder/$1/bin/python3" \
        "$(command -v pyenv >/dev/null && pyenv root)"/versions/"$1".*/bin/python3 \
        "$(command -v "python$1")" "$(command -v "$1")"; do
        if [ -x "$candidate" ] && "$candidate" -c 'import ssl, ctypes' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    printf '%sNo interpreter "%s":%s name a version, one of %s, or a path\n' "$red" "$1" "$plain" "$pythons_folder" >&2
    return 1
}

label() {
    "$1" -c 'import platform, sys
print(platform.python_version() + getattr(sys, "abiflags", ""))'
}

all_pythons() {
    local minor python
    for minor in 9 10 11 12 13; do
        find_python "3.$minor" 2>/dev/null
    done
    for python in "$pythons_folder"/3.*/bin/python3; do
        # Builds for sanitizers and debuggers take hours over this.
        case $python in *-tsan/* | *-asan/* | *-debug/*) ;; *) [ ! -x "$python" ] || printf '%s\n' "$python" ;; esac
    done
}
