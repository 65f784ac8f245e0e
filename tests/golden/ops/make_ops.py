"""Reference values of single ops, computed with torch and diffusers on the CPU.

    python make_ops.py        # torch 2.15, diffusers 0.42.1, transformers 5.23, safetensors

writes values.safetensors beside it: the inputs (`x`, `weight`, ...), each op's result in f32 (`NAME`), and what torch makes of it in bf16 from
inputs rounded to bf16 (`NAME.bf16`), stored as f32. Images are stored channels last, as the ops take them.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import FluxPipeline
from diffusers.models.embeddings import apply_rotary_emb, get_timestep_embedding
from safetensors.torch import save_file
from transformers.models.t5.modeling_t5 import T5LayerNorm

ROWS, COLUMNS, SPLIT, HEADS, HEAD_DIM = 17, 96, 5, 3, 32


def inputs():
    """Normal values, f32."""
    torch.manual_seed(0)
    shapes = dict(
        x=(ROWS, COLUMNS), y=(ROWS, COLUMNS), weight=(COLUMNS,), bias=(COLUMNS,), image=(4, 3, COLUMNS), latents=(4, 6, 8),
        q=(ROWS, HEADS, HEAD_DIM), k=(ROWS, HEADS, HEAD_DIM), q_weight=(2, HEAD_DIM), k_weight=(2, HEAD_DIM),
        modulation=(6, COLUMNS),
    )
    made = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name in ("weight", "q_weight", "k_weight"):
        made[name] += 1
    made["x"] += 3
    made["angles"] = torch.randn(ROWS, HEAD_DIM // 2) * 3
    made["values"] = torch.tensor([1000.0, 3500.0, 988.27, 12.5])
    return made


def results(t):
    """What torch and diffusers make of the inputs, in their element type."""
    x, weight, bias = t["x"], t["weight"], t["bias"]
    rms = T5LayerNorm(COLUMNS, eps=1e-6).to(x.dtype)
    rms.weight.data = weight
    image = t["image"].permute(2, 0, 1)[None]
    first = slice(0, SPLIT), slice(SPLIT, ROWS)
    updated = torch.cat([x[rows] + t["modulation"][3 * i + 2] * t["y"][rows] for i, rows in enumerate(first)])
    normed = F.layer_norm(updated, (COLUMNS,), eps=1e-6)
    modulated = [normed[rows] * (1 + t["modulation"][3 * i + 1]) + t["modulation"][3 * i] for i, rows in enumerate(first)]
    out = dict(
        layer_norm=F.layer_norm(x, (COLUMNS,), weight, bias, 1e-5),
        rms_norm=rms(x),
        group_norm=F.silu(F.group_norm(image, 32, weight, bias, 1e-6))[0].permute(1, 2, 0),
        norm_mod_x=updated,
        norm_mod=torch.cat(modulated),
        gelu_tanh=F.gelu(x, approximate="tanh"),
        gelu=F.gelu(x),
        quick_gelu=x * torch.sigmoid(1.702 * x),
        silu=F.silu(x),
        geglu=F.gelu(x[:, : COLUMNS // 2], approximate="tanh") * x[:, COLUMNS // 2 :],
        upsample=F.interpolate(image, scale_factor=2.0, mode="nearest")[0].permute(1, 2, 0),
        tokens=FluxPipeline._pack_latents(t["latents"][None], 1, *t["latents"].shape)[0],
        sinusoid=get_timestep_embedding(t["values"], 256, flip_sin_to_cos=True, downscale_freq_shift=0).to(x.dtype),
    )
    cos, sin = (f(t["angles"]).repeat_interleave(2, dim=1) for f in (torch.cos, torch.sin))
    for name in ("q", "k"):
        parts = [F.rms_norm(t[name][rows], (HEAD_DIM,), t[f"{name}_weight"][i], 1e-6) for i, rows in enumerate(first)]
        out[f"{name}_turned"] = apply_rotary_emb(torch.cat(parts)[None], (cos, sin), sequence_dim=1)[0]
    return out


def main():
    made = inputs()
    # Angles and timesteps stay f32 in a bf16 model.
    rounded = {name: v if name in ("angles", "values") else v.bfloat16() for name, v in made.items()}
    tensors = made | results(made) | {f"{name}.bf16": v.float() for name, v in results(rounded).items()}
    save_file({name: v.contiguous() for name, v in tensors.items()}, Path(__file__).with_name("values.safetensors"))


if __name__ == "__main__":
    with torch.no_grad():
        main()
