# shellcheck shell=bash disable=SC2034
# Sourced by deploy/run.sh and tests/run.sh: what a build needs, and how Debian packages get installed.

# libcmocka-dev is for the tests: both scripts share one build folder.
build_packages=(gcc libc6-dev cmake ninja-build pkg-config python3 libmicrohttpd-dev libcjson-dev libopenblas-dev
                libpng-dev zlib1g-dev libfreetype-dev fonts-dejavu-core libcmocka-dev)

# install_packages NAME...: installs those that are missing, as root or by sudo; fetches nothing when all are there. On other
# systems it takes the tools as they are.
install_packages() {
    command -v dpkg-query >/dev/null || return 0
    local missing=() as_root=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "neither root nor sudo; as root: apt-get install ${missing[*]}" >&2
            return 1
        }
        as_root=(sudo)
    fi
    echo "installing: ${missing[*]}" >&2
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
    # The package lists may be absent or old: refresh them only if the installation fails without.
    "${install[@]}" "${missing[@]}" >/dev/null 2>&1 && return 0
    "${as_root[@]}" apt-get update -q >&2 || return 1
    "${install[@]}" "${missing[@]}" >&2
}
