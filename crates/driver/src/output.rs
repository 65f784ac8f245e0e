use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lighterage_checkpoint::NewTensor;

use crate::failure::{Failure, Result};
use crate::interrupt;

/// Why a file could not be written; what was there before is untouched.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {call}", path.display())]
pub(crate) struct OutputError {
    path: PathBuf,
    call: &'static str,
    source: io::Error,
}

/// Refuses, before any work is done, a path that could not be written afterwards.
pub(crate) fn check(path: &Path) -> Result<(), OutputError> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        let source =
            io::Error::new(io::ErrorKind::NotFound, format!("there is no folder {}", folder.display()));
        return Err(OutputError { path: path.to_owned(), call: "write it", source });
    }
    let source = match path.metadata() {
        Ok(status) if !status.is_file() => Some(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something else than a regular file has that name",
        )),
        // A name that no file can have, links that lead nowhere but to each other.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some(error),
        _ => None,
    };
    if let Some(source) = source {
        return Err(OutputError { path: path.to_owned(), call: "write it", source });
    }
    // Rights, a read-only or a full file system: what the system says is found out by doing it.
    interrupt::undisturbed(|| beside(path).map(drop)).map_err(|source| OutputError {
        path: path.to_owned(),
        call: "write beside it",
        source,
    })
}

/// Refuses outputs that would be the same file, or one of the inputs that are named with them: the second would replace the first.
pub(crate) fn check_apart(options: &[(&str, &Path)]) -> Result<()> {
    let mut places = BTreeMap::new();
    for (option, path) in options {
        if let Some(other) = places.insert(place(path), *option) {
            let path = path.display();
            return Err(Failure::Usage(format!("{other} and {option} are the same file: {path}")));
        }
    }
    Ok(())
}

/// The folder, however it is spelled, and the name in it.
pub(crate) fn place(path: &Path) -> PathBuf {
    let folder = folder_of(path);
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

/// An empty file beside that path; it is gone when it is dropped.
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".lighterage-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder_of(path))
}

/// Writes a file whole or not at all: beside its place at first, renamed when it is complete. An existing file is replaced then, never
/// truncated.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), OutputError> {
    check(path)?;
    let failed = |call| move |source| OutputError { path: path.to_owned(), call, source };
    interrupt::undisturbed(|| {
        let mut beside = beside(path).map_err(failed("write beside it"))?;
        fill_buffered(beside.as_file_mut(), fill).map_err(failed("write beside it"))?;
        beside.persist(path).map_err(|error| failed("replace it")(error.error))?;
        Ok(())
    })
}

/// Writes a safetensors file in the same way.
pub(crate) fn write_tensors(path: &Path, tensors: &[NewTensor<'_>]) -> Result<()> {
    Ok(interrupt::undisturbed(|| lighterage_checkpoint::write(path, tensors))?)
}

fn fill_buffered(file: &mut File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = io::BufWriter::new(&mut *file);
    fill(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.sync_all()
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Standard output, whose errors say that they are its.
pub(crate) fn stdout() -> impl Write {
    Named(io::stdout().lock())
}

struct Named<W>(W);

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| named(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| named(&error))
    }
}

fn named(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// One plain line for the person who waits, on stderr.
pub(crate) fn note(line: &str) {
    // A closed stderr is no reason to lose the result.
    let _ = writeln!(io::stderr(), "{line}");
}

/// `picture.png` becomes `picture-2.png` for the second of several; a single one keeps its name.
pub(crate) fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension =
        path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{}{extension}", index + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_outputs_are_numbered() {
        for (path, index, count, expected) in [
            ("a/picture.png", 0, 1, "a/picture.png"),
            ("a/picture.png", 0, 2, "a/picture-1.png"),
            ("picture", 11, 12, "picture-12"),
            ("a.b.png", 1, 2, "a.b-2.png"),
        ] {
            assert_eq!(numbered(Path::new(path), index, count), Path::new(expected));
        }
    }

    #[test]
    fn names_that_no_file_can_have_are_refused_before_any_work() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&one, &other).unwrap();
        check(&other).expect("a link to nothing yet");
        std::os::unix::fs::symlink(&other, &one).unwrap();
        for path in [one, folder.path().join("x".repeat(300)), folder.path().join("a\0b")] {
            let error = check(&path).expect_err("no name");
            assert!(error.to_string().ends_with("cannot write it"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "old").unwrap();
        write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("full"))
        })
        .unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
