use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lighterage_device::Profile;

use super::Scene;
use crate::failure::{Failure, Result};
use crate::gemm_table::{self, GemmTable};
use crate::inputs::Input;
use crate::range;
use crate::report::Seeing;
use crate::size::Size;

/// Show what a model needs and how fast it runs, for many budgets, before anything is downloaded, bought or run.
///
/// Made from names and shapes by the same code that runs the model, on a simulated card.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage plan --gpu rtx4090
  lighterage plan --model flux-dev --gpu rtx5090 --size 1024x1024 --vram 6GiB,8GiB,12GiB
  lighterage plan --model flux-dev+infinite-you --gpu h100 --link 25 --svg plan.svg --json
  lighterage plan --gpu rtx4090,rtx5090,h100 --svg cards.svg
  lighterage plan --model FLUX.1-dev --infinite-you InfiniteYou/sim_stage1 --lora style.safetensors:0.8
  lighterage bench machine --device cuda --json > card.json; lighterage plan --gpu card.json")]
pub(crate) struct Arguments {
    /// A built-in model (`flux-dev`, `flux-dev+infinite-you`) or a folder in the layout of diffusers.
    #[arg(long, value_name = "NAME|DIR", default_value = "flux-dev+infinite-you")]
    model: String,
    /// An InfiniteYou to go with the folder: a face in every step.
    #[arg(long, value_name = "DIR")]
    infinite_you: Option<PathBuf>,
    /// A low-rank change to the folder's transformer, `FILE` or `FILE:SCALE`; may be given several times.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// The card: h100, h200, rtx5090, rtx4090, rtx3090, l40s or a100; or the output of `bench machine --json` there. Several are planned for one after the other, and
    /// share a plot.
    #[arg(long, value_name = "NAME|FILE[,...]", value_delimiter = ',', default_value = "rtx4090")]
    gpu: Vec<String>,
    /// Rate of copies to the card, in GB/s [default: the card's].
    #[arg(long, value_name = "GB/s", value_parser = range::real(RATES))]
    link: Option<f64>,
    /// Rate at which the host brings weights from the files to page-locked memory, in GB/s: the disk's where they are not in the page cache [default: the card's, from the
    /// page cache].
    #[arg(long, value_name = "GB/s", value_parser = range::real(RATES))]
    read: Option<f64>,
    /// Size of the picture in pixels.
    #[arg(long, value_name = "WxH", default_value = "1280x720")]
    size: Sides,
    /// Steps of the loop, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = range::steps)]
    pub(super) steps: usize,
    /// Budgets to look at [default: 2, 4, 6, 8, 10, 12, 16, 20, 24 and 32 GiB].
    #[arg(long, visible_alias = "budgets", value_name = "SIZE[,SIZE...]", value_delimiter = ',')]
    vram: Vec<Size>,
    /// Also draw seconds per step over the budget, with the lower bound and the knee; the page of `--report` has the same plot.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// The table of who multiplies which shape: where it names cuBLASLt for the card, its workspace counts.
    #[arg(long, value_name = "FILE", value_parser = gemm_table::read)]
    pub(super) gemm_table: Option<GemmTable>,
    /// Print JSON: an object, or an array of them for several cards.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) seeing: Seeing,
}

/// Width and height, as `1280x720`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sides(pub(crate) [usize; 2]);

impl FromStr for Sides {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once('x').ok_or("not a width and a height, as 1280x720")?;
        let side = |name, text| range::side(text).map_err(|why| format!("the {name} is {why}"));
        Ok(Self([side("width", width)?, side("height", height)?]))
    }
}

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [width, height] = self.0;
        write!(f, "{width}x{height}")
    }
}

pub(crate) const BUDGETS_GIB: [u64; 10] = [2, 4, 6, 8, 10, 12, 16, 20, 24, 32];

impl Arguments {
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) const fn has_budgets(&self) -> bool {
        !self.vram.is_empty()
    }

    pub(super) fn scene(&self) -> Scene<'_> {
        Scene {
            model: &self.model,
            infinite_you: self.infinite_you.as_deref(),
            lora: &self.lora,
            size: self.size,
            steps: self.steps,
        }
    }

    pub(super) fn budgets(&self) -> Vec<u64> {
        if self.vram.is_empty() {
            return BUDGETS_GIB.map(|gib| gib << 30).to_vec();
        }
        self.vram.iter().map(|size| size.0).collect()
    }

    /// The files and folders that are read.
    pub(super) fn inputs(&self) -> Vec<Input> {
        let model = Input::new("--model", &self.model);
        let infinite_you = self.infinite_you.iter().map(|path| Input::new("--infinite-you", path));
        let lora = self.lora.iter().flat_map(|given| Input::with_suffix("--lora", given));
        let cards = self.gpu.iter().map(|gpu| Input::new("--gpu", gpu));
        [model].into_iter().chain(infinite_you).chain(lora).chain(cards).collect()
    }

    /// Of each card, in the order in which they were named.
    pub(super) fn profiles(&self) -> Result<Vec<Profile>> {
        self.gpu.iter().map(|gpu| self.profile(gpu)).collect()
    }

    fn profile(&self, gpu: &str) -> Result<Profile> {
        let mut profile = match Profile::named(gpu) {
            Some(profile) => profile,
            None if Path::new(gpu).is_file() => super::measured::read(Path::new(gpu))?,
            None => {
                let names: Vec<String> = Profile::all().map(|profile| profile.name).collect();
                let text = format!("{gpu:?} is neither a file nor a card: {}", names.join(", "));
                return Err(Failure::Usage(text));
            }
        };
        if let Some(link) = self.link {
            profile.rates.link_bytes = link * 1e9;
            profile.rates.pageable_bytes = profile.rates.pageable_bytes.min(link * 1e9);
        }
        if let Some(read) = self.read {
            profile.rates.read_bytes = read * 1e9;
        }
        Ok(profile)
    }
}

/// GB/s: from a modem's to a thousand times a card's own memory's. Beyond them times have no digits left to be told apart by.
pub(crate) const RATES: RangeInclusive<f64> = 1e-6..=1e6;
