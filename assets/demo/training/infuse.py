"""What training and judging InfuseNet share: the resampler, the picture of the landmarks, and a velocity with residuals."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image, ImageDraw

from latents import IMAGE_IDS, PICTURE, decode, encode, euler, from_image
from train_id import LANDMARKS

TEXT_TOKENS, ID_TOKENS = 32, 8
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))  # everything to the nose


# The names of attributes are those of the checkpoint's tensors.
class Attention(nn.Module):
    """Queries that look at the embedding and at each other."""

    def __init__(self, width, head_width, heads):
        super().__init__()
        self.heads, inner = heads, head_width * heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x, queries):
        x, queries = self.norm1(x), self.norm2(queries)
        q = self.split(self.to_q(queries))
        k, v = map(self.split, self.to_kv(torch.cat([x, queries], 1)).chunk(2, -1))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Resampler(nn.Module):
    """InfiniteYou's `image_proj_model`, names and order. The real one is 1280 wide, with 4 layers, 20 heads and 4096 columns out."""

    def __init__(self, width=128, depth=2, heads=2, queries=ID_TOKENS, embedding=512, out=64):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, queries, width) / width**0.5)
        self.proj_in, self.proj_out = nn.Linear(embedding, width), nn.Linear(width, out)
        self.norm_out = nn.LayerNorm(out)
        feed_forward = lambda: nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )
        layer = lambda: nn.ModuleList([Attention(width, 64, heads), feed_forward()])
        self.layers = nn.ModuleList([layer() for _ in range(depth)])

    def forward(self, x):
        queries, x = self.latents.expand(len(x), -1, -1), self.proj_in(x)
        for attention, feed_forward in self.layers:
            queries = attention(x, queries) + queries
            queries = feed_forward(queries) + queries
        return self.norm_out(self.proj_out(queries))


def draw_landmarks(side, points):
    """After InfiniteYou's draw_kps, simplified: limbs at 0.6 of their colour, then dots of full colour."""
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    for start, end in LIMBS:
        dim = tuple(int(channel * 0.6) for channel in COLORS[start])
        draw.line([tuple(points[start]), tuple(points[end])], dim, 2)
    for (x, y), full in zip(points, COLORS):
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=full)
    return image


@torch.no_grad()
def control_latents(vae):
    """Packed: of a black picture (no landmarks given), and of the landmarks that all portraits share."""
    landmarks = draw_landmarks(PICTURE, LANDMARKS * PICTURE / 112)
    return encode(vae, torch.stack([from_image(Image.new("RGB", (PICTURE, PICTURE))), from_image(landmarks)]))


class Portraits:
    """A pipeline with an InfuseNet and a resampler beside it."""

    def __init__(self, pipeline, network, resampler):
        self.pipeline, self.network, self.resampler = pipeline, network, resampler
        self.control = control_latents(pipeline.vae)

    @torch.no_grad()
    def embed(self, texts):
        pipeline, longest = self.pipeline, dict(padding="max_length", truncation=True, max_length=TEXT_TOKENS)
        clip_ids = pipeline.tokenizer(texts, padding=True, return_tensors="pt").input_ids
        t5_ids = pipeline.tokenizer_2(texts, return_tensors="pt", **longest).input_ids
        return pipeline.text_encoder(clip_ids).pooler_output, pipeline.text_encoder_2(t5_ids).last_hidden_state

    def velocity(self, tokens, timesteps, guidance, text, id_tokens, control, scale=1.0):
        """Of the transformer, with InfuseNet's residuals unless the scale is 0."""
        pooled, states = text
        same = dict(hidden_states=tokens, timestep=timesteps, pooled_projections=pooled, img_ids=IMAGE_IDS, return_dict=False)
        double = single = None
        if scale != 0:
            double, single = self.network(
                **same,
                controlnet_cond=control,
                conditioning_scale=scale,
                encoder_hidden_states=id_tokens,
                txt_ids=torch.zeros(ID_TOKENS, 3),
                guidance=torch.ones(len(tokens)),
            )
        return self.pipeline.transformer(
            **same,
            guidance=guidance,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(TEXT_TOKENS, 3),
            controlnet_block_samples=double,
            controlnet_single_block_samples=single,
        )[0].float()

    @torch.no_grad()
    def draw(self, texts, embeddings, guidance, steps, scale, seed):
        """One portrait for each text and face, -1 to 1."""
        count = len(texts)
        text, id_tokens = self.embed(texts), self.resampler(embeddings[:, None])
        control, guidance = self.control[[1] * count], torch.full((count,), guidance)
        noise = torch.randn(count, 16, 64, generator=torch.Generator().manual_seed(seed))
        velocity = lambda tokens, timesteps: self.velocity(tokens, timesteps, guidance, text, id_tokens, control, scale)
        return decode(self.pipeline.vae, euler(velocity, noise, steps))
