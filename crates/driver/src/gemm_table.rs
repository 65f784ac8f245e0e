use std::path::Path;

use lighterage_device::ProductTable;
use sha2::{Digest, Sha256};

/// A table of who multiplies what, from a file.
#[derive(Clone, Debug)]
pub(crate) struct GemmTable {
    pub(crate) table: ProductTable,
    /// Of the file, as hexadecimal digits: names it in pictures and reports.
    pub(crate) sha256: String,
}

/// A line has some 180 bytes at most, and a table ten thousand lines.
const BYTES_MAX: u64 = 4 << 20;

impl GemmTable {
    fn parse(text: &str) -> Result<Self, String> {
        let table = ProductTable::parse(text).map_err(|error| error.to_string())?;
        let digest = Sha256::digest(text.as_bytes());
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { table, sha256 })
    }
}

/// For the command line, which names the option and the file.
pub(crate) fn read(path: &str) -> Result<GemmTable, String> {
    let bytes = Path::new(path).metadata().map_err(|error| error.to_string())?.len();
    if bytes > BYTES_MAX {
        return Err(format!("{bytes} bytes, a table has {BYTES_MAX} at most"));
    }
    GemmTable::parse(&std::fs::read_to_string(path).map_err(|error| error.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_is_its_hash() {
        let text = "lighterage-gemm-table 1\n";
        let [one, same, other] =
            [text, text, &format!("{text}# x\n")].map(|text| GemmTable::parse(text).unwrap());
        // printf 'lighterage-gemm-table 1\n' | sha256sum
        assert_eq!(one.sha256, HASH);
        assert!(one.sha256 == same.sha256 && one.sha256 != other.sha256);
        assert!(GemmTable::parse("something else").unwrap_err().starts_with("line 1: "));
    }

    const HASH: &str = "8a4a8775878aafd7f63b5773e1c7d9319afd048421de876dfe28cf607d9467bc";
}
