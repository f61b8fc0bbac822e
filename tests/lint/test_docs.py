"""Docs keep up with the code. Every option of `sparsed serve --help` stands in server/README.md with its default, every
route of server/routes.c too; every backend and parameter of the registry, as --help prints it, stands in engine/README.md
with default and range; and nothing stands there that does not exist."""
import json
import os
import re
import subprocess
import sys

from lint import Lint, read


class Docs(Lint):
    def require(self, path, good, what):
        self.check(path)
        if not good:
            self.wrong(path, 1, what)

    def table(self, path, mark):
        """Rows of the table behind the comment <!-- mark: .. -->, as lists of cells."""
        behind = read(self.root, path).split("<!-- %s:" % mark, 1)
        self.require(path, len(behind) == 2, "lacks the comment <!-- %s: .. --> before its table" % mark)
        rows = []
        for line in behind[-1].split("\n")[1:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        return rows[2:]

    def compare(self, path, what, there, documented):
        """Both {name: detail}; a detail None of `there` is not compared."""
        for name in sorted(there.keys() - documented.keys()):
            self.require(path, False, "%s %s is missing" % (what, name))
        for name in sorted(documented.keys() - there.keys()):
            self.require(path, False, "%s %s does not exist" % (what, name))
        for name in sorted(there.keys() & documented.keys()):
            same = there[name] is None or there[name] == documented[name]
            self.require(path, same, "%s %s: %s here, %s in the program" % (what, name, documented[name], there[name]))


def options_of(help_text):
    """{name: default or None} of the lines "  --name" and the text below each."""
    options = {}
    for name in re.findall(r"^  --([a-z-]+)", help_text, re.M):
        section = re.search(r"^  --%s\b.*?(?=^  --|^\S|\Z)" % name, help_text, re.M | re.S).group(0)
        default = re.search(r"\(default ([^;)]+)", " ".join(section.split()))
        options[name] = default.group(1) if default else None
    return options


def registry_of(help_text):
    """{backend: {parameter: "default; range"}} of the section on backends."""
    registry, current = {}, None
    for line in help_text.split("Attention backends", 1)[1].split("\nExamples", 1)[0].split("\n")[1:]:
        parameter = re.match(r" {8}(\w+) \(default ([^,)]+)", line)
        backend = re.match(r"  (\w+) ", line)
        if parameter:
            registry[current][parameter.group(1)] = parameter.group(2)
        elif backend:
            current = backend.group(1)
            registry[current] = {}
    return registry


def documented_registry(rows):
    registry, current = {}, None
    for backend, parameter, *_ in rows:
        if backend:
            current = backend.strip("`")
            registry[current] = {}
        match = re.match(r"`(\w+)`[^(]*\(([^,)]+)\)", parameter)
        if match:
            registry[current][match.group(1)] = match.group(2)
    return registry


def main():
    docs = Docs()
    program = os.path.join(docs.build or "", "sparsed")
    if not os.path.exists(program):
        print("not built: " + program)
        sys.exit(77)
    help_text = subprocess.run([program, "serve", "--help"], check=True, capture_output=True, text=True).stdout

    options = options_of(help_text)
    docs.require("server/options_table.c", len(options) > 25, "--help lists only %d options" % len(options))
    rows = docs.table("server/README.md", "options")
    docs.compare("server/README.md", "option", options,
                 {re.match(r"`--([a-z-]+)`", row[0]).group(1): row[1].strip("`") for row in rows})
    for name in json.loads(read(docs.root, "deploy/sparsed.json")):
        docs.require("deploy/sparsed.json", name.replace("_", "-") in options, "%s is no option" % name)

    routes = re.findall(r'\{"(GET|POST|DELETE)", "(/[^"]*)"', read(docs.root, "server/routes.c"))
    docs.require("server/routes.c", len(routes) > 5, "only %d routes found" % len(routes))
    named = "".join(row[0] for row in docs.table("server/README.md", "routes"))
    docs.compare("server/README.md", "route", {"%s %s" % route: None for route in routes},
                 dict.fromkeys(re.findall(r"`((?:GET|POST|DELETE) /[^`]*)`", named)))

    registry, documented = registry_of(help_text), documented_registry(docs.table("engine/README.md", "backends"))
    docs.require("engine/attention/backends.def", "dense" in registry, "--help lists no backend dense")
    docs.compare("engine/README.md", "backend", dict.fromkeys(registry), documented)
    for name in registry.keys() & documented.keys():
        docs.compare("engine/README.md", "parameter of %s," % name, registry[name], documented[name])
    for name, parameters in registry.items():
        row = re.search(r"^\| `%s` .*$" % name, read(docs.root, "README.md"), re.M)
        docs.require("README.md", row, "no row for the backend %s" % name)
        for parameter in parameters if row else ():
            docs.require("README.md", "`%s`" % parameter in row.group(0), "%s lacks %s" % (name, parameter))
    docs.finish()


main()
