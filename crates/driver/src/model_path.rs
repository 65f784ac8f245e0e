use std::path::{Path, PathBuf};

/// The bundled demo model, from the folder of the executable or the repository.
const BUNDLED: &str = "assets/demo/base";

/// Where the bundled model is: beside the executable (`assets/demo/base` in its folder), else in the repository that this executable
/// was built from.
pub(crate) fn bundled() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(BUNDLED)));
    beside.filter(|path| path.is_dir()).unwrap_or_else(in_repository)
}

/// Where the bundled InfiniteYou is: beside the bundled model.
pub(crate) fn bundled_infinite_you() -> PathBuf {
    bundled().with_file_name("infinite-you")
}

fn in_repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(BUNDLED);
    // Without the dots, so that messages are easy to read.
    path.canonicalize().unwrap_or(path)
}
