#!/usr/bin/python3
"""Docs keep up with the code: every option of `sparsed serve --help` and every route of the table stands in
server/README.md, every backend and parameter of the registry (as --help prints it) in engine/README.md, with its default
and range; and nothing stands there that does not exist. Arguments: the repository root, the build folder."""
import json
import os
import re
import subprocess
import sys

root, build = sys.argv[1], sys.argv[2]
failures = []


def check(good, message):
    if not good:
        failures.append(message)


def read(path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def table_after(text, mark):
    """Rows of the first table behind an HTML comment, as lists of cells."""
    behind = text.split("<!-- " + mark + ":", 1)
    if len(behind) < 2:
        sys.exit("no comment <!-- %s: in the document" % mark)
    rows = []
    for line in behind[1].split("\n")[1:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


program = os.path.join(build, "sparsed")
if not os.path.exists(program):
    print("not built: " + program)
    sys.exit(77)
help_text = subprocess.run([program, "serve", "--help"], check=True, capture_output=True, text=True).stdout
server = read("server/README.md")
engine = read("engine/README.md")

# Options: names, and defaults where --help gives one.
options = dict.fromkeys(re.findall(r"^  --([a-z-]+)", help_text, re.M))
for name in options:
    section = re.search(r"^  --%s\b.*?(?=^  --|^\S|\Z)" % name, help_text, re.M | re.S).group(0)
    default = re.search(r"\(default ([^;)]+)", " ".join(section.split()))
    options[name] = default.group(1) if default else None
documented = {re.match(r"`--([a-z-]+)`", row[0]).group(1): row[1] for row in table_after(server, "options")}
check(len(options) > 25, "--help lists only %d options" % len(options))
for name in options.keys() | documented.keys():
    check(name in documented, "server/README.md lacks --" + name)
    check(name in options, "server/README.md lists --%s, which is no option" % name)
    if name in options and name in documented and options[name]:
        check(documented[name].strip("`") == options[name],
              "--%s: default %s in --help, %s in server/README.md" % (name, options[name], documented[name]))

# Routes.
routes = set(re.findall(r'\{"(GET|POST|DELETE)", "(/[^"]*)"', read("server/routes.c")))
named = set(re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", "".join(row[0] for row in table_after(server, "routes"))))
check(len(routes) > 5, "found only %d routes in server/routes.c" % len(routes))
for method, path in sorted(routes - named):
    check(False, "server/README.md lacks %s %s" % (method, path))
for method, path in sorted(named - routes):
    check(False, "server/README.md lists %s %s, which is no route" % (method, path))

# Backends and parameters: {backend: {parameter: (default, range)}}.
registry, current = {}, None
for line in help_text.split("Attention backends", 1)[1].split("\nExamples", 1)[0].split("\n")[1:]:
    parameter = re.match(r" {8}(\w+) \(default ([^;]+); ([^,)]+)", line)
    backend = re.match(r"  (\w+) ", line)
    if parameter:
        registry[current][parameter.group(1)] = (parameter.group(2), parameter.group(3))
    elif backend:
        current = backend.group(1)
        registry[current] = {}
in_docs, current = {}, None
for row in table_after(engine, "backends"):
    if row[0]:
        current = row[0].strip("`")
        in_docs[current] = {}
    parameter = re.match(r"`(\w+)`[^(]*\(([^;]+); ([^,)]+)\)", row[1])
    if parameter:
        in_docs[current][parameter.group(1)] = (parameter.group(2), parameter.group(3))
check("dense" in registry, "--help lists no backend dense")
check(set(registry) == set(in_docs), "backends: registry %s, engine/README.md %s" % (sorted(registry), sorted(in_docs)))
for name in registry.keys() & in_docs.keys():
    check(registry[name] == in_docs[name],
          "%s: registry %s, engine/README.md %s" % (name, registry[name], in_docs[name]))
    lines = [line for line in read("README.md").split("\n") if line.startswith("| `%s`" % name)]
    check(lines, "README.md has no row for the backend " + name)

# The example config is one that serve accepts by name and type (its model is not opened: the port is refused first).
config = json.loads(read("deploy/sparsed.json"))
for name in config:
    check(name.replace("_", "-") in options, "deploy/sparsed.json: %s is no option" % name)

for message in failures:
    print("FAIL " + message)
print("%d options, %d routes, %d backends" % (len(options), len(routes), len(registry)))
sys.exit(1 if failures else 0)
