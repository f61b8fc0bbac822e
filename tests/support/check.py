"""What the scripts in tests/checks share: their arguments, progress, and the one line they end with.

A check is run as `NAME.py ROOT BUILD [--quick] [--count N] [--seed S]`: with the counts of its target, or with few
(--quick, from ctest). It calls `begin(name, full, quick)`, reports with `progress`, and leaves with `verdict`.
"""
import argparse
import os
import sys
import time


class Check:
    """One run: `count` trials are wanted, drawn from `seed`."""

    def __init__(self, name, full, quick, only=None):
        parser = argparse.ArgumentParser(prog=name)
        parser.add_argument("root")
        parser.add_argument("build")
        parser.add_argument("--quick", action="store_true", help="few trials and generous times: for ctest")
        parser.add_argument("--count", type=int, help="trials (default: those of the target)")
        parser.add_argument("--seed", type=int, default=1, help="of all that is drawn at random")
        if only:
            parser.add_argument("--only", help=only)
        given = parser.parse_args()
        self.name, self.quick, self.seed = name, given.quick, given.seed
        self.count = given.count or (quick if given.quick else full)
        self.build, self.only = given.build, getattr(given, "only", None)
        self.began = self.told = time.time()

    def progress(self, done, of, what=""):
        """A line at most every two seconds."""
        now = time.time()
        if now - self.told >= 2:
            self.told = now
            print("%s: %d of %d %s" % (self.name, done, of, what), flush=True)

    def verdict(self, good, counts, failure=None):
        """Prints the one line and ends the program. failure: the first thing that went wrong."""
        line = "%s %s: %s, %.0f s" % ("PASS" if good else "FAIL", self.name, counts, time.time() - self.began)
        if not good:
            line += "; first: %s; again: %s %s %s BUILD --count %d --seed %d%s%s" % (
                failure, os.path.basename(sys.executable), os.path.relpath(sys.argv[0]), ".", self.count, self.seed,
                " --quick" if self.quick else "", " --only '%s'" % self.only if self.only else "")
        print(line, flush=True)
        sys.exit(0 if good else 1)
