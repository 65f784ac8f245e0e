"""Write reference cases beside make_golden.py's: configurations that a review with random ones found to matter.

    python make_more.py OUT

The files of a case, its rules and its bounds are those of make_golden.py. Cases:
    flux-guidance-30-tiny  guidance 30: an error of the last place in the sinusoid's frequencies shows; odd channels; f32 weights
    t5-relu-odd-tiny       T5 1.0's feed-forward part, an odd number of buckets, positions beyond the largest distance
    vae-quant-odd-tiny     convolutions between encoder, latent and decoder; one channel in a group; a picture with odd sides
    loop-schnell-bfl-tiny  a loop without guidance, the transformer under BFL's names; expected has latents.N.bf16 and .rounded too
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

torch.set_grad_enabled(False)

FLUX = dict(in_channels=12, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=33, pooled_projection_dim=21, guidance_embeds=True, axes_dims_rope=[2, 6, 8])


def fresh(model, seed):
    """Random but well-conditioned weights, rounded to bf16."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))
        elif name.endswith("bias"):
            parameter.copy_(0.05 * noise)
        else:
            parameter.copy_(1 + 0.1 * noise)
    return model.to(torch.bfloat16).eval()


def rounded(value):
    """What a bf16 run makes of a timestep or guidance: rounded, times 1000, rounded again."""
    return (value.to(torch.bfloat16) * 1000).float() / 1000


def half(name, value):
    return value.to(torch.bfloat16) if value.is_floating_point() and not name.endswith("_ids") else value


def write_config(folder, model):
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str, sort_keys=True))


def write_tensors(path, tensors):
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)


def write_case(folder, model, weights, inputs, run):
    """Everything of a case that is one call of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, model)
    write_tensors(folder / "model.safetensors", weights)
    write_tensors(folder / "inputs.safetensors", inputs)
    with_time = "timestep" in inputs
    in_bf16 = run(model, {name: half(name, value) for name, value in inputs.items()})
    model = model.float()
    expected = run(model, inputs)
    told = {name: rounded(value) if name in ("timestep", "guidance") else value for name, value in inputs.items()}
    in_rounded = run(model, told) if with_time else {}
    write_tensors(folder / "expected.safetensors",
                  expected | {f"{name}.bf16": value.to(torch.bfloat16) for name, value in in_bf16.items()}
                  | {f"{name}.rounded": value for name, value in in_rounded.items()})


def flux_inputs(seed, config, rows, columns, text):
    generator = torch.Generator().manual_seed(seed)
    noise = lambda *shape: torch.randn(1, *shape, generator=generator)
    return dict(hidden_states=noise(rows * columns, config["in_channels"]), encoder_hidden_states=noise(text, config["joint_attention_dim"]),
                pooled_projections=noise(config["pooled_projection_dim"]),
                img_ids=FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32), txt_ids=torch.zeros(text, 3))


def flux_guidance(folder):
    config = FLUX | dict(out_channels=8)
    model = fresh(FluxTransformer2DModel(**config), 31)
    inputs = flux_inputs(32, config, 3, 5, 1) | dict(timestep=torch.tensor([0.6317]), guidance=torch.tensor([30.0]))
    weights = {name: value.float() for name, value in model.state_dict().items()}
    write_case(folder, model, weights, inputs, lambda model, inputs: {"sample": model(**inputs).sample})


def t5_relu(folder):
    config = T5Config(feed_forward_proj="relu", tie_word_embeddings=False, is_encoder_decoder=False, use_cache=False, vocab_size=50, d_model=20,
                      d_kv=7, d_ff=33, num_layers=2, num_heads=3, relative_attention_num_buckets=11, relative_attention_max_distance=20)
    model = fresh(T5EncoderModel(config), 33)
    ids = torch.randint(3, 50, (1, 41), generator=torch.Generator().manual_seed(34))
    weights = {name: value for name, value in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    write_case(folder, model, weights, dict(input_ids=ids),
               lambda model, inputs: {"last_hidden_state": model(input_ids=inputs["input_ids"]).last_hidden_state})


def vae_quant(folder):
    model = AutoencoderKL(latent_channels=3, block_out_channels=[4, 8], down_block_types=["DownEncoderBlock2D"] * 2,
                          up_block_types=["UpDecoderBlock2D"] * 2, layers_per_block=1, norm_num_groups=4)
    model = fresh(model, 35)
    generator = torch.Generator().manual_seed(36)
    inputs = dict(latent=torch.randn(1, 3, 5, 7, generator=generator), image=2 * torch.rand(1, 3, 11, 13, generator=generator) - 1)

    def run(model, inputs):
        moments = model.encode(inputs["image"]).latent_dist
        return {"decoded": model.decode(inputs["latent"]).sample, "moments.mean": moments.mean, "moments.logvar": moments.logvar}
    write_case(folder, model, model.state_dict(), inputs, run)


def to_bfl(weights):
    """A checkpoint of one double and one single block, without guidance, under BFL's names."""
    bfl = {}

    def linear(name, *sources):
        for part in ("weight", "bias"):
            bfl[f"{name}.{part}"] = torch.cat([weights[f"{source}.{part}"] for source in sources])

    for name, source in (("img_in", "x_embedder"), ("txt_in", "context_embedder"), ("final_layer.linear", "proj_out")):
        linear(name, source)
    for name, source in (("time_in", "timestep"), ("vector_in", "text")):
        linear(f"{name}.in_layer", f"time_text_embed.{source}_embedder.linear_1")
        linear(f"{name}.out_layer", f"time_text_embed.{source}_embedder.linear_2")
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    sides = [("img", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm"),
             ("txt", "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context", "norm_added")]
    for side, modulation, qkv, out, feed_forward, norm in sides:
        linear(f"double_blocks.0.{side}_mod.lin", f"{double}.{modulation}.linear")
        linear(f"double_blocks.0.{side}_attn.qkv", *(f"{double}.attn.{name}" for name in qkv))
        linear(f"double_blocks.0.{side}_attn.proj", f"{double}.attn.{out}")
        linear(f"double_blocks.0.{side}_mlp.0", f"{double}.{feed_forward}.net.0.proj")
        linear(f"double_blocks.0.{side}_mlp.2", f"{double}.{feed_forward}.net.2")
        for letter, name in (("q", "query"), ("k", "key")):
            bfl[f"double_blocks.0.{side}_attn.norm.{name}_norm.scale"] = weights[f"{double}.attn.{norm}_{letter}.weight"]
    linear("single_blocks.0.modulation.lin", f"{single}.norm.linear")
    linear("single_blocks.0.linear1", *(f"{single}.attn.{name}" for name in ("to_q", "to_k", "to_v")), f"{single}.proj_mlp")
    linear("single_blocks.0.linear2", f"{single}.proj_out")
    for letter, name in (("q", "query"), ("k", "key")):
        bfl[f"single_blocks.0.norm.{name}_norm.scale"] = weights[f"{single}.attn.norm_{letter}.weight"]
    for part in ("weight", "bias"):  # diffusers: scale, shift; BFL: shift, scale
        scale, shift = weights[f"norm_out.linear.{part}"].chunk(2)
        bfl[f"final_layer.adaLN_modulation.1.{part}"] = torch.cat([shift, scale])
    return bfl


def loop_schnell(folder):
    config, rows, columns, steps = FLUX | dict(guidance_embeds=False), 3, 5, 3
    model = fresh(FluxTransformer2DModel(**config), 37)
    given = flux_inputs(38, config, rows, columns, 1)
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    write_config(folder / "transformer", model)
    write_tensors(folder / "transformer" / "diffusion_pytorch_model.safetensors", to_bfl(model.state_dict()))
    write_tensors(folder / "inputs.safetensors", dict(latents=given["hidden_states"], prompt_embeds=given["encoder_hidden_states"],
                                                      pooled_prompt_embeds=given["pooled_projections"]))
    (folder / "run.json").write_text(json.dumps(dict(steps=steps, latent_height=rows, latent_width=columns, guidance=3.5), indent=1))

    def latents(model, dtype, time):
        """After each step; the pipeline divides the rounded timestep by 1000 in its own type."""
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(rows * columns, 256, 4096, 0.5, 1.15))
        inputs = {name: value.to(dtype) if not name.endswith("_ids") else value for name, value in given.items()}
        x, made = inputs.pop("hidden_states"), []
        for step in scheduler.timesteps:
            velocity = model(hidden_states=x, timestep=time(step.expand(1).to(dtype) / 1000), **inputs).sample
            x = scheduler.step(velocity, step, x, return_dict=False)[0]
            made.append(x)
        return made
    in_bf16 = latents(model, torch.bfloat16, lambda time: time)
    model = model.float()
    in_f32 = latents(model, torch.float32, lambda time: time)
    in_rounded = latents(model, torch.float32, lambda time: rounded((time * 1000).to(torch.bfloat16) / 1000))
    write_tensors(folder / "expected.safetensors",
                  {f"latents.{step}": value for step, value in enumerate(in_f32)}
                  | {f"latents.{step}.bf16": value for step, value in enumerate(in_bf16)}
                  | {f"latents.{step}.rounded": value for step, value in enumerate(in_rounded)})


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    out = arguments.parse_args().out
    flux_guidance(out / "flux-guidance-30-tiny")
    t5_relu(out / "t5-relu-odd-tiny")
    vae_quant(out / "vae-quant-odd-tiny")
    loop_schnell(out / "loop-schnell-bfl-tiny")


if __name__ == "__main__":
    main()
