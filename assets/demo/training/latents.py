"""What every script here does with latents and pictures of 64 x 64 pixels: a latent is [16, 8, 8], packed it is 16 tokens of 64 channels."""

import math

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

PICTURE = 64  # pixels a side
IMAGE_IDS = FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
SHIFT = math.exp(0.46)  # of FLUX's scheduler at 16 image tokens


def pack(latents):
    """As FluxPipeline._pack_latents."""
    return latents.view(-1, 16, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16, 64).contiguous()


def unpack(tokens):
    return tokens.view(-1, 4, 4, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 8, 8)


def sigmas(steps):
    """The noise levels of `steps` steps, from 1 to 0."""
    even = np.linspace(1, 1 / steps, steps)
    return np.append(SHIFT / (SHIFT + 1 / even - 1), 0)


def euler(velocity, noise, steps):
    """From noise to latents; `velocity(tokens, sigma)` for all pictures at once."""
    tokens, levels = noise, sigmas(steps)
    for now, then in zip(levels[:-1], levels[1:]):
        tokens = tokens + float(then - now) * velocity(tokens, torch.full((len(tokens),), float(now)))
    return tokens


def noised(clean, timesteps):
    """A training example: the mixture at each timestep, and the noise in it."""
    noise = torch.randn_like(clean)
    weight = timesteps[:, None, None]
    return (1 - weight) * clean + weight * noise, noise


def encode(vae, pictures):
    """Packed latents as the transformer sees them, from pictures of -1 to 1."""
    mean = vae.encode(pictures).latent_dist.mean
    return pack((mean - vae.config.shift_factor) * vae.config.scaling_factor)


def decode(vae, tokens):
    """Pictures, -1 to 1."""
    latents = unpack(tokens) / vae.config.scaling_factor + vae.config.shift_factor
    return vae.decode(latents).sample.clamp(-1, 1)


def from_bytes(pictures):
    """0 to 255 becomes -1 to 1."""
    return pictures.float() / 127.5 - 1


def to_bytes(pictures):
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte()


def from_image(image):
    """[3, height, width], -1 to 1."""
    return from_bytes(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def to_image(picture):
    return Image.fromarray(to_bytes(picture).permute(1, 2, 0).numpy())


def sheet(pictures, columns):
    """Pictures [count, 3, height, width] in rows of `columns`; the count is a multiple of it."""
    count, _, height, width = pictures.shape
    rows = to_bytes(pictures).view(count // columns, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(rows.reshape(count // columns * height, columns * width, 3).numpy())


def parameters(model):
    """How many there are."""
    return sum(parameter.numel() for parameter in model.parameters())
