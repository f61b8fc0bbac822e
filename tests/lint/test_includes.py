"""Includes: one direction (server -> engine -> models -> kernels), no private header of another folder, every path from
the repository's root, and one door a package.

A header is private when its head comment says "Private to", or when it lies in kernels/cpu or kernels/cuda. A header
that the build makes (OUTPUT of a custom command in CMakeLists.txt) counts as if it lay in the tree."""
import os
import re

from lint import LAYERS, Lint, code_only, files, line_of, read

# header of a package: the files (or folders, ending in /) that may include it
DOORS = [
    (r"microhttpd\.h$", ["server/http.c"]),
    (r"(cblas|lapacke|openblas_config)\.h$", ["kernels/cpu/"]),
    (r"cJSON\.h$", ["models/config.c", "server/json_body.c"]),
    (r"^(cuda|cublas|nccl|nvml).*\.h$", ["kernels/cuda/"]),
    (r"^png\.h$", ["engine/graph/png.c"]),
    (r"^(ft2build|freetype.*)\.h$", ["engine/graph/make_font.c"]),
    (r"cmocka\.h$", ["tests/support/test.h"]),
]
INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"\n]+)[>\"]", re.M)


def may_enter(path, doors):
    return any(path == door or (door.endswith("/") and path.startswith(door)) for door in doors)


def is_private(root, header):
    path = os.path.join(root, header)
    head = read(root, header).split("*/")[0] if os.path.isfile(path) else ""
    return header.startswith(("kernels/cpu/", "kernels/cuda/")) or "rivate to" in head


def made_by_build(root):
    path = os.path.join(root, "CMakeLists.txt")
    text = read(root, "CMakeLists.txt") if os.path.isfile(path) else ""
    return set(re.findall(r"\bOUTPUT[ \t]+\$\{\w+\}/(\S+\.h)\b", text))


def check_own(lint, path, line, header, made):
    if header not in made and not os.path.isfile(os.path.join(lint.root, header)) or header.startswith(("./", "../")):
        lint.wrong(path, line, '"%s" is not a path from the root of the repository' % header)
        return
    here, there = path.split("/")[0], header.split("/")[0]
    if here not in LAYERS or here == there:
        return
    if there not in LAYERS:
        lint.wrong(path, line, "%s/ must not include %s" % (here, header))
    elif LAYERS.index(there) > LAYERS.index(here):
        lint.wrong(path, line, "%s/ is below %s/ and must not include %s" % (here, there, header))
    elif is_private(lint.root, header):
        lint.wrong(path, line, "%s is private to %s/" % (header, there))


def main():
    lint = Lint()
    made = made_by_build(lint.root)
    for path in files(lint.root, ".c", ".h", ".cu", ".cuh"):
        lint.check(path)
        text = code_only(read(lint.root, path), strings=True)
        for match in INCLUDE.finditer(text):
            quote, header = match.groups()
            line = line_of(text, match.start(2))
            for pattern, doors in DOORS:
                if re.search(pattern, header) and not may_enter(path, doors):
                    if not (path.startswith("tests/") and "cmocka" not in pattern):
                        lint.wrong(path, line, "%s may be included by %s only" % (header, ", ".join(doors)))
            if quote == '"':
                check_own(lint, path, line, header, made)
    lint.finish()


main()
