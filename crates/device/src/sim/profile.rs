use crate::cuda::{context_bytes_typical, modules_bytes_typical};
use crate::{Arch, MemoryCosts, Rates};

/// A graphics card as the simulator and the planner see it.
///
/// That of the H100 was measured, with this program's kernels. The others are estimates: data sheets times the share of the peak that good programs are known to reach,
/// since nobody runs at the peak. A profile that was measured on the card in question is better in every respect.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What it is called on the command line, for instance `rtx4090`.
    pub name: String,
    /// What its kernels are compiled for.
    pub arch: Arch,
    /// Bytes of device memory that it has.
    pub memory_bytes: u64,
    /// How fast it is.
    pub rates: Rates,
    /// Where the numbers come from.
    pub source: String,
}

/// What of a card programs reach.
struct Reached {
    /// Shares of the peak in dense bf16 with f32 accumulation.
    product: f64,
    attention: f64,
    /// Share of the memory's rate.
    memory: f64,
}

/// In large products cuBLAS reaches 700 to 750 of an H100's 989 TFLOP/s, `FlashAttention` 3 reaches 640 at head size 128 (Shah et al. 2024, figure 5); streaming kernels
/// reach 0.88 to 0.93 of the memory's rate on A100 and H100. Taken for every card that nobody measured: what our Hopper kernels reach says nothing of the others.
const ESTIMATED: Reached = Reached { product: 0.71, attention: 0.64, memory: 0.9 };
/// By this program's kernels on an H100 SXM at 700 W (benches/results/2026-11-27-h100): a product of 8192, 731 TFLOP/s (`machine-2`); attention at 24 x 4608 and 24 x 4112
/// tokens, 673 and 661 (`kernels-3`); copies on the card, 2.91 to 2.98 TB/s (`machine-2`, `kernels-3`).
const MEASURED: Reached = Reached { product: 0.739, attention: 0.674, memory: 0.884 };

/// Page-locked copies over `PCIe` 4.0 and 5.0, 16 lanes: 26 and 55 of 31.5 and 63 GB/s, the rest is protocol (an H100 had 54.2 to 54.8).
const PCIE4: f64 = 26e9;
const PCIE5: f64 = 55e9;
/// Of a host that nobody measured, in bytes a second. Pageable copies: by others on `PCIe` 5.0 (runai-model-streamer issue 161). Page-locking: as beside the H100; 1 to 1.7
/// GB/s elsewhere (llama.cpp issue 28223). From the page cache: several threads copy.
const HOST: Host = Host { pageable: 9.7e9, lock: 2.4e9, read: 10e9 };
/// Beside the H100, 16 cores. Pageable copies: `machine-2`. Reading: 33 GB came through the stages in 1.18 s (`full-size-2`, everything resident). Page-locking: 2.4 GB/s alone
/// (`machine-2`), by the driver's own allocation; with the first touch of the mapped files 1.7 to 2.3 (`full-size-3` and `-2`, by what first steps took more the more was
/// streamed, without what mapping it takes).
const MEASURED_HOST: Host = Host { pageable: 19.5e9, lock: 2.0e9, read: 28e9 };

/// What the host reaches, which is no property of the card.
struct Host {
    pageable: f64,
    lock: f64,
    read: f64,
}

/// What a data sheet says.
struct Sheet {
    name: &'static str,
    /// What the driver calls it. Other variants of a card (`PCIe`, NVL, 40 GB) have other memory and clocks.
    card: &'static str,
    arch: Arch,
    memory_gib: u64,
    /// Dense bf16 with f32 accumulation, and f32 without tensor cores, in TFLOP/s.
    tensor: f64,
    vector: f64,
    /// GB/s.
    memory: f64,
    link: f64,
    reached: Reached,
    host: Host,
    /// Whether `reached` and `host` were measured on this card.
    is_measured: bool,
    source: &'static str,
}

const SHEETS: [Sheet; 7] = [
    Sheet {
        name: "h100",
        card: "NVIDIA H100 80GB HBM3",
        arch: Arch::Sm90a,
        memory_gib: 80,
        tensor: 989.4,
        vector: 66.9,
        memory: 3350.0,
        link: 54.5e9,
        reached: MEASURED,
        host: MEASURED_HOST,
        is_measured: true,
        source: "benches/results/2026-11-27-h100",
    },
    Sheet {
        name: "h200",
        card: "NVIDIA H200",
        arch: Arch::Sm90a,
        memory_gib: 141,
        tensor: 989.4,
        vector: 66.9,
        memory: 4800.0,
        link: PCIE5,
        // The same multiprocessors, and the same kernels for them.
        reached: MEASURED,
        host: HOST,
        is_measured: false,
        source: "NVIDIA H200 SXM data sheet (dense bf16)",
    },
    Sheet {
        name: "rtx5090",
        card: "NVIDIA GeForce RTX 5090",
        arch: Arch::Sm120a,
        memory_gib: 32,
        tensor: 209.5,
        vector: 104.8,
        memory: 1792.0,
        link: PCIE5,
        reached: ESTIMATED,
        host: HOST,
        is_measured: false,
        source: "NVIDIA RTX Blackwell GPU architecture paper, appendix A (bf16, f32 accumulation, dense)",
    },
    Sheet {
        name: "rtx4090",
        card: "NVIDIA GeForce RTX 4090",
        arch: Arch::Sm89,
        memory_gib: 24,
        tensor: 165.2,
        vector: 82.6,
        memory: 1008.0,
        link: PCIE4,
        reached: ESTIMATED,
        host: HOST,
        is_measured: false,
        source: "NVIDIA Ada GPU architecture paper, appendix A (bf16, f32 accumulation, dense)",
    },
    Sheet {
        name: "rtx3090",
        card: "NVIDIA GeForce RTX 3090",
        arch: Arch::Sm86,
        memory_gib: 24,
        tensor: 71.0,
        vector: 35.6,
        memory: 936.0,
        link: PCIE4,
        reached: ESTIMATED,
        host: HOST,
        is_measured: false,
        source: "NVIDIA Ampere GA102 architecture paper, table 3 (bf16, f32 accumulation, dense)",
    },
    Sheet {
        name: "l40s",
        card: "NVIDIA L40S",
        arch: Arch::Sm89,
        memory_gib: 48,
        tensor: 362.05,
        vector: 91.6,
        memory: 864.0,
        link: PCIE4,
        reached: ESTIMATED,
        host: HOST,
        is_measured: false,
        source: "NVIDIA L40S data sheet (dense bf16)",
    },
    Sheet {
        name: "a100",
        card: "NVIDIA A100-SXM4-80GB",
        arch: Arch::Sm80,
        memory_gib: 80,
        tensor: 312.0,
        vector: 19.5,
        memory: 2039.0,
        link: PCIE4,
        reached: ESTIMATED,
        host: HOST,
        is_measured: false,
        source: "NVIDIA A100 80GB SXM data sheet (dense bf16)",
    },
];

impl Profile {
    /// The built-in profile of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SHEETS.iter().find(|sheet| sheet.name == name).map(Sheet::profile)
    }

    /// The built-in profile of the card that the driver calls so.
    ///
    /// ```
    /// use lighterage_device::Profile;
    /// assert_eq!(Profile::of_card("NVIDIA H100 80GB HBM3").unwrap().name, "h100");
    /// assert_eq!(Profile::of_card("NVIDIA H100 PCIe"), None);
    /// ```
    #[must_use]
    pub fn of_card(card: &str) -> Option<Self> {
        SHEETS.iter().find(|sheet| sheet.card == card).map(Sheet::profile)
    }

    /// Bytes of a budget that the driver takes for context and kernels before anything runs: an estimate, held against the real number when a device is opened.
    ///
    /// ```
    /// let card = lighterage_device::Profile::named("rtx4090").expect("a built-in card");
    /// assert!((300 << 20..700 << 20).contains(&card.taken_bytes()));
    /// ```
    #[must_use]
    pub const fn taken_bytes(&self) -> u64 {
        context_bytes_typical(self.arch) + modules_bytes_typical()
    }

    /// Every built-in profile.
    ///
    /// ```
    /// let names: Vec<String> = lighterage_device::Profile::all().map(|profile| profile.name).collect();
    /// assert_eq!(names, ["h100", "h200", "rtx5090", "rtx4090", "rtx3090", "l40s", "a100"]);
    /// ```
    pub fn all() -> impl Iterator<Item = Self> {
        SHEETS.iter().map(Sheet::profile)
    }
}

impl Sheet {
    fn profile(&self) -> Profile {
        Profile {
            name: self.name.to_owned(),
            arch: self.arch,
            memory_bytes: self.memory_gib << 30,
            rates: Rates {
                product_flops: self.reached.product * self.tensor * 1e12,
                attention_flops: self.reached.attention * self.tensor * 1e12,
                vector_flops: self.vector * 1e12,
                memory_bytes: self.reached.memory * self.memory * 1e9,
                link_bytes: self.link,
                pageable_bytes: self.host.pageable.min(self.link),
                lock_bytes: self.host.lock,
                read_bytes: self.host.read,
                // On an H100 a launch of a chain took 2.1 us in a graph, and a call 1.3 us of the host: at the sizes of FLUX far below 1 % of a step.
                launch_seconds: 2e-6,
                copy_seconds: 2e-6,
                call_seconds: 1.3e-6,
                slowdown: 0.0,
                // Of the driver and the host's processor more than of the card: nobody measured another pair.
                memory_calls: MemoryCosts::H100,
            },
            source: match self.is_measured {
                true => format!("measured, {}", self.source),
                false => format!("estimated: {}; shares of the peak: see the type's source", self.source),
            },
        }
    }
}
