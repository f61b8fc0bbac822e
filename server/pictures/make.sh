#!/usr/bin/env bash
# usage: server/pictures/make.sh PROGRAM [OPTION ...]
#
# Draws the three pictures of README.md again with `sparsed graph` on the bundled model. Options go to each of them, such as
# --fit FILE for another fit than the model's own.
set -euo pipefail
program=$(realpath "$1")
shift
cd "$(dirname "${BASH_SOURCE[0]}")"
model=../../models/austen
sentence='It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.'

draw() { # TEXT OPTION ...
    local text=$1
    shift
    printf '%s' "$text" | "$program" graph --model "$model" --text - "$@"
}

draw "$(head -c 4000 "$model/heldout.txt")" "$@" --format png --out overview.png
draw "$sentence" "$@" --attention '{"backend": "sparsefinder", "params": {"keep": 6, "window": 3, "global_first": 0}}' \
    --layer 5 --head 1 --view panels --format png --out panels.png
draw "$sentence" "$@" --layer 4 --head 2 --view lines --format svg --out lines.svg
