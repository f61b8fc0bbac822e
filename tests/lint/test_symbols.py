"""Every global symbol that our static libraries define starts with sp_ (seen by nm in the build folder)."""
import glob
import os
import subprocess

from lint import Lint

LIBRARIES = ["libsp_kernels.a", "libsp_models.a", "libsp_engine.a", "libsp_server.a"]
TOOLS = ("__odr_asan", "__asan", "__ubsan", "__tsan", "__gcov", "__llvm", "__sanitizer", "___asan")


def main():
    lint = Lint()
    found = glob.glob(os.path.join(lint.build or "", "**", "libsp_*.a"), recursive=True)
    paths = {os.path.basename(path): path for path in found}
    for library in LIBRARIES:
        if library not in paths:
            lint.wrong(library, 1, "not built in %s" % lint.build)
            continue
        lint.check(library)
        output = subprocess.run(["nm", "-g", "--defined-only", "-A", paths[library]], check=True,
                                capture_output=True, text=True).stdout
        for line in output.splitlines():
            where, _, symbol = line.partition(" ")
            kind, name = symbol.split()[-2:]
            if name.startswith("sp_") or name.startswith(TOOLS):
                continue
            member = where.split(":")[1] if ":" in where else "?"
            lint.wrong(library, 1, "%s defines the global symbol %s (%s) without sp_" % (member, name, kind))
    lint.finish()


main()
