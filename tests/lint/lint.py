"""What the lint tests share: the list of files, C text without comments and strings, and the count at the end."""
import os
import re
import sys

SKIPPED_FOLDERS = {".git", "__pycache__", "corpus"}
LAYERS = ["kernels", "models", "engine", "server"]


def files(root, *suffixes):
    """Paths below root, relative to it and sorted, whose names end in one of the suffixes; build folders are passed
    over."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith("build")]
        for name in names:
            if name.endswith(suffixes):
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return sorted(found)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def _blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def code_only(text, strings=False):
    """C text whose comments (and, unless strings, literals) are blanked; offsets and lines stay."""
    token = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)

    def replace(match):
        literal = match.group(0)[0] in "\"'"
        return match.group(0) if literal and strings else _blank(match)

    return token.sub(replace, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


class Lint:
    """Collects what is wrong, file by file."""

    def __init__(self):
        if len(sys.argv) < 2:
            sys.exit("usage: %s ROOT [BUILD]" % sys.argv[0])
        self.root = os.path.abspath(sys.argv[1])
        self.build = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None
        self.checked, self.bad = set(), set()

    def check(self, path):
        self.checked.add(path)

    def wrong(self, path, line, what):
        self.checked.add(path)
        self.bad.add(path)
        print("%s:%d: %s" % (path, line, what))

    def finish(self):
        """Prints the counts and leaves; a lint that found nothing to look at has failed."""
        if not self.checked:
            print("nothing to check below %s" % self.root)
            self.bad.add("")
        print("%d passed, %d failed" % (len(self.checked - self.bad), len(self.bad)))
        sys.exit(1 if self.bad else 0)
