"""deploy/ keeps up with the program: every option that its files pass is one of `sparsed serve`, every metric that dashboard
and alerts ask for stands in server/metrics.c, every mentioned file exists; JSON and YAML parse; and what promtool,
systemd-analyze and shellcheck say, where they are installed."""
import glob
import json
import os
import re
import shutil
import subprocess

from lint import Lint, read

try:
    import yaml
except ImportError:
    yaml = None


class Deploy(Lint):
    def require(self, path, good, what):
        self.check(path)
        if not good:
            self.wrong(path, 1, what)

    def run(self, path, *command):
        """The program must have nothing to say; absent programs are passed over."""
        if not shutil.which(command[0]):
            print("%s is absent: %s not asked about %s" % (command[0], command[0], path))
            return
        done = subprocess.run(command + (path,), capture_output=True, text=True, timeout=120, cwd=self.root)
        self.require(path, done.returncode == 0, "%s: %s" % (command[0], (done.stdout + done.stderr)[-500:]))


def metric_names(root):
    """Names that metrics.c writes, with the suffixes of histograms."""
    text = read(root, "server/metrics.c")
    plain = re.findall(r'(?:scalar|head|histogram|attention_counter|labelled)\(\s*p, (?:s, )?"([a-z_]+)"', text)
    plain += ["graph_jobs_running"]
    process = ["process_" + name for name in re.findall(r'process_line\(\s*p, "([a-z_]+)"', text)]
    names = {"sparsed_" + name for name in plain}
    return names | {name + suffix for name in names for suffix in ("_bucket", "_sum", "_count")} | set(process) | {"up"}


def main():
    deploy = Deploy()
    files = [os.path.relpath(path, deploy.root) for path in glob.glob(os.path.join(deploy.root, "deploy", "**"), recursive=True)
             if os.path.isfile(path)]  # fmt: skip
    metrics = metric_names(deploy.root)
    options = set(re.findall(r'^    \{"([a-z-]+)", SP_OPTION', read(deploy.root, "server/options_table.c"), re.M))
    deploy.require("server/metrics.c", len(metrics) > 60, "too few metrics found: %d" % len(metrics))
    deploy.require("server/options_table.c", len(options) > 40, "too few options found: %d" % len(options))
    for path in files:
        text = read(deploy.root, path)
        if path.endswith((".json", ".yaml", ".service")):
            for name in sorted(set(re.findall(r"\b((?:sparsed|process)_[a-z_]+)\b", text))):
                known = name in metrics or re.search(r"uid|job", name)
                deploy.require(path, known or path.endswith("sparsed.json") and "grafana" not in path, "there is no metric " + name)
        if path.endswith((".yaml", ".service")) or path == "deploy/smoke.sh":
            for line in re.findall(r"^(?:\s*- --|ExecStart=.*|arguments=.*)[^\n]*", text, re.M):
                for name in re.findall(r"--([a-z][a-z-]+)", line):
                    deploy.require(path, name in options, "there is no option --" + name)
        if path.endswith(".json"):
            try:
                value = json.loads(text)
            except ValueError as error:
                deploy.require(path, False, str(error))
                continue
            if "grafana" not in path:
                for name in value:
                    deploy.require(path, name.replace("_", "-") in options, "there is no option " + name)
        if path.endswith(".yaml") and yaml:
            try:
                deploy.require(path, any(one for one in yaml.safe_load_all(text)), "is empty")
            except yaml.YAMLError as error:
                deploy.require(path, False, str(error))
        if path.endswith(".sh"):
            deploy.run(path, "shellcheck", "-x", "-P", deploy.root, "--severity", "warning")
    dashboard = json.loads(read(deploy.root, "deploy/grafana/sparsed.json"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    deploy.require("deploy/grafana/sparsed.json", len(asked) > 25, "asks for little")
    deploy.run("deploy/prometheus/alerts.yaml", "promtool", "check", "rules")
    readme = read(deploy.root, "deploy/README.md")
    for path in files:
        name = path[len("deploy/"):]
        top = name.split("/")[0] + "/" if "/" in name else name
        deploy.require("deploy/README.md", top in readme or name == "README.md", "does not name " + name)
    deploy.finish()


main()
