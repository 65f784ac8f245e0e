//! Counts in sentences.

use std::fmt::Display;

/// `1 thread`, `2 threads`.
pub(crate) fn counted<N: Copy + Display + From<u8> + PartialEq>(count: N, what: &str) -> String {
    let plural = one_or(count, "", "s");
    format!("{count} {what}{plural}")
}

/// The first word for one, the second for any other count.
pub(crate) fn one_or<'w, N: Copy + From<u8> + PartialEq>(count: N, one: &'w str, other: &'w str) -> &'w str {
    if count == N::from(1) { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_said_to_be_several() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "plan")), ["0 plans", "1 plan", "2 plans"]);
        assert_eq!([0_u64, 1, 2].map(|count| one_or(count, "is", "are")), ["are", "is", "are"]);
    }
}
