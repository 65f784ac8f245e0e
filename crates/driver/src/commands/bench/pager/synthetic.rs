//! A checkpoint of equal layers with numbers nobody cares about, in a folder that goes away.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lighterage_checkpoint::Checkpoint;
use lighterage_pager::{TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;

use crate::failure::Result;
use crate::interrupt::{self, Scratch};
use crate::mapping;

pub(super) struct Synthetic {
    pub(super) path: PathBuf,
    layers: usize,
    shape: [usize; 2],
    _folder: Scratch,
}

/// The file, mapped: as long as it is, the system keeps what was read of it.
pub(super) struct Opened {
    pub(super) checkpoint: Checkpoint,
    pub(super) units: Arc<Units>,
    pub(super) cycle: Vec<UnitId>,
}

fn name(layer: usize) -> String {
    format!("layers.{layer}.weight")
}

impl Synthetic {
    /// `layers` weights of `[rows, columns]` in bf16, written as a safetensors file layer by layer: it may be larger than memory.
    pub(super) fn new(folder: &Path, layers: usize, rows: usize, columns: usize) -> Result<Self> {
        let folder = Scratch::inside(folder)?;
        let path = folder.path().join("synthetic.safetensors");
        let bytes = 2 * rows * columns;
        let entries: Vec<String> = (0..layers)
            .map(|layer| {
                let (from, to) = (layer * bytes, (layer + 1) * bytes);
                format!(
                    r#""{}":{{"dtype":"BF16","shape":[{rows},{columns}],"data_offsets":[{from},{to}]}}"#,
                    name(layer)
                )
            })
            .collect();
        let mut header = format!("{{{}}}", entries.join(","));
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut file = BufWriter::new(interrupt::undisturbed(|| File::create(&path))?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        // Small numbers of both signs, none of them special: the high byte is that of 2^-6 or so.
        let layer: Vec<u8> = (0..bytes / 2)
            .flat_map(|index| {
                [index.wrapping_mul(0x9e37).to_le_bytes()[0], if index % 3 == 0 { 0x3c } else { 0xbc }]
            })
            .collect();
        for _ in 0..layers {
            file.write_all(&layer)?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(Self { path, layers, shape: [rows, columns], _folder: folder })
    }

    pub(super) fn open(&self) -> Result<Opened> {
        let checkpoint = mapping::open(&self.path)?;
        let mut units = Units::default();
        let mut cycle = Vec::new();
        for name in (0..self.layers).map(name) {
            let weight = TensorSpec::whole(&checkpoint, &name, &self.shape, DType::Bf16)?;
            cycle.push(units.add(UnitSpec { name, tensors: vec![weight] }));
        }
        Ok(Opened { checkpoint, units: Arc::new(units), cycle })
    }
}
