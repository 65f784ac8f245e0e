//! What the bundled model gives its kernels late in a run: weights as they were trained and activations as they came out, for the bodies of each family beside their drawn numbers.
//!
//! `Host` makes the picture of golden case 3 in this process, wherever the kernels run afterwards. Every launch of the text encoders, of the modulation, of the last of its 20 steps and of the decoder
//! is looked at before it runs: its parameters, and the bytes that they point to. Of launches of one kernel within a phase with the same sizes, and
//! the same vectors for text and image or not, the last is kept: that of the deepest block.

#[path = "../../crates/pager/tests/watched/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod watched;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytemuck::AnyBitPattern;
use half::bf16;
use lighterage_checkpoint::Unmodified;
use lighterage_device::{Device, Host, HostConfig, Ledger};
use lighterage_kernels::params::{
    ActivationParams, AddParams, AttentionParams, Conv2dParams, EulerStepParams, GegluParams,
    GroupNormParams, LayerNormParams, LinearParams, NormModParams, QkNormRopeParams, RmsNormParams,
    UpsampleParams,
};
use lighterage_pipeline::{Job, Keep, Model, Observer, Options, Phase};
use watched::{Onlooker, Watched};

/// One launch, and what it read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    parameters: Vec<u8>,
    /// Each beginning at its address.
    memory: Vec<(u64, Vec<u8>)>,
}

impl Seen {
    pub(crate) fn parameters<P: AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.parameters)
    }

    /// bf16 numbers in rows so many elements apart.
    pub(crate) fn rows(&self, address: u64, [rows, columns]: [u32; 2], stride: u64) -> Vec<f32> {
        let row = |row: u32| self.row(address + 2 * u64::from(row) * stride, columns);
        (0..rows).flat_map(row).collect()
    }

    pub(crate) fn row(&self, address: u64, columns: u32) -> Vec<f32> {
        let halves: Vec<bf16> = self.values(address, columns);
        halves.into_iter().map(bf16::to_f32).collect()
    }

    pub(crate) fn singles(&self, address: u64, count: u32) -> Vec<f32> {
        self.values(address, count)
    }

    fn values<T: AnyBitPattern + bytemuck::NoUninit>(&self, address: u64, count: u32) -> Vec<T> {
        let bytes = count as usize * size_of::<T>();
        let found = self.memory.iter().find_map(|(first, memory)| {
            let start = usize::try_from(address.checked_sub(*first)?).ok()?;
            memory.get(start..start + bytes)
        });
        bytemuck::pod_collect_to_vec(found.expect("what the launch read"))
    }
}

/// The launches of a kernel in the picture of the golden case.
pub(crate) fn launches(kernel: &str) -> Vec<&'static Seen> {
    static SMALL: LazyLock<Launches> =
        LazyLock::new(|| picture(|options| Options { steps: 20, seed: 24, ..options }));
    of(&SMALL, kernel)
}

/// The same of a larger picture, of more tokens than a tile of attention has keys: 32 of text, 16 x 12 of image, and no multiple of a tile with them.
pub(crate) fn launches_of_many_rows(kernel: &str) -> Vec<&'static Seen> {
    static LARGE: LazyLock<Launches> = LazyLock::new(|| {
        picture(|options| Options { steps: 4, seed: 24, width: 272, height: 192, ..options })
    });
    of(&LARGE, kernel)
}

/// By phase, kernel, which operands are the same and how many bytes each has.
type Launches = BTreeMap<(Phase, &'static str, Vec<(Option<usize>, usize)>), Seen>;

fn of(launches: &'static Launches, kernel: &str) -> Vec<&'static Seen> {
    let seen: Vec<_> =
        launches.iter().filter(|((_, name, _), _)| *name == kernel).map(|(_, seen)| seen).collect();
    assert!(!seen.is_empty(), "the model launches {kernel}");
    seen
}

/// The prompt of golden case 3.
const PROMPT: &str =
    "toon portrait of a smiling person, blue spiky hair, light skin, white shirt, pink background";

fn picture(options: impl Fn(Options) -> Options) -> Launches {
    // SAFETY: nobody writes to the bundled model while tests run.
    let model = Model::open(&base(), unsafe { Unmodified::promise() }).expect("the bundled model");
    let options = options(model.options(PROMPT));
    let journal = Arc::new(Mutex::new(Journal { steps_left: options.steps, ..Journal::default() }));
    let job = Job::new(&model, options).expect("a job");
    let survey = job.survey(HostConfig::default().page_bytes).expect("a dry pass");
    let budget = survey.maximum_bytes();
    let forecast = survey.within(budget).expect("a feasible budget");
    let (ledger, host) = (Ledger::new(budget), Host::new(HostConfig::default()).expect("a host"));
    let watched = Watched::new(host, &ledger).shown_to(Reader(Arc::clone(&journal)));
    let device = Device::new(watched, ledger, Ledger::new(1 << 30));
    job.run(&device, &forecast, Keep::default(), &mut Reader(Arc::clone(&journal))).expect("a picture");
    drop(device);
    Arc::into_inner(journal).expect("nobody else's").into_inner().expect("whole").launches
}

/// In the repository that this program was started in: on the machine with the GPU it lies elsewhere than where it was built.
fn base() -> PathBuf {
    let here = std::env::current_dir().expect("a folder");
    let base = here.ancestors().map(|folder| folder.join("assets/demo/base")).find(|base| base.is_dir());
    base.unwrap_or_else(|| panic!("no assets/demo/base in {} and above", here.display()))
}

#[derive(Debug, Default)]
struct Journal {
    phase: Option<Phase>,
    steps_left: usize,
    launches: Launches,
}

#[derive(Debug)]
struct Reader(Arc<Mutex<Journal>>);

impl Observer for Reader {
    fn phase(&mut self, phase: Phase) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).phase = Some(phase);
    }
}

impl Onlooker for Reader {
    fn look(&self, kernel: &'static str, parameters: &[u8]) {
        let mut journal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(phase) = journal.phase else { return };
        if phase != Phase::Denoise || journal.steps_left == 1 {
            let memory: Vec<_> = operands(kernel, parameters).into_iter().map(Operand::read).collect();
            let same = |address| memory.iter().position(|(other, _)| *other == address);
            let sizes = memory.iter().map(|(address, bytes)| (same(*address), bytes.len())).collect();
            let seen = Seen { phase, parameters: parameters.to_vec(), memory };
            journal.launches.insert((phase, kernel, sizes), seen);
        }
        // The update ends a step.
        journal.steps_left -= usize::from(kernel == "euler_step_bf16");
    }
}

/// Memory that a launch reads.
struct Operand {
    address: u64,
    bytes: u64,
}

impl Operand {
    fn read(self) -> (u64, Vec<u8>) {
        let bytes = usize::try_from(self.bytes).expect("it is in memory");
        if self.address == 0 {
            return (0, Vec::new());
        }
        let first = std::ptr::with_exposed_provenance(usize::try_from(self.address).expect("a pointer"));
        // SAFETY: what a launch reads is mapped on `Host` as far as its parameters say; the launch is still to come, and all work of its stream before it is done.
        let memory: &[u8] = unsafe { std::slice::from_raw_parts(first, bytes) };
        (self.address, memory.to_vec())
    }
}

/// From the first element to the last of `count` things `stride` elements apart, within each of which lie the next.
fn strided(element_bytes: u64, address: u64, extents: &[(u32, u64)]) -> Operand {
    let last: u64 = extents.iter().map(|(count, stride)| u64::from(count - 1) * stride).sum();
    Operand { address, bytes: (last + 1) * element_bytes }
}

fn matrix(address: u64, [rows, columns]: [u32; 2], stride: u64) -> Operand {
    strided(2, address, &[(rows, stride), (columns, 1)])
}

fn halves(address: u64, count: u32) -> Operand {
    strided(2, address, &[(count, 1)])
}

/// What the kernels of the bodies below are given; nothing of the others.
fn operands(kernel: &str, parameters: &[u8]) -> Vec<Operand> {
    fn of<P: AnyBitPattern>(parameters: &[u8]) -> P {
        bytemuck::pod_read_unaligned(parameters)
    }
    match kernel {
        "activation_bf16" => {
            let p: ActivationParams = of(parameters);
            vec![matrix(p.x, [p.rows, p.columns], p.x_stride)]
        }
        "add_bf16" => {
            let p: AddParams = of(parameters);
            let shape = [p.rows, p.columns];
            vec![matrix(p.a, shape, p.a_stride), matrix(p.b, shape, p.b_stride)]
        }
        "attention_bf16" => {
            let p: AttentionParams = of(parameters);
            let heads = |address, rows, row_stride, head_stride| {
                strided(2, address, &[(rows, row_stride), (p.heads, head_stride), (p.head_dim, 1)])
            };
            vec![
                heads(p.q, p.queries, p.q_row_stride, p.q_head_stride),
                heads(p.k, p.keys, p.k_row_stride, p.k_head_stride),
                heads(p.v, p.keys, p.v_row_stride, p.v_head_stride),
                halves(p.bias_table, (p.buckets * p.heads).max(1)),
            ]
        }
        "conv2d_bf16" => {
            let p: Conv2dParams = of(parameters);
            vec![
                halves(p.x, p.height * p.width * p.in_channels),
                halves(p.weight, p.out_channels * p.kernel * p.kernel * p.in_channels),
                halves(p.bias, p.out_channels),
                halves(p.residual, p.out_height * p.out_width * p.out_channels),
            ]
        }
        "euler_step_bf16" => {
            let p: EulerStepParams = of(parameters);
            vec![halves(p.x, p.count), halves(p.velocity, p.count)]
        }
        "geglu_bf16" => {
            let p: GegluParams = of(parameters);
            vec![matrix(p.x, [p.rows, 2 * p.columns], p.x_stride)]
        }
        "group_norm_bf16" => {
            let p: GroupNormParams = of(parameters);
            vec![halves(p.x, p.pixels * p.channels), halves(p.weight, p.channels), halves(p.bias, p.channels)]
        }
        "layer_norm_bf16" => {
            let p: LayerNormParams = of(parameters);
            let vectors = [p.weight, p.bias].map(|address| halves(address, p.columns));
            std::iter::once(matrix(p.x, [p.rows, p.columns], p.x_stride)).chain(vectors).collect()
        }
        "linear_bf16" => {
            let p: LinearParams = of(parameters);
            vec![
                matrix(p.x, [p.rows, p.inner], p.x_stride),
                matrix(p.weight, [p.columns, p.inner], p.weight_stride),
                halves(p.bias, p.columns),
                halves(p.gate, p.columns),
                matrix(p.residual, [p.rows, p.columns], p.residual_stride),
            ]
        }
        "norm_mod_bf16" => {
            let p: NormModParams = of(parameters);
            assert_eq!(p.y, 0, "the model adds within its products");
            let vectors = [p.first_shift, p.first_scale, p.second_shift, p.second_scale];
            let vectors = vectors.map(|address| halves(address, p.columns));
            std::iter::once(matrix(p.x, [p.rows, p.columns], p.x_stride)).chain(vectors).collect()
        }
        "qk_norm_rope_bf16" => {
            let p: QkNormRopeParams = of(parameters);
            let heads = |address, row_stride, head_stride| {
                strided(2, address, &[(p.rows, row_stride), (p.heads, head_stride), (p.head_dim, 1)])
            };
            let both =
                [heads(p.q, p.q_row_stride, p.q_head_stride), heads(p.k, p.k_row_stride, p.k_head_stride)];
            let weights = [p.first_q_weight, p.first_k_weight, p.second_q_weight, p.second_k_weight];
            let weights = weights.map(|address| halves(address, p.head_dim));
            let angles = [p.cos, p.sin].map(|address| strided(4, address, &[(p.rows * p.head_dim / 2, 1)]));
            both.into_iter().chain(weights).chain(angles).collect()
        }
        "rms_norm_bf16" => {
            let p: RmsNormParams = of(parameters);
            vec![matrix(p.x, [p.rows, p.columns], p.x_stride), halves(p.weight, p.columns)]
        }
        "upsample_bf16" => {
            let p: UpsampleParams = of(parameters);
            vec![halves(p.x, p.height * p.width * p.channels)]
        }
        _ => Vec::new(),
    }
}
