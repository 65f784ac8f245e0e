"""Runs the benches `linear` and `attention` and kernels_torch.py in alternation on the same cores; prints medians and ratios.

ours, torch, ours, torch ...: whatever else the machine does hits both. A ratio above 1 means that ours is faster.
PYTHON names the interpreter that has torch (default: the one that runs this); CORES is a taskset list (default 0,1).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("PYTHON", sys.executable)
CORES = os.environ.get("CORES", "0,1")
LINE = re.compile(r"^figure (\S+) ([0-9.e+-]+) s ([0-9.]+) GFLOP/s")


def output(command):
    done = subprocess.run(["taskset", "-c", CORES, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def binary(bench):
    """Builds the bench and returns its path."""
    command = ["cargo", "bench", "--bench", bench, "--no-run", "--message-format", "json"]
    messages = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    paths = [json.loads(line).get("executable") for line in messages if line.startswith("{")]
    return [path for path in paths if path and Path(path).name.startswith(bench)][-1]


def ours(binaries, threads):
    text = "".join(output([path, "--figures", "--threads", str(threads)]) for path in binaries)
    return {match[1]: float(match[3]) for match in map(LINE.match, text.splitlines()) if match}


def torch(threads, repeats):
    command = [PYTHON, str(ROOT / "benches/peers/kernels_torch.py"), "--threads", str(threads), "--repeats", str(repeats)]
    lines = [json.loads(line) for line in output(command).splitlines() if line.startswith("{")]
    return {line["name"]: line["gflops"] for line in lines}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="of each shape within a round")
    parser.add_argument("--threads", type=int, default=len(CORES.split(",")))
    arguments = parser.parse_args()
    binaries = [binary(bench) for bench in ("linear", "attention")]
    rounds = [(ours(binaries, arguments.threads), torch(arguments.threads, arguments.repeats)) for _ in range(arguments.rounds)]
    print(f"{'shape':32} {'ours GF/s':>10} {'torch GF/s':>10} {'ratio':>6}   ratio of each round")
    for name in rounds[0][1]:
        pairs = [(mine[name], theirs[name]) for mine, theirs in rounds]
        ratios = [mine / theirs for mine, theirs in pairs]
        mine, theirs = (statistics.median(column) for column in zip(*pairs))
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name:32} {mine:10.1f} {theirs:10.1f} {statistics.median(ratios):6.2f}   {each}")


if __name__ == "__main__":
    main()
