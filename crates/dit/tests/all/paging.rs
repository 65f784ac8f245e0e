//! A step on any budget and on a device without bytes: the same order of weights, the same bits.

use std::sync::Arc;

use crate::common::{bits, config, open, queue, simulated, upload, values, weights};
use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, Sim};
use lighterage_dit::{
    Conditioning, Config, InfuseInputs, InfuseNet, Residuals, Rope, StepInputs, Timesteps, Transformer,
};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Plan, UnitId, Units};
use lighterage_shape::DType;
use lighterage_testkit::Rng;

const TEXT: usize = 8;
const IDENTITY: usize = 5;
const HEIGHT: usize = 5;
const WIDTH: usize = 6;
const STEPS: usize = 3;

/// A transformer with its InfuseNet, in one list of units.
struct Models {
    transformer: Transformer,
    infuse: InfuseNet,
    units: Arc<Units>,
    dtype: DType,
}

impl Models {
    fn new(dtype: DType) -> Self {
        let mut units = Units::default();
        let transformer = Transformer::new(
            config("flux-controlled-tiny"),
            &weights("flux-controlled-tiny"),
            dtype,
            &mut units,
        );
        let infuse = InfuseNet::new(config("infusenet-tiny"), &weights("infusenet-tiny"), dtype, &mut units);
        Self { transformer: transformer.unwrap(), infuse: infuse.unwrap(), units: Arc::new(units), dtype }
    }

    /// Runs both phases; latents become `latents - velocity / STEPS` in each step.
    fn denoise<B: Backend>(&self, queue: &Queue<B>, hoist: &Pager<B>, steps: &Pager<B>) -> Tensor<B> {
        let mut rng = Rng::from_env(7);
        let mut noise =
            |rows, columns| upload(queue, self.dtype, &rng.normals(rows * columns, 1.0), &[rows, columns]);
        let (states, identity, pooled) = (noise(TEXT, 96), noise(IDENTITY, 96), noise(1, 48));
        let (latents, control) = (noise(HEIGHT * WIDTH, 64), noise(HEIGHT * WIDTH, 64));
        let timesteps = [1.0, 0.8, 0.3];
        let conditioning = Conditioning {
            timesteps: Timesteps::Rounded(&timesteps),
            guidance: Some(3.5),
            pooled: pooled.view(),
        };
        let modulations = self.transformer.condition(queue, hoist, &conditioning).unwrap();
        let conditioning = Conditioning { guidance: Some(1.0), ..conditioning };
        let infuse_modulations = self.infuse.condition(queue, hoist, &conditioning).unwrap();
        let text = self.transformer.embed_text(queue, hoist, states.view()).unwrap();
        let identity = self.infuse.embed_text(queue, hoist, identity.view()).unwrap();
        let control = self.infuse.embed_control(queue, hoist, control.view()).unwrap();
        let rope = Rope::grid(queue, self.transformer.config(), TEXT, HEIGHT, WIDTH).unwrap();
        let infuse_rope = Rope::grid(queue, self.infuse.config(), IDENTITY, HEIGHT, WIDTH).unwrap();
        for step in 0..STEPS {
            modulations.select(queue, step).unwrap();
            infuse_modulations.select(queue, step).unwrap();
            let inputs = InfuseInputs {
                latents: latents.view(),
                text: identity.view(),
                control: control.view(),
                modulations: &infuse_modulations,
                rope: &infuse_rope,
            };
            let outputs = self.infuse.step(queue, steps, &inputs).unwrap();
            let double: Vec<_> = outputs.double.iter().map(Tensor::view).collect();
            let single: Vec<_> = outputs.single.iter().map(Tensor::view).collect();
            let inputs = StepInputs {
                latents: latents.view(),
                text: text.view(),
                modulations: &modulations,
                rope: &rope,
                residuals: Some(Residuals { double: &double, single: &single, scale: 0.9 }),
            };
            let velocity = self.transformer.step(queue, steps, &inputs).unwrap();
            let (a, b) = (latents.view(), velocity.view());
            lighterage_ops::add(queue, &lighterage_ops::Add { a, b, scale: -1.0 / STEPS as f32, out: a })
                .unwrap();
        }
        latents
    }

    /// The leases of the hoisted phase and those of one step, found by a dry pass.
    fn cycles(&self, page_bytes: u64) -> [Vec<UnitId>; 2] {
        let queue = simulated(page_bytes);
        let [hoist, steps] =
            [0, 1].map(|_| Pager::resident(queue.stream(), Arc::clone(&self.units)).unwrap());
        self.denoise(&queue, &hoist, &steps);
        let all = steps.trace();
        let cycle = all[..all.len() / STEPS].to_vec();
        assert!(all.chunks(cycle.len()).all(|step| step == cycle), "every step leases the same units");
        [hoist.trace(), cycle]
    }

    fn latents(&self, threads: usize, cycles: &[Vec<UnitId>; 2], budgets: [u64; 2]) -> Vec<u32> {
        let queue = queue(threads);
        let page_bytes = queue.device().info().page_bytes;
        let pagers = [0, 1].map(|phase| {
            let plan = Plan::within(&self.units, &cycles[phase], budgets[phase], page_bytes).unwrap();
            Pager::new(queue.stream(), Arc::clone(&self.units), &cycles[phase], &plan).unwrap()
        });
        bits(&values(&queue, self.denoise(&queue, &pagers[0], &pagers[1]).view()))
    }
}

fn check_budgets(dtype: DType) {
    let models = Models::new(dtype);
    let page_bytes = queue(1).device().info().page_bytes;
    let cycles = models.cycles(page_bytes);
    let bounds = cycles.each_ref().map(|cycle| {
        let least = Plan::minimum(&models.units, cycle, page_bytes);
        (least, Plan::resident(&models.units, cycle, page_bytes).bytes())
    });
    let whole = models.latents(2, &cycles, bounds.map(|(_, whole)| whole));
    let least = models.latents(2, &cycles, bounds.map(|(least, _)| least));
    let half = models.latents(1, &cycles, bounds.map(|(least, whole)| least.midpoint(whole)));
    assert!(bounds.iter().all(|(least, whole)| least < whole), "{bounds:?}");
    assert!(whole == least && whole == half, "{dtype}: latents differ between budgets");
}

#[test]
fn latents_do_not_depend_on_the_budget() {
    check_budgets(DType::Bf16);
    check_budgets(DType::F32);
}

#[test]
fn the_two_phases_share_no_unit_and_leave_none_out() {
    let models = Models::new(DType::Bf16);
    let [mut all, steps] = models.cycles(64 << 10);
    all.extend(steps);
    all.sort_unstable();
    let ids: Vec<UnitId> = models.units.iter().map(|(id, _)| id).collect();
    assert_eq!(all, ids);
}

/// Launches of one step (image embedder, 12 for each double and 6 for each single block, norm and output), and the most bytes of activations
/// at once: residual stream, norm, qkv (3) and joined columns (5) of a single block, ten times `[tokens, width]`.
fn check_step(config: Config, checkpoint: &Checkpoint, launches_expected: u64) {
    let queue = simulated(2 << 20);
    let mut units = Units::default();
    let model = Transformer::new(config, checkpoint, DType::Bf16, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let config = model.config();
    let zeros = |rows: usize, columns: usize| {
        upload(&queue, DType::Bf16, &vec![0.0; rows * columns], &[rows, columns])
    };
    let pooled = zeros(1, config.pooled_projection_dim);
    let conditioning =
        Conditioning { timesteps: Timesteps::Rounded(&[1.0]), guidance: Some(3.5), pooled: pooled.view() };
    let modulations = model.condition(&queue, &pager, &conditioning).unwrap();
    let (latents, text) = (zeros(256, config.in_channels), zeros(32, config.width()));
    let rope = Rope::grid(&queue, config, 32, 16, 16).unwrap();
    let launches = |queue: &Queue<Sim>| queue.device().backend().counters().launches;
    modulations.select(&queue, 0).unwrap();
    let before = launches(&queue);
    queue.pool().reset_peaks();
    let held = queue.pool().statistics().allocated_bytes;
    let inputs = StepInputs {
        latents: latents.view(),
        text: text.view(),
        modulations: &modulations,
        rope: &rope,
        residuals: None,
    };
    model.step(&queue, &pager, &inputs).unwrap();
    assert_eq!(launches(&queue) - before, launches_expected);
    let stream_bytes = ((32 + 256) * config.width() * DType::Bf16.bytes()) as u64;
    assert_eq!(queue.pool().statistics().allocated_peak_bytes - held, 10 * stream_bytes);
}

#[test]
fn launches_and_activations_of_a_step_are_few() {
    let demo = open(&lighterage_testkit::folder("../../assets/demo/base/transformer"));
    check_step(Config::of(&demo).unwrap(), &demo, 1 + 2 * 12 + 4 * 6 + 2);
    check_step(config("flux-dev-tiny"), &weights("flux-dev-tiny"), 1 + 12 + 2 * 6 + 2);
}
