"""Makes a synthetic FLUX checkpoint with inputs, in the folder format of tests/golden/loop-*, for `denoise` and denoise_torch.py.

8 heads x 128, 4 double and 8 single blocks, 1024 image tokens and 128 text tokens, bf16 weights, 4 steps. The weights are
random: only time and bytes mean something, but the values stay finite and of order one through all blocks.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

CONFIG = dict(
    patch_size=1, in_channels=64, num_layers=4, num_single_layers=8, attention_head_dim=128, num_attention_heads=8,
    joint_attention_dim=1024, pooled_projection_dim=768, guidance_embeds=True, axes_dims_rope=(16, 56, 56),
)
LATENT_HEIGHT, LATENT_WIDTH, TEXT_TOKENS, STEPS = 32, 32, 128, 4


def transformer(seed):
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(**CONFIG).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.02)
    return model


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(1, LATENT_HEIGHT * LATENT_WIDTH, CONFIG["in_channels"], generator=generator),
        "prompt_embeds": torch.randn(1, TEXT_TOKENS, CONFIG["joint_attention_dim"], generator=generator),
        "pooled_prompt_embeds": torch.randn(1, CONFIG["pooled_projection_dim"], generator=generator),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.folder / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    model = transformer(arguments.seed)
    (folder / "config.json").write_text(json.dumps(dict(model.config), indent=1, default=str, sort_keys=True))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    save_file(inputs(arguments.seed + 1), arguments.folder / "inputs.safetensors")
    run = dict(steps=STEPS, latent_height=LATENT_HEIGHT, latent_width=LATENT_WIDTH, guidance=3.5, infusenet_guidance=1.0,
               conditioning_scale=1.0, guidance_start=0.0, guidance_end=1.0, teacache_threshold=None)
    (arguments.folder / "run.json").write_text(json.dumps(run, indent=1))
    print(f"{sum(value.numel() for value in weights.values()) * 2 / 2**20:.0f} MiB of weights in {arguments.folder}")


if __name__ == "__main__":
    main()
