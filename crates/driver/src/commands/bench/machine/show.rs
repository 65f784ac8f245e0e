//! The report as tables.

use std::io::Write;

use super::Report;
use super::beside::BesideWork;
use super::chain::Chain;
use super::events::Events;
use super::graphs::Graphs;
use super::joined::{Dropped, Flagged, Joined};
use super::memory::{MappingRun, MemoryCalls};
use super::paged::Paged;
use super::pieces::Pieces;
use super::rates::Rates;
use crate::count::counted;
use crate::failure::Result;
use crate::size::Size;
use crate::table::{self, Align};

impl Report {
    pub(super) fn print(&self) -> Result<()> {
        let out = &mut crate::output::stdout();
        writeln!(out, "{}", self.device)?;
        if let Some(rates) = &self.rates {
            table::print(out, &[Align::Left, Align::Right], &rates.rows())?;
        }
        if let Some(calls) = &self.memory_calls {
            let head = ["memory", "pieces there", "create", "map", "set access", "unmap", "destroy"];
            print(out, head, calls.iter().map(MemoryCalls::row))?;
        }
        if let Some(runs) = &self.mapping_runs {
            let head = ["maps of a page", "map", "set access at once", "one by one", "unmap"];
            print(out, head, runs.iter().map(MappingRun::row))?;
        }
        if let Some(events) = &self.events {
            print(out, ["event", "idle", "behind work"], events.rows())?;
        }
        if let Some(calls) = &self.beside_work {
            let head = ["memory call", "idle", "beside work", "of work", "it waits"];
            print(out, head, calls.iter().map(BesideWork::row))?;
        }
        if let Some(pieces) = &self.pieces {
            print(out, ["pieces of", "copy GB/s", "bf16 GFLOP/s"], pieces.iter().map(Pieces::row))?;
        }
        if let Some(Graphs { chain, joined, dropped, flagged, paged }) = &self.graphs {
            writeln!(out, "{}\n{}\n{}", chain.text(), joined.text(), dropped.text())?;
            writeln!(out, "{}\n{}", flagged.text(), paged.text())?;
        }
        Ok(())
    }
}

fn print<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<()> {
    let rows = [head.map(str::to_owned)].into_iter().chain(rows).map(Vec::from);
    writeln!(out)?;
    Ok(table::print(out, &[Align::Right; N], &rows.collect::<Vec<_>>())?)
}

impl Rates {
    fn rows(&self) -> Vec<Vec<String>> {
        let giga = |rate: Option<f64>, unit: &str| {
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1} {unit}", rate / 1e9))
        };
        let rows = [
            ("copy on the device, read and written", giga(self.copy_bytes_per_second, "GB/s")),
            ("fill", giga(self.fill_bytes_per_second, "GB/s")),
            ("page-locked memory to device", giga(self.pinned_to_device_bytes_per_second, "GB/s")),
            ("other memory to device", giga(self.pageable_to_device_bytes_per_second, "GB/s")),
            ("device to other memory", giga(self.device_to_host_bytes_per_second, "GB/s")),
            ("page-locking", giga(self.page_locking_bytes_per_second, "GB/s")),
            ("bf16 product", giga(self.gemm_bf16_flops_per_second, "GFLOP/s")),
            ("queueing a fill", micro(self.queue_seconds)),
        ];
        rows.into_iter().map(|(what, figure)| vec![what.to_owned(), figure]).collect()
    }
}

impl MemoryCalls {
    fn row(&self) -> [String; 7] {
        [
            Size(self.bytes).to_string(),
            self.handles.to_string(),
            micro(self.create_seconds),
            micro(self.map_seconds),
            micro(self.set_access_seconds),
            micro(self.unmap_seconds),
            micro(self.destroy_seconds),
        ]
    }
}

impl MappingRun {
    fn row(&self) -> [String; 5] {
        [
            self.maps.to_string(),
            micro(self.map_seconds),
            micro(self.set_access_once_seconds),
            micro(self.set_access_each_seconds),
            micro(self.unmap_seconds),
        ]
    }
}

impl Events {
    fn rows(&self) -> [[String; 3]; 3] {
        let row = |call: &str, idle: f64, pending: Option<f64>| {
            [call.to_owned(), micro(idle), pending.map_or_else(|| "-".to_owned(), micro)]
        };
        [
            row("record", self.record_seconds, self.record_pending_seconds),
            row("query", self.query_seconds, self.query_pending_seconds),
            row("wait of a stream", self.wait_seconds, self.wait_pending_seconds),
        ]
    }
}

impl BesideWork {
    fn row(&self) -> [String; 5] {
        let waits = match self.waits {
            Some(true) => "yes",
            Some(false) => "no",
            None => "the work had ended",
        };
        [
            self.call.name().to_owned(),
            micro(self.idle_seconds),
            micro(self.beside_seconds),
            micro(self.work_seconds),
            format!(
                "{waits} ({} of {})",
                self.pending_before - self.pending_after,
                counted(self.pending_before, "round")
            ),
        ]
    }
}

impl Pieces {
    fn row(&self) -> [String; 3] {
        let giga = |rate: f64| format!("{:.1}", rate / 1e9);
        [
            Size(self.piece_bytes).to_string(),
            giga(self.copy_bytes_per_second),
            self.gemm_flops_per_second.map_or_else(|| "-".to_owned(), giga),
        ]
    }
}

impl Chain {
    fn text(&self) -> String {
        let bits = if self.same_bits { "the same bits" } else { "OTHER BITS" };
        format!(
            "\ngraph of {} launches: {bits}; a launch takes {} ({} of the host), one by one {} ({})",
            self.launches,
            micro(self.graph_seconds),
            micro(self.graph_host_seconds),
            micro(self.direct_seconds),
            micro(self.direct_host_seconds),
        )
    }
}

impl Joined {
    fn text(&self) -> String {
        let [there, back] = self.both_ways;
        format!(
            "graphs joined by an event: in order {} of {}, {} with the waiting one launched first; both ways {there} there, {back} back",
            self.recorder_first,
            counted(self.replays, "time"),
            self.waiter_first,
        )
    }
}

impl Dropped {
    fn text(&self) -> String {
        let [before, after] = self.was_running.map(|running| if running { "runs" } else { "had ended" });
        let end = if self.finished { "came to its end" } else { "DID NOT END" };
        format!("graph that {before} when it is dropped and {after} behind that: {end}")
    }
}

impl Flagged {
    fn text(&self) -> String {
        let ([there, back], replays) = (self.found, self.replays);
        format!("graphs joined by flags, both ways: {there} there, {back} back of {replays}")
    }
}

impl Paged {
    fn text(&self) -> String {
        let bits = if self.replayed_same_bits { "the same bits" } else { "OTHER BITS" };
        format!(
            "step of {} units, {} of them streamed, as two graphs: {bits}; {} ({} of the host), call by call {} ({})",
            self.units,
            Size(self.streamed_bytes_per_step),
            micro(self.graph_seconds),
            micro(self.graph_host_seconds),
            micro(self.direct_seconds),
            micro(self.direct_host_seconds),
        )
    }
}

fn micro(seconds: f64) -> String {
    format!("{:.2} us", seconds * 1e6)
}
