//! What cannot be run is refused with names and numbers.

use std::path::Path;

use crate::common::{Loaded, Plain, config, inputs, plain, refusal, upload, weights, written};
use lighterage_device::{Host, View};
use lighterage_dit::{
    Conditioning, Config, InfuseNet, Modulations, Residuals, Rope, StepInputs, Timesteps, Transformer,
    forward_transformer,
};
use lighterage_ops::Tensor;
use lighterage_pager::Units;
use lighterage_shape::DType;

const CASE: &str = "flux-schnell-tiny";

fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// A configuration's text with one field replaced, or left out.
fn check_config(field: &str, value: Option<&str>, parts: &[&str]) {
    let fields = [
        ("in_channels", "64"),
        ("num_layers", "1"),
        ("num_single_layers", "1"),
        ("attention_head_dim", "32"),
        ("num_attention_heads", "2"),
        ("joint_attention_dim", "96"),
        ("pooled_projection_dim", "48"),
        ("axes_dims_rope", "[8, 12, 12]"),
    ];
    let mut texts: Vec<String> = fields
        .iter()
        .filter(|(name, _)| *name != field)
        .map(|(name, value)| format!("{name:?}: {value}"))
        .collect();
    texts.extend(value.map(|value| format!("{field:?}: {value}")));
    let text = format!("{{{}}}", texts.join(", "));
    assert_names(&refusal(Config::parse(&text, Path::new("some/config.json"))), parts);
}

#[test]
fn impossible_configurations_are_refused() {
    check_config(
        "axes_dims_rope",
        Some("[8, 12, 14]"),
        &["axes_dims_rope", "[8, 12, 14]", "34 in sum", "32 in sum"],
    );
    check_config("axes_dims_rope", Some("[7, 13, 12]"), &["axes_dims_rope", "even"]);
    check_config("axes_dims_rope", Some("[16, 16]"), &["some/config.json"]);
    check_config("axes_dims_rope", None, &["axes_dims_rope", "[16, 56, 56]"]);
    check_config("num_attention_heads", Some("0"), &["num_attention_heads", "0", "between 1"]);
    check_config("num_attention_heads", Some("-1"), &["some/config.json", "-1"]);
    check_config("attention_head_dim", Some("99999999999"), &["attention_head_dim", "99999999999"]);
    check_config("num_layers", None, &["some/config.json", "num_layers"]);
    check_config("patch_size", Some("2"), &["patch_size", "2"]);
    check_config("num_mode", Some("6"), &["num_mode", "6"]);
    check_config("conditioning_embedding_channels", Some("16"), &["conditioning_embedding_channels", "16"]);
}

/// Changes the tensors of the golden checkpoint; the refusal must have all of `parts` and the file's name.
fn check_checkpoint(change: impl Fn(&mut Vec<Plain>), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = plain(&weights(CASE));
    change(&mut tensors);
    let checkpoint = written(&folder.path().join("changed.safetensors"), &tensors);
    let text = refusal(Transformer::new(config(CASE), &checkpoint, DType::Bf16, &mut Units::default()));
    assert_names(&text, parts);
    assert_names(&text, &["changed.safetensors"]);
}

/// Takes the last row away.
fn shorten(tensors: &mut [Plain], name: &str) {
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
    let row = tensor.bytes.len() / tensor.shape[0];
    tensor.shape[0] -= 1;
    tensor.bytes.truncate(tensor.bytes.len() - row);
}

#[test]
fn missing_tensors_are_named() {
    for name in [
        "transformer_blocks.0.attn.to_k.bias",
        "single_transformer_blocks.0.attn.norm_k.weight",
        "norm_out.linear.weight",
        "time_text_embed.text_embedder.linear_2.weight",
        "proj_out.bias",
    ] {
        check_checkpoint(|tensors| tensors.retain(|tensor| tensor.name != name), &[name, "missing"]);
    }
}

/// A configuration that forgets a block makes another model, in silence.
#[test]
fn blocks_behind_the_last_one_are_refused() {
    for (name, field) in
        [("transformer_blocks", "num_layers"), ("single_transformer_blocks", "num_single_layers")]
    {
        let layers =
            if field == "num_layers" { config(CASE).num_layers } else { config(CASE).num_single_layers };
        let more = format!("{name}.{layers}.attn.to_k.bias");
        let add = |tensors: &mut Vec<Plain>| {
            let bias = tensors.iter().position(|tensor| tensor.name == format!("{name}.0.attn.to_k.bias"));
            tensors.push(Plain { name: more.clone(), ..tensors[bias.unwrap()].clone() });
        };
        check_checkpoint(add, &[&format!("{field} is {layers}"), &more, "one more"]);
    }
}

#[test]
fn misshapen_tensors_are_named_with_both_shapes() {
    let shortened: [(&str, &[&str]); 5] = [
        ("transformer_blocks.0.attn.to_q.weight", &["[64, 64]", "[63, 64]"]),
        ("transformer_blocks.0.ff.net.2.bias", &["[64]", "[63]"]),
        ("single_transformer_blocks.0.attn.norm_q.weight", &["[32]", "[31]"]),
        ("norm_out.linear.weight", &["[128, 64]", "[127, 64]"]),
        ("x_embedder.weight", &["[64, 64]", "[63, 64]"]),
    ];
    for (name, parts) in shortened {
        check_checkpoint(|tensors| shorten(tensors, name), parts);
        check_checkpoint(|tensors| shorten(tensors, name), &[name]);
    }
}

#[test]
fn other_models_are_not_taken_for_a_transformer() {
    check_checkpoint(
        |tensors| tensors.retain(|tensor| tensor.name != "x_embedder.weight"),
        &["x_embedder", "img_in"],
    );
}

#[test]
fn element_types_without_kernels_are_refused() {
    let text = refusal(Transformer::new(config(CASE), &weights(CASE), DType::F16, &mut Units::default()));
    assert_names(&text, &["dtype", "F16", "BF16 or F32"]);
}

#[test]
fn a_transformer_is_no_infusenet() {
    let text = refusal(InfuseNet::new(config(CASE), &weights(CASE), DType::F32, &mut Units::default()));
    assert_names(&text, &["controlnet_x_embedder.weight", "missing"]);
}

/// Good inputs for the controlled case (5 + 3 blocks, width 64, 8 text and 20 image tokens), to be spoiled one at a time.
struct Good {
    loaded: Loaded,
    latents: Tensor<Host>,
    text: Tensor<Host>,
    residual: Tensor<Host>,
    modulations: Modulations<Host>,
    rope: Rope<Host>,
}

impl Good {
    fn new() -> Self {
        let loaded = Loaded::case("flux-controlled-tiny", DType::F32, 1);
        let zeros = |rows: usize, columns: usize| {
            upload(&loaded.queue, DType::F32, &vec![0.0; rows * columns], &[rows, columns])
        };
        let pooled = zeros(1, 48);
        let conditioning = Conditioning {
            timesteps: Timesteps::Rounded(&[1.0]),
            guidance: Some(1.0),
            pooled: pooled.view(),
        };
        let modulations = loaded.model.condition(&loaded.queue, &loaded.pager, &conditioning).unwrap();
        modulations.select(&loaded.queue, 0).unwrap();
        let rope = Rope::grid(&loaded.queue, loaded.model.config(), 8, 5, 4).unwrap();
        let (latents, text, residual) = (zeros(20, 64), zeros(8, 64), zeros(20, 64));
        Self { latents, text, residual, modulations, rope, loaded }
    }

    fn inputs(&self) -> StepInputs<'_, Host> {
        StepInputs {
            latents: self.latents.view(),
            text: self.text.view(),
            modulations: &self.modulations,
            rope: &self.rope,
            residuals: None,
        }
    }

    fn check(&self, inputs: &StepInputs<'_, Host>, parts: &[&str]) {
        assert_names(&refusal(self.loaded.model.step(&self.loaded.queue, &self.loaded.pager, inputs)), parts);
    }

    fn check_residuals(&self, double: &[View<'_>], parts: &[&str]) {
        let residuals = Some(Residuals { double, single: &[], scale: 1.0 });
        self.check(&StepInputs { residuals, ..self.inputs() }, parts);
    }
}

#[test]
fn good_inputs_are_accepted() {
    let good = Good::new();
    let double = [good.residual.view(); 5];
    let residuals = Some(Residuals { double: &double, single: &double[..3], scale: 0.5 });
    let inputs = StepInputs { residuals, ..good.inputs() };
    good.loaded.model.step(&good.loaded.queue, &good.loaded.pager, &inputs).unwrap();
}

#[test]
fn misshapen_inputs_are_refused_with_both_shapes() {
    let good = Good::new();
    let short = good.latents.view().rows(0, 19).unwrap();
    let narrow = good.latents.view().narrow(1, 0, 63).unwrap();
    good.check(&StepInputs { latents: short, ..good.inputs() }, &["residual stream", "[27, 64]", "[28, 64]"]);
    good.check(&StepInputs { latents: narrow, ..good.inputs() }, &["latents", "[20, 63]", "[20, 64]"]);
    let flat = good.latents.view().reshape(&[20 * 64]).unwrap();
    good.check(&StepInputs { latents: flat, ..good.inputs() }, &["latents", "[1280]"]);
    let text = good.text.view().narrow(1, 0, 32).unwrap();
    good.check(&StepInputs { text, ..good.inputs() }, &["text", "[8, 32]", "[8, 64]"]);
    assert_names(&refusal(good.modulations.select(&good.loaded.queue, 1)), &["step", "1", "below 1"]);
    let rounded = upload(&good.loaded.queue, DType::Bf16, &[0.0; 20 * 64], &[20, 64]);
    good.check(&StepInputs { latents: rounded.view(), ..good.inputs() }, &["latents", "is BF16", "be F32"]);
    let elsewhere = crate::common::queue(1);
    let foreign = upload(&elsewhere, DType::F32, &[0.0; 8 * 64], &[8, 64]);
    good.check(&StepInputs { text: foreign.view(), ..good.inputs() }, &["copy", "stream"]);
}

#[test]
fn modulations_of_another_model_are_refused() {
    let good = Good::new();
    let other = Loaded::case("flux-schnell-tiny", DType::F32, 1);
    let pooled = upload(&other.queue, DType::F32, &[0.0; 48], &[48]);
    let conditioning =
        Conditioning { timesteps: Timesteps::Rounded(&[1.0]), guidance: None, pooled: pooled.view() };
    let modulations = other.model.condition(&other.queue, &other.pager, &conditioning).unwrap();
    let inputs = StepInputs { modulations: &modulations, ..good.inputs() };
    good.check(&inputs, &["step", "none", "selected before it is run"]);
    modulations.select(&other.queue, 0).unwrap();
    good.check(&inputs, &["modulated double and single blocks", "[5, 3]", "[1, 1]"]);
}

#[test]
fn misshapen_residuals_are_refused_with_both_shapes() {
    let good = Good::new();
    good.check_residuals(&[good.residual.view(); 6], &["double residuals", "6", "at most 5"]);
    let short = good.residual.view().rows(0, 8).unwrap();
    good.check_residuals(&[good.residual.view(), short], &["double residuals.1", "[8, 64]", "[20, 64]"]);
}

#[test]
fn bad_conditioning_is_refused() {
    let loaded = Loaded::case("flux-dev-tiny", DType::F32, 1);
    let pooled = upload(&loaded.queue, DType::F32, &[0.0; 47], &[47]);
    let whole = upload(&loaded.queue, DType::F32, &[0.0; 48], &[48]);
    let check = |conditioning: &Conditioning<'_>, parts: &[&str]| {
        assert_names(&refusal(loaded.model.condition(&loaded.queue, &loaded.pager, conditioning)), parts);
    };
    let good =
        Conditioning { timesteps: Timesteps::Rounded(&[1.0]), guidance: Some(3.5), pooled: whole.view() };
    check(&Conditioning { guidance: None, ..good }, &["guidance", "not given"]);
    check(&Conditioning { timesteps: Timesteps::Rounded(&[]), ..good }, &["timesteps", "empty"]);
    check(&Conditioning { pooled: pooled.view(), ..good }, &["pooled", "[47]", "[48]"]);
    let states = upload(&loaded.queue, DType::F32, &[0.0; 95], &[1, 95]);
    let text = refusal(loaded.model.embed_text(&loaded.queue, &loaded.pager, states.view()));
    assert_names(&text, &["text states", "[1, 95]", "[1, 96]"]);
}

/// Raw inputs with one tensor changed or left out.
fn check_raw(change: impl Fn(&mut Vec<Plain>), parts: &[&str]) {
    let loaded = Loaded::case(CASE, DType::F32, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = plain(&inputs(CASE));
    change(&mut tensors);
    let raw = written(&folder.path().join("raw.safetensors"), &tensors);
    assert_names(&refusal(forward_transformer(&loaded.model, &loaded.queue, &loaded.pager, &raw)), parts);
}

#[test]
fn bad_raw_inputs_are_named() {
    check_raw(
        |tensors| tensors.retain(|tensor| tensor.name != "img_ids"),
        &["img_ids", "missing", "raw.safetensors"],
    );
    check_raw(|tensors| shorten(tensors, "img_ids"), &["[23, 64]", "[22, 64]"]);
    let two_images = |tensors: &mut Vec<Plain>| {
        let latents = tensors.iter_mut().find(|tensor| tensor.name == "hidden_states").unwrap();
        latents.shape = vec![2, 8, 64];
    };
    check_raw(two_images, &["hidden_states", "[1, 8, 64]", "[2, 8, 64]"]);
}
