//! Rules of the kernels: one name everywhere, and each with all its parts.

use super::repository::Repository;

/// What tells the sources of one kernel apart.
const VARIANTS: [&str; 4] = ["", "_sm80", "_sm90a", "_plain"];

/// What the emulator's own tests run.
const EMULATOR: &str = "kernels/emu/tests/";

/// Sources that are no kernel of an op; the first is run by `doctor` and by the backend's own check (`crates/device/src/cuda/self_test.rs`).
const NO_OP: [&str; 2] = ["kernels/base/self_test.cu", EMULATOR];

/// What `lighterage bench` measures.
const BENCHES: &str = "crates/driver/src/commands/bench/";

/// A kernel: its folder below `kernels/` and its name.
#[derive(Debug, PartialEq, Eq)]
struct Kernel<'a> {
    family: &'a str,
    name: &'a str,
}

impl Kernel<'_> {
    fn structure(&self) -> String {
        format!("{}Params", camel(self.name))
    }

    fn owns(&self, family: &str, stem: &str) -> bool {
        let is_variant = |rest: &str| VARIANTS.contains(&rest);
        family == self.family && stem.strip_prefix(self.name).is_some_and(is_variant)
    }
}

/// Every kernel, by its header.
fn kernels(repository: &Repository) -> Vec<Kernel<'_>> {
    let headers = repository.below("kernels/", ".h").filter(|(path, _)| *path != "kernels/params.h");
    headers.filter_map(|(path, _)| split(path)).map(|(family, name)| Kernel { family, name }).collect()
}

/// `kernels/FAMILY/STEM.extension`.
fn split(path: &str) -> Option<(&str, &str)> {
    let (family, file) = path.strip_prefix("kernels/")?.rsplit_once('/')?;
    Some((family, file.split('.').next()?))
}

/// A kernel has a source, its launches, parameters in Rust, an op with tests of it, a test on the emulator, and its document.
pub(crate) fn parts(repository: &Repository) -> Vec<String> {
    let found = kernels(repository);
    let few = (found.len() < 19).then(|| format!("only {} headers found", found.len()));
    few.into_iter().chain(found.iter().flat_map(|kernel| missing(repository, kernel))).collect()
}

fn missing(repository: &Repository, kernel: &Kernel<'_>) -> Vec<String> {
    let Kernel { family, name } = kernel;
    let op = sources_of_op(repository, name);
    let parameters = repository.text("kernels/params.rs");
    let has_source = repository.below("kernels/", ".cu").any(|(path, _)| is_of(kernel, path));
    let parts = [
        (has_source, format!("no kernels/{family}/{name}.cu, nor one for an architecture")),
        (launches(repository, kernel), format!("no launches in kernels/{family}/{name}.rs")),
        (
            repository.text("kernels/params.h").contains(&format!("\"{family}/{name}.h\"")),
            format!("{family}/{name}.h is not in kernels/params.h"),
        ),
        (
            parameters.contains(&format!("pub struct {} ", kernel.structure())),
            format!("no {} in kernels/params.rs", kernel.structure()),
        ),
        (
            exports(repository.text("crates/ops/src/lib.rs"), name),
            format!("crates/ops/src/lib.rs exports no {name}"),
        ),
        (op.contains(&format!("pub fn {name}<")), format!("no `pub fn {name}` in crates/ops/src/{name}")),
        (op.contains("#[test]"), format!("no test in crates/ops/src/{name}")),
        (
            repository.files.contains_key(&format!("docs/kernels/{name}.md")),
            format!("no docs/kernels/{name}.md"),
        ),
    ];
    let absent = parts.into_iter().filter(|(is_there, _)| !is_there);
    absent.map(|(_, what)| format!("kernel {name}: {what}")).collect()
}

/// Every kernel is timed by `bench kernels`: an entry of its name in the list that is measured, and a call of its op on the bench's queue. A test of the
/// command holds that what an entry launches is the kernel that it is named after.
pub(crate) fn benches(repository: &Repository) -> Vec<String> {
    // `bench machine` uses some kernels as work to wait for, and times none.
    let is_bench = |(path, _): &(&str, &str)| !path.starts_with(&format!("{BENCHES}machine/"));
    let sources: Vec<&str> =
        repository.below(BENCHES, ".rs").filter(is_bench).map(|(_, text)| text).collect();
    let has = |word: &str| sources.iter().any(|text| text.contains(word));
    let is_timed = |name: &str| {
        let ends = ['"', ',', ' '];
        let queues = ["self", "bench"];
        ends.iter().any(|end| has(&format!("(\"{name}{end}")))
            && queues.iter().any(|owner| has(&format!("Ok({name}(&{owner}.queue, ")))
    };
    let found = kernels(repository);
    let untimed = found.iter().filter(|kernel| !is_timed(kernel.name));
    untimed.map(|kernel| format!("kernel {}: no line of it in {BENCHES}", kernel.name)).collect()
}

fn is_of(kernel: &Kernel<'_>, path: &str) -> bool {
    split(path).is_some_and(|(family, stem)| kernel.owns(family, stem))
}

/// Whether the file beside the kernel says how it is launched: its own, or where it has variants their folder's `mod.rs`.
fn launches(repository: &Repository, kernel: &Kernel<'_>) -> bool {
    let Kernel { family, name } = kernel;
    let beside = [format!("kernels/{family}/{name}.rs"), format!("kernels/{family}/mod.rs")];
    let takes = format!("pub fn launches(params: &{}", kernel.structure());
    beside.iter().any(|path| repository.text(path).contains(&takes))
}

/// No source without a kernel: each belongs to a header, runs on the emulator in a test, and each header of CUDA is included.
pub(crate) fn strays(repository: &Repository) -> Vec<String> {
    let kernels = kernels(repository);
    let mut faults = Vec::new();
    for (path, _) in repository.below("kernels/", ".cu") {
        if NO_OP.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        match kernels.iter().find(|kernel| is_of(kernel, path)) {
            None => faults
                .push(format!("{path} belongs to no header: no parameters, no op, no test, no document")),
            Some(kernel) if !is_emulated(repository, kernel, path) => {
                faults.push(format!("{path}: no test in tests/emu launches it"));
            }
            Some(_) => (),
        }
    }
    faults.extend(not_included(repository));
    faults.extend(steps_not_told(repository));
    faults
}

/// A test takes the launches of the kernel and, where there are several sources, names an image of this one.
fn is_emulated(repository: &Repository, kernel: &Kernel<'_>, path: &str) -> bool {
    let Some((_, stem)) = split(path) else { return false };
    let called = if stem == kernel.name { format!("{stem}::launches") } else { format!("\"{stem}_") };
    repository.below("tests/emu/", ".rs").any(|(_, text)| text.contains(&called))
}

fn not_included(repository: &Repository) -> Vec<String> {
    let sources = |extension| repository.below("kernels/", extension);
    let is_included = |name: &str| {
        let line = format!("{name}\"");
        let all = sources(".cu").chain(sources(".cuh"));
        let mut includes = all.flat_map(|(_, text)| text.lines()).filter(|line| line.starts_with("#include"));
        includes.any(|include| include.ends_with(&line))
    };
    let dead = sources(".cuh").filter(|(path, _)| !is_included(path.rsplit('/').next().unwrap_or(path)));
    dead.map(|(path, _)| format!("{path} is included by no kernel")).collect()
}

/// Every step of the ladder has a line in its folder's README that predicts its time.
fn steps_not_told(repository: &Repository) -> Vec<String> {
    let is_told = |path: &str| {
        let Some((folder, file)) = path.rsplit_once('/') else { return false };
        let readme = repository.text(&format!("{folder}/README.md"));
        readme.lines().any(|line| line.contains(file) && has_time(line))
    };
    let silent = repository.below("docs/", ".cu").filter(|(path, _)| !is_told(path));
    silent.map(|(path, _)| format!("{path} is named with its time by no README beside it")).collect()
}

/// Every source opens with formula, mapping of threads, bytes moved and predicted time, and every document has them.
pub(crate) fn heads(repository: &Repository) -> Vec<String> {
    let sources = repository.below("kernels/", ".cu").filter(|(path, _)| !path.starts_with(EMULATOR));
    let sources = sources.flat_map(|(path, text)| missing_in_head(path, text));
    let documents = repository.below("docs/kernels/", ".md");
    sources.chain(documents.flat_map(|(path, text)| missing_in_document(path, text))).collect()
}

fn missing_in_head(path: &str, text: &str) -> Vec<String> {
    let head: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//")).map(str::trim).collect();
    let opens = |word: &str| head.iter().any(|line| line.starts_with(word));
    let parts = [
        (head.first().is_some_and(|line| line.contains(" = ")), "formula in its first line"),
        (opens("Mapping"), "line `Mapping: ` in its head"),
        (opens("Bytes: "), "line `Bytes: ` in its head"),
        (has_time(&head.join(" ")), "predicted time in its head"),
    ];
    absent(path, &parts)
}

fn missing_in_document(path: &str, text: &str) -> Vec<String> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let parts = [
        (has(&[" = "]), "formula"),
        (has(&["thread", "warp"]), "mapping of threads"),
        (has(&["Bytes", "bytes"]), "bytes moved"),
        (has_time(text), "predicted time"),
    ];
    absent(path, &parts)
}

fn absent(path: &str, parts: &[(bool, &str)]) -> Vec<String> {
    let absent = parts.iter().filter(|(is_there, _)| !is_there);
    absent.map(|(_, what)| format!("{path} has no {what}")).collect()
}

/// Whether a number stands before a unit of time.
fn has_time(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_number = |word: &str| word.trim_start_matches(['(', '*']).parse::<f64>().is_ok();
    let is_unit = |word: &str| ["us", "ms"].contains(&word.trim_end_matches([',', '.', ':', ';', ')', '*']));
    words.windows(2).any(|pair| is_number(pair[0]) && is_unit(pair[1]))
}

/// No document without a kernel.
pub(crate) fn documents(repository: &Repository) -> Vec<String> {
    let kernels = kernels(repository);
    let mut faults = Vec::new();
    for (path, _) in repository.below("docs/kernels/", ".md") {
        let stem = path.trim_start_matches("docs/kernels/").trim_end_matches(".md");
        if !kernels.iter().any(|kernel| kernel.name == stem) {
            faults.push(format!("{path} describes no kernel"));
        }
    }
    faults
}

/// Every field of every header stands in the committed structs, in the same order.
pub(crate) fn fields(repository: &Repository) -> Vec<String> {
    let parameters = repository.text("kernels/params.rs");
    let mut faults = Vec::new();
    for kernel in kernels(repository) {
        let path = format!("kernels/{}/{}.h", kernel.family, kernel.name);
        let (header, rust) = (c_fields(repository.text(&path)), rust_fields(parameters, &kernel.structure()));
        if header != rust {
            faults.push(format!("{path} has the fields {header:?}, kernels/params.rs {rust:?}"));
        }
    }
    faults
}

fn c_fields(text: &str) -> Vec<&str> {
    let statements = text.lines().filter_map(|line| line.trim().strip_suffix(';')?.split_once(' '));
    let fields = statements.filter(|(kind, _)| ["uint64_t", "uint32_t", "float"].contains(kind));
    fields.map(|(_, name)| name).collect()
}

/// The fields of a struct in `kernels/params.rs`, in order.
pub(crate) fn rust_fields<'a>(parameters: &'a str, structure: &str) -> Vec<&'a str> {
    let body = parameters.split_once(&format!("pub struct {structure} {{")).map(|(_, rest)| rest);
    let body = body.and_then(|rest| rest.split_once('}')).map(|(body, _)| body).unwrap_or_default();
    let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
    fields.map(|(name, _)| name).collect()
}

/// `rms_norm` to `RmsNorm`.
pub(crate) fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

fn exports(ops: &str, name: &str) -> bool {
    ops.lines()
        .filter(|line| line.starts_with("pub use "))
        .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name))
}

/// All sources of one op: `NAME.rs` or the files of the folder `NAME`.
fn sources_of_op(repository: &Repository, name: &str) -> String {
    let folder = format!("crates/ops/src/{name}/");
    let files = repository.below(&folder, ".rs").map(|(_, text)| text);
    [repository.text(&format!("crates/ops/src/{name}.rs"))].into_iter().chain(files).collect()
}
