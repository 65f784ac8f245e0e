//! A pipeline of one's own, from the public pieces: the loop is in your hands, and between two steps the latents are yours.
//!
//! `cargo run -p lighterage-pipeline --example assemble -- "cat face, noto style, white background" cat.ppm`
use std::sync::Arc;

use lighterage_allocator::{Config, Pool};
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::{Queue, Unpatchify, unpatchify};
use lighterage_pager::{Pager, Units};
use lighterage_pipeline::{
    Conditions, Denoiser, Grid, Noise, Prompted, Schedule, SchedulerConfig, Spacing, pack, pixel,
};
use lighterage_shape::DType::F32;
use lighterage_text::{ClipTokenizer, T5Tokenizer, clip, t5};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let prompt = arguments.next().unwrap_or_else(|| "red heart, noto style, white background".to_owned());
    let output = arguments.next().unwrap_or_else(|| "picture.ppm".to_owned());
    let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base");
    // SAFETY: nobody changes the bundled model while this runs.
    let weights = |part: &str| Checkpoint::open(&base.join(part), unsafe { Unmodified::promise() });
    let config = |part: &str| base.join(part).join("config.json");

    // A device with a hard cap of 64 MiB, a stream, a pool of activations, and the four models with their weights' names.
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(64 << 20), Ledger::new(64 << 20));
    let stream = device.stream(StreamKind::Compute)?;
    let queue =
        Queue::new(Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 })?);
    let mut units = Units::default();
    let ids = ClipTokenizer::open(&base.join("tokenizer"))?.encode(&prompt, 77)?;
    let clip = clip::Clip::new(
        clip::Config::open(&config("text_encoder"))?,
        &weights("text_encoder")?,
        F32,
        &ids,
        &mut units,
    )?;
    let ids = T5Tokenizer::open(&base.join("tokenizer_2"))?.encode(&prompt, 32)?;
    let t5 = t5::T5::new(
        t5::Config::open(&config("text_encoder_2"))?,
        &weights("text_encoder_2")?,
        F32,
        &ids,
        &mut units,
    )?;
    let flux = lighterage_dit::Config::read(&config("transformer"))?;
    let flux = lighterage_dit::Transformer::new(flux, &weights("transformer")?, F32, &mut units)?;
    let vae = lighterage_vae::Config::open(&config("vae"))?;
    let decoder = lighterage_vae::Decoder::new(vae.clone(), &weights("vae")?, F32, &mut units)?;
    let pager = Pager::resident(&stream, Arc::new(units))?;

    // Text to latents, one step after the other.
    let (states, pooled) = (t5.forward(&queue, &pager)?, clip.forward(&queue, &pager)?.pooled);
    let (grid, scheduler) = (Grid { rows: 4, columns: 4 }, SchedulerConfig::flux_dev());
    let schedule = Schedule::new(Spacing::Diffusers, &scheduler, 20, grid.tokens());
    let prompted = Prompted { states: states.view(), pooled: pooled.view(), guidance: 2.5 };
    let conditions = Conditions::new(&queue, &pager, &flux, &prompted, &schedule)?;
    let noise = pack(&Noise::Cpu.normals(0, 16 * 8 * 8), 16, grid);
    let denoiser = Denoiser::new(&queue, &flux, &schedule, conditions, grid, &noise)?;
    (0..schedule.steps()).try_for_each(|step| denoiser.step(&pager, step, None))?;

    // Latents to pixels.
    let latent = queue.tensor(F32, &[8, 8, 16], "latent")?;
    let image = latent.view().transpose(1, 2)?.transpose(0, 1)?;
    let (multiply, add) = (vae.scaling_factor.recip(), vae.shift_factor.unwrap_or(0.0));
    unpatchify(&queue, &Unpatchify { tokens: denoiser.latents(), multiply, add, image })?;
    let picture = decoder.decode(&queue, &pager, latent.view(), None)?;
    let values: Vec<f32> = queue.read(picture.view())?.unwrap_or_default();
    let pixels = values.into_iter().map(pixel);
    std::fs::write(output, b"P6 64 64 255\n".iter().copied().chain(pixels).collect::<Vec<u8>>())?;
    Ok(())
}
