//! Memory for tests: values between guard zones, poisoned where an op must write.

use lighterage_shape::Float;

/// The largest relative Frobenius error that rounding so many values to bf16 may make.
///
/// One value moves by half a unit in the last of 8 digits, 2^-8 = 3.91e-3 of itself at most; over many values the mean
/// square is 1.66e-3. The rest is for the f32 sums before.
pub(crate) const fn bf16_rounding(values: usize) -> f64 {
    if values < 200 { 3.95e-3 } else { 2.0e-3 }
}

/// Elements in front of and behind the values: more than any tile reaches across.
const GUARD: usize = 96;

/// Rows of a tensor in memory of their own, some elements apart, with guards around and between them.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<E> {
    memory: Vec<E>,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<E: Float> Guarded<E> {
    /// The given values, rounded to the element type.
    pub(crate) fn new(values: &[f32], columns: usize, stride: usize) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        assert!(
            stride >= columns && rows * columns == values.len(),
            "{rows} rows of {columns}, {stride} apart"
        );
        let mut memory = vec![E::from_f32(f32::NAN); rows * stride + 2 * GUARD];
        for (row, values) in values.chunks(columns.max(1)).enumerate() {
            for (column, value) in values.iter().enumerate() {
                memory[GUARD + row * stride + column] = E::from_f32(*value);
            }
        }
        Self { memory, rows, columns, stride }
    }

    /// NaN everywhere: what is not written shows.
    pub(crate) fn poisoned(rows: usize, columns: usize, stride: usize) -> Self {
        Self::new(&vec![f32::NAN; rows * columns], columns, stride)
    }

    /// Where the first value is.
    pub(crate) fn address(&self) -> u64 {
        self.memory[GUARD..].as_ptr().addr() as u64
    }

    /// Where the first value is, to be written.
    pub(crate) fn address_mut(&mut self) -> u64 {
        self.memory[GUARD..].as_mut_ptr().expose_provenance() as u64
    }

    /// Elements between rows.
    pub(crate) const fn stride(&self) -> u64 {
        self.stride as u64
    }

    /// The values as the element type holds them.
    pub(crate) fn values(&self) -> Vec<f32> {
        (0..self.rows).flat_map(|row| self.row(row).iter().map(|value| value.to_f32())).collect()
    }

    fn row(&self, row: usize) -> &[E] {
        &self.memory[GUARD + row * self.stride..][..self.columns]
    }

    /// Fails if anything but the values was written: every other element is still NaN.
    pub(crate) fn assert_guards(&self) {
        for (index, value) in self.memory.iter().enumerate() {
            let place = index
                .checked_sub(GUARD)
                .map(|place| (place / self.stride.max(1), place % self.stride.max(1)));
            let inside = place.is_some_and(|(row, column)| row < self.rows && column < self.columns);
            assert!(
                inside || value.to_f32().is_nan(),
                "element {index} (row, column {place:?}) outside of the tensor was written"
            );
        }
    }
}
