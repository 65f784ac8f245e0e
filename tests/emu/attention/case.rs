//! One call of attention: its tensors, its parameters, its run.

use lighterage_kernels::attention;
use lighterage_kernels::launch::{Arch, Launch, Launches, Target};
use lighterage_kernels::params::AttentionParams;
use lighterage_testkit::Rng;

use crate::buffer::{Buffer, Floats};
use crate::late::Seen;
use crate::numerics::{count, round};
use crate::runs::{self, Config, Report};

/// What is added to the scores, or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    None,
    Causal,
    Buckets { buckets: usize, max_distance: usize },
}

/// What q, k and v hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Inputs {
    /// Normal numbers; q and k times this: a large one makes the softmax peaky.
    Normal(f32),
    /// Each query fits one key only.
    OneHot,
    /// Every value is 1.5.
    ConstantValues,
    /// What the bundled model has late in a run.
    Activations,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) mask: Mask,
    pub(crate) inputs: Inputs,
    /// Factor on the scores; 0: 1 / `sqrt(head_dim)`.
    pub(crate) scale: f32,
    /// Elements between the end of a row of q, k and v, or of the output, and the next.
    pub(crate) gaps: [usize; 2],
    pub(crate) target: Target,
}

/// A card that has more multiprocessors than any of these tests has blocks.
pub(crate) const IDLE: u32 = 1 << 20;

pub(crate) const fn case(
    rows: [usize; 2],
    heads: usize,
    head_dim: usize,
    arch: Arch,
    multiprocessors: u32,
) -> Case {
    let [queries, keys] = rows;
    Case {
        queries,
        keys,
        heads,
        head_dim,
        mask: Mask::None,
        inputs: Inputs::Normal(1.0),
        scale: 0.0,
        gaps: [0, 24],
        target: Target { multiprocessors, ..Target::typical(arch) },
    }
}

impl Case {
    pub(crate) const fn row(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn factor(&self) -> f32 {
        if self.scale == 0.0 { (self.head_dim as f32).sqrt().recip() } else { self.scale }
    }
}

/// q, k and v as columns of one projection, as in the model; every number is a bf16 one.
#[derive(Clone, Debug)]
pub(crate) struct Tensors {
    /// `[rows][q, k, v, gap]`.
    pub(crate) qkv: Vec<f32>,
    /// `[buckets][heads]`.
    pub(crate) table: Vec<f32>,
    stride: usize,
}

impl Tensors {
    pub(crate) fn of(case: &Case) -> Self {
        let mut rng = Rng::from_env(5);
        let (row, stride) = (case.row(), 3 * case.row() + case.gaps[0]);
        let mut qkv = rng.normals(case.queries.max(case.keys) * stride, 1.0);
        for (index, value) in qkv.iter_mut().enumerate() {
            let (token, column) = (index / stride, index % stride);
            let part = column / row;
            match (case.inputs, part) {
                (Inputs::Normal(factor), 0 | 1) => *value *= factor,
                (Inputs::OneHot, 0 | 1) => *value = sign(token, column % case.head_dim),
                (Inputs::ConstantValues, 2) => *value = 1.5,
                (Inputs::Activations, _) => unreachable!("they are seen, not drawn"),
                _ => (),
            }
            *value = round(*value);
        }
        let buckets = if let Mask::Buckets { buckets, .. } = case.mask { buckets } else { 0 };
        let table = rng.normals(buckets * case.heads, 2.0);
        Self { qkv, table: table.iter().map(|value| round(*value)).collect(), stride }
    }

    /// q, k and v of a launch of the model, of its first heads side by side as many as make the case's.
    pub(crate) fn seen(case: &Case, seen: &Seen) -> Self {
        let p: AttentionParams = seen.parameters();
        let (row, stride) = (case.row(), 3 * case.row() + case.gaps[0]);
        let parts = [
            (p.q, p.queries, p.q_row_stride, p.q_head_stride),
            (p.k, p.keys, p.k_row_stride, p.k_head_stride),
            (p.v, p.keys, p.v_row_stride, p.v_head_stride),
        ];
        let mut qkv = vec![f32::NAN; case.queries.max(case.keys) * stride];
        for (part, (address, rows, row_stride, head_stride)) in parts.into_iter().enumerate() {
            assert_eq!(head_stride, u64::from(p.head_dim), "heads touch");
            for (token, values) in seen.rows(address, [rows, count(row)], row_stride).chunks(row).enumerate()
            {
                qkv[token * stride + part * row..][..row].copy_from_slice(values);
            }
        }
        let table = if p.buckets == 0 { Vec::new() } else { seen.row(p.bias_table, p.buckets * p.heads) };
        Self { qkv, table, stride }
    }

    /// The elements of one head of q (0), k (1) or v (2).
    pub(crate) fn head(&self, case: &Case, part: usize, token: usize, head: usize) -> &[f32] {
        &self.qkv[token * self.stride + part * case.row() + head * case.head_dim..][..case.head_dim]
    }

    /// Keys and values in reverse order.
    pub(crate) fn reversed(&self, case: &Case) -> Self {
        self.reordered(case, &(0..case.keys).rev().collect::<Vec<_>>())
    }

    /// Keys and values in an order drawn at random, every one as likely (Fisher and Yates 1938).
    pub(crate) fn permuted(&self, case: &Case) -> Self {
        let mut rng = Rng::from_env(7);
        let mut order: Vec<usize> = (0..case.keys).collect();
        for last in (1..case.keys).rev() {
            let other = usize::try_from(rng.below(last as u64 + 1)).expect("small");
            order.swap(last, other);
        }
        self.reordered(case, &order)
    }

    /// At each place the key and value that `order` says.
    fn reordered(&self, case: &Case, order: &[usize]) -> Self {
        let mut turned = self.clone();
        for (token, from) in order.iter().enumerate() {
            let [to, source] = [token, *from].map(|token| token * self.stride + case.row());
            turned.qkv[to..to + 2 * case.row()].copy_from_slice(&self.qkv[source..source + 2 * case.row()]);
        }
        turned
    }

    /// What the kernels write, `[queries][row]`; checks that it is all that they write, and all of it.
    pub(crate) fn computed(&self, case: &Case, config: Config) -> (Vec<f32>, Option<Report>) {
        let config = Config { shared_bytes_max: case.target.arch.shared_bytes_max(), ..config };
        let (values, report) = self.run(case, config, |params| attention::launches(params, case.target));
        if let Some(report) = report {
            assert_eq!(report.bank_conflicts, 0, "{case:?}: ldmatrix met a bank twice");
        }
        (values, report)
    }

    /// The same with other launches.
    pub(crate) fn run(
        &self,
        case: &Case,
        config: Config,
        launches: impl Fn(&AttentionParams) -> Launches,
    ) -> (Vec<f32>, Option<Report>) {
        let (values, _, report) = self.run_for_workspace(case, config, launches);
        (values, report)
    }

    /// What the pieces of cut tiles leave in the workspace.
    pub(crate) fn workspace(&self, case: &Case) -> Vec<f32> {
        self.run_for_workspace(case, Config::default(), |params| attention::launches(params, case.target)).1
    }

    fn run_for_workspace(
        &self,
        case: &Case,
        config: Config,
        launches: impl Fn(&AttentionParams) -> Launches,
    ) -> (Vec<f32>, Vec<f32>, Option<Report>) {
        let row = case.row();
        let out_stride = row + case.gaps[1];
        let (mut qkv, mut table) = (Buffer::of(&self.qkv), Buffer::of(&self.table));
        let mut out = Buffer::poisoned((case.queries - 1) * out_stride + row);
        let params = self.params(case, [qkv.address(), out.address(), table.address()], out_stride);
        let workspace_bytes = usize::try_from(attention::workspace_bytes(&params)).expect("small");
        let mut workspace = Floats::poisoned(workspace_bytes / 4);
        let workspace_address = if workspace_bytes == 0 { 0 } else { workspace.address() };
        let params = AttentionParams { workspace: workspace_address, ..params };
        let regions = [qkv.region(), out.region(), table.region(), workspace.region()];
        let report = runs::launch(&launches(&params), &params, &regions, config);
        (without_gaps(&out.values(), row, out_stride), workspace.values(), report)
    }

    /// The images that the case is launched with.
    pub(crate) fn images(&self, case: &Case) -> Vec<&'static str> {
        let params = self.params(case, [256, 1 << 32, 1 << 33], case.row() + case.gaps[1]);
        let params = AttentionParams { workspace: 1 << 34, ..params };
        attention::launches(&params, case.target)
            .as_slice()
            .iter()
            .map(|launch: &Launch| launch.image)
            .collect()
    }

    fn params(&self, case: &Case, [qkv, out, table]: [u64; 3], out_stride: usize) -> AttentionParams {
        let (row, stride, head_dim) = (case.row() as u64, self.stride as u64, case.head_dim as u64);
        let (buckets, max_distance) = match case.mask {
            Mask::Buckets { buckets, max_distance } => (count(buckets), count(max_distance)),
            _ => (0, 0),
        };
        AttentionParams {
            q: qkv,
            k: qkv + 2 * row,
            v: qkv + 4 * row,
            out,
            bias_table: if buckets == 0 { 0 } else { table },
            workspace: 0,
            q_row_stride: stride,
            q_head_stride: head_dim,
            k_row_stride: stride,
            k_head_stride: head_dim,
            v_row_stride: stride,
            v_head_stride: head_dim,
            out_row_stride: out_stride as u64,
            out_head_stride: head_dim,
            queries: count(case.queries),
            keys: count(case.keys),
            heads: count(case.heads),
            head_dim: count(case.head_dim),
            scale: case.factor(),
            causal: u32::from(case.mask == Mask::Causal),
            buckets,
            max_distance,
        }
    }
}

/// +-16 by the bits of the token: the score of the own key is 256 * `head_dim`, of any other at least 512 less.
fn sign(token: usize, bit: usize) -> f32 {
    if token >> (bit % 16) & 1 == 1 { 16.0 } else { -16.0 }
}

/// The rows alone; the poison between them has to be there still, and within them to be gone.
fn without_gaps(values: &[f32], row: usize, stride: usize) -> Vec<f32> {
    let mut rows = Vec::new();
    for line in values.chunks(stride) {
        assert!(line[row..].iter().all(|value| value.is_nan()), "the gap between two rows was overwritten");
        assert!(!line[..row].iter().any(|value| value.is_nan()), "a NaN in the output");
        rows.extend_from_slice(&line[..row]);
    }
    rows
}
