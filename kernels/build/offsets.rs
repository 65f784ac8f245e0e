//! The layout of the parameter structs as C++ has to see it, made from the committed `kernels/params.rs`.
//!
//! bindgen writes each size and offset into that file as an assertion about the Rust struct; here they become assertions about the C struct. So a
//! header whose fields are swapped, widened or left out compiles nowhere, also where there is no libclang to notice.

use std::fmt::Write as _;

/// A C++ file of `static_assert`s. Include `kernels/` when compiling it.
pub(crate) fn checks(params: &str) -> String {
    let mut text = "#include <stddef.h>\n#include \"params.h\"\n".to_owned();
    // rustfmt may have broken the line between the name and the number.
    let mut words = params.split(['[', ']']).filter(|word| !word.trim().is_empty());
    while let Some(word) = words.next() {
        let name = |prefix: &str| word.strip_prefix('"')?.strip_suffix('"')?.strip_prefix(prefix);
        if let Some(name) = name("Size of ") {
            let _ = writeln!(
                text,
                "static_assert(sizeof({name}) == {}, \"size of {name}\");",
                number(words.next())
            );
        } else if let Some((structure, field)) =
            name("Offset of field: ").and_then(|name| name.split_once("::"))
        {
            let _ = writeln!(
                text,
                "static_assert(offsetof({structure}, {field}) == {}, \"offset of {structure}::{field}: kernels/params.rs does not match the header\");",
                number(words.next())
            );
        }
    }
    text
}

/// `::std::mem::offset_of!(RmsNormParams, x) - 24usize` gives `24`.
fn number(expression: Option<&str>) -> &str {
    let number = expression.and_then(|text| text.rsplit_once("- ")?.1.strip_suffix("usize"));
    number.expect("bindgen writes `expression - NUMBERusize`")
}
