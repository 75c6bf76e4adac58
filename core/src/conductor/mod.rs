//! The state machine's front door: routes facts to those who wait for them, then plans what to wish for next.
//!
//! State holds observations only. What has to be done is derived from it after each event, so that no wake-up can be
//! lost: work that is pending is either in flight, due at a deadline, or waiting for something that is.

mod celestia;
mod facts;
mod false_blocks;
mod gauges;
mod gossip;
mod plan;
mod status;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::Arc,
};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

use crate::{
    calls::{Calls, Expects, Purpose},
    celestia::{Falsehood, Scanner, Trusting as CelestiaTrusting},
    cell::{Cell, CellSpec, State},
    command::{Command, Outbox, Subject},
    event::{Event, Refusal, Stamped},
    fault::Fault,
    gossip::{Gossip, GossipSettings},
    ids::{CellId, Seq},
    light::ConflictingHeaders,
    limits::Limits,
    record::Record,
    retry::Attempt,
    sequencer::{Follower, Headers, Trusting},
    time::Timestamp,
};

pub use gauges::Gauge;

use false_blocks::FalseBlocks;

/// Consumes events, emits commands. See the crate documentation.
#[derive(Clone, Debug)]
pub struct Conductor {
    limits: Arc<Limits>,
    rng: ChaCha8Rng,
    next_seq: Seq,
    now: Timestamp,
    calls: Calls,
    follower: Follower,
    headers: Headers,
    scanner: Scanner,
    /// None with `celestia_trust = "endpoint"`.
    celestia: Option<CelestiaTrusting>,
    /// None where nothing is taken from peers.
    gossip: Option<Gossip>,
    cells: BTreeMap<CellId, Cell>,
    dropped: BTreeMap<Subject, u64>,
    stop: Stop,
    /// An earlier life found that validators signed twice, and nobody has said which chain is the right one.
    conflict: Option<Box<ConflictingHeaders>>,
    /// What evidence against Celestia's node is kept already: more of the same would only fill the disk.
    falsehoods: BTreeSet<Falsehood>,
    /// The same against the sequencer's service, and what may become such evidence.
    false_blocks: FalseBlocks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Waiting, at most until then, for calls that have an effect.
    Stopping(Timestamp),
    /// `Exit` was emitted.
    Done,
}

/// What falls due at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A call has had no answer for too long.
    CallOverdue(&'static str),
    /// A call that failed, or that is repeated regularly, is due again.
    CallDue(&'static str),
    /// A requested stop no longer waits.
    StopGrace,
}

/// Digest of a conductor's whole state: equal states, equal digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash(pub [u8; 32]);

impl Conductor {
    /// `seed` feeds every random choice: jitter, and the incarnation that tells this life's commands from others'.
    /// `records` are what an earlier life persisted, in any order.
    pub fn new(limits: Limits, seed: [u8; 32], records: &[Record]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let incarnation = rng.next_u64();
        let conflict = Trusting::unresolved(&limits, records);
        let celestia = CelestiaTrusting::restored(&limits, records);
        let headers = Headers::new(Trusting::restored(&limits, records));
        let takes_gossip = limits.gossip.enabled && GossipSettings::check(&limits).is_ok();
        // Without a server nobody is asked for the chain's name.
        let chain_id = limits.gossip.sole_source_of.clone().filter(|_| takes_gossip);
        Self {
            limits: Arc::new(limits),
            rng,
            next_seq: Seq(0),
            now: Timestamp::ZERO,
            calls: Calls::new(incarnation),
            follower: Follower { chain_id, ..Follower::default() },
            headers,
            scanner: Scanner::default(),
            celestia,
            gossip: takes_gossip.then(Gossip::default),
            cells: BTreeMap::new(),
            dropped: BTreeMap::new(),
            stop: Stop::No,
            conflict,
            falsehoods: celestia::falsehoods(records),
            false_blocks: FalseBlocks::restored(records),
        }
    }

    /// Takes one event and appends what follows from it to `out`.
    ///
    /// # Errors
    /// If the event is refused; it counts in the sequence (unless it is out of it), and nothing is known after it but
    /// that time has passed.
    pub fn handle(&mut self, input: &Stamped, out: &mut Outbox) -> Result<(), Refusal> {
        if input.seq != self.next_seq {
            return Err(Refusal::OutOfSequence { expected: self.next_seq, got: input.seq });
        }
        self.next_seq = Seq(self.next_seq.0.saturating_add(1));
        self.now = self.now.max(input.at);
        if self.stop == Stop::Done {
            return Ok(());
        }
        let result = self.take(&input.event, out);
        // Whatever became of the event, time has passed: what fell due with it must not be overlooked.
        for id in self.calls.overdue(self.now) {
            if let Some(pending) = self.calls.give_up(id) {
                out.push(Command::Cancel { id });
                self.failed(pending.purpose, &Fault::transient("no answer before the deadline"), out);
            }
        }
        self.plan(out);
        result
    }

    fn take(&mut self, event: &Event, out: &mut Outbox) -> Result<(), Refusal> {
        match event {
            Event::CellInstalled { cell, spec } => self.install(*cell, spec.clone(), out)?,
            Event::DeadlineReached => {}
            Event::Answered { id, answer } => self.answered(*id, answer, out)?,
            Event::Failed { id, fault } => {
                let pending = self.calls.get(*id).ok_or(Refusal::UnknownCommand(*id))?;
                if pending.expects == Expects::Outcome {
                    return Err(Refusal::WrongAnswer(*id));
                }
                let purpose = pending.purpose;
                self.calls.take(*id);
                self.failed(purpose, fault, out);
            }
            Event::JobFinished { id, outcome } => self.job_finished(*id, outcome, out)?,
            Event::StopRequested => {
                if self.stop == Stop::No {
                    self.stop = Stop::Stopping(self.now.after(self.limits.stop_grace));
                }
            }
            Event::Gossiped { handle, peer, topic, bytes } => self.gossiped(*handle, *peer, *topic, bytes, out),
        }
        Ok(())
    }

    /// The earliest moment at which [`Event::DeadlineReached`] has to be delivered, with its reason.
    pub fn next_deadline(&self) -> Option<(Timestamp, Timer)> {
        let mut earliest: Option<(Timestamp, Timer)> = None;
        let mut consider = |at: Timestamp, timer: Timer| {
            if earliest.is_none_or(|(known, _)| at < known) {
                earliest = Some((at, timer));
            }
        };
        match self.stop {
            Stop::Done => return None,
            Stop::Stopping(at) => consider(at, Timer::StopGrace),
            Stop::No => {}
        }
        if let Some((at, purpose)) = self.calls.next_deadline() {
            consider(at, Timer::CallOverdue(purpose.name()));
        }
        // What is due already waits for room, and room comes with an event.
        let mut due = |attempt: &Attempt, name: &'static str| {
            if let Some(at) = attempt.due().filter(|at| *at > self.now) {
                consider(at, Timer::CallDue(name));
            }
        };
        if self.follower.chain_id.is_none() {
            due(&self.follower.identify, Purpose::SequencerIdentity.name());
        }
        if !self.asks_peers_only() {
            due(&self.follower.head_poll, Purpose::SequencerHead.name());
        }
        due(&self.scanner.head_poll, Purpose::CelestiaHead.name());
        for slot in self.follower.slots.values() {
            due(&slot.attempt, "soft block");
        }
        for want in self.headers.wanted.values() {
            due(&want.attempt, "sequencer header");
        }
        for links in self.headers.links.values() {
            due(&links.attempt, "sequencer headers");
        }
        for attempt in self.headers.trusting.iter().flat_map(|trusting| trusting.witnesses.attempts()) {
            due(attempt, "witness");
        }
        if let Some(attempt) = self.false_blocks.attempt() {
            due(attempt, Purpose::FalseBlockHeader.name());
        }
        for transactions in self.headers.transactions.values() {
            due(&transactions.attempt, "sequencer block data");
        }
        for read in self.scanner.reads.values() {
            due(&read.attempt, "celestia blobs");
        }
        if let Some(trusting) = &self.celestia {
            for step in trusting.steps.values() {
                due(&step.attempt, "celestia header");
            }
            for links in trusting.links.values() {
                due(&links.attempt, "celestia headers");
            }
            if let Some(until) = trusting.waits_until {
                due(&Attempt::due_at(until), "celestia header");
            }
        }
        if let Some(gossip) = &self.gossip {
            for ask in gossip.asks.values() {
                due(&ask.attempt, "block of a peer");
            }
            let silent_at = gossip.silent_at().filter(|_| self.asks_peers_only());
            for at in silent_at.into_iter().chain(gossip.next_verdict()) {
                due(&Attempt::due_at(at), "message");
            }
        }
        for cell in self.cells.values() {
            match &cell.state {
                State::Opening => due(&cell.opening, "execution session"),
                State::Running(running) => {
                    if let Some(step) = &running.step {
                        due(&step.attempt, "call to the rollup");
                    }
                }
                State::Parked(_) | State::Stopped => {}
            }
        }
        earliest
    }

    /// Commands that wait for an answer.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Digest of the whole state. For simulations and replays; costs time in proportion to the state.
    pub fn state_hash(&self) -> StateHash {
        struct Sink(Sha256);
        impl fmt::Write for Sink {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.update(text.as_bytes());
                Ok(())
            }
        }
        let mut sink = Sink(Sha256::new());
        // Debug output of ordered collections and integers is canonical; writing to a digest cannot fail.
        let _ = write!(sink, "{self:?}");
        StateHash(sink.0.finalize().into())
    }

    fn install(&mut self, cell: CellId, spec: CellSpec, out: &mut Outbox) -> Result<(), Refusal> {
        if self.cells.contains_key(&cell) {
            return Err(Refusal::CellExists(cell));
        }
        if self.cells.len() >= self.limits.cells {
            return Err(Refusal::TooManyCells(self.limits.cells));
        }
        self.cells.insert(cell, Cell::new(cell, spec));
        if let Some(conflict) = &self.conflict {
            let reason = trust::conflict_reason(conflict);
            self.with_cell(cell, out, |cell, ctx| cell.park(reason, ctx));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
