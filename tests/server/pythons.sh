# What tests/server/programs and tests/server/cpu_matrix share: where an
# interpreter comes from, Debian's chroots among them, and the packages that the
# tests need there.  Sourced by bash, after deploy/lib.sh.
#
# It calls not_run NAME WHY..., which each of the two has.

roots=$root/build/programs
pythons_folder=${SIDECAR_PYTHONS:-${XDG_CACHE_HOME:-$HOME/.cache}/sidecar-pythons}
chroot_packages=ca-certificates,python3,python3-dev,python3-venv,gcc,libc6-dev,binutils,uwsgi-core,uwsgi-plugin-python3,nginx-light

# find_python 3.11: its interpreter, or nothing.
find_python() {
    local candidate
    for candidate in "$(command -v "python$1")" "$(command -v pyenv >/dev/null && pyenv root)"/versions/"$1".*/bin/python3; do
        if [ -x "$candidate" ] && "$candidate" -c 'import ctypes, ssl' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# wanted_of "NAME ...": their lines of tests/requirements.txt.
wanted_of() {
    local name
    for name in $1; do grep -e "^$name\$" -e "^$name[^a-z-]" "$root/tests/requirements.txt"; done
}

# install_packages_of_tests FOLDER NEEDED SERVED: what is needed, or nothing goes; then what the applications under
# test import, all at once, and each by itself where one has no wheel for this Python.
install_packages_of_tests() {
    local folder=$1 requirement lines
    mapfile -t lines < <(wanted_of "$2")
    install_packages "$folder" "${lines[@]}" || return 1
    mapfile -t lines < <(wanted_of "$3")
    install_packages "$folder" --only-binary=:all: "${lines[@]}" 2>/dev/null && return
    for requirement in "${lines[@]}"; do
        install_packages "$folder" --only-binary=:all: "$requirement" 2>/dev/null ||
            say "no wheel of $requirement for this Python: its tests do not run"
    done
}

# -- Debian's releases ---------------------------------------------------------------------

# The mirror that this machine's apt uses.
mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
        grep -v -e security | head -n 1
}

# make_root RELEASE NAME: once for all that use the release.
make_root() {
    local release=$1 name=$2 folder=$roots/$1/root from
    [ -e "$folder/usr/bin/uwsgi-core" ] && return
    from=$(mirror)
    [ -n "$from" ] || not_run "$name" "apt names no mirror of Debian's" || return 1
    step "$release: debootstrap (some minutes)"
    # Under its name only once it is whole.
    rm -rf "$folder" "$folder.new"
    mkdir -p "${folder%/*}"
    quietly debootstrap --variant=minbase --include="$chroot_packages" "$release" "$folder.new" "$from" ||
        not_run "$name" "debootstrap failed: see $log" || return 1
    mv "$folder.new" "$folder"
}

# share FOLDER PATH: the path is there in the chroot, too.
share() {
    if [ -d "$2" ]; then
        mkdir -p "$1$2"
    elif [ -e "$2" ]; then
        mkdir -p "$1${2%/*}" && touch "$1$2"
    else
        return 0
    fi
    mount --rbind "$2" "$1$2"
}

# enter_root FOLDER COMMAND...: in namespaces of its own: mounts and processes end with it.
enter_root() {
    local folder=$1 path
    shift
    mount -t proc proc "$folder/proc" && mount -t tmpfs tmpfs "$folder/tmp" && share "$folder" /dev || return 1
    for path in "$root" /etc/resolv.conf /etc/hosts /etc/ssl/certs /etc/pip.conf "$HOME/.config/pip" "$HOME/.pip"; do
        share "$folder" "$path" || return 1
    done
    exec env TMPDIR=/tmp LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$folder" "$@"
}

# run_in_chroot RELEASE NAME COMMAND...: the command, of this checkout, inside.
run_in_chroot() {
    local release=$1 name=$2
    shift 2
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        not_run "$name" "a chroot of Debian's $release needs root and debootstrap (apt-get install debootstrap)"
        return 1
    fi
    make_root "$release" "$name" || return 1
    export -f enter_root share
    export root
    # Replaced by its own, if it comes so far.
    not_run "$name" "its chroot could not be entered" >/dev/null
    unshare --mount --pid --fork --kill-child bash -c 'enter_root "$@"' enter_root "$roots/$release/root" "$@"
}

# install_for_uwsgi VERSION...: inside a chroot, those Pythons with their headers, and what uWSGI is compiled with.
install_for_uwsgi() {
    local version
    for version in "$@"; do
        wants "python$version-dev" has_headers "python$version"
        wants "python$version-venv" can_make_environments "python$version"
        # uWSGI links the first, and has routes and https with the others.
        wants libcrypt-dev test -e /usr/include/crypt.h
        wants libpcre2-dev test -e /usr/include/pcre2.h
        wants libssl-dev test -e /usr/include/openssl/ssl.h
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    step "Installing ${missing[*]}"
    # From debootstrap's lists; where they are too old, from those of today.
    DEBIAN_FRONTEND=noninteractive quietly apt-get install -y --no-install-recommends "${missing[@]}" ||
        install_missing
}
