"""House rules that need no compiler: banned calls, marks of unfinished work, length of files, head comments, tabs,
trailing blanks, a newline at the end."""
import re

from lint import Lint, code_only, files, line_of, read

MAX_LINES = 600
# setlocale would change how numbers are printed and read; only the program itself exits
BANNED = {
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "strcpy": "memcpy with a size", "strcat": "sp_buffer",
    "strncpy": "memcpy with a size", "strncat": "sp_buffer", "strtok": "a loop", "strtok_r": "a loop",
    "atoi": "strtol with checks", "atol": "strtol with checks", "atoll": "strtoll with checks",
    "atof": "strtod with checks", "gets": "fgets", "alloca": "an arena", "setlocale": "nothing", "system": "nothing",
    "popen": "nothing", "tmpnam": "mkstemp", "mktemp": "mkstemp", "rand": "a seeded generator",
    "srand": "a seeded generator", "localtime": "localtime_r", "gmtime": "gmtime_r",
}
CALL = re.compile(r"\b(%s)[ \t\n]*\(" % "|".join(BANNED))
EXIT = re.compile(r"(?<![\w.>])(exit|quick_exit)[ \t\n]*\(")
# A clock that people set must not end a wait: it names times in logs and answers (sp_unix_now).
CLOCK = re.compile(r"\b(CLOCK_REALTIME|gettimeofday)\b")
CONDITION = re.compile(r"pthread_cond_init\([^;]*NULL\)")
MARK = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
TEXT = (".c", ".h", ".cu", ".cuh", ".py", ".sh", ".txt", ".cmake", ".def", ".md", ".yaml", ".yml")


def check_c(lint, path, text):
    code = code_only(text)
    for match in CALL.finditer(code):
        name = match.group(1)
        lint.wrong(path, line_of(code, match.start()), "%s is banned; use %s" % (name, BANNED[name]))
    if path != "server/main.c" and not path.startswith("tests/"):
        for match in EXIT.finditer(code):
            lint.wrong(path, line_of(code, match.start()), "only server/main.c calls %s" % match.group(1))
    if path != "kernels/base.c" and not path.startswith("tests/"):
        for match in CLOCK.finditer(code):
            lint.wrong(path, line_of(code, match.start()), "%s; waits are on sp_now's clock" % match.group(1))
    if "pthread_cond_timedwait" in code and CONDITION.search(code):
        lint.wrong(path, line_of(code, CONDITION.search(code).start()), "timed waits need sp_deadline_condition")
    if not text.startswith("/*"):
        lint.wrong(path, 1, "no head comment")


def check_script(lint, path, text):
    body = re.sub(r"\A#![^\n]*\n", "", text)
    if not re.match(r"#|\"\"\"|'''", body):
        lint.wrong(path, 1, "no head comment")


def check_lines(lint, path, text):
    lines = text.split("\n")
    if len(lines) - 1 > MAX_LINES:
        lint.wrong(path, len(lines) - 1, "%d lines, more than %d" % (len(lines) - 1, MAX_LINES))
    if text and not text.endswith("\n"):
        lint.wrong(path, len(lines), "no newline at the end")
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            lint.wrong(path, number, "tab")
        if line != line.rstrip():
            lint.wrong(path, number, "blank at the end of the line")


def main():
    lint = Lint()
    for path in files(lint.root, *TEXT):
        if path.startswith("models/") and path.endswith(".txt") or "/data/" in path or path.startswith("tests/golden/"):
            if not path.endswith((".c", ".h", ".py")):
                continue
        lint.check(path)
        text = read(lint.root, path)
        for match in MARK.finditer(text):
            lint.wrong(path, line_of(text, match.start()), "mark of unfinished work: %s" % match.group(1))
        if path.endswith((".c", ".h", ".cu", ".cuh")):
            check_c(lint, path, text)
        if path.endswith((".py", ".sh")):
            check_script(lint, path, text)
        if path.endswith((".c", ".h", ".cu", ".cuh", ".py", ".sh")):
            check_lines(lint, path, text)
    lint.finish()


main()
