"""torch's own kernels on the GPU at the shapes of `lighterage bench kernels`: one JSON line each, seconds by CUDA events, median of 7 batches."""

import json
import statistics
import time

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTH, HEADS, HEAD_DIM, TEXT = 3072, 24, 128, 512
PICTURES = {"1024x1024": (1024, 1024), "1280x720": (1280, 720)}
T5, CLIP, CHANNELS = 4096, 768, 256
# Calls of a batch.
CALLS = 60
# Seconds after which nothing more is compiled: each takes some.
COMPILING_MAX = 40.0


def image_rows(picture):
    width, height = PICTURES[picture]
    return width // 16 * (height // 16)


def products(picture):
    """Name, rows, columns and inner size; the picture's, or none where the shape does not depend on it."""
    image = image_rows(picture)
    of_picture = [
        ("image qkv", image, 3 * WIDTH, WIDTH), ("image mlp up", image, 4 * WIDTH, WIDTH), ("image mlp down", image, WIDTH, 4 * WIDTH),
        ("image out", image, WIDTH, WIDTH), ("single in", image + TEXT, 7 * WIDTH, WIDTH), ("single out", image + TEXT, WIDTH, 5 * WIDTH),
    ]
    return [(picture, *product) for product in of_picture]


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def seconds(work, sets):
    """Median seconds of one call, the buffers used in turn: as one graph, so that torch's work on the host does not show, or call by call where that is refused."""
    for arguments in sets:
        work(*arguments)

    def calls():
        for call in range(CALLS):
            work(*sets[call % len(sets)])

    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            calls()
        batch = graph.replay
    except RuntimeError:
        torch.cuda.synchronize()
        batch = calls
    batch()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(7):
        start.record()
        batch()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / CALLS)
    return statistics.median(times)


def report(name, picture, duration, flops=0.0, moved=0.0):
    line = {"name": name, "size": picture, "seconds": duration, "flops_per_second": flops / duration, "bytes_per_second": moved / duration}
    print(json.dumps(line), flush=True)


def refused(name, picture, reason):
    print(json.dumps({"name": name, "size": picture, "refused": str(reason)[:200]}), flush=True)


def attention(picture):
    tokens = image_rows(picture) + TEXT
    sets = [[normal(1, HEADS, tokens, HEAD_DIM) for _ in range(3)] for _ in range(3)]
    flops = 4.0 * tokens * tokens * WIDTH
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        name = f"attention, {backend.name}"
        try:
            with sdpa_kernel(backend):
                report(name, picture, seconds(functional.scaled_dot_product_attention, sets), flops)
        except RuntimeError as error:
            refused(name, picture, error)


def norm_mod(x, scale, shift):
    return functional.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift


def norm_mod_with_update(x, y, gate, scale, shift):
    x = x + gate * y
    return x, functional.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift


def rms_norm(x, weight):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def layer_norm(x, weight, bias):
    return functional.layer_norm(x, (CLIP,), weight, bias, 1e-5)


def group_norm(x, weight, bias):
    return functional.silu(functional.group_norm(x, 32, weight, bias, 1e-6))


def qk_norm_rope(q, k, q_weight, k_weight, cos, sin):
    def one(x, weight):
        even, odd = rms_norm(x, weight).float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2).to(x.dtype)

    return one(q, q_weight), one(k, k_weight)


def of_text():
    """What torch compiles, its arguments and the bytes that it has to move, where the shape does not depend on the picture."""
    return [
        ("rms_norm", rms_norm, [(normal(TEXT, T5), normal(T5)) for _ in range(3)], 4.0 * TEXT * T5),
        ("layer_norm", layer_norm, [(normal(TEXT, CLIP), normal(CLIP), normal(CLIP)) for _ in range(3)], 4.0 * TEXT * CLIP),
    ]


def of_picture(picture):
    width, height = PICTURES[picture]
    tokens, pixels = image_rows(picture) + TEXT, width // 2 * (height // 2)
    vector = normal(WIDTH)
    angles = torch.full((tokens, 1, HEAD_DIM // 2), 0.6, device="cuda")
    weight = normal(HEAD_DIM)

    def level():
        return normal(1, CHANNELS, height // 2, width // 2).to(memory_format=torch.channels_last)

    def heads():
        return normal(tokens, HEADS, HEAD_DIM)

    return [
        ("norm_mod", norm_mod, [(normal(tokens, WIDTH), vector, vector) for _ in range(3)], 4.0 * tokens * WIDTH),
        ("norm_mod with update", norm_mod_with_update, [(normal(tokens, WIDTH), normal(tokens, WIDTH), vector, vector, vector) for _ in range(3)], 8.0 * tokens * WIDTH),
        ("qk_norm_rope", qk_norm_rope, [(heads(), heads(), weight, weight, angles, angles) for _ in range(3)], 8.0 * tokens * WIDTH),
        ("group_norm", group_norm, [(level(), normal(CHANNELS), normal(CHANNELS)) for _ in range(3)], 4.0 * pixels * CHANNELS),
    ]


def compiled(name, picture, work, sets, moved, deadline):
    """torch.compile wants a C compiler and Triton, which the machine need not have."""
    name += ", compiled"
    if time.monotonic() > deadline:
        return refused(name, picture, f"{COMPILING_MAX:.0f} s of compiling were over")
    torch._dynamo.reset()
    try:
        report(name, picture, seconds(torch.compile(work, dynamic=False), sets), moved=moved)
    except Exception as error:
        refused(name, picture, error)


def main():
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no CUDA device here, and there is nothing else to compare with")
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name()}))
    copies = [(normal(64 << 20), normal(64 << 20)) for _ in range(2)]
    report("copy", None, seconds(lambda a, b: a.copy_(b), copies), moved=4.0 * (64 << 20))
    del copies
    everything = [(None, "text qkv", TEXT, 3 * WIDTH, WIDTH), (None, "square", 8192, 8192, 8192)]
    for picture in PICTURES:
        attention(picture)
        everything += products(picture)
    for picture, name, rows, columns, inner in everything:
        sets = [(normal(rows, inner), normal(columns, inner), normal(columns)) for _ in range(3)]
        report(f"linear, {name}", picture, seconds(functional.linear, sets), 2.0 * rows * columns * inner)
    deadline = time.monotonic() + COMPILING_MAX
    with torch.inference_mode():
        for picture, makers in [("1024x1024", of_picture), (None, lambda _: of_text()), ("1280x720", of_picture)]:
            for name, work, sets, moved in makers(picture):
                compiled(name, picture, work, sets, moved, deadline)


if __name__ == "__main__":
    main()
