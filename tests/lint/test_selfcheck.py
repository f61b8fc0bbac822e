"""The lint tests can fail: each is run on a small good tree and on copies of it with one fault, and must name it."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
GOOD = {
    ".clang-format": "BasedOnStyle: LLVM\n",
    "kernels/base.h": "/* Base. */\n#ifndef BASE_H\n#define BASE_H\n\n#include <stddef.h>\n\nsize_t sp_base(void);\n\n#endif\n",
    "kernels/secret.h": "/* Private to kernels/. */\n#ifndef SECRET_H\n#define SECRET_H\n#endif\n",
    "kernels/base.c": '/* Base. */\n#include "kernels/base.h"\n#include "kernels/secret.h"\n\nsize_t sp_base(void) { return 0; }\n',
    "kernels/cpu/cpu.h": "/* CPU. */\n#ifndef CPU_H\n#define CPU_H\n#endif\n",
    "engine/attention/attention.h": "/* Backends. */\n#ifndef ATTENTION_H\n#define ATTENTION_H\ntypedef struct sp_backend {\n  int x;\n} sp_backend;\n#endif\n",
    "engine/attention/backends.def": "/* List. */\nSP_BACKEND(dense)\n",
    "engine/attention/dense.c": '/* Dense. */\n#include "engine/attention/attention.h"\n#include "kernels/base.h"\n\nextern const sp_backend sp_backend_dense;\nconst sp_backend sp_backend_dense = {1};\n',
}
# lint, file, text put at its end (or, with None before it, in its place), what the lint must print
FAULTS = [
    ("includes", "kernels/base.c", '#include "engine/attention/attention.h"\n', "kernels/base.c:6: kernels/ is below engine/"),
    ("includes", "engine/attention/dense.c", '#include "kernels/secret.h"\n', "kernels/secret.h is private"),
    ("includes", "engine/attention/dense.c", '#include "kernels/cpu/cpu.h"\n', "kernels/cpu/cpu.h is private"),
    ("includes", "engine/attention/dense.c", '#include "attention.h"\n', "not a path from the root"),
    ("includes", "kernels/base.c", '#include "../kernels/base.h"\n', "not a path from the root"),
    ("includes", "engine/attention/dense.c", "#include <microhttpd.h>\n", "microhttpd.h may be included by"),
    ("includes", "kernels/base.c", "# include <cjson/cJSON.h>\n", "cJSON.h may be included by"),
    ("includes", "kernels/base.c", "#include <cblas.h>\n", "cblas.h may be included by"),
    ("banned", "kernels/base.c", "int sp_x(char *a) { return atoi(a); }\n", "kernels/base.c:6: atoi is banned"),
    ("banned", "kernels/base.c", "void sp_x(char *a) { strcpy (a, a); }\n", "strcpy is banned"),
    ("banned", "kernels/base.c", "void sp_x(void) { exit(1); }\n", "only server/main.c calls exit"),
    ("banned", "engine/attention/dense.c", "int sp_x = CLOCK_REALTIME;\n", "CLOCK_REALTIME; waits are on"),
    ("banned", "kernels/base.c", "void sp_x(void) { pthread_cond_init(c, NULL); pthread_cond_timedwait(c, l, t); }\n", "sp_deadline_condition"),
    ("banned", "kernels/base.c", "/* TO" "DO: x */\n", "mark of unfinished work"),
    ("banned", "kernels/base.c", "\tint sp_x;\n", "kernels/base.c:6: tab"),
    ("banned", "kernels/base.c", "int sp_x; \n", "blank at the end"),
    ("banned", "kernels/base.c", "int sp_x;", "no newline at the end"),
    ("banned", "kernels/base.c", "\n" * 600, "605 lines, more than 600"),
    ("banned", "kernels/new.c", "int sp_x;\n", "kernels/new.c:1: no head comment"),
    ("banned", "tests/new.py", "import os\n", "tests/new.py:1: no head comment"),
    ("headers", "kernels/base.h", "sp_status sp_x(void);\n", "kernels/base.h:1: does not compile alone"),
    ("headers", "kernels/new.h", "static inline size_t sp_x(void) { return 0; }\n", "kernels/new.h:1: does not compile"),
    ("backends", "engine/attention/backends.def", "SP_BACKEND(fixed)\n", "no engine/attention/fixed.c defines"),
    ("backends", "engine/attention/backends.def", "SP_BACKEND(dense)\n", "dense is listed twice"),
    ("backends", "engine/attention/new.c", "const sp_backend sp_backend_new = {1};\n", "sp_backend_new is not listed"),
    ("backends", "engine/attention/other.c", "const sp_backend sp_backend_dense = {1};\n", "belongs in engine/attention/dense.c"),
    ("format", "kernels/base.c", "int   sp_x;\n", "kernels/base.c:6: not formatted"),
    ("symbols", "kernels/base.c", "int global_without_prefix;\n", "global_without_prefix (B) without sp_"),
]


def write(root, path, text, mode):
    path = os.path.join(root, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, mode, encoding="utf-8") as file:
        file.write(text)


def build(root):
    """The four libraries that test_symbols looks at, each with all the C files there are."""
    folder = os.path.join(root, "build")
    os.makedirs(folder)
    objects = []
    for path in ("kernels/base.c", "engine/attention/dense.c"):
        objects.append(os.path.join(folder, os.path.basename(path) + ".o"))
        subprocess.run(["cc", "-I", root, "-c", os.path.join(root, path), "-o", objects[-1]], check=True)
    for library in ("kernels", "models", "engine", "server"):
        subprocess.run(["ar", "rc", os.path.join(folder, "libsp_%s.a" % library), *objects], check=True)


def run(lint, fault):
    """The lint's exit status and output on the good tree with the fault."""
    with tempfile.TemporaryDirectory() as root:
        for path, text in GOOD.items():
            write(root, path, text, "w")
        if fault:
            write(root, fault[1], fault[2], "a")
        if lint == "symbols":
            build(root)
        script = os.path.join(HERE, "test_%s.py" % lint)
        result = subprocess.run([sys.executable, "-B", script, root, os.path.join(root, "build")], capture_output=True,
                                text=True, check=False)
        return result.returncode, result.stdout + result.stderr


def main():
    passed = failed = 0
    cases = [(lint, None) for lint in ("includes", "banned", "headers", "backends", "format", "symbols")]
    cases += [(fault[0], fault) for fault in FAULTS]
    for lint, fault in cases:
        status, output = run(lint, fault)
        if status == 77:
            continue
        good = (status == 1 and fault[3] in output) if fault else status == 0
        passed, failed = passed + good, failed + (not good)
        if not good:
            print("test_%s.py on %s: exit %d\n%s" % (lint, fault[1:] if fault else "a good tree", status, output))
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(1 if failed or not passed else 0)


main()
