use crate::md5;

/// MD5, in hexadecimal, of all names and shapes: what DiffSynth-Studio recognises architectures by.
///
/// For each tensor there are two strings, `name:d0_d1_..` and `name`; all strings are sorted, joined with commas and hashed
/// (DiffSynth-Studio, `core/loader/file.py`). Element types and values do not count, nor does the order of the tensors. It tells
/// architectures apart, it is no protection.
///
/// ```
/// let names = [("a", &[2_usize, 3][..])];
/// assert_eq!(lighterage_checkpoint::fingerprint(names), "991046a83b42c46e108dc1f9dce503e2"); // of "a,a:2_3"
/// ```
#[must_use]
pub fn fingerprint<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> String {
    let mut strings = Vec::new();
    for (name, shape) in tensors {
        let extents: Vec<String> = shape.iter().map(ToString::to_string).collect();
        strings.push(format!("{name}:{}", extents.join("_")));
        strings.push(name.to_owned());
    }
    strings.sort();
    md5::digest(strings.join(",").as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
