use std::fmt;
use std::sync::Arc;

use crate::crew::Crew;
use crate::{Error, Result};

/// Which instructions the host kernels use. Results may differ in their last bits between paths, never within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with the bf16 dot product, `vdpbf16ps`.
    Avx512Bf16,
}

impl Isa {
    /// Every path, slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The fastest path that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this machine can run the path.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = || {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2(),
                Self::Avx512 => avx512(),
                Self::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The threads and instructions that host kernels run on. Cloning shares the threads.
///
/// Work is divided into tasks by the kernel, by sizes alone; a task writes what no other task touches. So the number of threads
/// changes who does what, never a result.
#[derive(Clone, Debug)]
pub struct Workers {
    crew: Option<Arc<Crew>>,
    isa: Isa,
}

impl Workers {
    /// `threads` threads (0: one for each core), on the given path or the fastest one.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the machine lacks the path or refuses the threads.
    pub fn new(threads: usize, isa: Option<Isa>) -> Result<Self> {
        let isa = isa.unwrap_or_else(Isa::detect);
        if !isa.is_available() {
            return Err(Error::NoDevice { backend: "host", reason: format!("this machine has no {isa}") });
        }
        let threads =
            if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        if threads == 1 {
            return Ok(Self { crew: None, isa });
        }
        let crew = Crew::new(threads - 1)
            .map_err(|error| Error::NoDevice { backend: "host", reason: error.to_string() })?;
        Ok(Self { crew: Some(Arc::new(crew)), isa })
    }

    /// How many threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.crew.as_ref().map_or(1, |crew| crew.size())
    }

    /// Which instructions.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `task(0)` to `task(count - 1)`, each once, in any order, and waits for them.
    ///
    /// The calling thread takes part, so a few short tasks cost about a microsecond; still, a task should be long beside that. A task may
    /// call `for_each` itself, and threads may call it at the same time: they share the helpers.
    ///
    /// # Panics
    /// As a task does, when all threads have left the call; tasks that had not begun are then left out.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Send + Sync) {
        match &self.crew {
            Some(crew) if count > 1 => crew.for_each(count, &task),
            _ => (0..count).for_each(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let workers = Workers::new(threads, None).unwrap();
            assert_eq!(workers.threads(), threads);
            let seen: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(0)).collect();
            workers.for_each(seen.len(), |index| {
                seen[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn detected_path_is_available() {
        assert!(Isa::detect().is_available());
        assert!(Workers::new(1, Some(Isa::Portable)).is_ok());
    }
}
