//! What a host function sees of device memory: rows that are loaded into `f32` and stored from it.
//!
//! The parameters of a kernel are addresses and counts, so someone has to believe them. That is done here, once for each tensor: a
//! host function promises the conditions that its caller promised to it and gets accessors that check every index; the rest of
//! it is safe code. Values are copied out and in, never borrowed, so that an output may be its own input.
use std::marker::PhantomData;

use lighterage_shape::{Element, Float};

/// How many elements the elementwise ops take at once: two buffers of 4 KiB stay in the first-level cache.
pub(crate) const PIECE: usize = 1024;

/// `rows` rows of `columns` elements, `stride` elements apart, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a, E> {
    first: *const E,
    rows: usize,
    columns: usize,
    stride: usize,
    memory: PhantomData<&'a [E]>,
}

// SAFETY: it only reads, and its memory is not written by anyone else while it lives: the promise of `Rows::new`.
unsafe impl<E: Sync> Send for Rows<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Sync for Rows<'_, E> {}

impl<E: Element> Rows<'_, E> {
    /// Believes an address.
    ///
    /// # Safety
    /// - `address` is a multiple of the element's alignment, and every element of the rows is readable and initialised memory during `'a`.
    /// - During `'a` nobody writes an element while it is read here: outputs in the same memory are written through a [`RowsMut`] by the
    ///   task that has read what it overwrites.
    pub(crate) unsafe fn new(address: u64, rows: u32, columns: u32, stride: u64) -> Self {
        Self {
            first: pointer(address),
            rows: rows as usize,
            columns: columns as usize,
            stride: elements(stride),
            memory: PhantomData,
        }
    }

    /// One row of its own: a bias, a gate, a weight vector.
    ///
    /// # Safety
    /// - As [`Rows::new`].
    pub(crate) unsafe fn vector(address: u64, columns: u32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::new(address, 1, columns, u64::from(columns)) }
    }

    /// One element.
    pub(crate) fn get(&self, row: usize, column: usize) -> E {
        let at = self.at(row, column, 1);
        // SAFETY: `at` lies in the rows (checked), which are readable by the promise of `new`.
        unsafe { *at }
    }

    /// Copies `into.len()` elements of a row, from column `start` on.
    #[inline(always)]
    pub(crate) fn load(&self, row: usize, start: usize, into: &mut [f32])
    where
        E: Float,
    {
        let at = self.at(row, start, into.len());
        // SAFETY: `into.len()` elements from `at` on lie in the row (checked), are readable and not written meanwhile by the promise of `new`.
        let from = unsafe { std::slice::from_raw_parts(at, into.len()) };
        for (value, element) in into.iter_mut().zip(from) {
            *value = element.to_f32();
        }
    }

    /// A whole row.
    pub(crate) fn to_vec(self, row: usize) -> Vec<f32>
    where
        E: Float,
    {
        let mut values = vec![0.0; self.columns];
        self.load(row, 0, &mut values);
        values
    }

    #[inline(always)]
    fn at(&self, row: usize, start: usize, length: usize) -> *const E {
        if length == 0 {
            return std::ptr::dangling();
        }
        check_range(row, self.rows, start, length, self.columns);
        self.first.wrapping_add(row * self.stride + start)
    }
}

/// `rows` rows of `columns` elements, `stride` elements apart, to be read and written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowsMut<'a, E> {
    rows: Rows<'a, E>,
}

// SAFETY: different tasks use different elements: the promise of `RowsMut::new`.
unsafe impl<E: Send + Sync> Send for RowsMut<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Send + Sync> Sync for RowsMut<'_, E> {}

impl<E: Element> RowsMut<'_, E> {
    /// Believes an address.
    ///
    /// # Safety
    /// - `address` is a multiple of the element's alignment, and every element of the rows is writable memory during `'a`.
    /// - During `'a` each element that is written is used by one task only.
    pub(crate) unsafe fn new(address: u64, rows: u32, columns: u32, stride: u64) -> Self {
        // SAFETY: the caller's promise.
        Self { rows: unsafe { Rows::new(address, rows, columns, stride) } }
    }

    /// The same rows, to be read by the task that writes them.
    pub(crate) const fn as_rows(&self) -> &Rows<'_, E> {
        &self.rows
    }

    /// Rounds `from` into a row, from column `start` on.
    #[inline(always)]
    pub(crate) fn store(&self, row: usize, start: usize, from: &[f32])
    where
        E: Float,
    {
        let at = self.rows.at(row, start, from.len()).cast_mut();
        // SAFETY: `from.len()` elements from `at` on lie in the row (checked), are writable and this task's own by the promise of `new`.
        let into = unsafe { std::slice::from_raw_parts_mut(at, from.len()) };
        for (element, value) in into.iter_mut().zip(from) {
            *element = E::from_f32(*value);
        }
    }

    /// Copies a whole row of `source`, which is as wide and shares no element with it.
    pub(crate) fn copy_row(&self, row: usize, source: &Rows<'_, E>, source_row: usize) {
        let columns = self.rows.columns;
        let (from, into) = (source.at(source_row, 0, columns), self.rows.at(row, 0, columns).cast_mut());
        // SAFETY: both rows are `columns` wide (checked); out of place, as the ops that use this have checked, and this task's own.
        unsafe { into.copy_from_nonoverlapping(from, columns) }
    }

    /// Sets a whole row to one value.
    pub(crate) fn fill_row(&self, row: usize, value: f32)
    where
        E: Float,
    {
        (0..self.rows.columns).for_each(|column| self.set(row, column, E::from_f32(value)));
    }

    /// Writes one element.
    pub(crate) fn set(&self, row: usize, column: usize, value: E) {
        let at = self.rows.at(row, column, 1).cast_mut();
        // SAFETY: `at` lies in the rows (checked), is writable and this task's own by the promise of `new`.
        unsafe { at.write(value) }
    }
}

/// A tensor of three dimensions and any strides, to be read and written one element at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume<'a, E> {
    first: *mut E,
    extents: [usize; 3],
    strides: [usize; 3],
    memory: PhantomData<&'a [E]>,
}

// SAFETY: different tasks write different elements: the promise of `Volume::new`.
unsafe impl<E: Send + Sync> Send for Volume<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Send + Sync> Sync for Volume<'_, E> {}

impl<E: Float> Volume<'_, E> {
    /// Believes an address.
    ///
    /// # Safety
    /// - `address` is a multiple of the element's alignment, and every element is readable during `'a`, or, where it is written, writable.
    /// - During `'a` each element that is written is used by one task only, and nobody else writes what is read.
    pub(crate) unsafe fn new(address: u64, extents: [u32; 3], strides: [u64; 3]) -> Self {
        let first = pointer::<E>(address).cast_mut();
        Self {
            first,
            extents: extents.map(|extent| extent as usize),
            strides: strides.map(elements),
            memory: PhantomData,
        }
    }

    /// One element.
    pub(crate) fn get(&self, index: [usize; 3]) -> f32 {
        let at = self.at(index);
        // SAFETY: `at` is an element (checked), readable by the promise of `new`.
        unsafe { *at }.to_f32()
    }

    /// Rounds a value into one element.
    pub(crate) fn set(&self, index: [usize; 3], value: f32) {
        let at = self.at(index);
        // SAFETY: `at` is an element (checked), writable and this task's own by the promise of `new`.
        unsafe { at.write(E::from_f32(value)) }
    }

    fn at(&self, index: [usize; 3]) -> *mut E {
        let inside = index.iter().zip(&self.extents).all(|(index, extent)| index < extent);
        assert!(inside, "index {index:?} outside of {:?}", self.extents);
        self.first.wrapping_add(index.iter().zip(&self.strides).map(|(index, stride)| index * stride).sum())
    }
}

#[inline(always)]
fn check_range(row: usize, rows: usize, start: usize, length: usize, columns: usize) {
    assert!(row < rows, "row {row} of {rows}");
    assert!(start <= columns && length <= columns - start, "columns {start}..{start}+{length} of {columns}");
}

/// An address of this process as a pointer.
fn pointer<E>(address: u64) -> *const E {
    std::ptr::with_exposed_provenance(elements(address))
}

/// Addresses and strides are 64 bits wide on every device; the host function runs where they are pointers.
fn elements(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
