//! Ops against what torch and diffusers make of the same inputs: `tests/golden/ops/make_ops.py` explains the file.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail")]

use lighterage_allocator::{Config, Pool};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind, View};
use lighterage_ops::{
    Activation, ActivationKind, GatedUpdate, Geglu, GroupNorm, LayerNorm, Modulation, NormMod, Patchify,
    QkNormRope, QkWeights, Queue, Result, RmsNorm, Sinusoid, Tensor, Upsample,
};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};

const EPS: f32 = 1e-6;

/// The file, and a host to run on in one element type.
struct Bench {
    golden: Golden,
    queue: Queue<Host>,
    dtype: DType,
}

impl Bench {
    fn new(dtype: DType) -> Self {
        let device =
            Device::new(Host::new(HostConfig::default()).unwrap(), Ledger::new(1 << 24), Ledger::new(0));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let config = Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 };
        let golden = Golden::open(&folder("ops").join("values.safetensors"));
        Self { golden, queue: Queue::new(Pool::new(&stream, config).unwrap()), dtype }
    }

    /// An input of the file in the element type.
    fn input(&self, name: &'static str) -> Tensor<Host> {
        self.queue.upload_as(self.dtype, self.golden.values(name), self.golden.shape(name), name).unwrap()
    }

    fn empty(&self, shape: &[usize]) -> Tensor<Host> {
        self.queue.tensor(self.dtype, shape, "out").unwrap()
    }

    /// In f32, the relative error is below 1e-6: sums of 96 values in another order. In bf16 it is at most twice torch's own.
    fn compare(&self, name: &str, got: View<'_>) {
        let (got, expected) = (self.queue.read_f32(got).unwrap().unwrap(), self.golden.values(name));
        let bound = match self.dtype {
            DType::F32 => 1e-6,
            _ => 2.0 * relative_frobenius(self.golden.values(&format!("{name}.bf16")), expected),
        };
        assert_close(&format!("{name} {}", self.dtype), &got, expected, bound);
    }
}

/// Runs a comparison in both element types.
fn check(of: impl Fn(&Bench) -> Result<()>) {
    for dtype in [DType::F32, DType::Bf16] {
        of(&Bench::new(dtype)).unwrap();
    }
}

#[test]
fn norms() {
    check(|bench| {
        let (x, weight, bias) = (bench.input("x"), bench.input("weight"), bench.input("bias"));
        let out = bench.empty(x.shape());
        let (x, weight, bias) = (x.view(), weight.view(), bias.view());
        lighterage_ops::layer_norm(&bench.queue, &LayerNorm { x, weight, bias, eps: 1e-5, out: out.view() })?;
        bench.compare("layer_norm", out.view());
        lighterage_ops::rms_norm(&bench.queue, &RmsNorm { x, weight, eps: EPS, out: out.view() })?;
        bench.compare("rms_norm", out.view());
        let image = bench.input("image");
        let (x, activation) = (image.view(), Some(ActivationKind::Silu));
        let channels = image.shape()[image.shape().len() - 1];
        let pixels = image.shape().iter().product::<usize>() / channels;
        let numbers = lighterage_ops::group_norm_workspace(pixels, channels, 32);
        let workspace = bench.queue.tensor(DType::F32, &[numbers], "statistics")?;
        let workspace = workspace.view();
        let args = GroupNorm { x, weight, bias, groups: 32, eps: EPS, activation, out: x, workspace };
        lighterage_ops::group_norm(&bench.queue, &args)?;
        bench.compare("group_norm", x);
        Ok(())
    });
}

#[test]
fn gated_update_and_modulation() {
    check(|bench| {
        let (x, y, vectors) = (bench.input("x"), bench.input("y"), bench.input("modulation"));
        let out = bench.empty(x.shape());
        let vector = |index| vectors.view().rows(index, 1)?.reshape(&[vectors.shape()[1]]);
        let args = NormMod {
            x: x.view(),
            out: out.view(),
            update: Some(GatedUpdate { y: y.view(), first_gate: vector(2)?, second_gate: vector(5)? }),
            split: 5,
            first: Modulation { shift: vector(0)?, scale: vector(1)? },
            second: Modulation { shift: vector(3)?, scale: vector(4)? },
            eps: EPS,
        };
        lighterage_ops::norm_mod(&bench.queue, &args)?;
        bench.compare("norm_mod_x", x.view());
        bench.compare("norm_mod", out.view());
        Ok(())
    });
}

#[test]
fn activations() {
    let kinds = [
        ("gelu_tanh", ActivationKind::GeluTanh),
        ("gelu", ActivationKind::Gelu),
        ("quick_gelu", ActivationKind::QuickGelu),
        ("silu", ActivationKind::Silu),
    ];
    check(|bench| {
        let x = bench.input("x");
        let out = bench.empty(x.shape());
        for (name, kind) in kinds {
            lighterage_ops::activation(&bench.queue, &Activation { x: x.view(), kind, out: out.view() })?;
            bench.compare(name, out.view());
        }
        let out = bench.empty(&[x.shape()[0], x.shape()[1] / 2]);
        lighterage_ops::geglu(&bench.queue, &Geglu { x: x.view(), out: out.view() })?;
        bench.compare("geglu", out.view());
        Ok(())
    });
}

#[test]
fn rotation() {
    check(|bench| {
        let (q, k, golden) = (bench.input("q"), bench.input("k"), &bench.golden);
        let (q_weight, k_weight) = (bench.input("q_weight"), bench.input("k_weight"));
        let turn = |of: fn(f32) -> f32| {
            let angles: Vec<f32> = golden.values("angles").iter().map(|angle| of(*angle)).collect();
            bench.queue.upload(&angles, golden.shape("angles"), "angles")
        };
        let (cos, sin) = (turn(f32::cos)?, turn(f32::sin)?);
        let weights = |index| -> Result<QkWeights<'_>> {
            let q = q_weight.view().rows(index, 1)?.reshape(&[32])?;
            Ok(QkWeights { q, k: k_weight.view().rows(index, 1)?.reshape(&[32])? })
        };
        let args = QkNormRope {
            q: q.view(),
            k: k.view(),
            split: 5,
            first: weights(0)?,
            second: weights(1)?,
            cos: cos.view(),
            sin: sin.view(),
            eps: EPS,
        };
        lighterage_ops::qk_norm_rope(&bench.queue, &args)?;
        bench.compare("q_turned", q.view());
        bench.compare("k_turned", k.view());
        Ok(())
    });
}

#[test]
fn images() {
    check(|bench| {
        let (image, latents) = (bench.input("image"), bench.input("latents"));
        let large = bench.empty(bench.golden.shape("upsample"));
        lighterage_ops::upsample(&bench.queue, &Upsample { x: image.view(), out: large.view() })?;
        bench.compare("upsample", large.view());
        let tokens = bench.empty(bench.golden.shape("tokens"));
        let args = Patchify { image: latents.view(), multiply: 1.0, add: 0.0, tokens: tokens.view() };
        lighterage_ops::patchify(&bench.queue, &args)?;
        bench.compare("tokens", tokens.view());
        Ok(())
    });
}

/// torch's exponential and the C library's differ in the last place for some frequencies, which moves an angle by 2^-23 of itself; the
/// cosine and the sine add 2^-23.
#[test]
fn timesteps() {
    let bench = Bench::new(DType::F32);
    let (values, expected) = (bench.golden.values("values"), bench.golden.values("sinusoid"));
    let columns = bench.golden.shape("sinusoid")[1];
    let input = bench.queue.upload(values, &[values.len()], "values").unwrap();
    let out = bench.empty(&[values.len(), columns]);
    lighterage_ops::sinusoid(&bench.queue, &Sinusoid { values: input.view(), out: out.view() }).unwrap();
    let got = bench.queue.read_f32(out.view()).unwrap().unwrap();
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (row, frequency) = (index / columns, index % (columns / 2));
        let angle = f64::from(values[row]) * 10_000.0_f64.powf(-(frequency as f64) / (columns / 2) as f64);
        let bound = (angle + 1.0) * 2.0_f64.powi(-23);
        let error = (f64::from(*got) - f64::from(*expected)).abs();
        assert!(error <= bound, "{values:?}, element {index}: {got}, torch {expected}, bound {bound:e}");
    }
}
