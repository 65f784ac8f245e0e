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
    /// Whether a thread keeps what it gave back for its next requests on the same stream, so that threads do not wait for each other: at most 4 MiB for each stream in blocks
    /// of up to 1 MiB, and 32 MiB in longer ones whose size came before (256 MiB of these in all, what magazines have handed out among it).
    /// All of it is taken back before anything is refused, created, moved or reported; only peaks count it as handed out. Placement depends on which thread gave
    /// what back then. Never with a trace, which is one sequence of what all threads do.
    pub magazines: Magazines,
    /// Whether calls that hand out and take back are timed, by the clock of the device's recordings: see
    /// [`AllocatorStatistics::allocate_times`](crate::AllocatorStatistics::allocate_times). It takes two looks at the clock for each call, some 50 ns on a real one.
    pub times: bool,
    /// Addresses that each heap reserves at first; none: 9/8 of the limit or of the device's memory, whichever is less.
    pub address_bytes: Option<u64>,
}

/// When threads keep blocks of their own: see [`Settings::magazines`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Magazines {
    /// Never.
    Never,
    /// From the moment on at which two threads have found the books locked by each other's requests.
    #[default]
    Contended,
    /// From the start.
    Always,
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
            magazines: Magazines::Contended,
            times: false,
            address_bytes: None,
        }
    }
}
