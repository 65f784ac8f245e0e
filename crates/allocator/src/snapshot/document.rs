//! PyTorch's schema, filled in. The names are those that `torch/cuda/_memory_viz.py` and `MemoryViz.js` read (torch 2.15).

use super::sink::Sink;
use super::{BlockState, Segment, SegmentBlock, Snapshot};
use crate::caching::{Action, Event};

/// The only device.
const DEVICE: i64 = 0;
/// The stream of segments, as it is that of events of what is mapped: all streams share them, and the viewer joins only what is of one stream.
const SHARED: i64 = 0;

pub(super) fn write(snapshot: &Snapshot, to: &mut impl Sink) {
    to.open_dict();
    to.key("segments");
    to.open_list();
    for segment in &snapshot.segments {
        to.item();
        write_segment(snapshot, segment, to);
    }
    to.close_list();
    to.key("device_traces");
    to.open_list();
    to.item();
    write_events(snapshot, to);
    to.close_list();
    to.key("allocator_settings");
    write_settings(snapshot, to);
    to.key("external_annotations");
    write_marks(snapshot, to);
    to.key("lighterage_statistics");
    write_statistics(snapshot, to);
    to.close_dict();
}

fn write_segment(snapshot: &Snapshot, segment: &Segment, to: &mut impl Sink) {
    let sum = |of: fn(&SegmentBlock) -> u64| segment.blocks.iter().map(of).sum::<u64>();
    let allocated = sum(|block| if block.state == BlockState::Allocated { block.bytes } else { 0 });
    let active = sum(|block| if block.state == BlockState::Free { 0 } else { block.bytes });
    to.open_dict();
    to.key("device");
    to.int(DEVICE);
    to.key("address");
    to.count(segment.address);
    to.key("total_size");
    to.count(segment.bytes);
    to.key("allocated_size");
    to.count(allocated);
    to.key("active_size");
    to.count(active);
    to.key("requested_size");
    to.count(sum(|block| block.requested));
    to.key("stream");
    to.int(SHARED);
    to.key("segment_type");
    to.text(if segment.is_small { "small" } else { "large" });
    to.key("segment_pool_id");
    to.pair([0, 0]);
    to.key("is_expandable");
    to.bool(true);
    to.key("frames");
    to.open_list();
    to.close_list();
    to.key("blocks");
    to.open_list();
    for block in &segment.blocks {
        to.item();
        write_block(snapshot, block, to);
    }
    to.close_list();
    to.close_dict();
}

fn write_block(snapshot: &Snapshot, block: &SegmentBlock, to: &mut impl Sink) {
    to.open_dict();
    to.key("address");
    to.count(block.address);
    to.key("size");
    to.count(block.bytes);
    to.key("requested_size");
    to.count(block.requested);
    to.key("state");
    to.text(match block.state {
        BlockState::Allocated => "active_allocated",
        BlockState::Pending => "active_pending_free",
        BlockState::Free => "inactive",
    });
    to.key("frames");
    let tag = if block.state == BlockState::Free { 0 } else { block.tag };
    write_frames(snapshot, tag, to);
    to.close_dict();
}

fn write_events(snapshot: &Snapshot, to: &mut impl Sink) {
    to.open_list();
    for (number, event) in (snapshot.first_event..).zip(&snapshot.events) {
        let actions: &[&'static str] = match event.action {
            Action::Alloc => &["alloc"],
            // The viewer makes one of these two.
            Action::Free => &["free_requested", "free_completed"],
            Action::FreeRequested => &["free_requested"],
            Action::FreeCompleted => &["free_completed"],
            Action::Map => &["segment_map"],
            Action::Unmap => &["segment_unmap"],
            Action::Oom => &["oom"],
            Action::Mark => &[],
        };
        for action in actions {
            to.item();
            write_event(snapshot, (action, number), event, to);
        }
    }
    to.close_list();
}

fn write_event(
    snapshot: &Snapshot,
    (action, number): (&'static str, u64),
    event: &Event,
    to: &mut impl Sink,
) {
    to.open_dict();
    to.key("action");
    to.text(action);
    to.key(if event.action == Action::Oom { "device_free" } else { "addr" });
    to.count(event.address);
    to.key("size");
    to.count(event.bytes);
    to.key("stream");
    to.int(event.stream.into());
    to.key("time_us");
    to.count(number);
    to.key("frames");
    write_frames(snapshot, event.tag, to);
    to.close_dict();
}

/// A stack of one frame, named by the tag; none where there is no tag.
fn write_frames(snapshot: &Snapshot, tag: u16, to: &mut impl Sink) {
    to.shared(tag, |to| {
        to.open_list();
        if tag != 0 {
            to.item();
            to.open_dict();
            to.key("name");
            to.text(snapshot.tags.get(usize::from(tag)).copied().unwrap_or("-"));
            to.key("filename");
            to.text("");
            to.key("line");
            to.int(0);
            to.close_dict();
        }
        to.close_list();
    });
}

fn write_settings(snapshot: &Snapshot, to: &mut impl Sink) {
    to.open_dict();
    to.key("PYTORCH_CUDA_ALLOC_CONF");
    to.text(&snapshot.settings.to_string());
    to.key("expandable_segments");
    to.bool(true);
    to.key("release_lock_on_cudamalloc");
    to.bool(true);
    to.key("max_split_size");
    to.int(-1);
    to.key("garbage_collection_threshold");
    to.float(0.0);
    to.key("pinned_num_register_threads");
    to.int(1);
    to.key("pinned_use_cuda_host_register");
    to.bool(false);
    to.key("roundup_power2_divisions");
    to.open_dict();
    to.close_dict();
    to.close_dict();
}

fn write_marks(snapshot: &Snapshot, to: &mut impl Sink) {
    to.open_list();
    for (number, event) in (snapshot.first_event..).zip(&snapshot.events) {
        if event.action == Action::Mark {
            to.item();
            to.open_dict();
            to.key("name");
            to.text(&format!("mark {}", event.address));
            to.key("stage");
            to.text("START");
            to.key("device");
            to.int(DEVICE);
            to.key("time_us");
            to.count(number);
            to.close_dict();
        }
    }
    to.close_list();
}

fn write_statistics(snapshot: &Snapshot, to: &mut impl Sink) {
    to.open_dict();
    for (name, value) in snapshot.statistics.by_name() {
        to.key(&name);
        to.count(value);
    }
    to.close_dict();
}
