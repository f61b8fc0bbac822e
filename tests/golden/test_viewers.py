"""The exports bertviz and circuitsvis drawn by the unmodified scripts of the pip packages in a headless Chromium, and our own
offline page in it. Needs pip (the packages go below the build folder), chromium and Debian's d3, jquery and requirejs;
without them it is skipped (77)."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT, BUILD = sys.argv[1:3]
PACKAGES = os.path.join(BUILD, "viewers")
LIBRARIES = {"require": "/usr/share/javascript/requirejs/require.min.js", "jquery": "/usr/share/javascript/jquery/jquery.min.js",
             "d3": "/usr/share/nodejs/d3/dist/d3.min.js"}
SCENE = "full"  # 24 positions, not causal, tokens with markup and quotes among them


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def run(*command, seconds=120):
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        skip("%s took too long" % " ".join(command[:3]))


def fetch():
    """{name: text} of the two scripts."""
    if not glob.glob(os.path.join(PACKAGES, "circuitsvis-*.whl")):
        venv = os.path.join(BUILD, "venv-viewers")
        if run(sys.executable, "-m", "venv", venv).returncode:
            skip("no virtual environment")
        got = run(os.path.join(venv, "bin", "python"), "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                  "--retries", "1", "--timeout", "10", "--no-deps", "--dest", PACKAGES, "bertviz", "circuitsvis")
        if got.returncode:
            skip("pip can't reach bertviz and circuitsvis: %s" % got.stderr.decode()[-300:])
    scripts = {}
    for name, path in (("bertviz", "bertviz/head_view.js"), ("circuitsvis", "circuitsvis/dist/cdn/iife.js")):
        with zipfile.ZipFile(sorted(glob.glob(os.path.join(PACKAGES, name + "-*.whl")))[-1]) as wheel:
            scripts[name] = wheel.read(path).decode()
    return scripts


def draw(chromium, folder, name, html):
    """The page's elements after its scripts have run."""
    path = os.path.join(folder, name + ".html")
    with open(path, "w", encoding="utf-8") as file:
        file.write("<!DOCTYPE html><meta charset=\"utf-8\"><body>" + html)
    done = run(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + os.path.join(folder, "profile"),
               "--virtual-time-budget=15000", "--dump-dom", "file://" + path)
    return done.stdout.decode("utf-8", "replace")


def inline(value):
    return json.dumps(value).replace("<", "\\u003c")


def check_bertviz(chromium, folder, script, export):
    libraries = {}
    for name, path in LIBRARIES.items():
        with open(path, encoding="utf-8") as file:
            libraries[name] = file.read().replace("</script>", "<\\/script>")
    # d3 becomes a global before require.js is there, then a module under the name that the script asks for.
    page = draw(chromium, folder, "bertviz",
                "<script>%s</script><script>window.D3 = d3</script><script>%s</script><script>%s</script>"
                "<script>define('d3', [], () => window.D3)</script>"
                "<div id=\"%s\"><select id=\"layer\"></select><div id=\"vis\"></div></div><script>%s</script>"
                % (libraries["d3"], libraries["require"], libraries["jquery"], export["root_div_id"],
                   script.replace("PYTHON_PARAMS", inline(export))))
    attn = export["attention"][0]["attn"]
    values = len(attn[0]) * len(attn[0][0]) * len(attn[0][0][0])
    lines = len(re.findall(r"<line ", page))
    texts = len(re.findall(r"<text ", page))
    assert lines >= values and texts >= 2 * len(attn[0][0]), "bertviz: %d lines for %d values, %d texts" % (lines, values, texts)
    assert "&lt;/script&gt;&lt;img" in page and "<img" not in page.split("id=\"vis\"")[1].split("</svg>")[0]
    print("bertviz: %d lines, %d texts" % (lines, texts))


COUNT_INK = """setTimeout(() => {
  const ink = [...document.querySelectorAll("canvas")].map((canvas) => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0;
    for (let i = 0; i < data.length; i += 4) n += data[i + 3] > 0 && data[i] + data[i + 1] + data[i + 2] < 700;
    return n;
  });
  document.getElementById("ink").textContent = ink.join(" ");
}, 8000);"""


def check_circuitsvis(chromium, folder, script, export):
    """A thumbnail of the head and its large view, both with more than an outline on their canvas."""
    page = draw(chromium, folder, "circuitsvis",
                "<div id=\"here\"></div><pre id=\"ink\"></pre><script>%s;\nCircuitsVis.render('here', "
                "CircuitsVis.AttentionHeads, %s)</script><script>%s</script>"
                % (script.replace("</script>", ""), inline(export), COUNT_INK))
    drawn = re.search(r'<div id="here">(.*?)<pre', page, re.S).group(1)
    ink = [int(n) for n in re.search(r'<pre id="ink">([^<]*)', page).group(1).split()]
    assert export["attentionHeadNames"][0] in drawn, "circuitsvis: no name of a head"
    assert len(ink) == 2 and min(ink) > 100 and max(ink) > 10000, "circuitsvis: pixels drawn: %r" % ink
    print("circuitsvis: %r pixels drawn" % ink)


def check_page(chromium, folder):
    """Our own offline page: its script runs under its own policy, and fills the table."""
    edges = sum(1 for _ in open(os.path.join(folder, "whole.edges"), encoding="ascii"))
    done = run(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + os.path.join(folder, "profile"),
               "--virtual-time-budget=5000", "--dump-dom", "file://" + os.path.join(folder, "whole.html"))
    page = done.stdout.decode("utf-8", "replace")
    count = re.search(r'<span id="count"[^>]*>([^<]*)', page).group(1)
    rows = page.split("<tbody>")[1].split("</tbody>")[0].count("<tr>")
    assert count.startswith("%d of %d edges, page 1 of" % (edges, edges)), "page: the table says %r of %d" % (count, edges)
    assert rows == min(edges, 200) and "use the arrow keys" in page, "page: %d rows" % rows
    assert "&lt;/script&gt;&lt;img src=x" in page and "<img" not in page
    print("page: %s" % count)


def main():
    program, chromium = os.path.join(BUILD, "tests", "graph_exporter"), shutil.which("chromium")
    if not os.path.exists(program):
        skip("not built: " + program)
    if not chromium or not all(map(os.path.exists, LIBRARIES.values())):
        skip("needs chromium, node-d3, libjs-jquery and libjs-requirejs")
    scripts = fetch()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        exports = {}
        for name in scripts:
            with open(os.path.join(folder, SCENE + "." + name), encoding="utf-8") as file:
                exports[name] = json.load(file)
        check_bertviz(chromium, folder, scripts["bertviz"], exports["bertviz"])
        check_circuitsvis(chromium, folder, scripts["circuitsvis"], exports["circuitsvis"])
        check_page(chromium, folder)
    print("3 passed, 0 failed")


main()
