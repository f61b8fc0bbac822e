#!/usr/bin/env bash
# From a fresh clone to a served model: installs the Debian packages that are missing, builds build/release/sparsed, and
# serves the bundled model on http://127.0.0.1:8080. Run it as often as you like: what is done already is skipped.
#
#   deploy/run.sh                        serve models/austen
#   PORT=9000 deploy/run.sh              on another port
#   deploy/run.sh --attention strided    any option of `sparsed serve`
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# libcmocka-dev is for the tests, which share this build folder.
packages=(gcc libc6-dev cmake ninja-build pkg-config python3 libmicrohttpd-dev libcjson-dev libopenblas-dev libcmocka-dev)

install_missing() {
    local missing=() package as_root=()
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "run.sh: not root and no sudo; have an administrator run: apt-get install ${missing[*]}" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    echo "run.sh: installing ${missing[*]}" >&2
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends
        "${missing[@]}")
    "${install[@]}" >&2 && return 0
    "${as_root[@]}" apt-get update -q >&2 # the lists were empty or old
    "${install[@]}" >&2
}

build() {
    [ -f "$root/build/release/build.ninja" ] || (cd "$root" && cmake --preset release >&2)
    ninja -C "$root/build/release" sparsed >&2
}

# Copies the server's own lines; after "sparsed: serving NAME on URL" adds what to type.
announce() {
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line"
        [[ $line == "sparsed: serving "* ]] || continue
        local url=${line##* }
        cat <<TEXT

In another terminal:
  curl -N $url/v1/completions -H 'Content-Type: application/json' -d '{"prompt":"It is a truth universally acknowledged, that","max_tokens":60,"temperature":0.7,"stream":true}'
The same with sparse attention:
  curl -N $url/v1/completions -H 'Content-Type: application/json' -d '{"prompt":"It is a truth universally acknowledged, that","max_tokens":60,"temperature":0.7,"stream":true,"attention":{"backend":"strided","params":{"stride":16}}}'
Ctrl-C stops the server.
TEXT
    done
}

command -v dpkg-query >/dev/null && install_missing
build
arguments=()
[[ " $* " == *" --model"* || " $* " == *" --config"* ]] || arguments+=(--model "$root/models/austen")
[ -z "${PORT:-}" ] || arguments+=(--port "$PORT")
exec "$root/build/release/sparsed" serve "${arguments[@]}" "$@" > >(announce)
