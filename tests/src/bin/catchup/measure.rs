//! What one run took, read from outside of the client, and what several runs say together.

use std::{fs, io, time::Duration};

use serde::Serialize;

use crate::{client::Kind, world::Workload};

/// One client's run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) kind: Kind,
    pub(crate) round: u32,
    /// From the opening of the session until the last commitment.
    pub(crate) seconds: f64,
    pub(crate) blocks_per_second: f64,
    /// User and system time of the whole process.
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_seconds_per_1000_blocks: f64,
    pub(crate) peak_mib: f64,
    pub(crate) blocks: u64,
    /// Requests that the peers were asked, by method.
    pub(crate) requests: std::collections::BTreeMap<String, u64>,
}

impl Run {
    /// Requests by these methods, for each block.
    fn asked(&self, methods: &[&str]) -> f64 {
        let count: u64 = methods.iter().filter_map(|method| self.requests.get(*method)).sum();
        double(count) / double(self.blocks)
    }

    pub(crate) fn new(kind: Kind, round: u32, workload: Workload, elapsed: Duration, used: Used) -> Self {
        let blocks = double(workload.blocks);
        let cpu_seconds = used.cpu.as_secs_f64();
        Self {
            kind,
            round,
            seconds: elapsed.as_secs_f64(),
            blocks_per_second: blocks / elapsed.as_secs_f64(),
            cpu_seconds,
            cpu_seconds_per_1000_blocks: cpu_seconds / blocks * 1_000.0,
            peak_mib: f64::from(used.peak_kib) / 1_024.0,
            blocks: workload.blocks,
            requests: std::collections::BTreeMap::new(),
        }
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    cpu: Duration,
    peak_kib: u32,
}

/// The unit of times in `/proc/PID/stat`, the same on every Linux that user programs see.
const TICKS_PER_SECOND: u32 = 100;

impl Used {
    /// Of a running process.
    pub(crate) fn by(pid: u32) -> io::Result<Self> {
        let odd = |file: &str| io::Error::other(format!("/proc/{pid}/{file} has another form than expected"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything; user and system time are the 12th and 13th field behind it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).ok_or_else(|| odd("stat"))?;
        let ticks = fields.skip(11).take(2).map(str::parse::<u32>).sum::<Result<u32, _>>().map_err(|_| odd("stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        Ok(Self {
            cpu: Duration::from_secs(1) * ticks / TICKS_PER_SECOND,
            peak_kib: peak.ok_or_else(|| odd("status"))?,
        })
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) blocks_per_second: f64,
    pub(crate) speed_ratio: Option<f64>,
    pub(crate) cpu_seconds_per_1000_blocks: f64,
    pub(crate) cpu_ratio: Option<f64>,
    /// The largest of all rounds.
    pub(crate) peak_mib: f64,
    /// Speed by that of the same mode with `trust = "endpoint"`.
    pub(crate) endpoint_ratio: Option<f64>,
    /// Commits that were fetched and checked, for 1,000 blocks.
    pub(crate) commits_per_1000_blocks: f64,
    /// Requests for headers, commits, validators and data items, for each block.
    pub(crate) requests_per_block: f64,
}

/// What a CometBFT node is asked for beside the block data that every client fetches.
const BESIDE: [&str; 4] = ["commit", "validators", "blockchain", "block"];

/// Sums up the runs of each kind. Ratios compare runs of the same round.
pub(crate) fn rows(kinds: &[Kind], runs: &[Run]) -> Vec<Row> {
    let of = |kind: Kind| runs.iter().filter(move |run| run.kind == kind);
    let row = |kind: &Kind| {
        let kind = *kind;
        let ratio_to = |other: Option<Kind>, value: fn(&Run) -> f64| {
            let other = |round| of(other?).find(|run| run.round == round);
            median(of(kind).filter_map(|run| Some(value(run) / value(other(run.round)?))).collect())
        };
        let ratio = |value| ratio_to(kind.bare(), value);
        Some(Row {
            kind,
            blocks_per_second: median(of(kind).map(|run| run.blocks_per_second).collect())?,
            speed_ratio: ratio(|run| run.blocks_per_second),
            cpu_seconds_per_1000_blocks: median(of(kind).map(|run| run.cpu_seconds_per_1000_blocks).collect())?,
            cpu_ratio: ratio(|run| run.cpu_seconds),
            peak_mib: of(kind).map(|run| run.peak_mib).fold(0.0, f64::max),
            endpoint_ratio: ratio_to(kind.endpoint(), |run| run.blocks_per_second),
            commits_per_1000_blocks: 1_000.0 * median(of(kind).map(|run| run.asked(&["commit"])).collect())?,
            requests_per_block: median(of(kind).map(|run| run.asked(&BESIDE)).collect())?,
        })
    };
    kinds.iter().filter_map(row).collect()
}

/// Of a small number.
fn double(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(low.midpoint(*high))
}
