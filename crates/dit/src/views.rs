use lighterage_device::View;

use crate::Result;

/// Equal runs of columns of `[rows, N * columns]`, each `[rows, columns]`.
pub(crate) fn column_chunks<const N: usize>(view: View<'_>) -> Result<[View<'_>; N]> {
    let columns = view.shape()[1] / N;
    let mut chunks = [view; N];
    for (index, chunk) in chunks.iter_mut().enumerate() {
        *chunk = view.narrow(1, index * columns, columns)?;
    }
    Ok(chunks)
}

/// Equal runs of one row of `[rows, N * columns]`, each `[columns]`.
pub(crate) fn row_chunks<const N: usize>(view: View<'_>, row: usize) -> Result<[View<'_>; N]> {
    let mut chunks = column_chunks(view.rows(row, 1)?)?;
    for chunk in &mut chunks {
        *chunk = chunk.reshape(&[chunk.shape()[1]])?;
    }
    Ok(chunks)
}

/// The text rows and the image rows of `[rows, columns]`: text comes first everywhere.
pub(crate) fn text_and_image(view: View<'_>, text_rows: usize) -> Result<[View<'_>; 2]> {
    let image_rows = view.shape()[0] - text_rows;
    Ok([view.rows(0, text_rows)?, view.rows(text_rows, image_rows)?])
}
