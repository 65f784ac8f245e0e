//! Noise, schedules, the denoising loop, and the whole way from prompt to pixels.
//!
//! # The life of one image
//!
//! 1. [`Model::open`] looks whether all that a FLUX pipeline consists of is there, in diffusers' folders or around one file, reads the configurations, and maps the weights.
//!    Nothing is assumed about sizes, and no weight is touched.
//! 2. [`Job::new`] checks the [`Options`], splits the prompt into ids, and registers every weight that this one picture will read. The text encoders
//!    are made *for* these ids, since they copy only those rows of their tables.
//! 3. [`Job::survey`] makes the picture on `Sim`, where memory has no bytes: the same code, with the pages of the device that is meant. It
//!    yields, for every phase, a place for each activation and so their peak (exact, since the run follows it: [`PhaseForecast::placement`]) and
//!    the order in which weights are leased; with a card's rates ([`Job::survey_at`]) also the times. It takes milliseconds: one step stands for all.
//! 4. [`Survey::within`] plans each phase in what the budget leaves beside its activations, or refuses with the numbers: how many bytes are missing,
//!    in which phase, for what, and the smallest budget that would do. The resulting [`Forecast`] is what `--dry-run` prints.
//! 5. [`Job::run`] does it. Four phases, and two more for a face, follow one another on one stream and one pool: **text**, **modulation** (all that depends on timestep,
//!    guidance and text alone, once for all steps), **denoise**, **vae**. A phase's weights are gone, and its free pages given back, before
//!    the next phase's weights come, so the phases share the budget instead of adding up. What survives a phase is a few tensors.
//! 6. In the loop the device waits for nobody: a step is queued while the one before it is in its last block ([`IN_FLIGHT_MAX`]), the pager streams weights
//!    ahead, and progress is reported from events. A wish to stop ends the loop after the step under way. Latents stay in the working type between steps, as diffusers keeps them.
//! 7. A [`Picture`] comes back: pixels, the latents if wanted, and a [`Report`] of what it took.
//!
//! # Why so
//!
//! *The plan is the run.* A separate model of memory would have to be kept true; a dry pass of the very code cannot be wrong. Tests hold it: the
//! ledger's peak equals the forecast's to the byte, the smallest budget runs, and one byte less is refused.
//!
//! *Activations are one arena, laid out beforehand.* All requests of a phase are known when their places are looked for, so large phases take hardly more than what
//! lives in them at once (at most 1 % and a page at full size), and no address depends on timing. The survey goes through one step of the loop; the run says where in a step it is
//! (`Pool::mark`), so that every step, also one that `TeaCache` cuts short, finds the same places. Should a run ask for something else than its survey did, it gets it from what the budget
//! has, or a refusal with the numbers, and the [`Report`] says so.
//!
//! *The budget is invisible in the result.* It decides where weights wait, never which kernel reads them or in which order.
//!
//! *Noise and levels are torch's and diffusers'*, bit for bit and operation for operation ([`Noise`], [`Schedule`]), so that a seed means the same
//! picture here and there.
//!
//! *A face is more of the same.* The identity (an embedding, `lighterage-identity`) becomes tokens in a phase of its own, the pose picture a latent in another. InfuseNet and the
//! transformer are one list of units, one cycle and one plan; outside of InfuseNet's [`Window`] the loop reads other weights, so it is another phase there, with a plan of its
//! own. With [`TeaCache`] the two linears that a skipped step reads are kept beside the plan: a skipped step reads no other weight, and a cycle is used whole or not at all.
//!
//! *Pieces first.* [`Denoiser`] knows nothing of prompts or phases; `examples/assemble.rs` builds a pipeline of its own from it, and [`BuiltIn`] one of names and shapes alone, for
//! plans of the released models without their files.
//!
//! # What not
//!
//! No kernels, no memory management, no model: those are the floors below. No files but a model's: pictures are written by the driver.
//! No batches: the second branch of a negative prompt is a second pass over the weights, and a second picture a second run.
//!
//! # Example
//!
//! ```
//! use lighterage_checkpoint::Unmodified;
//! use lighterage_device::{Device, Host, HostConfig, Ledger};
//! use lighterage_pipeline::{Job, Keep, Model, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base");
//! // SAFETY: nobody changes the bundled model while this runs.
//! let model = Model::open(&base, unsafe { Unmodified::promise() })?;
//! let job = Job::new(&model, Options { steps: 2, ..model.options("cat face, noto style, white background") })?;
//!
//! let host = Host::new(HostConfig::default())?;
//! let device = Device::new(host, Ledger::new(6 << 20), Ledger::new(64 << 20));
//! let forecast = job.survey(device.info().page_bytes)?.within(device.ledger().free_bytes())?;
//! println!("{forecast}");
//! let picture = job.run(&device, &forecast, Keep::default(), &mut ())?;
//! assert_eq!(picture.rgb.map(|rgb| rgb.len()), Some(64 * 64 * 3));
//! # Ok(()) }
//! ```
//!
//! # Unsafe code
//!
//! One call, in `replays.rs`: the replay of a step, with what keeps its memory there.
#![deny(unsafe_code)]

mod noise;
mod schedule;

mod observer;
mod stage;

mod achieved;
mod forecast;
mod report;

mod denoiser;
mod infusion;
mod replays;
mod teacache;

mod folder;
mod infinite_you;
mod model;
mod options;

mod builtin;
mod decoding;
mod encoders;
mod encoding;
mod face;
mod footprint;
mod job;
mod picture;
mod released;
mod trajectory;

mod error;
mod file;

pub use achieved::{Achieved, AchievedStep, Predicted, Source, Stalled};
pub use builtin::{BuiltIn, BuiltInOptions};
pub use denoiser::{Conditions, Denoiser, IN_FLIGHT_MAX, Lent, Prompted};
pub use encoders::Cut;
pub use error::{Error, Result};
pub use face::{Face, Latent};
pub use footprint::Footprint;
pub use forecast::{Forecast, Load, Need, PhaseForecast, Shortage, Survey};
pub use infinite_you::InfiniteYou;
pub use infusion::{Infused, Infusion, Portrayed, Window};
pub use job::{Extras, Job};
pub use model::Model;
pub use noise::{Multiprocessors, Noise};
pub use observer::Observer;
pub use options::{Grid, Negation, Options, SEQUENCE_MAX, SIDE_MAX, SIDE_STEP, STEPS_MAX};
pub use picture::{Keep, Picture, PromptValues, pack, pixel};
pub use released::Released;
pub use report::{PhaseReport, Report};
pub use schedule::{Schedule, SchedulerConfig, Spacing};
pub use stage::Phase;
pub use teacache::{TEACACHE_MINIMUM, TeaCache};
pub use trajectory::{Latents, Trajectory};
