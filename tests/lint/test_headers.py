"""Every header compiles alone, without a warning: it includes what it needs."""
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from lint import Lint, files

FLAGS = ["-std=c17", "-D_GNU_SOURCE", '-DSPARSED_VERSION="0"', '-DSPARSED_ROOT="."', "-fsyntax-only", "-Wall", "-Wextra",
         "-Wstrict-prototypes", "-Werror", "-x", "c"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512 = AVX2 + ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]


def flags_for(path):
    """As in CMakeLists.txt: the file's name tells its instruction set."""
    if re.search(r"_avx512bf16\.h$", path):
        return FLAGS + AVX512 + ["-mavx512bf16"]
    if re.search(r"_avx512vnni\.h$", path):
        return FLAGS + AVX512 + ["-mavx512vnni"]
    if re.search(r"_avx512\.h$", path):
        return FLAGS + AVX512
    return FLAGS + (AVX2 if re.search(r"_avx2\.h$", path) else [])


def main():
    lint = Lint()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

    def compile_alone(path):
        source = '#include "%s"\n' % path
        return subprocess.run([compiler, *flags_for(path), "-I", lint.root, "-"], input=source, capture_output=True,
                              text=True, cwd=lint.root, check=False)

    headers = files(lint.root, ".h")
    with ThreadPoolExecutor(2) as pool:
        for path, result in zip(headers, pool.map(compile_alone, headers)):
            lint.check(path)
            if result.returncode != 0:
                first = re.search(r"[^\n]*(?:error|warning):[^\n]*", result.stderr)
                lint.wrong(path, 1, "does not compile alone: %s" % (first.group(0) if first else result.stderr))
    lint.finish()


main()
