#!/usr/bin/env bash
# Builds the image and tries it as it is meant to run: read-only root, nobody's rights, no capabilities; health, a completion, a
# refusal to write, SIGTERM in the middle of a stream. Prints one line, PASS or FAIL.
#
#   deploy/smoke.sh              with podman, docker or buildah, whichever works first
#   TOOL=buildah deploy/smoke.sh
#   BASE=my/debian:12 deploy/smoke.sh
#
# buildah needs no daemon: it builds with --isolation chroot, and what it built is run by chroot on a read-only mount, which
# wants root. Where no registry of images can be reached the base image is made by debootstrap (root too).
# Exit codes: 0 passed, 1 failed, 77 nothing to build images with.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
image=localhost/sparsed-smoke
port=${PORT:-18080}
server='' container='' mounted='' stream='' ended='' passed=''

say() { echo "smoke: $*" >&2; }

finish() {
    local code=$?
    set +e
    [ -z "$stream" ] || kill "$stream" 2>/dev/null
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null
    [ -z "$container" ] || run_tool rm -f "$container" >/dev/null 2>&1
    [ -z "$mounted" ] || umount -R "$mounted" 2>/dev/null
    rm -rf "$work"
    [ "$code" -ne 77 ] || exit 77
    if [ -n "$passed" ]; then
        echo "PASS: image built by $tool on ${base##*/}, served read-only, drained at SIGTERM"
        exit 0
    fi
    echo "FAIL: see above"
    exit 1
}
tool=${TOOL:-} base=${BASE:-debian:12-slim}
trap finish EXIT
trap 'exit 1' INT TERM HUP

fail() {
    say "$*"
    exit 1
}

# --- tools ---
works() {
    case $1 in
    docker) docker info >/dev/null 2>&1 ;;
    podman) podman info >/dev/null 2>&1 ;;
    buildah) command -v buildah >/dev/null && [ "$(id -u)" -eq 0 ] ;;
    *) return 1 ;;
    esac
}
find_tool() {
    local one
    for one in ${tool:-podman docker buildah}; do
        works "$one" && tool=$one && return 0
    done
    say "there is no podman, no docker daemon, and no buildah with root: nothing to build images with"
    exit 77
}
# buildah keeps its images in the working folder, so that nothing stays behind.
run_tool() {
    if [ "$tool" = buildah ]; then
        buildah --storage-driver vfs --root "$work/images" --runroot "$work/run" "$@"
    else
        "$tool" "$@"
    fi
}

# --- the base image ---
make_base() {
    say "no registry has $base for us; making a base image by debootstrap"
    command -v debootstrap >/dev/null || fail "install debootstrap, or give BASE"
    debootstrap --variant=minbase bookworm "$work/debian" "${MIRROR:-http://deb.debian.org/debian}" >"$work/log" 2>&1 ||
        fail "debootstrap: $(tail -n 3 "$work/log")"
    base=localhost/sparsed-base
    if [ "$tool" = buildah ]; then
        local scratch
        scratch=$(run_tool from scratch)
        run_tool add -q "$scratch" "$work/debian" / >/dev/null
        run_tool commit -q "$scratch" "$base" >/dev/null
        run_tool rm "$scratch" >/dev/null
    else
        tar -C "$work/debian" -c . | run_tool import - "$base" >/dev/null
    fi
    rm -rf "$work/debian"
}
build() {
    say "building with $tool on $base"
    local more=()
    [ "$tool" != buildah ] || more=(--isolation chroot)
    run_tool build "${more[@]}" --build-arg "BASE=$base" -t "$image" "$root" >"$work/log" 2>&1 ||
        fail "build: $(tail -n 20 "$work/log")"
}

# --- running it ---
# What the image says it runs, on another port.
arguments=(serve --host 0.0.0.0 --insecure --port "$port" --kv-bytes 64M --drain-delay 0)

start_container() {
    container=$(run_tool run -d --read-only --cap-drop ALL --security-opt no-new-privileges --network host "$image" "${arguments[@]}")
}
# buildah's own `run` has no read-only root: the image's files are bound read-only in a namespace of mounts, and the server is
# started there as nobody. Nothing but /proc and two devices is added, and no shell of the image is used.
start_chroot() {
    local name
    name=$(run_tool from "$image")
    mounted=$(run_tool mount "$name")
    mkdir -p "$mounted/proc" "$mounted/dev"
    cat >"$work/enter" <<'SCRIPT'
set -eu
mounted=$1
shift
mount --bind "$mounted" "$mounted"
mount -t proc -o ro,nosuid,nodev,noexec proc "$mounted/proc"
mount -o remount,bind,ro "$mounted"
exec setpriv --no-new-privs chroot --userspec=65534:65534 "$mounted" "$@"
SCRIPT
    unshare --mount -- sh "$work/enter" "$mounted" /usr/local/bin/sparsed "${arguments[@]}" >"$work/server" 2>&1 &
    server=$!
}
# Runs one program of the image as the server runs: same user, same read-only files.
inside() {
    if [ -n "$container" ]; then
        run_tool exec "$container" "$@"
    else
        unshare --mount -- sh "$work/enter" "$mounted" "$@"
    fi
}
logs() {
    if [ -n "$container" ]; then run_tool logs "$container" 2>&1; else cat "$work/server"; fi | tail -n 15 >&2
}
send_term() {
    if [ -n "$container" ]; then run_tool kill --signal TERM "$container" >/dev/null; else kill -TERM "$server"; fi
}
# Sets ended, the server's exit code.
wait_for_end() {
    ended=0
    if [ -n "$container" ]; then
        ended=$(run_tool wait "$container")
    else
        wait "$server" || ended=$?
        server=''
    fi
}

url=http://127.0.0.1:$port
ask() {
    python3 - "$@" <<'PYTHON'
import json, sys, urllib.request
url, body = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
request = urllib.request.Request(url, body.encode() if body else None, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=60) as reply:
    while piece := reply.read1(65536):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
PYTHON
}
# Twenty seconds for a command to succeed.
wait_until() {
    local until=$((SECONDS + 20))
    while [ "$SECONDS" -lt "$until" ]; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    return 1
}

check() {
    inside /usr/local/bin/sparsed health --port "$port" >/dev/null || fail "the image's health check fails"
    local text
    text=$(ask "$url/v1/completions" '{"prompt":"It is a truth","max_tokens":8,"temperature":0}')
    [[ $text == *'"finish_reason"'*'"completion_tokens":8'* ]] || fail "completion: $text"
    # Nothing can be written, and the server is nobody.
    ! inside /usr/bin/touch /usr/local/written 2>/dev/null || fail "the root is writable"
    local pid=$server
    [ -z "$container" ] || pid=$(run_tool inspect --format '{{.State.Pid}}' "$container")
    grep -q '^Uid:[[:space:]]65534[[:space:]]65534' "/proc/$pid/status" || fail "it does not run as nobody"
    grep -q '^CapEff:[[:space:]]0*$' "/proc/$pid/status" || fail "it has capabilities"
    grep -q '^NoNewPrivs:[[:space:]]1' "/proc/$pid/status" || fail "it may gain privileges"
    # SIGTERM while a stream runs: it ends as it should, and so does the server.
    ask "$url/v1/completions" '{"prompt":"Emma","max_tokens":2000,"ignore_eos":true,"stream":true}' >"$work/stream" &
    stream=$!
    wait_until test -s "$work/stream" || fail "no stream begins"
    send_term
    wait "$stream" || fail "the stream broke"
    stream=''
    [[ $(cat "$work/stream") == *'"finish_reason":"length"'*'data: [DONE]'* ]] ||
        fail "the stream did not end: $(tail -c 300 "$work/stream")"
    wait_for_end
    [ "$ended" = 0 ] || {
        logs
        fail "exit code $ended"
    }
}

find_tool
[ -n "${BASE:-}" ] || run_tool pull "$base" >"$work/log" 2>&1 || make_base
build
if [ "$tool" = buildah ]; then start_chroot; else start_container; fi
wait_until ask "$url/health" || {
    logs
    fail "not healthy after 20 seconds"
}
check
passed=yes
