"""Times torch's own linear and scaled_dot_product_attention on the CPU: the peer of `cargo bench --bench linear` and `--bench attention`.

Prints one JSON line per shape: {"name": ..., "seconds": median, "gflops": ...}. The names are those of the criterion benches.
"""

import argparse
import json
import statistics
import time

import torch

LINEAR = [(1024, 9216, 3072), (1024, 3072, 12288), (1024, 21504, 3072)]
ATTENTION = [(24, 1024, 128)]


def median_seconds(work, repeats):
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def report(name, seconds, flops):
    print(json.dumps({"name": name, "seconds": seconds, "gflops": flops / seconds / 1e9}), flush=True)


def linear(rows, columns, inner, dtype, repeats):
    x = torch.randn(rows, inner).to(dtype)
    weight = torch.randn(columns, inner).to(dtype)
    bias = torch.randn(columns).to(dtype)
    name = f"linear_{'bf16' if dtype == torch.bfloat16 else 'f32'}/{rows}x{columns}x{inner}"
    seconds = median_seconds(lambda: torch.nn.functional.linear(x, weight, bias), repeats)
    report(name, seconds, 2 * rows * columns * inner)


def attention(heads, tokens, head_dim, dtype, repeats):
    q, k, v = (torch.randn(1, heads, tokens, head_dim).to(dtype) for _ in range(3))
    name = f"attention_{'bf16' if dtype == torch.bfloat16 else 'f32'}/{heads}x{tokens}x{head_dim}"
    seconds = median_seconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), repeats)
    report(name, seconds, 4 * heads * tokens * tokens * head_dim)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--f32", action="store_true", help="also in f32")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        for dtype in [torch.bfloat16] + [torch.float32] * arguments.f32:
            for shape in LINEAR:
                linear(*shape, dtype, arguments.repeats)
            for shape in ATTENTION:
                attention(*shape, dtype, arguments.repeats)


if __name__ == "__main__":
    main()
