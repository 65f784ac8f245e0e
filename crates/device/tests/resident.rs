//! What the operating system sees of device memory. Alone in its process, since the figures are the process's.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind, View};
use lighterage_shape::{DType, Layout};

const BYTES: usize = 64 << 20;

fn resident_shared_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn device_mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("lighterage")).count()
}

#[test]
fn device_memory_is_shared_memory_and_goes_with_its_chunk() {
    let device =
        Device::new(Host::new(HostConfig::default()).unwrap(), Ledger::new(2 * BYTES as u64), Ledger::new(0));
    let before = resident_shared_bytes();
    for _ in 0..3 {
        let stream = device.stream(StreamKind::Compute).unwrap();
        let range = device.reserve(2 * BYTES as u64).unwrap();
        let chunk = device.create(Purpose::Activations, BYTES as u64).unwrap();
        range.map(0, &chunk).unwrap();
        range.set_access(0, BYTES as u64).unwrap();
        assert_eq!(device_mappings(), 1);
        // SAFETY: the range is mapped until the stream has been waited for, and this stream alone uses it.
        let view =
            unsafe { View::new(range.address(), Layout::contiguous(DType::U8, &[BYTES]), stream.id()) };
        stream.fill(view, 1).unwrap();
        stream.synchronize().unwrap();
        let now = resident_shared_bytes() - before;
        // The kernel counts resident pages per thread and may be 64 pages behind for each.
        assert!(now.abs_diff(BYTES as u64) < 4 << 20, "{now} bytes");
        range.unmap(0, BYTES as u64).unwrap();
        drop(chunk);
        assert!(resident_shared_bytes() - before < 4 << 20);
        assert_eq!(device_mappings(), 0);
        // The pages are gone, not just unmapped: a second chunk of the same size starts as zero in new pages, and the file holds nothing.
        assert_eq!(held_bytes(), 0);
    }
}

/// Bytes of pages that the device's file holds, mapped or not.
fn held_bytes() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let ours = files
        .filter(|path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("lighterage")));
    ours.map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
}
