use crate::Phase;

/// Who wants to know how far a run is, and who may stop it.
///
/// Calls come from the thread that runs the pipeline. Steps are reported when the device has done them, when the next one is queued already
/// ([`IN_FLIGHT_MAX`](crate::IN_FLIGHT_MAX)): asking for progress never makes the device wait.
///
/// ```
/// use lighterage_pipeline::{Observer, Phase};
/// struct Lines;
/// impl Observer for Lines {
///     fn step(&mut self, done: usize, steps: usize) {
///         println!("step {done} of {steps}");
///     }
/// }
/// ```
pub trait Observer {
    /// A phase begins.
    fn phase(&mut self, _phase: Phase) {}

    /// So many steps are done.
    fn step(&mut self, _done: usize, _steps: usize) {}

    /// Whether to stop: asked before every phase, and before every step is queued, which is while the step before it is in its last block. What is queued
    /// is finished.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody.
impl Observer for () {}
