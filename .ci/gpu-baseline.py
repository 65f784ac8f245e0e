"""torch's own kernels on the GPU at the shapes of `lighterage bench kernels` for 1024x1024: one JSON line each, seconds by CUDA events, median of 7 batches."""

import json
import statistics

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTH, HEADS, HEAD_DIM, TOKENS = 3072, 24, 128, 4608
PRODUCTS = [
    ("image qkv", 4096, 3 * WIDTH, WIDTH), ("image mlp up", 4096, 4 * WIDTH, WIDTH), ("image mlp down", 4096, WIDTH, 4 * WIDTH),
    ("text qkv", 512, 3 * WIDTH, WIDTH), ("image out", 4096, WIDTH, WIDTH), ("single in", 4608, 7 * WIDTH, WIDTH),
    ("single out", 4608, WIDTH, 5 * WIDTH), ("square", 8192, 8192, 8192),
]


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def seconds(work, sets):
    """Median seconds of one call, the buffers used in turn."""
    for arguments in sets:
        work(*arguments)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(7):
        start.record()
        for call in range(60):
            work(*sets[call % len(sets)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / 60)
    return statistics.median(times)


def report(name, time, flops=0.0, size=0.0):
    print(json.dumps({"name": name, "seconds": time, "flops_per_second": flops / time, "bytes_per_second": size / time}), flush=True)


def attention():
    sets = [[normal(1, HEADS, TOKENS, HEAD_DIM) for _ in range(3)] for _ in range(3)]
    flops = 4.0 * TOKENS * TOKENS * WIDTH
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                report(f"attention, {backend.name}", seconds(functional.scaled_dot_product_attention, sets), flops)
        except RuntimeError as error:
            print(json.dumps({"name": f"attention, {backend.name}", "refused": str(error)[:200]}))


def norm_mod():
    @torch.compile
    def compiled(x, scale, shift):
        return functional.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift

    sets = [(normal(TOKENS, WIDTH), normal(WIDTH), normal(WIDTH)) for _ in range(3)]
    try:
        report("norm_mod, compiled", seconds(compiled, sets), size=2.0 * TOKENS * WIDTH * 2)
    except Exception as error:  # torch.compile wants a C compiler and Triton, which the machine need not have.
        print(json.dumps({"name": "norm_mod, compiled", "refused": str(error)[:200]}))


def main():
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name()}))
    copies = [(normal(64 << 20), normal(64 << 20)) for _ in range(2)]
    report("copy", seconds(lambda a, b: a.copy_(b), copies), size=4.0 * (64 << 20))
    del copies
    attention()
    for name, rows, columns, inner in PRODUCTS:
        sets = [(normal(rows, inner), normal(columns, inner), normal(columns)) for _ in range(3)]
        report(f"linear, {name}", seconds(functional.linear, sets), 2.0 * rows * columns * inner)
    norm_mod()


if __name__ == "__main__":
    main()
