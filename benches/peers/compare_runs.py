"""Whole runs in alternation: ours, diffusers on torch's CPU, ours, ... on the same cores; prints medians and ratios (theirs / ours).

    PYTHON=... python benches/peers/compare_runs.py generate [--rounds N]
    PYTHON=... python benches/peers/compare_runs.py denoise FOLDER [--rounds N] [--vram SIZE]

`generate`: the demo picture, a process each: wall time of the process, of the process without imports and loading, of the loop alone, and the largest
RssAnon + RssShmem. `denoise`: seconds per step on a folder of make_synthetic_flux.py; with `--vram` ours streams what the budget does not hold.
Needs `cargo build --release` first; `PYTHON` is an interpreter with torch and diffusers, `CORES` a taskset list (default 0,1).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "red heart, noto style, white background"
OURS = ROOT / "target/release/lighterage"
PYTHON = os.environ.get("PYTHON", sys.executable)
PIN = ["taskset", "-c", os.environ.get("CORES", "0,1")]


def memory_bytes(process):
    """RssAnon + RssShmem of a process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def run(command, sample=False):
    """Standard output and error of a command, its wall time, and (sampled every millisecond) its largest memory."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen([*PIN, *map(str, command)], stdout=out, stderr=err, cwd=ROOT)
        peak = 0
        while sample and process.poll() is None:
            peak = max(peak, memory_bytes(process))
            time.sleep(0.001)
        process.wait()
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            sys.exit(f"{command[0]} failed: {err.read()}")
        return out.read(), err.read(), seconds, peak


def ours_generate(folder):
    model, picture = ROOT / "assets/demo/base", folder / "ours.png"
    command = [OURS, "generate", "--model", model, "--prompt", PROMPT, "--seed", 0, "--vram", "4MiB", "--json", "-o", picture]
    out, _, seconds, _ = run(command)
    report = json.loads(out)[0]
    phases = {phase["phase"]: phase["seconds"] for phase in report["phases"]}
    # Sampling takes processor time, so memory is measured in a run of its own.
    peak = run(command, sample=True)[3]
    return {"process s": seconds, "run s": report["seconds"], "loop s": phases["denoise"], "memory MB": peak / 1e6}


def theirs_generate(folder):
    script, model = ROOT / "benches/peers/generate_torch.py", ROOT / "assets/demo/base"
    out, _, seconds, _ = run([PYTHON, script, model, "--prompt", PROMPT, "-o", folder / "theirs.png"])
    report = json.loads(out.strip().splitlines()[-1])
    return {
        "process s": seconds,
        "run s": report["call_seconds"],
        "loop s": report["loop_seconds"],
        "memory MB": report["rss_anon_shmem_peak_bytes"] / 1e6,
    }


def ours_denoise(folder, case, vram):
    out = folder / "ours.safetensors"
    budget = ["--vram", vram] if vram else []
    _, err, _, _ = run([OURS, "denoise", "--dir", case, "--dtype", "bf16", *budget, "--out", out])
    return {"s/step": float(re.findall(r"([0-9.]+) s/step", err)[-1])}


def theirs_denoise(case):
    out, _, _, _ = run([PYTHON, ROOT / "benches/peers/denoise_torch.py", case])
    return {"s/step": json.loads(out.strip().splitlines()[-1])["seconds_per_step"]}


def compare(rounds, ours, theirs):
    rows = []
    for number in range(rounds):
        rows.append((ours(), theirs()))
        print(f"round {number + 1}: ours {rows[-1][0]}, theirs {rows[-1][1]}", flush=True)
    for name in rows[0][0]:
        mine, peer = ([row[side][name] for row in rows] for side in (0, 1))
        ratios = sorted(t / m for m, t in zip(mine, peer))
        print(
            f"{name}: ours {statistics.median(mine):.4g}, theirs {statistics.median(peer):.4g}, "
            f"theirs / ours {statistics.median(ratios):.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generate", "denoise"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vram")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        if arguments.what == "generate":
            compare(arguments.rounds, lambda: ours_generate(scratch), lambda: theirs_generate(scratch))
        else:
            case = arguments.folder.resolve()
            compare(arguments.rounds, lambda: ours_denoise(scratch, case, arguments.vram), lambda: theirs_denoise(case))


if __name__ == "__main__":
    main()
