/// `[height, width, channels]` to `[channels, height, width]`, on the host.
///
/// # Panics
/// If `values` does not have that many elements.
#[must_use]
pub fn channels_first<T: Copy>(values: &[T], [height, width, channels]: [usize; 3]) -> Vec<T> {
    transposed(values, height * width, channels)
}

/// `[channels, height, width]` to `[height, width, channels]`, on the host.
///
/// ```
/// use lighterage_vae::{channels_first, channels_last};
/// assert_eq!(channels_last(&[1, 2, 3, 4, 5, 6], [2, 1, 3]), [1, 4, 2, 5, 3, 6]);
/// assert_eq!(channels_first(&[1, 4, 2, 5, 3, 6], [1, 3, 2]), [1, 2, 3, 4, 5, 6]);
/// ```
///
/// # Panics
/// If `values` does not have that many elements.
#[must_use]
pub fn channels_last<T: Copy>(values: &[T], [channels, height, width]: [usize; 3]) -> Vec<T> {
    transposed(values, channels, height * width)
}

fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    assert_eq!(values.len(), rows * columns, "{rows} x {columns} values expected");
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}
