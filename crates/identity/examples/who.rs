//! Who is in a picture: the nearest of the demo's people.
//!
//! `cargo run -p lighterage-identity --example who -- assets/demo/faces/cleo.png`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::path::{Path, PathBuf};

use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_identity::{Embedding, FaceNetwork, Photo, Points, crop, keypoints_beside};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo");
    let path = std::env::args().nth(1).map_or_else(|| demo.join("faces/cleo.png"), PathBuf::from);
    // SAFETY: nobody changes the bundled files while this runs.
    let promise = unsafe { Unmodified::promise() };

    // Pixels, the five points (from a faces.json beside the picture, or none: then it has to be a crop), the crop, the numbers.
    let photo = Photo::open(&path)?;
    let points = keypoints_beside(&path)?.map_or(Points::Aligned, Points::Given);
    let face = crop(&photo, &path.display().to_string(), points)?;
    let embedding = FaceNetwork::find(&demo.join("infinite-you"), promise)?.embed(&face)?;

    let known = Checkpoint::open(&demo.join("faces/embeddings.safetensors"), promise)?;
    for tensor in known.tensors() {
        let cosine = embedding.cosine(&Embedding::read(&known, Some(tensor.name()))?);
        println!("{:<8}{cosine:.3}", tensor.name());
    }
    Ok(())
}
