//! Kernels with one mistake each: every one has to be found, in both modes and every order of the threads, and named with its line.

use bytemuck::{Pod, Zeroable, bytes_of};
use half::bf16;
use lighterage_kernels::emu::{self, Config, Failure, Grid, Kind, Region, Report, Start, Stream, TensorMap};

use crate::buffer::Buffer;
use crate::runs;

/// `kernels/emu/tests/params.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct TestParams {
    pub(crate) x: u64,
    pub(crate) out: u64,
    pub(crate) count: u32,
    pub(crate) padding: u32,
}

use Kind::{
    Barrier, Deadlock, Divergence, Fence, InFlight, Instruction, Misaligned, OutOfBounds, Overlap, Race,
    Uninitialised,
};

/// Mistakes of `exchange.cu` by number, and as what they may be found: an unordered read can come before the write or after it.
const EXCHANGE: [&[Kind]; 16] = [
    &[Race, Uninitialised],
    &[Race],
    &[Race],
    &[OutOfBounds],
    &[OutOfBounds],
    &[Uninitialised],
    &[Misaligned],
    &[Divergence, Race, Uninitialised],
    &[Divergence],
    &[Race, Uninitialised],
    &[Race],
    &[Race],
    &[Deadlock],
    &[Deadlock],
    &[Barrier],
    &[Barrier],
];

/// Of `lanes.cu`.
const LANES: [&[Kind]; 17] = [
    &[Divergence],
    &[Divergence],
    &[Divergence],
    &[Divergence],
    &[Divergence],
    &[Race],
    &[Uninitialised],
    &[Misaligned],
    &[OutOfBounds],
    &[OutOfBounds],
    &[Race, Uninitialised],
    &[Divergence],
    &[Instruction],
    &[Divergence],
    &[Race, Uninitialised],
    &[Divergence],
    &[OutOfBounds],
];

const STREAM: [&[Kind]; 6] = [
    &[InFlight],
    &[InFlight, Race, Uninitialised],
    &[InFlight, Race],
    &[InFlight, Race],
    &[OutOfBounds],
    &[Misaligned],
];

const MATRIX: [&[Kind]; 4] = [&[Misaligned], &[Divergence], &[Race, Uninitialised], &[OutOfBounds]];

const HOPPER: [&[Kind]; 27] = [
    &[Race, InFlight, Barrier],
    &[InFlight, Race, Uninitialised],
    &[Race],
    &[InFlight],
    &[Fence],
    &[Race, Uninitialised],
    &[Deadlock],
    &[Deadlock],
    &[Fence],
    &[Race, Barrier],
    &[Fence],
    &[Deadlock, Barrier, Race, InFlight],
    &[InFlight],
    &[Race, InFlight],
    &[Misaligned],
    &[Race],
    &[Instruction],
    &[Instruction],
    &[OutOfBounds],
    &[OutOfBounds],
    &[Fence],
    &[Barrier],
    &[Barrier],
    &[Instruction],
    &[Instruction],
    &[Race],
    &[Instruction],
];

const PHASES: [&[Kind]; 6] =
    [&[Instruction], &[Race], &[Race, Uninitialised, Barrier], &[Race], &[Barrier], &[Barrier]];

const CLUSTER: [&[Kind]; 18] = [
    &[Race, Barrier],
    &[InFlight],
    &[Race, InFlight, Barrier],
    &[Deadlock],
    &[Instruction],
    &[Race],
    &[Race],
    &[InFlight, Race, Uninitialised],
    &[Deadlock, Race, InFlight, Uninitialised, Barrier],
    &[Race, InFlight, Barrier],
    &[OutOfBounds],
    &[Instruction],
    &[Barrier],
    &[Barrier],
    &[Deadlock, Barrier],
    &[Fence],
    &[Race],
    &[InFlight],
];

/// The last one, while every access is checked, is found by what it overwrites.
const BOXES: [&[Kind]; 4] = [&[Instruction], &[Barrier], &[Barrier], &[Race, InFlight]];

const OVERLAP: [&[Kind]; 9] = [&[Overlap]; 9];

const NEIGHBOURS: [&[Kind]; 3] = [&[Race], &[Race], &[Race]];

#[test]
fn exchange_through_shared_memory() {
    check("exchange", &EXCHANGE, exchange);
}

#[test]
fn shuffles_votes_and_atomics() {
    check("lanes", &LANES, lanes);
}

#[test]
fn copies_in_two_buffers() {
    check("stream", &STREAM, stream);
}

#[test]
fn matrices_of_a_warp() {
    check("matrix", &MATRIX, matrix);
}

#[test]
fn bulk_copies_and_products_of_a_warpgroup() {
    check("hopper", &HOPPER, hopper);
}

#[test]
fn phases_of_mbarriers() {
    check("phases", &PHASES, phases);
}

/// A tensor map that promises more rows than its buffer has: the copies that believe it are told, with the kernel's line.
#[test]
fn a_map_of_more_than_the_buffer() {
    const DEPTH: usize = 5 * 64;
    let (values, rows) = (small_numbers(128 * DEPTH, 11), 63);
    let (mut x, mut y) = (Buffer::of(&values[..rows * DEPTH]), Buffer::of(&values));
    let mut out = Buffer::poisoned(64 * 128);
    let maps = [map(x.address(), 64, DEPTH), map(y.address(), 128, DEPTH), map(out.address(), 64, 128)];
    let params = TestParams { count: 5, ..TestParams::zeroed() };
    let grid = Grid { blocks: [1, 1, 1], threads: [256, 1, 1], shared_bytes: 2 * 24_576 + 16_384 + 32 };
    for config in runs::all() {
        let regions = [x.region(), y.region(), out.region()];
        let failure = launch("test_hopper_0", grid, &params, &maps, &regions, config).expect_err("row 63");
        assert_eq!(failure.kind, OutOfBounds, "{failure}");
        assert!(failure.to_string().contains(" at hopper_sm90a.cu:"), "{failure}");
    }
}

/// What `cuTensorMapEncodeTiled` refuses, or the instruction.
#[test]
fn maps_that_no_device_takes() {
    let (x_values, y_values) = (small_numbers(64 * 320, 11), small_numbers(128 * 320, 13));
    let (mut x, mut y, mut out) = (Buffer::of(&x_values), Buffer::of(&y_values), Buffer::poisoned(64 * 128));
    let good = map(x.address(), 64, 320);
    let with = |change: &dyn Fn(&mut TensorMap)| {
        let mut bad = good;
        change(&mut bad);
        bad
    };
    let maps = [
        (with(&|map| map.rank = 3), "another number of dimensions"),
        (with(&|map| map.address += 8), "address is no multiple of 16"),
        (with(&|map| map.sizes[1] = 0), "1 to 2^32 elements"),
        (with(&|map| map.strides[0] += 8), "a stride is a multiple of 16 bytes"),
        (with(&|map| map.strides[0] = 1 << 40), "below 2^40"),
        (with(&|map| map.box_sizes[1] = 257), "1 to 256 elements"),
        (with(&|map| map.box_sizes[0] = 128), "wider than the swizzle"),
        (with(&|map| map.box_sizes[0] = 60), "no multiple of 16 bytes"),
        (with(&|map| map.swizzle_bytes = 16), "0, 32, 64 or 128 bytes"),
        (with(&|map| map.element_bytes = 1), "2 or 4 bytes"),
    ];
    let params = TestParams { out: out.address(), count: 5, ..TestParams::zeroed() };
    let grid = Grid { blocks: [1, 1, 1], threads: [256, 1, 1], shared_bytes: 2 * 24_576 + 16_384 + 32 };
    for (bad, text) in maps {
        let maps = [bad, map(y.address(), 128, 320), map(out.address(), 64, 128)];
        let regions = [x.region(), y.region(), out.region()];
        let failure = launch("test_hopper_0", grid, &params, &maps, &regions, Config::default());
        let failure = failure.expect_err(text);
        assert!(failure.kind == Instruction && failure.text.contains(text), "{failure}");
    }
}

#[test]
fn boxes_of_three_dimensions_and_the_most_that_an_mbarrier_counts() {
    check("boxes", &BOXES, boxes);
    for config in runs::all() {
        let failure = boxes("test_boxes_4", Config { checks: false, ..config }).expect_err("2^20 bytes");
        let told = "counts -1048576 bytes under way, and no more than 1048575 either way fit";
        assert!(failure.kind == Barrier && failure.text.contains(told), "{failure}");
    }
}

/// Of strides `cuTensorMapEncodeTiled` demands that each holds what lies inside of it, whole: the second can be wrong in three dimensions only.
#[test]
fn strides_that_no_device_takes() {
    type Change = fn(&mut TensorMap);
    let maps: [(Change, &str); 6] = [
        (|map| map.strides[0] = 144, "less than what lies inside"),
        (|map| map.strides[0] = 0, "less than what lies inside"),
        (|map| map.strides[1] = 640, "less than what lies inside"),
        (|map| map.strides[1] = 816, "no multiple of the one inside"),
        (|map| map.sizes[1] = 1 << 32, "less than what lies inside"),
        (|map| map.box_sizes[1..3].fill(256), "more bytes than shared memory"),
    ];
    for (change, text) in maps {
        let failure = boxes_with("test_boxes_0", Config::default(), change).expect_err(text);
        assert!(failure.kind == Instruction && failure.text.contains(text), "{failure}");
    }
    // As far apart as one likes, but by whole rows.
    boxes_with("test_boxes_0", Config::default(), |map| {
        map.sizes[2] = 4;
        map.strides[1] = 960;
    })
    .expect("a box of four planes");
}

#[test]
fn multicast_and_barriers_of_a_cluster() {
    check("cluster", &CLUSTER, cluster);
    for config in runs::all() {
        if let Err(failure) = cluster("test_cluster_barrier", config) {
            panic!("{config:?}: {failure}");
        }
    }
}

#[test]
fn neighbours_of_a_cluster() {
    check("neighbours", &NEIGHBOURS, neighbours);
}

#[test]
fn launches_that_overlap() {
    check("overlap", &OVERLAP, overlap);
    for config in runs::all() {
        for name in ["test_overlap_one_waits", "test_overlap_between"] {
            if let Err(failure) = overlap(name, config) {
                panic!("{name}, {config:?}: {failure}");
            }
        }
    }
}

#[test]
fn bulk_copies_of_launches_that_overlap() {
    check("overlap_bulk", &OVERLAP[..4], overlap);
}

/// The launch between has let the next one begin before it waited itself, so that one may begin before the launch two before has ended.
#[test]
fn a_launch_overlaps_all_since_the_last_that_did_not() {
    let mut buffers = OverlapBuffers::new();
    let mut stream = Stream::default();
    buffers.launch(&mut stream, "test_overlap_first", Start::Behind).expect("clean");
    buffers.launch(&mut stream, "test_overlap_between", Start::Overlapping).expect("clean");
    let failure =
        buffers.launch(&mut stream, "test_overlap_2", Start::Overlapping).expect_err("an early read");
    assert_eq!(failure.kind, Overlap);
    let text = failure.to_string();
    assert!(
        text.starts_with("Overlap in test_overlap_2, block (0, 0, 0), thread 0, at overlap.cu:"),
        "{text}"
    );
    let told = "read of byte 0 of buffer 1 before the wait for the launches before: test_overlap_first, 2 before this one, may still run \
                and has written it in block 0 (counted through); the other is at overlap.cu:";
    assert!(text.contains(told), "{text}");
}

/// Whoever waits for a launch that never waited does not know that those before it are over.
#[test]
fn a_launch_that_never_waits_hides_those_before_it() {
    let mut buffers = OverlapBuffers::new();
    let mut stream = Stream::default();
    let never = "test_overlap_never_waits";
    buffers.launch(&mut stream, never, Start::Overlapping).expect("nothing is before it");
    buffers.launch(&mut stream, "test_overlap_first", Start::Behind).expect("clean");
    let failure = buffers.launch(&mut stream, never, Start::Overlapping).expect_err("hidden");
    assert!(failure.kind == Overlap && failure.text.contains("none of its threads has waited"), "{failure}");
    assert!(failure.to_string().contains(" at overlap.cu:"), "{failure}");
}

#[test]
fn what_is_over_may_be_touched_at_once() {
    let mut buffers = OverlapBuffers::new();
    let mut stream = Stream::default();
    buffers.launch(&mut stream, "test_overlap_first", Start::Behind).expect("clean");
    stream.finish();
    buffers.launch(&mut stream, "test_overlap_2", Start::Overlapping).expect("a copy lies between");
    buffers.launch(&mut stream, "test_overlap_2", Start::Behind).expect("it does not overlap");
    let failure =
        buffers.launch(&mut stream, "test_overlap_3", Start::Overlapping).expect_err("an early write");
    assert!(failure.text.contains("has read it") || failure.text.contains("has written it"), "{failure}");
}

#[test]
fn before_the_wait_nothing_is_known_to_be_free() {
    let mut buffers = OverlapBuffers::new();
    let mut stream = Stream::behind_anything();
    let failure = buffers.launch(&mut stream, "test_overlap_0", Start::Overlapping).expect_err("its weights");
    assert!(failure.kind == Overlap && failure.text.contains("may have touched it"), "{failure}");
    buffers.launch(&mut stream, "test_overlap_0", Start::Behind).expect("it does not overlap");
}

#[test]
fn a_grid_is_whole_clusters() {
    assert_eq!(emu::cluster_blocks("test_cluster_0"), Some(2));
    assert_eq!((emu::cluster_blocks("test_hopper_0"), emu::cluster_blocks("test_none")), (Some(1), None));
    let values = [0.0_f32; 3 * 256];
    let params = TestParams { x: address(&values), out: address(&values), count: 0, padding: 0 };
    let grid = |blocks, threads| Grid { blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared_bytes: 0 };
    let refused = |grid, text: &str| {
        let failure =
            launch("test_neighbours_0", grid, &params, &[], &[Region::of(&values)], Config::default());
        let failure = failure.expect_err("no such launch");
        assert_eq!(failure.kind, Kind::Launch);
        assert!(failure.text.contains(text), "{failure}");
    };
    refused(grid(3, 128), "3 blocks in x are no multiple of the cluster's 2");
    refused(grid(2, 96), "whole warpgroups");
}

/// What a device refuses, the emulator refuses too.
#[test]
fn grids_that_no_device_takes() {
    let values = [0.0_f32; 256];
    let params = TestParams { x: address(&values), out: address(&values), count: 0, padding: 0 };
    for (blocks, threads) in
        [([1, 65_536, 1], [128, 1, 1]), ([1, 1, 65_536], [128, 1, 1]), ([1; 3], [1, 1, 128])]
    {
        let grid = Grid { blocks, threads, shared_bytes: 0 };
        let failure =
            launch("test_exchange_0", grid, &params, &[], &[Region::of(&values)], Config::default())
                .expect_err("too many");
        assert_eq!(failure.kind, Kind::Launch, "{failure}");
        assert!(failure.text.contains("at most are allowed"), "{failure}");
    }
}

#[test]
fn failures_in_a_cluster_name_the_block() {
    let failure = neighbours("test_neighbours_1", Config::default()).expect_err("a race");
    let other = format!("of block rank {}", 1 - failure.block[0] % 2);
    assert!(failure.text.contains(&other), "{failure}");
}

/// Both accesses, by whom, to which bytes.
#[test]
fn a_race_between_blocks_names_both() {
    let failure = exchange("test_exchange_11", Config::default()).expect_err("both write the same row");
    let text = failure.to_string();
    assert!(text.starts_with("Race in test_exchange_11, block (1, 0, 0), thread "), "{text}");
    assert!(text.contains(": write of byte ") && text.contains(" of buffer 1, which warp "), "{text}");
    assert!(text.contains(" of block (0, 0, 0) has written: nothing orders the two"), "{text}");
}

/// What docs/EMULATOR.md tells the reader to break at and to launch.
#[test]
fn the_document_names_kernels_that_exist() {
    let (text, kernels) = (include_str!("../../docs/EMULATOR.md"), emu::kernels());
    let named = |mark: &str, end: char| -> Vec<String> {
        let parts = text.split(mark).skip(1).filter_map(|rest| rest.split_once(end));
        parts.map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with("emu::")).collect()
    };
    let names =
        [named("(gdb) break ", ' '), named("emu::launch(\"", '"'), named("stream.launch(\"", '"')].concat();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().all(|name| kernels.contains(name)), "{names:?}");
}

/// Launches a variant by its name, and compares what it wrote where it was clean.
type Run = fn(&str, Config) -> Result<Report, Failure>;

/// Runs the right variant, which must be clean and right, and every wrong one, which must be found.
fn check(family: &str, mistakes: &[&[Kind]], run: Run) {
    for config in runs::all() {
        if let Err(failure) = run(&format!("test_{family}_0"), config) {
            panic!("{config:?}: {failure}");
        }
        for (index, kinds) in mistakes.iter().enumerate() {
            let name = format!("test_{family}_{}", index + 1);
            let Err(failure) = run(&name, config) else { panic!("{name} was not found with {config:?}") };
            assert!(kinds.contains(&failure.kind), "{name} with {config:?}, expected {kinds:?}: {failure}");
            assert_names_everything(&failure, family, &name);
        }
    }
}

/// Kernel, block, thread, source line; and of two accesses that collide the other one's line too.
fn assert_names_everything(failure: &Failure, family: &str, name: &str) {
    let text = failure.to_string();
    // A launch that overlaps another one may meet that one's lines.
    let files = family.trim_end_matches("_bulk");
    let is_line = |place: &str| {
        let line = place.split_once(".cu:").map(|(_, line)| line);
        place.contains(files) && line.is_some_and(|line| line.starts_with(|c: char| c.is_ascii_digit()))
    };
    let place = failure.place.expect("a place").to_string();
    assert!(is_line(&place), "{name}: {place} is no line of it");
    let [x, y, z] = failure.block;
    let head = format!(
        "{:?} in {name}, block ({x}, {y}, {z}), thread {}, at {place}: ",
        failure.kind, failure.thread
    );
    assert!(text.starts_with(&head), "{text}\ndoes not begin with {head}");
    let other = failure.other.map(|other| other.place.to_string());
    let has_two = matches!(failure.kind, Race | Overlap);
    assert!(!has_two || other.as_deref().is_some_and(is_line), "{text}\nnames one access");
}

/// Each thread has an emulator of its own: what is right stays right, and what is wrong is told with the same words, whatever others launch meanwhile.
#[test]
fn launches_on_several_threads_know_nothing_of_each_other() {
    let config = Config { seed: 3, ..Config::default() };
    let runs: [(&str, Run); 6] = [
        ("test_exchange_0", exchange),
        ("test_exchange_1", exchange),
        ("test_stream_4", stream),
        ("test_hopper_0", hopper),
        ("test_hopper_3", hopper),
        ("test_cluster_9", cluster),
    ];
    let told =
        |result: Result<Report, Failure>| result.map(|report| report.switches).map_err(|f| f.to_string());
    let alone = runs.map(|(name, run)| told(run(name, config)));
    assert_eq!(alone.iter().filter(|result| result.is_ok()).count(), 2);
    let start = std::sync::Barrier::new(runs.len());
    std::thread::scope(|scope| {
        let threads = runs.map(|(name, run)| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                std::array::from_fn::<_, 5, _>(|_| told(run(name, config)))
            })
        });
        for (thread, alone) in threads.into_iter().zip(alone) {
            let results = thread.join().expect("no panic");
            assert!(results.iter().all(|result| *result == alone), "{results:?}\nalone: {alone:?}");
        }
    });
}

/// Launches, and compares what it wrote where it was clean.
fn launch(
    name: &str,
    grid: Grid,
    params: &TestParams,
    maps: &[TensorMap],
    regions: &[Region],
    config: Config,
) -> Result<Report, Failure> {
    // SAFETY: the addresses are those of the caller's buffers, which outlive the launch; the regions name them all and checks are on.
    unsafe { emu::launch(name, grid, bytes_of(params), maps, regions, config) }
}

fn exchange(name: &str, config: Config) -> Result<Report, Failure> {
    let x: Vec<f32> = (0..256_u16).map(f32::from).collect();
    let mut out = vec![f32::NAN; 256];
    let params = TestParams { x: address(&x), out: address_mut(&mut out), count: 2, padding: 0 };
    let grid = Grid { blocks: [2, 1, 1], threads: [128, 1, 1], shared_bytes: 0 };
    let report = launch(name, grid, &params, &[], &[Region::of(&x), Region::of(&out)], config)?;
    for (index, got) in out.iter().enumerate() {
        let (row, mirror) = (index / 128 * 128, 127 - index % 128);
        assert_eq!(*got, x[row + mirror] + x[row + (mirror ^ 1)], "{name}: element {index}");
    }
    Ok(report)
}

/// The numbers of `lanes.cu`, by the definitions of the CUDA programming guide.
fn lanes(name: &str, config: Config) -> Result<Report, Failure> {
    const OPERATIONS: usize = 14;
    let x: Vec<u32> = (0..128).map(|index| index * 37 % 127).collect();
    let mut out = vec![u32::MAX; OPERATIONS * 128 + 4];
    let totals = [0, 0, 0, i32::MIN.cast_unsigned()];
    out[OPERATIONS * 128..].copy_from_slice(&totals);
    let params = TestParams { x: address(&x), out: address_mut(&mut out), count: 0, padding: 0 };
    let grid = Grid { blocks: [2, 1, 1], threads: [64, 1, 1], shared_bytes: 0 };
    let report = launch(name, grid, &params, &[], &[Region::of(&x), Region::of(&out)], config)?;
    for thread in 0..128 {
        let expected = lanes_of(&x, thread);
        let got: Vec<u32> = (0..OPERATIONS).map(|k| out[k * 128 + thread]).collect();
        assert_eq!(got, expected, "{name}: thread {thread}");
    }
    let sum: u32 = x.iter().sum();
    let totals = &out[OPERATIONS * 128..];
    assert_eq!([totals[0], totals[1].wrapping_neg()], [sum; 2]);
    assert_eq!(f64::from(f32::from_bits(totals[2])) * 2.0, f64::from(sum), "halves are exact");
    assert_eq!(totals[3].cast_signed(), 126 - 1000);
    Ok(report)
}

/// What one thread is told.
fn lanes_of(x: &[u32], thread: usize) -> Vec<u32> {
    let (lane, warp, block) = (thread % 32, &x[thread / 32 * 32..][..32], &x[thread / 64 * 64..][..64]);
    // Out of its segment a lane gets its own value.
    let own = warp[lane];
    let segment = |width: usize| lane / width * width;
    let ballot = |of: &dyn Fn(usize) -> bool| (0..32).map(|i| u32::from(of(i)) << i).sum::<u32>();
    let (half, bit) = if lane < 16 { (0..16, 2) } else { (16..32, 4) };
    let largest = block.iter().max().expect("64");
    let smallest = block.iter().min().expect("64");
    let union = block.iter().fold(0, |all, x| all | x);
    let common = block.iter().fold(u32::MAX, |all, x| all & (x | 0x100));
    vec![
        warp[(lane * 5 + 3) % 32],
        warp[segment(8) + (lane + 3) % 8],
        if lane >= 3 { warp[lane - 3] } else { own },
        if lane % 16 + 5 < 16 { warp[lane + 5] } else { own },
        if lane ^ 9 < segment(8) + 8 { warp[lane ^ 9] } else { own },
        ballot(&|i| warp[i] % 2 == 1),
        u32::from(warp.contains(&40)),
        u32::from(warp.iter().all(|x| *x < 120)),
        ballot(&|i| half.contains(&i) && warp[i] & bit != 0),
        largest * 1000 + smallest,
        union * 1000 + common,
        64,
        block.iter().sum(),
        warp[lane ^ 8],
    ]
}

fn stream(name: &str, config: Config) -> Result<Report, Failure> {
    const TILES: usize = 5;
    // 16 bytes aligned, as cp.async wants it.
    let x: Vec<[u128; 128]> = (0..TILES).map(|tile| std::array::from_fn(|i| piece(tile * 128 + i))).collect();
    let mut out = vec![[0_u128; 128]; 1];
    let count = u32::try_from(TILES).expect("small");
    let params = TestParams { x: address(&x), out: address_mut(&mut out), count, padding: 0 };
    let grid = Grid { blocks: [1, 1, 1], threads: [128, 1, 1], shared_bytes: 4096 };
    let report = launch(name, grid, &params, &[], &[Region::of(&x), Region::of(&out)], config)?;
    for (index, piece) in out[0].iter().enumerate() {
        let got: [f32; 4] = bytemuck::cast(*piece);
        let sum =
            |i: usize| (0..TILES).map(|tile| bytemuck::cast::<_, [f32; 4]>(x[tile][index])[i]).sum::<f32>();
        assert_eq!(got, std::array::from_fn(sum), "{name}: piece {index}");
    }
    Ok(report)
}

fn piece(index: usize) -> u128 {
    let number = u16::try_from(index % 97).expect("small");
    bytemuck::cast([f32::from(number), f32::from(number) + 1.0, -f32::from(number), 0.5])
}

fn matrix(name: &str, config: Config) -> Result<Report, Failure> {
    let values = small_numbers(64 * 16, 11);
    let (mut x, mut out) = (Buffer::of(&values), Buffer::poisoned(64 * 8));
    let params = TestParams { x: x.address(), out: out.address(), count: 0, padding: 0 };
    let grid = Grid { blocks: [1, 1, 1], threads: [128, 1, 1], shared_bytes: 2048 };
    let report = launch(name, grid, &params, &[], &[x.region(), out.region()], config)?;
    for (index, got) in out.values().iter().enumerate() {
        let (row, column) = (index / 8, index / 8 / 16 * 16 + index % 8);
        assert_eq!(*got, product(&values, row, &values, column, 16), "{name}: element {index}");
    }
    Ok(report)
}

fn hopper(name: &str, config: Config) -> Result<Report, Failure> {
    const TILES: usize = 5;
    const DEPTH: usize = TILES * 64;
    let (x_values, y_values) = (small_numbers(64 * DEPTH, 11), small_numbers(128 * DEPTH, 13));
    let (mut x, mut y, mut out) = (Buffer::of(&x_values), Buffer::of(&y_values), Buffer::poisoned(64 * 128));
    let maps = [map(x.address(), 64, DEPTH), map(y.address(), 128, DEPTH), map(out.address(), 64, 128)];
    let count = u32::try_from(TILES).expect("small");
    let params = TestParams { out: out.address(), count, ..TestParams::zeroed() };
    let grid = Grid { blocks: [1, 1, 1], threads: [256, 1, 1], shared_bytes: 2 * 24_576 + 16_384 + 32 };
    let report = launch(name, grid, &params, &maps, &[x.region(), y.region(), out.region()], config)?;
    for (index, got) in out.values().iter().enumerate() {
        let expected = product(&x_values, index / 128, &y_values, index % 128, DEPTH);
        assert_eq!(*got, expected, "{name}: element {index}");
    }
    Ok(report)
}

fn phases(name: &str, config: Config) -> Result<Report, Failure> {
    const ROUNDS: usize = 5;
    let (x, mut out) = (small_numbers(ROUNDS * 64, 97), vec![f32::NAN; 64]);
    let count = u32::try_from(ROUNDS).expect("small");
    let params = TestParams { x: address(&x), out: address_mut(&mut out), count, padding: 0 };
    let grid = Grid { blocks: [1, 1, 1], threads: [64, 1, 1], shared_bytes: 0 };
    let report = launch(name, grid, &params, &[], &[Region::of(&x), Region::of(&out)], config)?;
    for (index, got) in out.iter().enumerate() {
        let sum: f32 = x.chunks(64).map(|round| round[63 - index] + round[index ^ 1]).sum();
        assert_eq!(*got, sum, "{name}: element {index}");
    }
    Ok(report)
}

fn cluster(name: &str, config: Config) -> Result<Report, Failure> {
    const TILES: usize = 5;
    const DEPTH: usize = TILES * 64;
    let (x_values, y_values) = (small_numbers(128 * DEPTH, 11), small_numbers(128 * DEPTH, 13));
    let (mut x, mut y, mut out) = (Buffer::of(&x_values), Buffer::of(&y_values), Buffer::poisoned(128 * 128));
    let maps = [x.address(), y.address()]
        .map(|address| TensorMap { box_sizes: [64, 64, 0, 0, 0], ..map(address, 128, DEPTH) });
    let count = u32::try_from(TILES).expect("small");
    let params = TestParams { out: out.address(), count, ..TestParams::zeroed() };
    let grid = Grid { blocks: [2, 1, 1], threads: [256, 1, 1], shared_bytes: 2 * 24_576 + 32 };
    let report = launch(name, grid, &params, &maps, &[x.region(), y.region(), out.region()], config)?;
    let bytes = (x_values.len() + y_values.len()) as u64 * 2;
    assert_eq!(report.global_bytes_read, bytes, "{name}: what goes to both blocks is read once");
    for (index, got) in out.values().iter().enumerate() {
        let expected = product(&x_values, index / 128, &y_values, index % 128, DEPTH);
        assert_eq!(*got, expected, "{name}: element {index}");
    }
    Ok(report)
}

fn neighbours(name: &str, config: Config) -> Result<Report, Failure> {
    let mut x: Vec<f32> = (0..1024_u16).map(f32::from).collect();
    let mut out = vec![f32::NAN; 512];
    let params = TestParams { x: address_mut(&mut x), out: address_mut(&mut out), count: 0, padding: 0 };
    let grid = Grid { blocks: [4, 1, 1], threads: [128, 1, 1], shared_bytes: 0 };
    let report = launch(name, grid, &params, &[], &[Region::of(&x), Region::of(&out)], config)?;
    for (index, got) in out.iter().enumerate() {
        assert_eq!(*got, x[index ^ 128] + x[index ^ 32], "{name}: element {index}");
    }
    Ok(report)
}

fn boxes(name: &str, config: Config) -> Result<Report, Failure> {
    boxes_with(name, config, |_| ())
}

/// With another map than that of 6 planes of 5 rows of 40 floats.
fn boxes_with(name: &str, config: Config, change: fn(&mut TensorMap)) -> Result<Report, Failure> {
    // Aligned as TMA wants it.
    let mut x = vec![[0_u128; 10]; 6 * 5];
    bytemuck::cast_slice_mut(&mut x).copy_from_slice(&small_numbers(6 * 5 * 40, 997));
    let mut out = vec![f32::NAN; 4 * 4 * 32];
    let mut map = TensorMap {
        address: address_mut(&mut x),
        sizes: [40, 5, 6, 0, 0],
        strides: [160, 800, 0, 0],
        box_sizes: [32, 4, 4, 0, 0],
        rank: 3,
        element_bytes: 4,
        swizzle_bytes: 0,
    };
    change(&mut map);
    let params = TestParams { x: map.address, out: address_mut(&mut out), count: 0, padding: 0 };
    let grid = Grid { blocks: [1, 1, 1], threads: [128, 1, 1], shared_bytes: 2048 + 16 };
    let report = launch(name, grid, &params, &[map], &[Region::of(&x), Region::of(&out)], config)?;
    let x: &[f32] = bytemuck::cast_slice(&x);
    for (index, got) in out.iter().enumerate() {
        let plane = usize::try_from(map.strides[1]).expect("small") / 4;
        assert_eq!(
            *got,
            x[index / 128 * plane + index / 32 % 4 * 40 + index % 32],
            "{name}: element {index}"
        );
    }
    Ok(report)
}

/// What `overlap.cu` and `overlap_bulk_sm90a.cu` work on, in two blocks.
struct OverlapBuffers {
    x: Vec<f32>,
    /// Doubled values, sums, weights; aligned as TMA wants it.
    out: Vec<[u128; 64]>,
}

impl OverlapBuffers {
    const COUNT: usize = 256;

    fn new() -> Self {
        let mut out = vec![[0_u128; 64]; 3];
        bytemuck::cast_slice_mut(&mut out)[2 * Self::COUNT..]
            .copy_from_slice(&small_numbers(Self::COUNT, 11));
        Self { x: small_numbers(Self::COUNT, 13), out }
    }

    fn launch(&mut self, stream: &mut Stream, name: &str, start: Start) -> Result<Report, Failure> {
        self.launch_with(stream, name, Config { start, ..Config::default() })
    }

    fn launch_with(&mut self, stream: &mut Stream, name: &str, config: Config) -> Result<Report, Failure> {
        let params = TestParams {
            x: address_mut(&mut self.x),
            out: address_mut(&mut self.out),
            ..TestParams::zeroed()
        };
        let is_bulk = name.contains("bulk");
        let maps = [params.out, params.out + 1024].map(Self::map);
        let grid =
            Grid { blocks: [2, 1, 1], threads: [128, 1, 1], shared_bytes: if is_bulk { 1032 } else { 0 } };
        let regions = [Region::of(&self.x), Region::of(&self.out)];
        let maps = if is_bulk { &maps[..] } else { &[] };
        // SAFETY: the addresses are those of buffers that outlive the launch; the regions name them all and checks are on.
        unsafe { stream.launch(name, grid, bytes_of(&params), maps, &regions, config) }
    }

    /// Rows of 32 floats, four in a box.
    fn map(address: u64) -> TensorMap {
        TensorMap {
            address,
            sizes: [32, Self::COUNT as u64 / 32, 0, 0, 0],
            strides: [128, 0, 0, 0],
            box_sizes: [32, 4, 0, 0, 0],
            rank: 2,
            element_bytes: 4,
            swizzle_bytes: 0,
        }
    }
}

/// The launch behind `test_overlap_first`, which it overlaps.
fn overlap(name: &str, config: Config) -> Result<Report, Failure> {
    let mut buffers = OverlapBuffers::new();
    let (x, mut stream) = (buffers.x.clone(), Stream::default());
    buffers.launch_with(&mut stream, "test_overlap_first", config)?;
    let report = buffers.launch_with(&mut stream, name, Config { start: Start::Overlapping, ..config })?;
    let out: &[f32] = bytemuck::cast_slice(&buffers.out);
    let (doubled, rest) = out.split_at(OverlapBuffers::COUNT);
    let (sums, weights) = rest.split_at(OverlapBuffers::COUNT);
    for (index, x) in x.iter().enumerate() {
        let sum = if name == "test_overlap_between" { weights[index] } else { 2.0 * x + weights[index] };
        assert_eq!((doubled[index], sums[index]), (2.0 * x, sum), "{name}: element {index}");
    }
    Ok(report)
}

/// A matrix of 64-column boxes that hold all rows, in the 128-byte swizzle.
fn map(address: u64, rows: usize, columns: usize) -> TensorMap {
    TensorMap {
        address,
        sizes: [columns as u64, rows as u64, 0, 0, 0],
        strides: [columns as u64 * 2, 0, 0, 0],
        box_sizes: [64, u32::try_from(rows).expect("small"), 0, 0, 0],
        rank: 2,
        element_bytes: 2,
        swizzle_bytes: 128,
    }
}

/// Whole numbers so small that their products' sums are exact in f32, whatever the order.
pub(crate) fn small_numbers(count: usize, modulus: usize) -> Vec<f32> {
    (0..count).map(|index| f32::from(u16::try_from(index * 37 % modulus).expect("small")) - 5.0).collect()
}

fn product(x: &[f32], row: usize, y: &[f32], column: usize, depth: usize) -> f32 {
    let exact: f32 = (0..depth).map(|k| x[row * depth + k] * y[column * depth + k]).sum();
    bf16::from_f32(exact).to_f32()
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

pub(crate) fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}
