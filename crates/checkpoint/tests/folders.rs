//! Shards, indices and folders.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::path::Path;

use lighterage_checkpoint::{Checkpoint, Error, NewTensor, Result, Unmodified, write};
use lighterage_shape::DType;

fn open(path: &Path) -> Result<Checkpoint> {
    // SAFETY: every path here is in a test's own folder, or a file of the repository that no test changes.
    Checkpoint::open(path, unsafe { Unmodified::promise() })
}

/// A file with tensors of those names, one byte each: the last of the name.
fn shard(folder: &Path, file: &str, names: &[&str]) {
    let tensors: Vec<_> = names
        .iter()
        .map(|name| NewTensor {
            name,
            dtype: DType::U8,
            shape: &[1],
            bytes: &name.as_bytes()[name.len() - 1..],
        })
        .collect();
    write(&folder.join(file), &tensors).unwrap();
}

fn index(folder: &Path, map: &[(&str, &str)]) {
    let entries: Vec<String> = map.iter().map(|(tensor, file)| format!("{tensor:?}:{file:?}")).collect();
    let json = format!(r#"{{"metadata":{{"total_size":2}},"weight_map":{{{}}}}}"#, entries.join(","));
    std::fs::write(folder.join("model.safetensors.index.json"), json).unwrap();
}

/// Writes `shards` and `map` into a folder, and opens it.
fn sharded(shards: &[(&str, &[&str])], map: &[(&str, &str)]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    for (file, names) in shards {
        shard(folder.path(), file, names);
    }
    index(folder.path(), map);
    open(folder.path())
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

#[test]
fn shards_are_one_checkpoint() {
    let checkpoint =
        sharded(&[(ONE, &["b", "c"]), (TWO, &["a"])], &[("a", TWO), ("b", ONE), ("c", ONE)]).unwrap();
    let names: Vec<_> = checkpoint.tensors().map(|tensor| tensor.name().to_owned()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(checkpoint.files().count(), 2);
    assert!(checkpoint.tensor("a").unwrap().path().ends_with(TWO));
    assert_eq!(checkpoint.tensor("c").unwrap().bytes(), b"c");
    assert!(matches!(checkpoint.tensor("d"), Err(Error::Missing { tensor, .. }) if tensor == "d"));
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let error = sharded(&[(ONE, &["a", "b"]), (TWO, &["a"])], &[("a", TWO), ("b", ONE)]).unwrap_err();
    assert!(matches!(&error, Error::InTwoShards { tensor, .. } if tensor == "a"), "{error}");
}

#[test]
fn a_tensor_that_its_shard_lacks_is_refused() {
    let error = sharded(&[(ONE, &["b"]), (TWO, &["c"])], &[("a", TWO), ("b", ONE)]).unwrap_err();
    assert!(
        matches!(&error, Error::NotInShard { tensor, shard, .. } if tensor == "a" && shard == TWO),
        "{error}"
    );
}

#[test]
fn a_missing_shard_is_named_with_its_tensors() {
    let error = sharded(&[(ONE, &["b"])], &[("a", TWO), ("b", ONE), ("c", TWO)]).unwrap_err();
    assert!(matches!(&error, Error::ShardMissing { tensors: 2, shard, .. } if shard == TWO), "{error}");
}

#[test]
fn shards_outside_of_the_folder_are_refused() {
    for outside in ["../x.safetensors", "/etc/passwd", "", ".", "sub/../../x.safetensors", "./x.safetensors"]
    {
        let error = sharded(&[], &[("a", outside)]).unwrap_err();
        assert!(
            matches!(&error, Error::ShardOutside { shard, .. } if shard == outside),
            "{outside:?}: {error}"
        );
    }
}

#[test]
fn indices_of_another_form_are_refused() {
    for json in ["", "[]", "{}", r#"{"weight_map":{"a":3}}"#, r#"{"weight_map":{"a":"x","a":"y"}}"#] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors.index.json"), json).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Index { .. }), "{json:?}: {error}");
    }
}

#[test]
fn one_file_of_any_name_is_the_folders_checkpoint() {
    for name in ["diffusion_pytorch_model.safetensors", "model.safetensors", "flux1-dev.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        shard(folder.path(), name, &["a"]);
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert_eq!(open(folder.path()).unwrap().tensors().count(), 1, "{name}");
    }
}

#[test]
fn folders_without_or_with_several_checkpoints_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(folder.path()), Err(Error::NoCandidate { .. })));
    shard(folder.path(), "b.safetensors", &["a"]);
    shard(folder.path(), "a.safetensors", &["a"]);
    let error = open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Candidates { found, .. } if found == &["a.safetensors", "b.safetensors"]),
        "{error}"
    );
}

#[test]
fn identity_changes_with_the_file_and_tells_tensors_apart() {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path(), "m.safetensors", &["a", "b"]);
    let first = open(folder.path()).unwrap();
    let again = open(&folder.path().join("m.safetensors")).unwrap();
    assert_eq!(first.tensor("a").unwrap().identity(), again.tensor("a").unwrap().identity());
    assert_ne!(first.tensor("a").unwrap().identity(), first.tensor("b").unwrap().identity());
    // A new file under the old name; the old one stays mapped and as it was.
    shard(folder.path(), "m.safetensors", &["a", "bb"]);
    let changed = open(folder.path()).unwrap();
    assert_ne!(first.tensor("a").unwrap().identity(), changed.tensor("a").unwrap().identity());
    assert_eq!(first.tensor("b").unwrap().bytes(), b"b");
}

#[test]
fn the_demo_model_opens_in_all_its_folders() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base");
    for component in ["text_encoder", "text_encoder_2", "transformer", "vae"] {
        let checkpoint = open(&base.join(component)).unwrap();
        assert!(
            checkpoint.tensors().all(|tensor| tensor.bytes().len() == tensor.layout().bytes()),
            "{component}"
        );
    }
}

/// CLIP-L's text model from its architecture alone; the hash is the one that DiffSynth-Studio knows the released file by.
#[test]
fn fingerprint_of_clip_is_the_published_one() {
    let mut tensors = vec![
        ("text_model.embeddings.token_embedding.weight".to_owned(), vec![49408, 768]),
        ("text_model.embeddings.position_embedding.weight".to_owned(), vec![77, 768]),
    ];
    let mut pair = |name: String, out: usize, rest: &[usize]| {
        tensors.push((format!("{name}.weight"), [&[out], rest].concat()));
        tensors.push((format!("{name}.bias"), vec![out]));
    };
    pair("text_model.final_layer_norm".into(), 768, &[]);
    for layer in (0..12).map(|layer| format!("text_model.encoder.layers.{layer}")) {
        for linear in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            pair(format!("{layer}.self_attn.{linear}"), 768, &[768]);
        }
        pair(format!("{layer}.layer_norm1"), 768, &[]);
        pair(format!("{layer}.layer_norm2"), 768, &[]);
        pair(format!("{layer}.mlp.fc1"), 3072, &[768]);
        pair(format!("{layer}.mlp.fc2"), 768, &[3072]);
    }
    assert_eq!(tensors.len(), 196);
    let found = lighterage_checkpoint::fingerprint(
        tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())),
    );
    assert_eq!(found, "94eefa3dac9cec93cb1ebaf1747d7b78");
}
