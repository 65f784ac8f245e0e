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
    hexadecimal(&joined(tensors))
}

/// The same where some names are of dictionaries within the dictionary, as in a pickle: `GROUP.NAME` is tensor `NAME` of the inner dictionary `GROUP`,
/// which counts as the one string `GROUP|` and its own strings, joined.
///
/// ```
/// use lighterage_checkpoint::{fingerprint, grouped_fingerprint};
/// let names = [("a.b", &[2_usize][..])];
/// assert_ne!(grouped_fingerprint(names.into_iter(), &["a"]), fingerprint(names));
/// ```
#[must_use]
pub fn grouped_fingerprint<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a [usize])>,
    groups: &[&str],
) -> String {
    let mut inner: Vec<Vec<(&str, &[usize])>> = vec![Vec::new(); groups.len()];
    let mut strings = Vec::new();
    for (name, shape) in tensors {
        let of = |group: &&str| name.strip_prefix(*group)?.strip_prefix('.');
        match groups.iter().enumerate().find_map(|(index, group)| Some((index, of(group)?))) {
            Some((index, name)) => inner[index].push((name, shape)),
            None => strings.extend(strings_of(name, shape)),
        }
    }
    strings.extend(groups.iter().zip(inner).map(|(group, tensors)| format!("{group}|{}", joined(tensors))));
    strings.sort();
    hexadecimal(&strings.join(","))
}

fn joined<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> String {
    let mut strings: Vec<String> =
        tensors.into_iter().flat_map(|(name, shape)| strings_of(name, shape)).collect();
    strings.sort();
    strings.join(",")
}

fn strings_of(name: &str, shape: &[usize]) -> [String; 2] {
    let extents: Vec<String> = shape.iter().map(ToString::to_string).collect();
    [format!("{name}:{}", extents.join("_")), name.to_owned()]
}

fn hexadecimal(text: &str) -> String {
    md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `image_proj_model.bin` of InfiniteYou, from its published sizes: the one published file with a dictionary inside.
    #[test]
    fn published_projector_is_known_by_its_inner_dictionary() {
        let mut tensors: Vec<(String, Vec<usize>)> = vec![
            ("latents".into(), vec![1, 8, 1280]),
            ("proj_in.weight".into(), vec![1280, 512]),
            ("proj_in.bias".into(), vec![1280]),
            ("proj_out.weight".into(), vec![4096, 1280]),
            ("proj_out.bias".into(), vec![4096]),
            ("norm_out.weight".into(), vec![4096]),
            ("norm_out.bias".into(), vec![4096]),
        ];
        for layer in 0..4 {
            for (name, shape) in [
                ("0.norm1.weight", &[1280][..]),
                ("0.norm1.bias", &[1280]),
                ("0.norm2.weight", &[1280]),
                ("0.norm2.bias", &[1280]),
                ("0.to_q.weight", &[1280, 1280]),
                ("0.to_kv.weight", &[2560, 1280]),
                ("0.to_out.weight", &[1280, 1280]),
                ("1.0.weight", &[1280]),
                ("1.0.bias", &[1280]),
                ("1.1.weight", &[5120, 1280]),
                ("1.3.weight", &[1280, 5120]),
            ] {
                tensors.push((format!("layers.{layer}.{name}"), shape.to_vec()));
            }
        }
        let named: Vec<(String, Vec<usize>)> =
            tensors.into_iter().map(|(name, shape)| (format!("image_proj.{name}"), shape)).collect();
        let list = named.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
        assert_eq!(grouped_fingerprint(list, &["image_proj"]), "c07c0f04f5ff55e86b4e937c7a40d481");
    }
}
