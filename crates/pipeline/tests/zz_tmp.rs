mod common;
use common::*;
use lighterage_pipeline::*;
use lighterage_shape::DType;
use lighterage_testkit::*;
use lighterage_device::*;
#[test]
fn show() {
    let model = model();
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16] {
    for (number, case) in cases().iter().enumerate() {
        let job = Job::new(&model, case.options(&model, DType::Bf16)).unwrap();
        let golden = Golden::open(&folder("demo").join(format!("{number}.safetensors")));
        let r = golden.values("latents.f32");
        let theirs = relative_frobenius(golden.values("latents.bf16"), r);
        let survey = job.survey(PAGE_BYTES).unwrap();
        let p = run(&job, &survey, HostConfig { isa: Some(isa), ..HostConfig::default()}, between(&survey));
        let ours = relative_frobenius(p.latents.as_ref().unwrap(), r);
        let pr = p.prompt.unwrap();
        println!("{isa} case {number}: theirs {theirs:.3e} ours {ours:.3e} ratio {:.2}  states {:.2e} pooled {:.2e} to bf16 theirs {:.2e}", ours/theirs, relative_frobenius(&pr.states, golden.values("prompt_embeds")), relative_frobenius(&pr.pooled, golden.values("pooled_prompt_embeds")), relative_frobenius(p.latents.as_ref().unwrap(), golden.values("latents.bf16")));
    }
    }
}
