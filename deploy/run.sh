#!/usr/bin/env bash
# From a fresh clone to a served model: installs the Debian packages that are missing, builds build/release/sparsed, and
# serves the bundled model on http://127.0.0.1:8080. Run it as often as you like: what is done already is skipped.
#
#   deploy/run.sh                        serve models/austen
#   PORT=9000 deploy/run.sh              on another port
#   deploy/run.sh --attention strided    any option of `sparsed serve`
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/deploy/packages.sh"

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

install_packages "${build_packages[@]}"
build
arguments=()
[[ " $* " == *" --model"* || " $* " == *" --config"* ]] || arguments+=(--model "$root/models/austen")
[ -z "${PORT:-}" ] || arguments+=(--port "$PORT")
exec "$root/build/release/sparsed" serve "${arguments[@]}" "$@" > >(announce)
