"""One picture with diffusers' FluxPipeline on the CPU: the peer of `lighterage generate` with the bundled demo model.

Prints one JSON line: seconds from the start of the process to the saved picture, of the imports, of loading, of the whole call
and of the denoising loop alone, and the largest RssAnon + RssShmem seen (bytes; sampled every 5 ms from /proc/self/status).
"""

import time

STARTED = time.perf_counter()
PROCESS_AGE = time.clock_gettime(time.CLOCK_BOOTTIME)
with open("/proc/self/stat") as stat:
    import os

    PROCESS_AGE -= int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")

import argparse
import json
import threading
from pathlib import Path


class Peak(threading.Thread):
    """Samples anonymous plus shared memory of this process."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self):
        while True:
            self.sample()
            time.sleep(0.005)

    def sample(self):
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        kibibytes = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
        self.bytes = max(self.bytes, kibibytes * 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="assets/demo/base")
    parser.add_argument("--prompt", default="a woman with red hair and glasses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("-o", "--out", type=Path, default=Path("torch.png"))
    arguments = parser.parse_args()
    peak = Peak()
    peak.start()
    import torch
    from diffusers import FluxPipeline

    imported = time.perf_counter()
    torch.set_num_threads(arguments.threads)
    defaults = json.loads((arguments.model / "generation_config.json").read_text())
    dtype = torch.bfloat16 if arguments.dtype == "bf16" else torch.float32
    pipeline = FluxPipeline.from_pretrained(arguments.model, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    steps = []

    def note(pipe, step, timestep, values):
        steps.append(time.perf_counter())
        return values

    picture = pipeline(
        prompt=arguments.prompt, generator=torch.Generator().manual_seed(arguments.seed),
        width=defaults["width"], height=defaults["height"], num_inference_steps=defaults["num_inference_steps"],
        guidance_scale=defaults["guidance_scale"], max_sequence_length=defaults["max_sequence_length"],
        callback_on_step_end=note,
    ).images[0]
    called = time.perf_counter()
    picture.save(arguments.out)
    peak.sample()
    count = len(steps)
    print(json.dumps({
        "name": "generate",
        "process_seconds": PROCESS_AGE + time.perf_counter() - STARTED,
        "import_seconds": imported - STARTED,
        "load_seconds": loaded - imported,
        "call_seconds": called - loaded,
        # From the end of the first step to that of the last, stretched to all steps: what comes before the first is not seen.
        "loop_seconds": (steps[-1] - steps[0]) * count / max(count - 1, 1),
        "rss_anon_shmem_peak_bytes": peak.bytes,
    }))


if __name__ == "__main__":
    main()
