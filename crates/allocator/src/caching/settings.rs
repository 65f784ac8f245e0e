use lighterage_device::Purpose;

/// How an [`Allocator`](crate::Allocator) behaves. Every value is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What its chunks are charged as.
    pub purpose: Purpose,
    /// Pages of a big chunk, by which the large heap grows while there is headroom. With 1 there are only chunks of one page.
    pub big_chunk_pages: u64,
    /// Big chunks are created only while so much of the limit stays free afterwards, in thousandths.
    pub headroom_permille: u64,
    /// How far physical memory may go beyond the most that was ever in use at once, in thousandths and at least by 80 pages, before pages that hold nothing
    /// are moved to where they are needed instead of creating more. None: only where the limit says so, which spares calls where memory is plenty.
    pub slack_permille: Option<u64>,
    /// Whether a compute stream may be made to wait for another one whose memory it takes. Copy streams never are.
    pub stream_waits: bool,
    /// After so many blocks given back on a stream an event is recorded, where there are several streams.
    pub event_every: u32,
    /// Pressure handlers are told as soon as less than this is left under the limit; 0: only when something is missing.
    pub watermark_bytes: u64,
    /// Events that the trace keeps, rounded up to a power of two; 0: no trace.
    pub trace_events: usize,
    /// Addresses that each heap reserves at first; none: 9/8 of the limit or of the device's memory, whichever is less.
    pub address_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            purpose: Purpose::Activations,
            big_chunk_pages: 8,
            headroom_permille: 50,
            slack_permille: Some(15),
            stream_waits: true,
            event_every: 256,
            watermark_bytes: 0,
            trace_events: 0,
            address_bytes: None,
        }
    }
}
