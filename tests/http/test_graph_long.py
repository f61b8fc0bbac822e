"""A head of 32,768 positions and a million edges: tests/bench/bench_graph.py with its bounds asserted."""
import os
import subprocess
import sys

BENCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench", "bench_graph.py")
sys.exit(subprocess.run([sys.executable, BENCH, sys.argv[1], sys.argv[2], "--check"]).returncode)
