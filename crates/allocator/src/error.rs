use std::fmt;

use lighterage_device::Error as DeviceError;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no memory, or what the device reported. The pool is as usable after it as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither the pool nor the ledger nor the device has room for a request.
    #[error("{0}")]
    OutOfMemory(Box<OutOfMemory>),
    /// The device failed for another reason than memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The numbers of a request that found no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes of the request.
    pub requested: u64,
    /// What the request was for.
    pub tag: &'static str,
    /// Bytes handed out before the request.
    pub allocated: u64,
    /// Physical bytes that the pool held before the request.
    pub reserved: u64,
    /// The longest free range of addresses.
    pub largest_free: u64,
    /// The pool's whole range of addresses.
    pub address_bytes: u64,
    /// The ledger's cap.
    pub cap: u64,
    /// Who holds the most, at most [`OutOfMemory::TAGS_MAX`] tags with their bytes, the largest first.
    pub tags: Vec<(&'static str, u64)>,
    /// Who refused: the ledger or the device. None if the range of addresses is too short.
    pub cause: Option<DeviceError>,
}

impl OutOfMemory {
    /// The most tags that a report lists.
    pub const TAGS_MAX: usize = 5;
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, tag, allocated, reserved, largest_free, address_bytes, cap, .. } = self;
        write!(
            f,
            "no memory for {requested} bytes ({tag}): {allocated} bytes in use, {reserved} reserved, largest free range \
             {largest_free} of {address_bytes} bytes of addresses, cap {cap}; held by:"
        )?;
        if self.tags.is_empty() {
            f.write_str(" nobody")?;
        }
        for (index, (tag, bytes)) in self.tags.iter().enumerate() {
            write!(f, "{} {tag} {bytes}", if index == 0 { "" } else { "," })?;
        }
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, "; {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_every_number() {
        let report = OutOfMemory {
            requested: 1,
            tag: "scores",
            allocated: 2,
            reserved: 3,
            largest_free: 4,
            address_bytes: 5,
            cap: 6,
            tags: vec![("hidden", 7), ("query", 8)],
            cause: None,
        };
        assert_eq!(
            report.to_string(),
            "no memory for 1 bytes (scores): 2 bytes in use, 3 reserved, largest free range 4 of 5 bytes of addresses, \
             cap 6; held by: hidden 7, query 8"
        );
    }
}
