"""engine/attention/backends.def lists exactly the backends that engine/attention/*.c define, each in its own file."""
import re

from lint import Lint, code_only, files, line_of, read

LIST = "engine/attention/backends.def"
LISTED = re.compile(r"^[ \t]*SP_BACKEND\((\w+)\)", re.M)
DEFINED = re.compile(r"^(?:static[ \t]+)?const[ \t]+sp_backend[ \t]+sp_backend_(\w+)[ \t\n]*=", re.M)


def main():
    lint = Lint()
    text = code_only(read(lint.root, LIST))
    lint.check(LIST)
    listed = {}
    for match in LISTED.finditer(text):
        line = line_of(text, match.start(1))
        if match.group(1) in listed:
            lint.wrong(LIST, line, "%s is listed twice" % match.group(1))
        listed[match.group(1)] = line
    defined = {}
    for path in files(lint.root, ".c"):
        if not path.startswith("engine/attention/"):
            continue
        lint.check(path)
        code = code_only(read(lint.root, path))
        for match in DEFINED.finditer(code):
            name, line = match.group(1), line_of(code, match.start(1))
            defined[name] = path
            if name not in listed:
                lint.wrong(path, line, "sp_backend_%s is not listed in %s" % (name, LIST))
            if path != "engine/attention/%s.c" % name:
                lint.wrong(path, line, "sp_backend_%s belongs in engine/attention/%s.c" % (name, name))
    for name, line in listed.items():
        if name not in defined:
            lint.wrong(LIST, line, "no engine/attention/%s.c defines const sp_backend sp_backend_%s" % (name, name))
    lint.finish()


main()
