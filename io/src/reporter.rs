//! Writes the core's reports to the log and counts them.

use std::{collections::BTreeMap, path::PathBuf};

use downbeat_core::{
    CellId, Record, Report,
    celestia::FalseNamespaces,
    command::{Chain, Level, Subject},
    light::ConflictingHeaders,
    sequencer::FalseBlock,
};
use serde::Serialize;
use tracing::{debug, error, info, warn};

/// What happened since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub soft_heads: u64,
    pub firm_heads: u64,
    pub blocks_executed: u64,
    /// Elements of executed blocks.
    pub transactions_executed: u64,
    /// Verifications that ended, whatever they found.
    pub verifications: u64,
    pub failed_calls: u64,
    pub sessions_opened: u64,
    pub sessions_lost: u64,
    pub gaps: u64,
    /// Proofs that validators of the sequencer signed twice.
    pub conflicts: u64,
    /// Proofs that Celestia's node or the sequencer's service answered what a signed header contradicts.
    pub falsehoods: u64,
    /// Where evidence is written to; what is short goes into the log unless given.
    #[serde(skip)]
    pub(crate) evidence_dir: Option<PathBuf>,
    pub parked: BTreeMap<CellId, String>,
    pub dropped: BTreeMap<Subject, u64>,
}

impl Counters {
    /// Logs and counts one report. A warning that repeats is written for its 1st, 2nd, 4th, 8th … attempt only.
    pub(crate) fn take(&mut self, report: Report) {
        match report {
            Report::ChainIdentified { chain, chain_id } => {
                let chain = match chain {
                    Chain::Sequencer => "sequencer",
                    Chain::Celestia => "Celestia",
                };
                info!("{chain} is {chain_id}, as expected");
            }
            Report::SessionOpened { cell, session_id, rollup_id, soft, firm } => {
                self.sessions_opened += 1;
                info!("{cell}: session {session_id:?} of rollup {rollup_id} is open, soft {soft}, firm {firm}");
            }
            Report::SessionLost { cell, reason, delay_ms } => {
                self.sessions_lost += 1;
                warn!("{cell}: the session is lost, another will be opened in {delay_ms} ms: {reason}");
            }
            Report::SessionFinished { cell, last } => {
                info!("{cell}: the session ended with its last block {last}, the next one follows");
            }
            Report::HeadMoved { cell, level, number, hash, block_hash, height } => {
                let level = match level {
                    Level::Soft => {
                        self.soft_heads += 1;
                        "soft"
                    }
                    Level::Firm => {
                        self.firm_heads += 1;
                        "firm"
                    }
                };
                debug!("{cell}: {level} is {number} ({hash}), from sequencer block {height} ({block_hash})");
            }
            Report::Dropped { what, at, reason } => {
                *self.dropped.entry(what).or_default() += 1;
                debug!("dropped {} at {at}: {reason}", what.name());
            }
            Report::CallFailed { what, attempt, retry_in_ms, reason } => {
                self.failed_calls += 1;
                if attempt <= 1 || attempt.is_power_of_two() {
                    warn!("{what} failed (try {attempt}), next try in {retry_in_ms} ms: {reason}");
                } else {
                    debug!("{what} failed (try {attempt}), next try in {retry_in_ms} ms: {reason}");
                }
            }
            Report::Gap { cell, missing, from, to, reason } => {
                self.gaps += 1;
                warn!(
                    "{cell}: firm cannot go on: sequencer block {missing} is not on Celestia from {from} to {to}, \
                     which is the whole look-ahead window: {reason}"
                );
            }
            Report::TrustedOnFirstUse { height, hash, node } => {
                warn!(
                    "no root of trust is configured: the sequencer's header {height} ({hash}) of CometBFT node {} is \
                     believed, and from now on only what follows from it; compare it with a source that you trust",
                    node.0
                );
            }
            Report::CelestiaTrustedOnFirstUse { height, hash } => {
                warn!(
                    "no root of trust is configured for Celestia: its header {height} ({hash}) is believed, and from now \
                     on only what follows from it; compare it with a source that you trust"
                );
            }
            Report::Conflict { evidence, node } => {
                self.conflicts += 1;
                let place = self.keep(&evidence_name(&evidence), evidence.to_json());
                let place = place.unwrap_or_else(|| evidence.to_json());
                error!(
                    "CometBFT node {} proves that the sequencer's validators signed two headers of height {}; the \
                     evidence, for `downbeat inspect evidence`: {place}",
                    node.0, evidence.height,
                );
            }
            Report::FalseNamespaces { evidence } => {
                self.falsehoods += 1;
                let FalseNamespaces { height, reason, .. } = evidence.as_ref();
                let place = self.keep(&falsehood_name(&evidence), evidence.to_json());
                error!(
                    "the Celestia node's answer about height {height} is proven to be false ({reason}): its validators \
                     signed a header that contradicts it; the evidence, for `downbeat inspect evidence`: {}",
                    place.as_deref().unwrap_or("not kept without data_dir")
                );
            }
            Report::FalseBlock { evidence } => {
                self.falsehoods += 1;
                let FalseBlock { height, reason, .. } = evidence.as_ref();
                let place = self.keep(&false_block_name(&evidence), evidence.to_json());
                error!(
                    "a soft block of height {height} is proven to be false ({reason}): the sequencer's validators signed a \
                     header that contradicts what its service answered; the evidence, for `downbeat inspect evidence`: {}",
                    place.as_deref().unwrap_or("not kept without data_dir")
                );
            }
            Report::Parked { cell, reason } => {
                error!("{cell}: parked, it will do nothing until the process is restarted: {reason}");
                self.parked.insert(cell, reason);
            }
        }
    }

    /// Evidence of an earlier life whose file is not there: the process may have ended before it was written.
    pub(crate) fn keep_again(&self, records: &[Record]) {
        for record in records {
            let (name, json) = match record {
                Record::SequencerConflict(evidence) => (evidence_name(evidence), evidence.to_json()),
                Record::FalseNamespaces(evidence) => (falsehood_name(evidence), evidence.to_json()),
                Record::FalseBlock(evidence) => (false_block_name(evidence), evidence.to_json()),
                Record::SequencerHeader(_) | Record::CelestiaHeader(_) => continue,
            };
            if self.evidence_dir.as_ref().is_some_and(|dir| !dir.join(&name).exists()) {
                self.keep(&name, json);
            }
        }
    }

    /// Writes evidence to a file of its own, for people, and returns its path.
    fn keep(&self, name: &str, json: String) -> Option<String> {
        let path = self.evidence_dir.as_ref()?.join(name);
        match std::fs::write(&path, json) {
            Ok(()) => Some(path.display().to_string()),
            Err(error) => {
                error!("{}: {error}", path.display());
                None
            }
        }
    }
}

fn evidence_name(evidence: &ConflictingHeaders) -> String {
    format!("evidence-{}.json", evidence.height)
}

fn falsehood_name(evidence: &FalseNamespaces) -> String {
    format!("evidence-celestia-{}-{}.json", evidence.height, evidence.reason)
}

fn false_block_name(evidence: &FalseBlock) -> String {
    format!("evidence-sequencer-{}-{}.json", evidence.height, evidence.reason)
}
