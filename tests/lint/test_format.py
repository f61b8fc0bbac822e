"""C files are formatted as .clang-format says (clang-format 14, that of Debian 12; another version disagrees with it in
details, so without version 14 this test is skipped)."""
import re
import shutil
import subprocess
import sys

from lint import Lint, files


def find_formatter():
    for name in ("clang-format-14", "clang-format"):
        path = shutil.which(name)
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            if re.search(r"version 14\.", version):
                return path
    return None


def main():
    lint = Lint()
    formatter = find_formatter()
    if not formatter:
        print("skipped: no clang-format 14 on this machine")
        sys.exit(77)
    paths = files(lint.root, ".c", ".h", ".cu", ".cuh")
    for path in paths:
        lint.check(path)
    if paths:
        result = subprocess.run([formatter, "--style=file", "--dry-run", *paths], cwd=lint.root, capture_output=True,
                                text=True, check=False)
        found = re.findall(r"^([^:\n]+):(\d+):\d+: (?:warning|error)", result.stderr, re.M)
        for path, line in sorted({(path, int(line)) for path, line in found}):
            lint.wrong(path, line, "not formatted; run %s -i %s" % (formatter.rsplit("/", 1)[-1], path))
        if result.returncode != 0 and not lint.bad:
            lint.wrong(".clang-format", 1, result.stderr.strip())
    lint.finish()


main()
