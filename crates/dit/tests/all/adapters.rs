//! Low-rank adapters: in every spelling the change that merging them into the weights would make, and the same bits at every budget.

use std::sync::Arc;

use crate::common::{Plain, bits, config, inputs, queue, values, weights, written};
use half::bf16;
use lighterage_checkpoint::Checkpoint;
use lighterage_dit::{Adapters, Transformer, forward_transformer};
use lighterage_pager::{Pager, Plan, Units};
use lighterage_shape::DType;
use lighterage_testkit::{Rng, assert_close, relative_frobenius};

const CASE: &str = "flux-dev-tiny";
const RANK: usize = 3;

/// A module, its rows and columns.
type Module = (&'static str, usize, usize);

/// What the adapters of these tests change, by diffusers' names: all kinds of linears, before an activation and behind a gate too.
const DIFFUSERS: [Module; 11] = [
    ("transformer_blocks.0.attn.to_q", 128, 128),
    ("transformer_blocks.0.attn.to_v", 128, 128),
    ("transformer_blocks.0.attn.to_add_out", 128, 128),
    ("transformer_blocks.0.ff.net.0.proj", 512, 128),
    ("transformer_blocks.0.ff_context.net.2", 128, 512),
    ("transformer_blocks.0.norm1.linear", 768, 128),
    ("single_transformer_blocks.1.attn.to_k", 128, 128),
    ("single_transformer_blocks.1.proj_mlp", 512, 128),
    ("single_transformer_blocks.0.proj_out", 128, 640),
    ("norm_out.linear", 256, 128),
    ("x_embedder", 128, 64),
];

/// The same by BFL's names, where q, k and v are one.
const BFL: [Module; 5] = [
    ("double_blocks.0.img_attn.qkv", 384, 128),
    ("double_blocks.0.txt_attn.proj", 128, 128),
    ("single_blocks.1.linear1", 896, 128),
    ("single_blocks.0.linear2", 128, 640),
    ("final_layer.adaLN_modulation.1", 256, 128),
];

/// Two factors of each module.
fn factors(modules: &[Module]) -> Vec<(Module, Vec<f32>, Vec<f32>)> {
    let mut rng = Rng::from_env(11);
    let factor =
        |module: &Module| (*module, rng.normals(RANK * module.2, 0.1), rng.normals(module.1 * RANK, 0.1));
    modules.iter().map(factor).collect()
}

fn tensor(name: String, shape: &[usize], values: &[f32]) -> Plain {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Plain { name, dtype: DType::F32, shape: shape.to_vec(), bytes }
}

/// A file of them, with names made by `spell` from the module: those of both factors, and of alpha where there is one.
fn file(modules: &[Module], alpha: Option<f32>, spell: impl Fn(&str) -> [String; 3]) -> Checkpoint {
    let mut tensors = Vec::new();
    for ((name, rows, columns), down, up) in factors(modules) {
        let [down_name, up_name, alpha_name] = spell(name);
        tensors.push(tensor(down_name, &[RANK, columns], &down));
        tensors.push(tensor(up_name, &[rows, RANK], &up));
        tensors.extend(alpha.map(|alpha| tensor(alpha_name, &[], &[alpha])));
    }
    let folder = tempfile::tempdir().unwrap();
    written(&folder.path().join("lora.safetensors"), &tensors)
}

fn adapters(files: Vec<(Checkpoint, f32)>) -> Adapters {
    let mut adapters = Adapters::default();
    for (checkpoint, scale) in files {
        assert_eq!(adapters.add(checkpoint, scale).unwrap(), 0);
    }
    adapters
}

fn peft(name: &str) -> [String; 3] {
    ["lora_A.weight", "lora_B.weight", "alpha"].map(|end| format!("transformer.{name}.{end}"))
}

fn bfl(name: &str) -> [String; 3] {
    ["lora_A.weight", "lora_B.weight", "alpha"].map(|end| format!("diffusion_model.{name}.{end}"))
}

fn kohya(name: &str) -> [String; 3] {
    let name = name.replace('.', "_");
    ["lora_down.weight", "lora_up.weight", "alpha"].map(|end| format!("lora_unet_{name}.{end}"))
}

fn xlabs(name: &str) -> [String; 3] {
    let name =
        name.replace("img_attn.qkv", "processor.qkv_lora1").replace("txt_attn.proj", "processor.proj_lora2");
    ["down.weight", "up.weight", "alpha"].map(|end| format!("{name}.{end}"))
}

/// The velocity, with everything resident or within the least that a plan takes.
fn sample(checkpoint: &Checkpoint, adapters: Option<&Adapters>, dtype: DType, is_small: bool) -> Vec<f32> {
    let queue = queue(2);
    let mut units = Units::default();
    let model = Transformer::adapted(config(CASE), checkpoint, adapters, dtype, &mut units).unwrap();
    let units = Arc::new(units);
    let mut pager = Pager::resident(queue.stream(), Arc::clone(&units)).unwrap();
    let mut made = forward_transformer(&model, &queue, &pager, &inputs(CASE)).unwrap();
    if is_small {
        let (cycle, page) = (pager.trace(), queue.device().info().page_bytes);
        drop(pager);
        let plan = Plan::within(&units, &cycle, Plan::minimum(&units, &cycle, page), page).unwrap();
        assert!(plan.streamed_bytes() > 0);
        pager = Pager::new(queue.stream(), units, &cycle, &plan).unwrap();
        made = forward_transformer(&model, &queue, &pager, &inputs(CASE)).unwrap();
    }
    values(&queue, made.view())
}

/// The case's weights with `scale B A` added to those of the modules, in f32.
fn merged(modules: &[Module], scale: f32) -> Checkpoint {
    let factors = factors(modules);
    let change = |plain: Plain| {
        let module = plain.name.strip_suffix(".weight").unwrap_or(&plain.name).to_owned();
        let old = plain.bytes.as_chunks::<2>().0.iter().map(|value| bf16::from_le_bytes(*value).to_f32());
        let mut values: Vec<f32> = old.collect();
        let found =
            factors.iter().find(|((name, ..), ..)| *name == module && plain.name.ends_with(".weight"));
        if let Some(((_, _, columns), down, up)) = found {
            for (index, value) in values.iter_mut().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let sum: f32 =
                    (0..RANK).map(|rank| up[row * RANK + rank] * down[rank * columns + column]).sum();
                *value += scale * sum;
            }
        }
        tensor(plain.name, &plain.shape, &values)
    };
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<Plain> = crate::common::plain(&weights(CASE)).into_iter().map(change).collect();
    written(&folder.path().join("merged.safetensors"), &tensors)
}

#[test]
fn an_adapter_is_the_change_of_the_merged_weights() {
    let lora = adapters(vec![(file(&DIFFUSERS, None, peft), 0.7)]);
    let expected = sample(&merged(&DIFFUSERS, 0.7), None, DType::F32, false);
    let got = sample(&weights(CASE), Some(&lora), DType::F32, false);
    // The parity bound of one forward pass in f32.
    assert_close("velocity", &got, &expected, 1e-5);
    let without = sample(&weights(CASE), None, DType::F32, false);
    assert!(relative_frobenius(&without, &expected) > 0.05, "the adapter changes something");
}

#[test]
fn alpha_divided_by_the_rank_is_a_factor_of_each_module() {
    let lora = adapters(vec![(file(&DIFFUSERS, Some(1.5), peft), 1.0)]);
    let got = sample(&weights(CASE), Some(&lora), DType::F32, false);
    assert_close("velocity", &got, &sample(&merged(&DIFFUSERS, 0.5), None, DType::F32, false), 1e-5);
}

#[test]
fn several_adapters_add_up() {
    let lora = adapters(vec![(file(&DIFFUSERS, None, peft), 0.25), (file(&DIFFUSERS, None, peft), 0.5)]);
    let got = sample(&weights(CASE), Some(&lora), DType::F32, false);
    assert_close("velocity", &got, &sample(&merged(&DIFFUSERS, 0.75), None, DType::F32, false), 1e-5);
}

#[test]
fn spellings_with_fused_projections_are_one_for_a_model_with_separate_ones() {
    let all = |spell: fn(&str) -> [String; 3], alpha| adapters(vec![(file(&BFL, alpha, spell), 1.0)]);
    let rank = Some(3.0);
    let expected = sample(&weights(CASE), Some(&all(bfl, None)), DType::F32, false);
    let found = sample(&weights(CASE), Some(&all(kohya, rank)), DType::F32, false);
    assert_eq!(bits(&found), bits(&expected));
    let few = &BFL[..2];
    let expected =
        sample(&weights(CASE), Some(&adapters(vec![(file(few, None, bfl), 1.0)])), DType::F32, false);
    let found =
        sample(&weights(CASE), Some(&adapters(vec![(file(few, None, xlabs), 1.0)])), DType::F32, false);
    assert_eq!(bits(&found), bits(&expected));
    assert!(relative_frobenius(&expected, &sample(&weights(CASE), None, DType::F32, false)) > 0.01);
}

/// `XLabs` names the second linear of a single block by the processor's projection.
#[test]
fn an_xlabs_adapter_of_a_single_blocks_projection_is_that_of_its_second_linear() {
    let sampled = |spell: fn(&str) -> [String; 3], module: Module| {
        sample(&weights(CASE), Some(&adapters(vec![(file(&[module], None, spell), 1.0)])), DType::F32, false)
    };
    let expected = sampled(bfl, BFL[3]);
    let found = sampled(xlabs, ("single_blocks.0.processor.proj_lora", 128, 640));
    assert_eq!(bits(&found), bits(&expected));
    assert_ne!(bits(&found), bits(&sample(&weights(CASE), None, DType::F32, false)));
}

/// That an adapter of q, k and v in one is those of q, k and v apart, by diffusers' names.
fn check_fused(fused: Module, spell: fn(&str) -> [String; 3], attention: &str) {
    let modules = &[fused];
    let lora = adapters(vec![(file(modules, None, spell), 1.0)]);
    let (_, down, up) = factors(modules).swap_remove(0);
    let folder = tempfile::tempdir().unwrap();
    let parts = ["to_q", "to_k", "to_v"].iter().enumerate().flat_map(|(index, name)| {
        let [down_name, up_name, _] = peft(&format!("{attention}.{name}"));
        let rows = &up[index * 128 * RANK..][..128 * RANK];
        [tensor(down_name, &[RANK, 128], &down), tensor(up_name, &[128, RANK], rows)]
    });
    let apart = written(&folder.path().join("lora.safetensors"), &parts.collect::<Vec<_>>());
    let apart = adapters(vec![(apart, 1.0)]);
    let found = sample(&weights(CASE), Some(&lora), DType::F32, false);
    assert_eq!(bits(&found), bits(&sample(&weights(CASE), Some(&apart), DType::F32, false)));
    assert_ne!(bits(&found), bits(&sample(&weights(CASE), None, DType::F32, false)));
}

#[test]
fn a_fused_adapter_is_the_change_of_its_rows() {
    check_fused(BFL[0], bfl, "transformer_blocks.0.attn");
}

/// `XLabs` changes the first 384 rows of a single block's 896, and leaves those of the MLP alone.
#[test]
fn an_adapter_of_a_single_blocks_attention_leaves_its_mlp_alone() {
    check_fused(("single_blocks.1.processor.qkv_lora", 384, 128), xlabs, "single_transformer_blocks.1.attn");
}

#[test]
fn bits_do_not_depend_on_where_the_weights_are() {
    for dtype in [DType::F32, DType::Bf16] {
        let lora = adapters(vec![(file(&DIFFUSERS, Some(2.0), peft), 0.7), (file(&BFL, None, kohya), 0.3)]);
        let [small, large] =
            [true, false].map(|is_small| sample(&weights(CASE), Some(&lora), dtype, is_small));
        assert_eq!(bits(&small), bits(&large), "{dtype}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let refused = |modules: &[Module], spell: fn(&str) -> [String; 3]| {
        let lora = adapters(vec![(file(modules, None, spell), 1.0)]);
        let made = Transformer::adapted(
            config(CASE),
            &weights(CASE),
            Some(&lora),
            DType::F32,
            &mut Units::default(),
        );
        made.unwrap_err().to_string()
    };
    let message = refused(&[("transformer_blocks.7.attn.to_q", 128, 128)], peft);
    assert!(
        message.contains("transformer_blocks.7.attn.to_q.lora_A.weight")
            && message.contains("no such module"),
        "{message}"
    );
    let message = refused(&[("transformer_blocks.0.attn.to_q", 64, 128)], peft);
    assert!(message.contains("it changes 64 columns, the module has 128"), "{message}");
    let message = refused(&[("transformer_blocks.0.attn.to_q", 128, 64)], peft);
    assert!(message.contains("[3, 128]") && message.contains("[3, 64]"), "{message}");
    let twice = [("transformer_blocks.0.attn.to_q", 128, 128), ("transformer_blocks_0_attn_to_q", 128, 128)];
    let message = Adapters::default().add(file(&twice, None, peft), 1.0).unwrap_err().to_string();
    assert!(message.contains("under another name already"), "{message}");
    let strange = file(&[("transformer_blocks.0.attn.to_q", 128, 128)], None, |name| {
        [format!("{name}.lora_A.weight"), format!("{name}.lora_magnitude_vector"), String::new()]
    });
    let message = Adapters::default().add(strange, 1.0).unwrap_err().to_string();
    assert!(
        message.contains("lora_magnitude_vector") && message.contains("none that LoRA files"),
        "{message}"
    );
}

#[test]
fn text_encoders_parts_are_counted_and_left_out() {
    let mixed = file(&[("transformer_blocks.0.attn.to_q", 128, 128)], None, |_| {
        ["lora_te1_q.lora_down.weight", "lora_te1_q.lora_up.weight", ""].map(str::to_owned)
    });
    assert_eq!(Adapters::default().add(mixed, 1.0).unwrap(), 2);
}
