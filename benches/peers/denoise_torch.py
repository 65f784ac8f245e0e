"""Runs the loop of a folder made by make_synthetic_flux.py (or tests/golden/loop-*) with diffusers' transformer on the CPU.

Prints one JSON line: {"name": "denoise", "seconds_per_step": median, "steps": [...]}. Loading is not timed. `--out` saves the latents after each
step as `denoise` does, so that `lighterage compare` can hold both against each other.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file, save_file


def schedule(run):
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)
    mu = calculate_shift(run["latent_height"] * run["latent_width"], 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / run["steps"], run["steps"]), mu=mu)
    return scheduler


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = torch.bfloat16 if arguments.dtype == "bf16" else torch.float32
    run = json.loads((arguments.folder / "run.json").read_text())
    model = FluxTransformer2DModel.from_pretrained(arguments.folder / "transformer", torch_dtype=dtype)
    tensors = {name: value.to(dtype) for name, value in load_file(arguments.folder / "inputs.safetensors").items()}
    latents, text = tensors["latents"], tensors["prompt_embeds"]
    image_ids = FluxPipeline._prepare_latent_image_ids(1, run["latent_height"], run["latent_width"], "cpu", dtype)
    seconds, after = [], {}
    scheduler = schedule(run)
    with torch.inference_mode():
        for step, timestep in enumerate(scheduler.timesteps):
            start = time.perf_counter()
            velocity = model(
                hidden_states=latents, encoder_hidden_states=text, pooled_projections=tensors["pooled_prompt_embeds"],
                timestep=timestep.expand(1).to(dtype) / 1000, img_ids=image_ids, txt_ids=torch.zeros(text.shape[1], 3, dtype=dtype),
                guidance=torch.tensor([run["guidance"]]), return_dict=False,
            )[0]
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            seconds.append(time.perf_counter() - start)
            after[f"latents.{step}"] = latents.float().contiguous()
    if arguments.out:
        save_file(after, arguments.out)
    print(json.dumps({"name": "denoise", "seconds_per_step": statistics.median(seconds), "steps": seconds}))


if __name__ == "__main__":
    main()
