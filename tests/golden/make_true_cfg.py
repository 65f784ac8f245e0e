"""Write reference cases of true classifier-free guidance beside make_golden.py's, whose rules and bounds hold: a loop is within 1e-4 after every step.

    python make_true_cfg.py OUT

    loop-true-cfg-tiny              what diffusers' own FluxPipeline makes of a prompt and a negative prompt, steps caught by its callback
    loop-true-cfg-infiniteyou-tiny  with an InfuseNet, which adds to the prompt's pass only (InfiniteYou, pipeline_infu_flux.py), within a window
    loop-true-cfg-teacache-tiny     with TeaCache, where each of the two passes remembers its own: run.json has which steps each of them computed
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import save_file

from make_more import fresh, write_config

torch.set_grad_enabled(False)

FLUX = dict(in_channels=8, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=1, joint_attention_dim=12,
            pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=[4, 6, 6])
NET = FLUX | dict(num_layers=1, num_single_layers=1)
ROWS, COLUMNS, TEXT, IDENTITY = 3, 4, 5, 2
SCALE = 2.5
POLYNOMIAL = np.poly1d([498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861])


def scheduler():
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)


def save(path, tensors):
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)


def write_model(folder, model):
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, model)
    save(folder / "diffusion_pytorch_model.safetensors", {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()})


def tensors(seed, with_net):
    generator = torch.Generator().manual_seed(seed)
    noise = lambda *shape: torch.randn(1, *shape, generator=generator)
    made = dict(latents=noise(ROWS * COLUMNS, FLUX["in_channels"]))
    for prefix in ("", "negative_"):
        made[f"{prefix}prompt_embeds"] = noise(TEXT, FLUX["joint_attention_dim"])
        made[f"{prefix}pooled_prompt_embeds"] = noise(FLUX["pooled_projection_dim"])
    if with_net:
        made["id_tokens"] = noise(IDENTITY, FLUX["joint_attention_dim"])
        made["control_latents"] = noise(ROWS * COLUMNS, FLUX["in_channels"])
    return made


def write_run(folder, steps, **more):
    run = dict(steps=steps, latent_height=ROWS, latent_width=COLUMNS, guidance=3.5, true_cfg_scale=SCALE) | more
    (folder / "run.json").write_text(json.dumps(run, indent=1))


def by_the_pipeline(folder, seed, steps):
    transformer = fresh(FluxTransformer2DModel(**FLUX), seed).float()
    write_model(folder / "transformer", transformer)
    given = tensors(seed + 1, False)
    save(folder / "inputs.safetensors", given)
    write_run(folder, steps)
    pipeline = FluxPipeline(scheduler=scheduler(), vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
                            transformer=transformer)
    pipeline.set_progress_bar_config(disable=True)
    made = {}

    def caught(_pipeline, step, _timestep, values):
        made[f"latents.{step}"] = values["latents"]
        return {}

    pipeline(num_inference_steps=steps, guidance_scale=3.5, true_cfg_scale=SCALE, width=16 * COLUMNS, height=16 * ROWS, output_type="latent",
             callback_on_step_end=caught, **given)
    save(folder / "expected.safetensors", made)


class Cache:
    """TeaCache of one pass of one picture (TeaCache4FLUX)."""

    def __init__(self, transformer, threshold, steps):
        self.transformer, self.threshold, self.steps = transformer, threshold, steps
        self.sum, self.seen, self.residual, self.ran = 0.0, None, None, []

    def velocity(self, step, arguments):
        transformer, run = self.transformer, True
        hidden = transformer.x_embedder(arguments["hidden_states"])
        time = transformer.time_text_embed(arguments["timestep"] * 1000, arguments["guidance"] * 1000, arguments["pooled_projections"])
        now = transformer.transformer_blocks[0].norm1(hidden, emb=time)[0]
        if step in (0, self.steps - 1):
            self.sum = 0.0
        else:
            self.sum += float(POLYNOMIAL(((now - self.seen).abs().mean() / self.seen.abs().mean()).item()))
            run = self.sum >= self.threshold
            self.sum = 0.0 if run else self.sum
        self.seen = now
        self.ran.append(run)
        if not run:
            return transformer.proj_out(transformer.norm_out(hidden + self.residual, time))
        caught = {}
        hook = transformer.norm_out.register_forward_pre_hook(lambda _module, values: caught.update(hidden=values[0]))
        velocity = transformer(**arguments).sample
        hook.remove()
        self.residual = caught["hidden"] - hidden
        return velocity


def by_hand(folder, seed, steps, end=1.0, threshold=0.0):
    """Threshold 0 computes every step."""
    transformer, net = fresh(FluxTransformer2DModel(**FLUX), seed).float(), fresh(FluxControlNetModel(**NET), seed + 1).float()
    write_model(folder / "transformer", transformer)
    write_model(folder / "infusenet", net)
    given = tensors(seed + 2, True)
    save(folder / "inputs.safetensors", given)
    schedule = scheduler()
    schedule.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(ROWS * COLUMNS, 256, 4096, 0.5, 1.15))
    common = dict(img_ids=FluxPipeline._prepare_latent_image_ids(1, ROWS, COLUMNS, "cpu", torch.float32))
    caches = [Cache(transformer, threshold, steps) for _ in range(2)]
    latents, made = given["latents"], {}
    for step, time in enumerate(schedule.timesteps):
        common |= dict(hidden_states=latents, timestep=time.expand(1) / 1000)
        keep = 1.0 - float((step + 1) / steps > end)
        added = net(controlnet_cond=given["control_latents"], conditioning_scale=keep, encoder_hidden_states=given["id_tokens"],
                    pooled_projections=given["pooled_prompt_embeds"], txt_ids=torch.zeros(IDENTITY, 3), guidance=torch.tensor([1.0]), **common)
        added = dict(controlnet_block_samples=added.controlnet_block_samples, controlnet_single_block_samples=added.controlnet_single_block_samples)
        positive, negative = (
            cache.velocity(step, common | more | dict(encoder_hidden_states=given[f"{prefix}prompt_embeds"], guidance=torch.tensor([3.5]),
                                                      pooled_projections=given[f"{prefix}pooled_prompt_embeds"], txt_ids=torch.zeros(TEXT, 3)))
            for cache, prefix, more in zip(caches, ("", "negative_"), (added, {})))
        latents = schedule.step(negative + SCALE * (positive - negative), time, latents, return_dict=False)[0]
        made[f"latents.{step}"] = latents
    save(folder / "expected.safetensors", made)
    ran = [cache.ran for cache in caches]
    more = dict(teacache_threshold=threshold, transformer_ran=ran[0], negative_ran=ran[1]) if threshold else {}
    write_run(folder, steps, guidance_end=end, **more)
    return ran


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    out = arguments.parse_args().out
    by_the_pipeline(out / "loop-true-cfg-tiny", 41, 6)
    by_hand(out / "loop-true-cfg-infiniteyou-tiny", 44, 6, end=0.7)
    positive, negative = by_hand(out / "loop-true-cfg-teacache-tiny", 48, 16, threshold=0.6)
    assert positive != negative, "the two passes should decide apart"


if __name__ == "__main__":
    main()
