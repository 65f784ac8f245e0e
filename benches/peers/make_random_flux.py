"""Makes a whole FLUX.1-dev of random weights, in the folder layout of diffusers, for `lighterage generate`, `verify` and `bench step --model`.

Names, shapes and configurations are those of the published model: transformer (19 double and 38 single blocks, 3072 wide, guidance embedding), T5 1.1 XXL's
encoder, CLIP-L, the autoencoder; 33.7 GB in bf16. Tokenizers are the demo model's. The weights are random, with deviations that keep every activation finite and of
order one to ten, so bytes, times and bits mean something, and the picture is noise.

Values are drawn on a GPU where torch has one and written in several files at once: into memory (/dev/shm) at some GB/s.
"""

import argparse
import ctypes
import json
import math
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo" / "base"
# Values that are drawn at once.
CHUNK = 16 << 20


@dataclass(frozen=True)
class Sizes:
    """What the models' sizes follow from."""

    heads: int = 24
    doubles: int = 19
    singles: int = 38
    t5_width: int = 4096
    t5_heads: int = 64
    t5_head: int = 64
    t5_inner: int = 10240
    t5_blocks: int = 24
    clip_width: int = 768
    clip_heads: int = 12
    clip_layers: int = 12
    channels: tuple = (128, 256, 512, 512)
    groups: int = 32
    net_doubles: int = 4
    net_singles: int = 10
    projector: int = 1280
    projector_layers: int = 4

    @property
    def width(self):
        return self.heads * HEAD


HEAD = 128
T5_VOCABULARY, CLIP_VOCABULARY, CLIP_POSITIONS, LATENT = 32128, 49408, 77, 16
FULL = Sizes()
SMALL = Sizes(
    heads=2, doubles=2, singles=3, t5_width=64, t5_heads=4, t5_head=16, t5_inner=128, t5_blocks=2, clip_width=32, clip_heads=2, clip_layers=2,
    channels=(16, 32, 64, 64), groups=4, net_doubles=1, net_singles=2, projector=128, projector_layers=2,
)


class Tensors(list):
    """Names, shapes, means and deviations of a checkpoint's tensors."""

    def add(self, name, shape, deviation=None, mean=0.0):
        """Without a deviation: that by which a product keeps the size of its input."""
        deviation = math.prod(shape[1:]) ** -0.5 if deviation is None else deviation
        self.append((name, list(shape), mean, deviation))

    def linear(self, name, *shape, deviation=None):
        self.add(f"{name}.weight", shape, deviation)
        self.add(f"{name}.bias", shape[:1], 0.02)

    def norm(self, name, columns, bias=False):
        self.add(f"{name}.weight", [columns], 0.02, 1.0)
        if bias:
            self.add(f"{name}.bias", [columns], 0.02)


def trunk(sizes, doubles, singles):
    """What transformer and InfuseNet share."""
    out, width = Tensors(), sizes.width
    out.linear("x_embedder", width, 4 * LATENT)
    out.linear("context_embedder", width, sizes.t5_width)
    for name, inner in [("timestep", 256), ("guidance", 256), ("text", sizes.clip_width)]:
        out.linear(f"time_text_embed.{name}_embedder.linear_1", width, inner)
        out.linear(f"time_text_embed.{name}_embedder.linear_2", width, width)
    for name in (f"transformer_blocks.{block}" for block in range(doubles)):
        for modulation in ["norm1", "norm1_context"]:
            out.linear(f"{name}.{modulation}.linear", 6 * width, width)
        for projection in ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]:
            out.linear(f"{name}.attn.{projection}", width, width)
        for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"]:
            out.norm(f"{name}.attn.{norm}", HEAD)
        for mlp in ["ff", "ff_context"]:
            out.linear(f"{name}.{mlp}.net.0.proj", 4 * width, width)
            out.linear(f"{name}.{mlp}.net.2", width, 4 * width)
    for name in (f"single_transformer_blocks.{block}" for block in range(singles)):
        out.linear(f"{name}.norm.linear", 3 * width, width)
        for projection in ["to_q", "to_k", "to_v"]:
            out.linear(f"{name}.attn.{projection}", width, width)
        for norm in ["norm_q", "norm_k"]:
            out.norm(f"{name}.attn.{norm}", HEAD)
        out.linear(f"{name}.proj_mlp", 4 * width, width)
        out.linear(f"{name}.proj_out", width, 5 * width)
    return out


def transformer(sizes):
    out = trunk(sizes, sizes.doubles, sizes.singles)
    out.linear("norm_out.linear", 2 * sizes.width, sizes.width)
    out.linear("proj_out", 4 * LATENT, sizes.width)
    return out


def infusenet(sizes):
    out, width = trunk(sizes, sizes.net_doubles, sizes.net_singles), sizes.width
    out.linear("controlnet_x_embedder", width, 4 * LATENT)
    for name, blocks in [("controlnet_blocks", sizes.net_doubles), ("controlnet_single_blocks", sizes.net_singles)]:
        for block in range(blocks):
            # They are added to every block of the transformer: small beside what is there.
            out.linear(f"{name}.{block}", width, width, deviation=0.1 * width**-0.5)
    return out


def projector(sizes):
    out, inner = Tensors(), sizes.projector
    out.add("image_proj.latents", [1, 8, inner], inner**-0.5)
    out.linear("image_proj.proj_in", inner, 512)
    out.linear("image_proj.proj_out", sizes.t5_width, inner)
    out.norm("image_proj.norm_out", sizes.t5_width, bias=True)
    for name in (f"image_proj.layers.{layer}" for layer in range(sizes.projector_layers)):
        for norm in ["0.norm1", "0.norm2", "1.0"]:
            out.norm(f"{name}.{norm}", inner, bias=True)
        for part, rows, columns in [("0.to_q", 1, 1), ("0.to_kv", 2, 1), ("0.to_out", 1, 1), ("1.1", 4, 1), ("1.3", 1, 4)]:
            out.add(f"{name}.{part}.weight", [rows * inner, columns * inner])
    return out


def t5(sizes):
    out, width, inner = Tensors(), sizes.t5_width, sizes.t5_heads * sizes.t5_head
    out.add("shared.weight", [T5_VOCABULARY, width], 1.0)
    out.add("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", [32, sizes.t5_heads], 1.0)
    for name in (f"encoder.block.{block}" for block in range(sizes.t5_blocks)):
        # T5 does not divide its scores by the root of the head's columns: its weights do.
        out.add(f"{name}.layer.0.SelfAttention.q.weight", [inner, width], (width * sizes.t5_head) ** -0.5)
        for projection in ["k", "v"]:
            out.add(f"{name}.layer.0.SelfAttention.{projection}.weight", [inner, width])
        out.add(f"{name}.layer.0.SelfAttention.o.weight", [width, inner])
        for half in ["wi_0", "wi_1"]:
            out.add(f"{name}.layer.1.DenseReluDense.{half}.weight", [sizes.t5_inner, width])
        out.add(f"{name}.layer.1.DenseReluDense.wo.weight", [width, sizes.t5_inner])
        for layer in range(2):
            out.norm(f"{name}.layer.{layer}.layer_norm", width)
    out.norm("encoder.final_layer_norm", width)
    return out


def clip(sizes):
    out, width = Tensors(), sizes.clip_width
    out.add("text_model.embeddings.token_embedding.weight", [CLIP_VOCABULARY, width], 0.02)
    out.add("text_model.embeddings.position_embedding.weight", [CLIP_POSITIONS, width], 0.01)
    for name in (f"text_model.encoder.layers.{layer}" for layer in range(sizes.clip_layers)):
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"]:
            out.linear(f"{name}.self_attn.{projection}", width, width)
        out.linear(f"{name}.mlp.fc1", 4 * width, width)
        out.linear(f"{name}.mlp.fc2", width, 4 * width)
        for norm in ["layer_norm1", "layer_norm2"]:
            out.norm(f"{name}.{norm}", width, bias=True)
    out.norm("text_model.final_layer_norm", width, bias=True)
    return out


def resnet(out, name, columns, inner):
    out.norm(f"{name}.norm1", inner, bias=True)
    out.linear(f"{name}.conv1", columns, inner, 3, 3)
    out.norm(f"{name}.norm2", columns, bias=True)
    out.linear(f"{name}.conv2", columns, columns, 3, 3)
    if columns != inner:
        out.linear(f"{name}.conv_shortcut", columns, inner, 1, 1)


def vae(sizes):
    out, channels = Tensors(), sizes.channels
    out.linear("encoder.conv_in", channels[0], 3, 3, 3)
    out.linear("decoder.conv_in", channels[-1], LATENT, 3, 3)
    inner = channels[0]
    for part, blocks, down in [("encoder.down_blocks", 2, True), ("decoder.up_blocks", 3, False)]:
        for level, columns in enumerate(channels if down else reversed(channels)):
            for block in range(blocks):
                resnet(out, f"{part}.{level}.resnets.{block}", columns, inner)
                inner = columns
            if level < len(channels) - 1:
                out.linear(f"{part}.{level}.{'downsamplers' if down else 'upsamplers'}.0.conv", columns, columns, 3, 3)
    for side, last, columns in [("encoder", channels[-1], 2 * LATENT), ("decoder", channels[0], 3)]:
        for block in range(2):
            resnet(out, f"{side}.mid_block.resnets.{block}", channels[-1], channels[-1])
        out.norm(f"{side}.mid_block.attentions.0.group_norm", channels[-1], bias=True)
        for projection in ["to_q", "to_k", "to_v", "to_out.0"]:
            out.linear(f"{side}.mid_block.attentions.0.{projection}", channels[-1], channels[-1])
        out.norm(f"{side}.conv_norm_out", last, bias=True)
        out.linear(f"{side}.conv_out", columns, last, 3, 3)
    return out


def configuration(part, sizes):
    """The demo model's `config.json` of this part, with other sizes."""
    dit = dict(
        attention_head_dim=HEAD, num_attention_heads=sizes.heads, axes_dims_rope=[16, 56, 56], guidance_embeds=True, in_channels=4 * LATENT,
        joint_attention_dim=sizes.t5_width, pooled_projection_dim=sizes.clip_width,
    )
    changes = {
        "transformer": dict(dit, num_layers=sizes.doubles, num_single_layers=sizes.singles),
        "InfuseNetModel": dict(dit, num_layers=sizes.net_doubles, num_single_layers=sizes.net_singles),
        "text_encoder_2": dict(
            d_model=sizes.t5_width, d_kv=sizes.t5_head, d_ff=sizes.t5_inner, num_heads=sizes.t5_heads, num_layers=sizes.t5_blocks,
            num_decoder_layers=sizes.t5_blocks, vocab_size=T5_VOCABULARY,
        ),
        "text_encoder": dict(
            hidden_size=sizes.clip_width, intermediate_size=4 * sizes.clip_width, num_attention_heads=sizes.clip_heads,
            num_hidden_layers=sizes.clip_layers, projection_dim=sizes.clip_width, vocab_size=CLIP_VOCABULARY,
        ),
        # Scale and shift as published.
        "vae": dict(
            block_out_channels=list(sizes.channels), layers_per_block=2, norm_num_groups=sizes.groups, sample_size=1024, latent_channels=LATENT,
            scaling_factor=0.3611, shift_factor=0.1159,
        ),
    }
    demo = DEMO.parent / "infinite-you" / part if part == "InfuseNetModel" else DEMO / part
    return dict(json.loads((demo / "config.json").read_text()), **changes[part])


class Drawer:
    """Draws values into memory that can be written to a file; one for each thread."""

    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.generator = torch.Generator(self.device)
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        self.host = torch.empty(CHUNK, dtype=torch.bfloat16, pin_memory=self.stream is not None)

    def draw(self, count, mean, deviation):
        """`count` values, which stay until the next call."""
        target = self.host[:count]
        if self.stream is None:
            target.copy_(torch.randn(count, generator=self.generator).mul_(deviation).add_(mean))
        else:
            with torch.cuda.stream(self.stream):
                values = torch.randn(count, generator=self.generator, device=self.device, dtype=torch.bfloat16)
                target.copy_(values.mul_(deviation).add_(mean), non_blocking=True)
            self.stream.synchronize()
        return memoryview((ctypes.c_char * (2 * count)).from_address(target.data_ptr()))


def write_all(file, data):
    while data:
        data = data[os.write(file, data) :]


LOCAL = threading.local()


def write_shard(path, tensors, seed):
    if not hasattr(LOCAL, "drawer"):
        LOCAL.drawer = Drawer()
    drawer, header, end = LOCAL.drawer, {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _, _ in tensors:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    drawer.generator.manual_seed(seed)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(file, memoryview(len(text).to_bytes(8, "little") + text))
        for _, shape, mean, deviation in tensors:
            count = math.prod(shape)
            for begin in range(0, count, CHUNK):
                write_all(file, drawer.draw(min(CHUNK, count - begin), mean, deviation))
    finally:
        os.close(file)


def shards(folder, stem, tensors, limit):
    """Paths and tensors of the files, none longer than `limit` bytes if a tensor allows; writes the index where there is more than one."""
    groups, bytes_of = [[]], lambda tensor: 2 * math.prod(tensor[1])
    for tensor in tensors:
        if groups[-1] and sum(map(bytes_of, groups[-1])) + bytes_of(tensor) > limit:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return [(folder / f"{stem}.safetensors", groups[0])]
    names = [f"{stem}-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    weight_map = {tensor[0]: name for name, group in zip(names, groups) for tensor in group}
    total = sum(map(bytes_of, tensors))
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(dict(metadata={"total_size": total}, weight_map=weight_map)))
    return [(folder / name, group) for name, group in zip(names, groups)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder, for instance /dev/shm/flux")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small: the same structure in 25 MB, pictures of 64 x 64")
    parser.add_argument("--infuse", type=Path, metavar="DIR", help="also an InfiniteYou for it: InfuseNet, projector and a face's embedding")
    parser.add_argument("--shard", type=float, default=1.0, metavar="GB", help="bytes of a file: one is written by one thread")
    parser.add_argument("--threads", type=int, default=min(16, os.cpu_count()))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sizes, start = SMALL if arguments.scale == "small" else FULL, time.monotonic()
    parts = [
        (arguments.folder / "transformer", "diffusion_pytorch_model", transformer(sizes)),
        (arguments.folder / "text_encoder_2", "model", t5(sizes)),
        (arguments.folder / "text_encoder", "model", clip(sizes)),
        (arguments.folder / "vae", "diffusion_pytorch_model", vae(sizes)),
    ]
    if arguments.infuse:
        parts.append((arguments.infuse / "InfuseNetModel", "diffusion_pytorch_model", infusenet(sizes)))
    total = 2 * sum(math.prod(shape) for _, _, tensors in parts for _, shape, _, _ in tensors)
    for folder in filter(None, [arguments.folder, arguments.infuse]):
        folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(arguments.folder).free
    if total > free:
        parser.error(f"{arguments.folder}: {total / 1e9:.1f} GB are to be written, {free / 1e9:.1f} GB are free")
    for name in ["tokenizer", "tokenizer_2", "scheduler"]:
        shutil.copytree(DEMO / name, arguments.folder / name, dirs_exist_ok=True)
    shutil.copy(DEMO / "model_index.json", arguments.folder)
    if arguments.scale == "small":
        small = dict(width=64, height=64, num_inference_steps=4, max_sequence_length=32)
        (arguments.folder / "generation_config.json").write_text(json.dumps(small))
    work = []
    for folder, stem, tensors in parts:
        # What an earlier call left there would be read too.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(configuration(folder.name, sizes), indent=1))
        work += shards(folder, stem, tensors, arguments.shard * 1e9)
    if arguments.infuse:
        work.append((arguments.infuse / "image_proj_model.safetensors", projector(sizes)))
        embedding = [("embedding", [512], 0.0, 512**-0.5)]
        work.append((arguments.infuse / "embedding.safetensors", embedding))
    # The longest first, so that all threads end together.
    work.sort(key=lambda job: -sum(math.prod(shape) for _, shape, _, _ in job[1]))
    with ThreadPoolExecutor(arguments.threads) as threads:
        jobs = [threads.submit(write_shard, path, tensors, arguments.seed + index) for index, (path, tensors) in enumerate(work)]
        for job in jobs:
            job.result()
    took = time.monotonic() - start
    print(f"{total / 1e9:.2f} GB in {len(work)} files of {arguments.folder} in {took:.1f} s, {total / 1e9 / took:.1f} GB/s")


if __name__ == "__main__":
    main()
