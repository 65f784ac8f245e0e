use std::fmt;

use crate::{Address, Purpose, StreamId};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a device call failed, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ledger's cap would be exceeded. Nothing was allocated.
    #[error("{0}")]
    OutOfBudget(Box<OutOfBudget>),
    /// The device itself has no more memory, although the ledger would have granted it.
    #[error("device out of memory: {requested} bytes requested, {capacity} bytes of capacity, {used} in use")]
    OutOfMemory {
        /// Bytes of the request.
        requested: u64,
        /// Bytes that the device has.
        capacity: u64,
        /// Bytes in use before the request.
        used: u64,
    },
    /// An address range was used against the rules: mapped twice, unmapped while not mapped, not a multiple of the page.
    #[error("{call}: {bytes} bytes at {address}: {reason}")]
    Range {
        /// The call that refused.
        call: &'static str,
        /// First byte of the range.
        address: Address,
        /// Length of the range.
        bytes: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The operating system or the driver refused a call.
    #[error("{call} failed with code {code}: {message}")]
    Driver {
        /// The call.
        call: &'static str,
        /// Its error number.
        code: i32,
        /// What the driver says about it.
        message: String,
    },
    /// A kernel has no image for this device.
    #[error("no image of kernel {kernel} for {device}")]
    NoImage {
        /// Name of the kernel.
        kernel: &'static str,
        /// Name of the device.
        device: String,
    },
    /// Work cannot be recorded and replayed.
    #[error("{device} replays no recorded work")]
    NoReplay {
        /// Name of the device.
        device: String,
    },
    /// A line of a table of products cannot be kept.
    #[error("table of products, line {line:?}: {message}")]
    Product {
        /// The line.
        line: String,
        /// What the library says about it.
        message: String,
    },
    /// There is no such device here.
    #[error("no {backend} device: {reason}")]
    NoDevice {
        /// Name of the backend.
        backend: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A kernel or copy that was launched earlier failed; every later call on the stream reports it.
    #[error("stream failed: {0}")]
    Stream(String),
    /// A view was used on a stream that does not order its memory.
    #[error("{call}: memory of {owner} used on {used_on}")]
    WrongStream {
        /// The call that refused.
        call: &'static str,
        /// The stream that the memory belongs to.
        owner: StreamId,
        /// The stream that was asked.
        used_on: StreamId,
    },
    /// Something of one device was used on a stream of another.
    #[error("{call}: {what} of another device used on {used_on}")]
    OtherDevice {
        /// The call that refused.
        call: &'static str,
        /// What is not this device's.
        what: &'static str,
        /// The stream that was asked.
        used_on: StreamId,
    },
    /// A view with gaps was given where bytes must touch.
    #[error("{call}: a contiguous view is needed, got {layout}")]
    NotContiguous {
        /// The call that refused.
        call: &'static str,
        /// What it got.
        layout: Box<lighterage_shape::Layout>,
    },
    /// A view cannot be made as asked.
    #[error(transparent)]
    Shape(#[from] lighterage_shape::ShapeError),
    /// Two views or buffers that should agree in bytes do not.
    #[error("{call}: {expected} bytes expected, {got} given")]
    Size {
        /// The call.
        call: &'static str,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that it got.
        got: u64,
    },
}

/// The numbers of a refused grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfBudget {
    /// Bytes of the request.
    pub requested: u64,
    /// What it was for.
    pub purpose: Purpose,
    /// The cap.
    pub cap: u64,
    /// Bytes granted before the request, by purpose, in declaration order; purposes without bytes are left out.
    pub granted: Vec<(Purpose, u64)>,
}

impl OutOfBudget {
    /// Bytes missing under the cap.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let granted: u64 = self.granted.iter().map(|(_, bytes)| bytes).sum();
        (granted + self.requested).saturating_sub(self.cap)
    }
}

impl fmt::Display for OutOfBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out of budget: {} bytes requested for {}, cap {} bytes, {} bytes missing; granted:",
            self.requested,
            self.purpose,
            self.cap,
            self.missing()
        )?;
        if self.granted.is_empty() {
            return f.write_str(" nothing");
        }
        for (index, (purpose, bytes)) in self.granted.iter().enumerate() {
            write!(f, "{} {purpose} {bytes}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl From<OutOfBudget> for Error {
    fn from(refused: OutOfBudget) -> Self {
        Self::OutOfBudget(Box::new(refused))
    }
}
