"""The text encoders, the transformer, and their training as a rectified flow, in two parts: the flow, then classifier-free guidance distilled into the
guidance embedding. train_flow.py starts it from nothing, train_more.py goes on with fewer concepts."""

import copy
import json
import pathlib
import time
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from captions import caption
from latents import IMAGE_IDS, decode, euler, noised, pack, parameters, sheet
from muon import Muon, split

TEXT_TOKENS = 32
BATCH = 64
EMOJI_SHARE = 0.75  # of a batch; the rest are portraits
EMPTY_SHARE = 0.1  # of captions: the model has to know what it draws without one
DISTILLATION = 0.24  # of the time: its end
GUIDANCE_MAX = 6.0
PROMPTS = [
    "red heart, noto style, white background",
    "red heart, twemoji style, blue background",
    "green heart, noto style, yellow background",
    "pizza, noto style, white background",
    "cat, noto style, white background",
    "dog, twemoji style, pink background",
    "frog, noto style, blue background",
    "rainbow, noto style, white background",
    "sob, noto style, white background",
    "sunglasses, twemoji style, green background",
    "tiger, noto style, white background",
    "strawberry, twemoji style, white background",
    "toon portrait of a smiling person, blue spiky hair, light skin, white shirt, pink background",
    "toon portrait of a angry person, red long wavy bun hair, dark skin, green background",
    "toon portrait of a sad person, white bun hair, brown skin, full beard, yellow dress, gray background",
    "toon portrait of a laughing person, blonde long straight undercut hair, tan skin, red turtleneck, black background",
]


def new_t5():
    sizes = dict(vocab_size=32128, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    kind = dict(feed_forward_proj="gated-gelu", is_encoder_decoder=True, tie_word_embeddings=False)
    return T5EncoderModel(T5Config(**sizes, **kind, dropout_rate=0.0, decoder_start_token_id=0))


def new_clip():
    sizes = dict(hidden_size=32, intermediate_size=128, projection_dim=32, num_hidden_layers=2, num_attention_heads=2)
    tokens = dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return CLIPTextModel(CLIPTextConfig(**sizes, **tokens, hidden_act="quick_gelu"))


def new_transformer():
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(8, 28, 28),
    )


def start_at_zero(transformer):
    """adaLN-zero, and an output layer that says nothing yet."""
    for name, module in transformer.named_modules():
        is_modulation = name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear"))
        if is_modulation or name == "proj_out":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)


@dataclass
class Models:
    """What is trained together, under the names of FluxPipeline's parts."""

    transformer: torch.nn.Module
    text_encoder: torch.nn.Module
    text_encoder_2: torch.nn.Module

    def all(self):
        return self.transformer, self.text_encoder, self.text_encoder_2

    def average(self):
        """A copy to hold the running average of the weights."""
        return Models(*(copy.deepcopy(model).eval().requires_grad_(False) for model in self.all()))

    @torch.no_grad()
    def follow(self, others, decay):
        for mine, theirs in zip(self.all(), others.all()):
            for average, parameter in zip(mine.parameters(), theirs.parameters()):
                average.lerp_(parameter, 1 - decay)


@dataclass
class Data:
    """Packed latents with their records, and which of them are drawn from."""

    latents: torch.Tensor
    records: list
    emoji: np.ndarray
    portraits: np.ndarray

    @staticmethod
    def read(latents, wants_emoji):
        records = json.load(open("data/captions.json"))
        of_kind = lambda kind: [at for at, record in enumerate(records) if record["kind"] == kind]
        emoji = [at for at in of_kind("emoji") if wants_emoji(records[at])]
        data = Data(pack(torch.from_numpy(np.load(latents))), records, np.array(emoji), np.array(of_kind("toon")))
        concepts = {records[at]["names"][0] for at in emoji}
        print("emoji pictures", len(emoji), "concepts", len(concepts), "portraits", len(data.portraits))
        return data

    def batch(self, rng):
        count = int(BATCH * EMOJI_SHARE)
        chosen = np.concatenate([rng.choice(self.emoji, count), rng.choice(self.portraits, BATCH - count)])
        texts = ["" if rng.random() < EMPTY_SHARE else caption(self.records[at], rng) for at in chosen]
        return self.latents[chosen], texts

    def emoji_caption(self, rng):
        return caption(self.records[self.emoji[rng.integers(len(self.emoji))]], rng)


class Flow:
    """A training run: models, their running average, optimizers."""

    def __init__(self, models, rates, folders):
        """`rates`: of Muon and of AdamW. `folders`: where to write, and where vae/ is."""
        self.models, self.average = models, models.average()
        self.out, self.vae_folder = (pathlib.Path(folder) for folder in folders)
        self.clip_tokenizer = CLIPTokenizer.from_pretrained("tok/tokenizer")
        self.t5_tokenizer = T5TokenizerFast.from_pretrained("tok/tokenizer_2")
        self.optimizers = self.new_optimizers(*rates)
        self.rng = np.random.default_rng(0)
        print({type(model).__name__: parameters(model) for model in models.all()})

    def new_optimizers(self, muon_rate, adam_rate):
        """Embedding tables learn at twice the rate: most rows are seen seldom."""
        tables = ("embed", "shared", "relative")
        encoders = (self.models.text_encoder_2, self.models.text_encoder)
        for_muon, for_adam = split(self.models.transformer, skip=("x_embedder", "proj_out", "norm_out"))
        for encoder in encoders:
            matrices, others = split(encoder, skip=tables)
            for_muon, for_adam = for_muon + matrices, for_adam + others
        named = [pair for encoder in encoders for pair in encoder.named_parameters()]
        in_tables = {id(parameter) for name, parameter in named if any(table in name for table in tables)}
        groups = [
            dict(params=[parameter for parameter in for_adam if id(parameter) not in in_tables], full_rate=adam_rate),
            dict(params=[parameter for parameter in for_adam if id(parameter) in in_tables], full_rate=2 * adam_rate),
        ]
        muon = Muon(for_muon, muon_rate)
        muon.param_groups[0]["full_rate"] = muon_rate
        return [muon, torch.optim.AdamW(groups, adam_rate, betas=(0.9, 0.98), weight_decay=0)]

    def set_rates(self, step, progress):
        """Warm-up, a plateau, then down."""
        scale = min(1, (step + 1) / 100) * min(1, (1 - progress) / 0.55) + 0.01
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * scale

    def embed(self, models, texts):
        """CLIP's pooled vectors and T5's states."""
        lengths = dict(truncation=True, return_tensors="pt")
        clip_ids = self.clip_tokenizer(texts, padding=True, max_length=77, **lengths).input_ids
        t5_ids = self.t5_tokenizer(texts, padding="max_length", max_length=TEXT_TOKENS, **lengths).input_ids
        return models.text_encoder(clip_ids).pooler_output, models.text_encoder_2(t5_ids).last_hidden_state

    @staticmethod
    def velocity(models, tokens, timesteps, guidance, text):
        pooled, states = text
        return models.transformer(
            hidden_states=tokens,
            timestep=timesteps,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(TEXT_TOKENS, 3),
            img_ids=IMAGE_IDS,
            return_dict=False,
        )[0].float()

    def guided_target(self, teacher, mixed, timesteps, guidance, texts):
        """What the teacher says with classifier-free guidance: two passes, which the student learns to do in one."""
        pooled, states = self.embed(teacher, [*texts, ""])
        ones, count = torch.ones(len(texts)), len(texts)
        with_text = self.velocity(teacher, mixed, timesteps, ones, (pooled[:-1], states[:-1]))
        nothing = (pooled[-1:].expand(count, -1), states[-1:].expand(count, -1, -1))
        without = self.velocity(teacher, mixed, timesteps, ones, nothing)
        return without + guidance[:, None, None] * (with_text - without)

    def loss(self, data, teacher):
        """Of one batch; with a teacher that of the distillation."""
        clean, texts = data.batch(self.rng)
        timesteps = torch.sigmoid(torch.randn(BATCH) * 1.1 + 0.4)
        mixed, noise = noised(clean, timesteps)
        guidance, target = torch.ones(BATCH), noise - clean
        if teacher is not None:
            guidance = 1 + (GUIDANCE_MAX - 1) * torch.rand(BATCH)
            texts = [text or data.emoji_caption(self.rng) for text in texts]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                target = self.guided_target(teacher, mixed, timesteps, guidance, texts)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = self.velocity(self.models, mixed, timesteps, guidance, self.embed(self.models, texts))
        return ((velocity - target) ** 2).mean()

    def step(self, data, teacher, index):
        loss = self.loss(data, teacher)
        for model in self.models.all():
            model.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.follow(self.models, decay=min(0.997, (index + 1) / (index + 10)))
        return loss.item()

    def train(self, data, seconds, sheet_every):
        start, index, running, teacher, next_sheet = time.time(), 0, None, None, sheet_every
        while (elapsed := time.time() - start) < seconds:
            progress = elapsed / seconds
            if progress > 1 - DISTILLATION and teacher is None:
                print("distillation starts at", index, flush=True)
                teacher, running = copy.deepcopy(self.average), None
                self.draw("flow_base_cfg3", cfg=3.0)
            self.set_rates(index, progress)
            loss = self.step(data, teacher, index)
            index += 1
            running = loss if running is None else 0.98 * running + 0.02 * loss
            if index % 50 == 0:
                print(f"{index} {elapsed:.0f}s loss {running:.4f}", flush=True)
            if elapsed > next_sheet:
                self.draw(f"flow_{int(elapsed)}", cfg=3.0 if teacher is None else 1.0)
                next_sheet += sheet_every
        print("trained", index, "steps")

    @torch.no_grad()
    def draw(self, name, guidance=1.0, cfg=1.0, steps=12):
        """The prompts above by the averaged weights, as OUT/NAME.png."""
        vae = AutoencoderKL.from_pretrained(self.vae_folder)
        count, models = len(PROMPTS), self.average
        text, nothing = self.embed(models, PROMPTS), self.embed(models, [""] * count)
        guidance = torch.full((count,), guidance)

        def velocity(tokens, timesteps):
            with_text = self.velocity(models, tokens, timesteps, guidance, text)
            if cfg == 1:
                return with_text
            without = self.velocity(models, tokens, timesteps, guidance, nothing)
            return without + cfg * (with_text - without)

        noise = torch.randn(count, 16, 64, generator=torch.Generator().manual_seed(1))
        sheet(decode(vae, euler(velocity, noise, steps)), 8).save(self.out / f"{name}.png")

    def save(self):
        """OUT/pipeline, in bf16, and two sheets of what it draws."""
        for guidance in (1.0, 3.5):
            self.draw(f"flow_final_g{guidance}", guidance)
        scheduler = FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=1000,
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        )
        half = lambda model: model.to(torch.bfloat16)
        pipeline = FluxPipeline(
            scheduler=scheduler,
            vae=half(AutoencoderKL.from_pretrained(self.vae_folder)),
            tokenizer=self.clip_tokenizer,
            tokenizer_2=self.t5_tokenizer,
            transformer=half(self.average.transformer),
            text_encoder=half(self.average.text_encoder),
            text_encoder_2=half(self.average.text_encoder_2),
        )
        pipeline.save_pretrained(self.out / "pipeline", safe_serialization=True)
