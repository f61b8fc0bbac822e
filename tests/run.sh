#!/usr/bin/env bash
# usage: tests/run.sh
#
# Runs every test: installs what is missing (Debian 12 packages, as root or by sudo), builds the presets release and
# asan in build/release and build/asan, runs ctest in both and ends with the line "N passed, N failed". Nothing is
# fetched when everything is installed; a second run only builds what has changed. Lint looks at sources and libraries, and
# some tests drive a fetched model for long: those run once, with release.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

. deploy/packages.sh
packages=("${build_packages[@]}" python3-numpy curl clang-format)
labels='^(unit|kernels|attention|golden|http|lint|fuzz-smoke)$'

die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

# Configures and builds; what went wrong is shown, and the log kept.
build() { # PRESET
    local preset=$1 log=build/$1.log
    echo "== $preset: build (the first time takes minutes)"
    cmake --preset "$preset" >"$log" 2>&1 && cmake --build --preset "$preset" >>"$log" 2>&1 && return 0
    grep -E -A12 'FAILED:|error:|CMake Error' "$log" | head -n 80 || tail -n 40 "$log"
    echo "FAILED $preset: build (see $log)"
    return 1
}

passed=0 failed=0 skipped=()

# Adds up one JUnit report: prints failed tests, and "COUNT passed failed skipped-names..." as its last line.
read_report() { # PRESET FILE
    /usr/bin/python3 - "$@" <<'PYTHON'
import sys
import xml.etree.ElementTree as tree
preset, path = sys.argv[1:]
passed, failed, skipped = 0, 0, []
for case in tree.parse(path).getroot().iter("testcase"):
    name, status = case.get("name"), case.get("status")
    reason = case.find("skipped").get("message", "") if case.find("skipped") is not None else ""
    if status == "disabled" or reason.startswith("SKIP_"):
        skipped.append("%s:%s" % (preset, name))
    elif status == "run" and case.find("failure") is None:
        passed += 1
    else:
        failed += 1
        print("FAILED %s: %s %s" % (preset, name, reason))
print("COUNT", passed, failed, *skipped)
PYTHON
}

run_tests() { # PRESET [CTEST OPTION ...]
    local preset=$1 report count line
    shift
    report=$root/build/$preset-tests.xml
    rm -f "$report"
    echo "== $preset: test"
    ctest --test-dir "build/$preset" -L "$labels" --no-tests=error --output-on-failure --output-junit "$report" \
        -j "$jobs" "$@" || true
    [ -s "$report" ] || die "ctest left no report for $preset"
    while read -r line; do
        case $line in
        COUNT*) read -r -a count <<<"${line#COUNT }" ;;
        *) echo "$line" ;;
        esac
    done < <(read_report "$preset" "$report")
    passed=$((passed + count[0])) failed=$((failed + count[1])) skipped+=("${count[@]:2}")
}

install_packages "${packages[@]}" || die "the packages above are missing"
mkdir -p build
jobs=$(nproc)
# Not detect_stack_use_after_return: gcc 12 misaligns 64-byte vectors on that stack (GCC bug 110027).
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:halt_on_error=1:abort_on_error=0:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}

# What drives a whole model for minutes, by code that smaller runs go through under sanitizers too.
long='^(golden\.test_smollm2.*|golden\.test_fit_losses|http\.test_lm_eval)$'
for preset in release asan; do
    only=()
    [ "$preset" = release ] || only=(-LE '^lint$' -E "$long")
    if build "$preset"; then run_tests "$preset" "${only[@]}"; else failed=$((failed + 1)); fi
done

[ ${#skipped[@]} -eq 0 ] || echo "${#skipped[@]} skipped: ${skipped[*]}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
