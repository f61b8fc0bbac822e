"""What ThreadSanitizer reported while tests ran: `races.py begin FOLDER` before them, `races.py end FOLDER` after them.

Every program writes its reports to FOLDER/TEST.PID (tests/CMakeLists.txt); `end` shows them and fails if there are any.
"""
import os
import shutil
import sys


def main():
    when, folder = sys.argv[1:]
    if when == "begin":
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return 0
    names = sorted(os.listdir(folder))
    for name in names:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            print("== %s\n%s" % (name, file.read()))
    print("%d programs with reports: %s" % (len(names), " ".join(names) or "none"))
    return 1 if names else 0


sys.exit(main())
