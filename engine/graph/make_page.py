"""Writes page_parts.h: the style and the script of the offline page as C strings.

usage: make_page.py page.css page.js OUTPUT

Run by CMake at build; engine/graph/export_html.c includes the result.
"""

import sys


def literal(text):
    """C string literals, one a line of text."""
    quoted = (line.replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n"))
    return "\n".join('"%s\\n"' % line for line in quoted)


def main():
    css, js, output = sys.argv[1:]
    with open(output, "w", encoding="ascii") as out:
        out.write("/* Made by engine/graph/make_page.py. */\n")
        for name, path in (("page_css", css), ("page_js", js)):
            with open(path, encoding="ascii") as file:
                out.write("static const char %s[] =\n%s;\n" % (name, literal(file.read())))


main()
