//! The state machine's front door: routes facts to those who wait for them, then plans what to wish for next.
//!
//! State holds observations only. What has to be done is derived from it after each event, so that no wake-up can be
//! lost: work that is pending is either in flight, due at a deadline, or waiting for something that is.

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
    celestia::{Dropped, Joiner, Lack, Namespace, Scanner},
    cell::{Cell, CellSpec, Context, State, Work, report_failure},
    command::{Call, Chain, Command, Exit, Level, Outbox, Report, Subject},
    event::{Answer, Event, Refusal, Stamped},
    fault::Fault,
    ids::{CelestiaHeight, CellId, CommandId, RollupId, Seq, SequencerHeight},
    job::{DecodeBlobs, DecodedBlobs, Job, JobOutcome, Validators},
    limits::Limits,
    retry::{Attempt, backoff},
    sequencer::{Follower, Headers, Routes, Slot, SlotStage, SoftBlockRequest, Stage, Transactions, validators_hash},
    time::Timestamp,
    view::{CelestiaStatus, CellStatus, Head, Phase, SequencerStatus, Status, Wait},
};

/// Consumes events, emits commands. See the crate documentation.
#[derive(Debug)]
pub struct Conductor {
    limits: Arc<Limits>,
    rng: ChaCha8Rng,
    next_seq: Seq,
    now: Timestamp,
    calls: Calls,
    follower: Follower,
    headers: Headers,
    scanner: Scanner,
    cells: BTreeMap<CellId, Cell>,
    dropped: BTreeMap<Subject, u64>,
    stop: Stop,
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
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let incarnation = rng.next_u64();
        Self {
            limits: Arc::new(limits),
            rng,
            next_seq: Seq(0),
            now: Timestamp::ZERO,
            calls: Calls::new(incarnation),
            follower: Follower::default(),
            headers: Headers::default(),
            scanner: Scanner::default(),
            cells: BTreeMap::new(),
            dropped: BTreeMap::new(),
            stop: Stop::No,
        }
    }

    /// Takes one event and appends what follows from it to `out`.
    ///
    /// # Errors
    /// If the event is refused; it counts in the sequence (unless it is out of it) and changes nothing else.
    pub fn handle(&mut self, input: &Stamped, out: &mut Outbox) -> Result<(), Refusal> {
        if input.seq != self.next_seq {
            return Err(Refusal::OutOfSequence { expected: self.next_seq, got: input.seq });
        }
        self.next_seq = Seq(self.next_seq.0.saturating_add(1));
        self.now = self.now.max(input.at);
        if self.stop == Stop::Done {
            return Ok(());
        }
        match &input.event {
            Event::CellInstalled { cell, spec } => self.install(*cell, spec.clone())?,
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
        }
        for id in self.calls.overdue(self.now) {
            if let Some(pending) = self.calls.take(id) {
                out.push(Command::Cancel { id });
                self.failed(pending.purpose, &Fault::transient("no answer before the deadline"), out);
            }
        }
        self.plan(out);
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
        due(&self.follower.head_poll, Purpose::SequencerHead.name());
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
        for transactions in self.headers.transactions.values() {
            due(&transactions.attempt, "sequencer block data");
        }
        for read in self.scanner.reads.values() {
            due(&read.attempt, "celestia blobs");
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

    fn install(&mut self, cell: CellId, spec: CellSpec) -> Result<(), Refusal> {
        if self.cells.contains_key(&cell) {
            return Err(Refusal::CellExists(cell));
        }
        if self.cells.len() >= self.limits.cells {
            return Err(Refusal::TooManyCells(self.limits.cells));
        }
        self.cells.insert(cell, Cell::new(cell, spec));
        Ok(())
    }

    // ---- facts ----

    fn answered(&mut self, id: CommandId, answer: &Answer, out: &mut Outbox) -> Result<(), Refusal> {
        let purpose = self.calls.get(id).ok_or(Refusal::UnknownCommand(id))?.purpose;
        match (purpose, answer) {
            (Purpose::SequencerIdentity, Answer::SequencerIdentified { chain_id }) => {
                self.calls.take(id);
                self.sequencer_identified(chain_id, out);
            }
            (Purpose::SequencerHead, Answer::SequencerHeadFetched { height }) => {
                self.calls.take(id);
                self.follower.head_fetched(*height, self.now.after(self.limits.sequencer_poll));
            }
            (Purpose::SoftBlock(height), Answer::SoftBlockFetched { block }) => {
                self.calls.take(id);
                self.soft_block_fetched(height, block.clone(), out);
            }
            (Purpose::Header(height), Answer::SignedHeaderFetched { signed_header }) => {
                self.calls.take(id);
                if let Some(want) = self.headers.wanted.get_mut(&height) {
                    want.attempt.answered(self.now);
                    want.stage = Stage::Validators(signed_header.clone());
                }
            }
            (Purpose::Links(anchor), Answer::HeadersFetched { headers }) => {
                self.calls.take(id);
                self.headers_fetched(anchor, headers.clone(), out);
            }
            (Purpose::Validators(height), Answer::ValidatorsFetched { validators }) => {
                self.calls.take(id);
                if let Some(want) = self.headers.wanted.get_mut(&height) {
                    want.attempt.answered(self.now);
                    if let Stage::Validators(signed_header) = std::mem::take(&mut want.stage) {
                        want.stage = Stage::Verify(signed_header, validators.clone());
                    }
                }
            }
            (Purpose::Transactions(height), Answer::BlockTransactionsFetched { transactions }) => {
                self.calls.take(id);
                self.transactions_fetched(height, transactions.clone(), out);
            }
            (Purpose::CelestiaHead, Answer::CelestiaHeadFetched { head }) => {
                self.calls.take(id);
                let is_first = self.scanner.chain_id().is_none();
                match self.scanner.head_fetched(head.clone(), self.now, &self.limits) {
                    Ok(()) if is_first => {
                        out.report(Report::ChainIdentified { chain: Chain::Celestia, chain_id: head.chain_id.clone() });
                    }
                    Ok(()) => {}
                    Err(expected) => out.report(Report::CallFailed {
                        what: purpose.name(),
                        attempt: 1,
                        retry_in_ms: 0,
                        reason: format!("the node now serves chain {:?} instead of {expected:?}", head.chain_id),
                    }),
                }
            }
            (Purpose::Blobs(height), Answer::BlobsFetched { blobs, unreadable }) => {
                self.calls.take(id);
                if *unreadable > 0 {
                    *self.dropped.entry(Subject::Blob).or_default() += u64::from(*unreadable);
                }
                self.blobs_fetched(height, blobs, out);
            }
            (Purpose::Session(cell), Answer::SessionOpened { session }) => {
                self.calls.take(id);
                let session = session.as_ref().clone();
                self.with_cell(cell, out, |cell, ctx| cell.session_opened(session, ctx));
                self.forget_cell(cell, out);
            }
            (Purpose::Execute(cell), Answer::BlockExecuted { response }) => {
                self.calls.take(id);
                let response = response.as_ref().clone();
                self.with_cell(cell, out, |cell, ctx| cell.block_executed(response, ctx));
                self.forget_idle(cell, out);
            }
            (Purpose::Commit(cell), Answer::CommitmentUpdated { commitment }) => {
                self.calls.take(id);
                let commitment = commitment.as_ref().clone();
                self.with_cell(cell, out, |cell, ctx| cell.commitment_updated(commitment, ctx));
                self.forget_passed(cell, out);
            }
            (Purpose::ExecutedBlock(cell), Answer::ExecutedBlockFetched { metadata }) => {
                self.calls.take(id);
                let metadata = metadata.as_ref().clone();
                self.with_cell(cell, out, |cell, ctx| cell.block_looked_up(metadata, ctx));
                self.forget_idle(cell, out);
            }
            _ => return Err(Refusal::WrongAnswer(id)),
        }
        Ok(())
    }

    fn with_cell(&mut self, id: CellId, out: &mut Outbox, act: impl FnOnce(&mut Cell, &mut Context<'_>)) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let mut ctx = Context { now: self.now, limits: &self.limits, calls: &mut self.calls, rng: &mut self.rng, out };
        act(cell, &mut ctx);
    }

    fn sequencer_identified(&mut self, chain_id: &str, out: &mut Outbox) {
        if chain_id.is_empty() || chain_id.len() > self.limits.text_bytes {
            let fault = Fault::invalid(format!("the genesis has a chain id of {} bytes", chain_id.len()));
            return self.failed(Purpose::SequencerIdentity, &fault, out);
        }
        self.follower.identify.succeeded(self.now);
        self.follower.chain_id = Some(chain_id.to_owned());
        out.report(Report::ChainIdentified { chain: Chain::Sequencer, chain_id: chain_id.to_owned() });
    }

    fn soft_block_fetched(&mut self, height: SequencerHeight, block: bytes::Bytes, out: &mut Outbox) {
        let Some(slot) = self.follower.slots.get_mut(&height) else { return };
        let Some(chain_id) = self.follower.chain_id.clone() else { return };
        let rollup_ids: BTreeSet<RollupId> = slot.owners.values().copied().collect();
        slot.stage = SlotStage::Verifying(block.len());
        let request = SoftBlockRequest { height, chain_id, rollup_ids: rollup_ids.into_iter().collect() };
        let job = Job::VerifySoftBlock { block, request, limits: Arc::clone(&self.limits) };
        let id = self.calls.verify(Purpose::SoftBlockJob(height), job, out);
        slot.attempt.started(id);
    }

    fn headers_fetched(&mut self, anchor: SequencerHeight, headers: Vec<tendermint::block::Header>, out: &mut Outbox) {
        let Some(trusted) = self.headers.trusted(anchor).cloned() else {
            self.headers.links.remove(&anchor);
            return;
        };
        let Some(links) = self.headers.links.get_mut(&anchor) else { return };
        let job = Job::VerifyLinks { anchor: Box::new(trusted), first: links.first, headers };
        let id = self.calls.verify(Purpose::LinksJob(anchor), job, out);
        links.attempt.started(id);
    }

    fn transactions_fetched(&mut self, height: SequencerHeight, transactions: Vec<bytes::Bytes>, out: &mut Outbox) {
        let Some(header) = self.headers.trusted(height).cloned() else {
            self.headers.transactions.remove(&height);
            return;
        };
        let Some(pending) = self.headers.transactions.get_mut(&height) else { return };
        let job = Job::VerifyTransactions { header: Box::new(header), transactions };
        let id = self.calls.verify(Purpose::TransactionsJob(height), job, out);
        pending.attempt.started(id);
    }

    fn blobs_fetched(&mut self, height: CelestiaHeight, blobs: &[crate::event::Blob], out: &mut Outbox) {
        let Some(chain_id) = self.follower.chain_id.clone() else { return };
        self.scanner.fetched(blobs.iter().map(|blob| blob.data.len()).sum());
        let Some(read) = self.scanner.reads.get_mut(&height) else { return };
        for cell in &read.cells {
            if let Some(joiner) = self.cells.get_mut(cell).and_then(Cell::joiner_mut) {
                joiner.decoding(height, self.headers.evidence(joiner.next()));
            }
        }
        let cells: Vec<&Cell> = read.cells.iter().filter_map(|cell| self.cells.get(cell)).collect();
        let running = || cells.iter().filter_map(|cell| cell.running());
        let joiners = || running().filter_map(|running| running.joiner.as_ref());
        let first = joiners().map(|joiner| joiner.wanted(&self.limits).0).min();
        let last = joiners().map(|joiner| joiner.wanted(&self.limits).1).max();
        let (Some(first), Some(last)) = (first, last) else {
            self.scanner.reads.remove(&height);
            return;
        };
        let job = DecodeBlobs {
            blobs: blobs.to_vec(),
            sequencer: Namespace::of_sequencer(&chain_id),
            rollups: running().map(|running| running.session.rollup_id).collect(),
            wanted: (first, last),
            headers: self.headers.all_trusted().range(first..=last).map(|(h, header)| (*h, header.clone())).collect(),
            transactions: self.headers.known_transactions(first, last),
            bound: joiners().flat_map(Joiner::bound_without_data).collect(),
            limits: Arc::clone(&self.limits),
        };
        let id = self.calls.verify(Purpose::BlobsJob(height), Job::DecodeBlobs(Box::new(job)), out);
        read.decoding = true;
        read.attempt.started(id);
    }

    fn job_finished(&mut self, id: CommandId, outcome: &JobOutcome, out: &mut Outbox) -> Result<(), Refusal> {
        let purpose = self.calls.get(id).ok_or(Refusal::UnknownCommand(id))?.purpose;
        match (purpose, outcome) {
            (Purpose::SoftBlockJob(height), JobOutcome::SoftBlock(result)) => {
                self.calls.take(id);
                match result {
                    Ok(block) => self.follower.verified(height, block.clone()),
                    Err(reason) => {
                        self.drop_input(Subject::SoftBlock, format!("sequencer height {height}"), reason, out);
                        if let Some(slot) = self.follower.slots.get_mut(&height) {
                            slot.stage = SlotStage::Fetch;
                        }
                        self.failed(Purpose::SoftBlock(height), &Fault::invalid(reason.as_str()), out);
                    }
                }
            }
            (Purpose::HeaderJob(height), JobOutcome::Header(result)) => {
                self.calls.take(id);
                match result {
                    Ok(signed) => {
                        self.headers.verified(signed.header.clone(), Arc::clone(&signed.validators), &self.limits);
                        self.header_trusted(height, out);
                        let next = self.joiners().map(Joiner::next).collect();
                        self.headers.make_room(&next, &self.limits);
                    }
                    Err(refusal) => {
                        let at = format!("sequencer height {height}");
                        self.drop_input(refusal.subject, at, &refusal.reason, out);
                        self.failed(Purpose::Header(height), &Fault::invalid(refusal.reason.as_str()), out);
                    }
                }
            }
            (Purpose::LinksJob(anchor), JobOutcome::Links(result)) => {
                self.calls.take(id);
                match result {
                    Ok(headers) => {
                        self.headers.linked(anchor, headers);
                        for header in headers {
                            self.header_trusted(header.height(), out);
                        }
                        let next = self.joiners().map(Joiner::next).collect();
                        self.headers.make_room(&next, &self.limits);
                    }
                    Err(reason) => {
                        let at = format!("below sequencer height {anchor}");
                        self.drop_input(Subject::SignedHeader, at, reason, out);
                        self.failed(Purpose::Links(anchor), &Fault::invalid(reason.as_str()), out);
                    }
                }
            }
            (Purpose::TransactionsJob(height), JobOutcome::Transactions(result)) => {
                self.calls.take(id);
                match result {
                    Ok(items) => {
                        if let Some(pending) = self.headers.transactions.get_mut(&height) {
                            pending.items = Some(items.clone());
                        }
                        self.header_trusted(height, out);
                        if !self.joiners().any(|joiner| joiner.next() == height) {
                            self.headers.transactions.remove(&height);
                        }
                    }
                    Err(reason) => {
                        let at = format!("sequencer height {height}");
                        self.drop_input(Subject::BlockTransactions, at, reason, out);
                        self.failed(Purpose::Transactions(height), &Fault::invalid(reason.as_str()), out);
                    }
                }
            }
            (Purpose::BlobsJob(height), JobOutcome::Blobs(decoded)) => {
                self.calls.take(id);
                self.blobs_decoded(height, decoded, out);
            }
            _ => return Err(Refusal::WrongAnswer(id)),
        }
        Ok(())
    }

    fn blobs_decoded(&mut self, height: CelestiaHeight, decoded: &DecodedBlobs, out: &mut Outbox) {
        let at = format!("Celestia height {height}");
        for (subject, reason) in &decoded.dropped {
            self.drop_input(*subject, at.clone(), reason, out);
        }
        *self.dropped.entry(Subject::Metadata).or_default() += decoded.dropped_more;
        let Some(read) = self.scanner.reads.remove(&height) else { return };
        let mut dropped = Dropped::new();
        for cell in read.cells {
            if let Some(joiner) = self.cells.get_mut(&cell).and_then(Cell::joiner_mut) {
                joiner.read(height, decoded, self.headers.all_trusted(), &self.limits, &mut dropped);
            }
        }
        for (subject, reason) in dropped {
            self.drop_input(subject, at.clone(), &reason, out);
        }
    }

    /// Lets every cell judge its candidates for a height whose header is trusted now.
    fn header_trusted(&mut self, height: SequencerHeight, out: &mut Outbox) {
        let Some(header) = self.headers.trusted(height) else { return };
        let items = self.headers.transactions.get(&height).and_then(|pending| pending.items.as_deref());
        let mut dropped = Dropped::new();
        let mut needs_transactions = false;
        for joiner in self.cells.values_mut().filter_map(Cell::joiner_mut) {
            needs_transactions |= joiner.header_trusted(header, items, &mut dropped);
        }
        if needs_transactions {
            self.headers.transactions.entry(height).or_default();
        }
        for (subject, reason) in dropped {
            self.drop_input(subject, format!("sequencer height {height}"), &reason, out);
        }
    }

    fn drop_input(&mut self, what: Subject, at: String, reason: &str, out: &mut Outbox) {
        *self.dropped.entry(what).or_default() += 1;
        out.report(Report::Dropped { what, at, reason: reason.chars().take(Fault::DETAIL_MAX).collect() });
    }

    fn failed(&mut self, purpose: Purpose, fault: &Fault, out: &mut Outbox) {
        match purpose {
            Purpose::Session(cell) | Purpose::Execute(cell) | Purpose::Commit(cell) | Purpose::ExecutedBlock(cell) => {
                self.with_cell(cell, out, |cell, ctx| cell.rollup_failed(purpose, fault, ctx));
                return self.forget_idle(cell, out);
            }
            _ => {}
        }
        let attempt = match purpose {
            Purpose::SequencerIdentity => Some(&mut self.follower.identify),
            Purpose::SequencerHead => Some(&mut self.follower.head_poll),
            Purpose::CelestiaHead => Some(&mut self.scanner.head_poll),
            Purpose::SoftBlock(height) | Purpose::SoftBlockJob(height) => {
                self.follower.slots.get_mut(&height).map(|slot| &mut slot.attempt)
            }
            Purpose::Header(height) | Purpose::Validators(height) | Purpose::HeaderJob(height) => {
                self.headers.wanted.get_mut(&height).map(|want| {
                    // Header and set are judged together, so both are asked for again.
                    want.stage = Stage::Header;
                    &mut want.attempt
                })
            }
            Purpose::Links(anchor) | Purpose::LinksJob(anchor) => {
                self.headers.links_failed(self.now);
                self.headers.links.get_mut(&anchor).map(|links| &mut links.attempt)
            }
            Purpose::Transactions(height) | Purpose::TransactionsJob(height) => {
                self.headers.transactions.get_mut(&height).map(|pending| &mut pending.attempt)
            }
            Purpose::Blobs(height) | Purpose::BlobsJob(height) => {
                self.scanner.reads.get_mut(&height).map(|read| &mut read.attempt)
            }
            _ => None,
        };
        if let Some(attempt) = attempt {
            let failures = attempt.failures().saturating_add(1);
            let delay = backoff(failures, self.limits.backoff_first, self.limits.backoff_last, &mut self.rng);
            attempt.failed(self.now, delay);
            report_failure(purpose, failures, delay, fault, out);
        }
    }

    /// Nothing is kept for a cell that has no session any more.
    fn forget_idle(&mut self, cell: CellId, out: &mut Outbox) {
        if self.cells.get(&cell).is_none_or(|cell| cell.running().is_none()) {
            self.forget_cell(cell, out);
        }
    }

    /// A cell lost or replaced its session: nothing fetched for the old one is kept.
    fn forget_cell(&mut self, cell: CellId, out: &mut Outbox) {
        for id in self.follower.forget(cell, SequencerHeight(u64::MAX)) {
            self.calls.cancel(id, out);
        }
        self.scanner.forget_cell(cell);
    }

    /// A cell moved a head: soft blocks below it are not needed any more.
    fn forget_passed(&mut self, cell: CellId, out: &mut Outbox) {
        let next = self.cells.get(&cell).and_then(Cell::running).and_then(|running| running.session.next_soft());
        match next {
            Some(next) => {
                for id in self.follower.forget(cell, next) {
                    self.calls.cancel(id, out);
                }
            }
            None => self.forget_cell(cell, out),
        }
        let next: BTreeSet<SequencerHeight> = self.joiners().map(Joiner::next).collect();
        self.headers.forget_passed(&next);
    }

    fn joiners(&self) -> impl Iterator<Item = &Joiner> {
        self.cells.values().filter_map(|cell| cell.running()?.joiner.as_ref())
    }

    // ---- wishes ----

    fn plan(&mut self, out: &mut Outbox) {
        let stopping = self.stop != Stop::No;
        self.plan_cells(stopping, out);
        if stopping {
            return self.plan_stop(out);
        }
        self.plan_identity_and_heads(out);
        self.plan_soft_blocks(out);
        self.plan_headers(out);
        self.plan_celestia(out);
        self.plan_exit(out);
    }

    fn plan_cells(&mut self, stopping: bool, out: &mut Outbox) {
        let mut parked = Vec::new();
        for (id, cell) in &mut self.cells {
            if cell.is_over() {
                continue;
            }
            let mut ctx =
                Context { now: self.now, limits: &self.limits, calls: &mut self.calls, rng: &mut self.rng, out };
            if !stopping {
                cell.open_session(&mut ctx);
            }
            cell.identify(self.follower.chain_id.as_deref(), self.scanner.chain_id(), &mut ctx);
            let next = cell.running().and_then(|running| running.session.next_soft());
            let soft = next.and_then(|next| self.follower.peek(*id, next));
            cell.advance(soft, stopping, &mut ctx);
            if cell.is_over() {
                parked.push(*id);
            }
        }
        for id in parked {
            self.forget_cell(id, out);
        }
    }

    fn plan_stop(&mut self, out: &mut Outbox) {
        let Stop::Stopping(until) = self.stop else { return };
        let waits = self.cells.values().any(Cell::has_effect_in_flight);
        if waits && self.now < until {
            return;
        }
        for cell in self.cells.values_mut() {
            let mut ctx =
                Context { now: self.now, limits: &self.limits, calls: &mut self.calls, rng: &mut self.rng, out };
            cell.stop(&mut ctx);
        }
        for id in self.calls.matching(|_| true) {
            self.calls.cancel(id, out);
        }
        self.stop = Stop::Done;
        out.push(Command::Exit(Exit::Stopped));
    }

    fn plan_exit(&mut self, out: &mut Outbox) {
        if self.limits.stay_when_parked || self.cells.is_empty() {
            return;
        }
        let reasons: Vec<String> = self
            .cells
            .iter()
            .map_while(|(id, cell)| match &cell.state {
                State::Parked(reason) if self.cells.len() == 1 => Some(reason.clone()),
                State::Parked(reason) => Some(format!("{id}: {reason}")),
                _ => None,
            })
            .collect();
        if reasons.len() == self.cells.len() {
            for id in self.calls.matching(|_| true) {
                self.calls.cancel(id, out);
            }
            self.stop = Stop::Done;
            out.push(Command::Exit(Exit::AllCellsParked { reason: reasons.join("; ") }));
        }
    }

    fn plan_identity_and_heads(&mut self, out: &mut Outbox) {
        let (now, deadline) = (self.now, self.now.after(self.limits.fetch_deadline));
        let active = || self.cells.values().filter(|cell| !cell.is_over());
        if active().next().is_none() {
            return;
        }
        if self.follower.chain_id.is_none() && self.follower.identify.is_due(now) {
            let id = self.calls.call(Purpose::SequencerIdentity, deadline, Call::IdentifySequencer, out);
            self.follower.identify.started(id);
        }
        if self.follower.head_poll.is_due(now) {
            let id = self.calls.call(Purpose::SequencerHead, deadline, Call::FetchSequencerHead, out);
            self.follower.head_poll.started(id);
        }
        if active().any(|cell| cell.spec.mode.follows_firm()) && self.scanner.head_poll.is_due(now) {
            let id = self.calls.call(Purpose::CelestiaHead, deadline, Call::FetchCelestiaHead, out);
            self.scanner.head_poll.started(id);
        }
    }

    fn plan_soft_blocks(&mut self, out: &mut Outbox) {
        let Some(head) = self.follower.head else { return };
        let mut room = self.limits.soft_in_flight.saturating_sub(self.follower.in_flight());
        if room == 0 {
            return;
        }
        let is_full = self.follower.bytes() >= self.limits.soft_buffer_bytes;
        let mut wanted: BTreeMap<SequencerHeight, BTreeMap<CellId, RollupId>> = BTreeMap::new();
        for cell in self.cells.values() {
            let (Some((next, last)), Some(running)) = (cell.soft_bound(&self.limits), cell.running()) else { continue };
            // A full buffer holds up the future, never the block that is needed to empty it.
            let ahead = if is_full { 0 } else { self.limits.soft_ahead.saturating_sub(1) };
            let last = last.min(head).min(next.plus(ahead));
            if self.follower.lacks(cell.id, next) {
                self.follower.slots.remove(&next);
            }
            let mut height = next;
            while height <= last {
                let slot = self.follower.slots.get(&height);
                let is_due = |slot: &Slot| matches!(slot.stage, SlotStage::Fetch) && slot.attempt.is_due(self.now);
                if slot.is_none_or(is_due) {
                    wanted.entry(height).or_default().insert(cell.id, running.session.rollup_id);
                }
                height = height.next();
            }
        }
        for (height, owners) in wanted {
            if room == 0 {
                break;
            }
            let slot = self.follower.slots.entry(height).or_default();
            slot.owners = owners;
            let rollup_ids: BTreeSet<RollupId> = slot.owners.values().copied().collect();
            let call = Call::FetchSoftBlock { height, rollup_ids: rollup_ids.into_iter().collect() };
            let deadline = self.now.after(self.limits.fetch_deadline);
            let id = self.calls.call(Purpose::SoftBlock(height), deadline, call, out);
            slot.attempt.started(id);
            room -= 1;
        }
    }

    fn plan_headers(&mut self, out: &mut Outbox) {
        let Some(chain_id) = self.follower.chain_id.clone() else { return };
        let deadline = self.now.after(self.limits.fetch_deadline);
        let mut wanted: BTreeSet<SequencerHeight> =
            self.joiners().flat_map(|joiner| joiner.wants_headers(&self.limits)).collect();
        // A candidate that came after its header and can only be judged with the block's data items.
        let late: Vec<SequencerHeight> =
            wanted.iter().copied().filter(|height| self.headers.is_settled(*height)).collect();
        for height in late {
            self.header_trusted(height, out);
        }
        // A blob may claim any height; what the sequencer has not reached cannot be fetched.
        let head = self.follower.head;
        wanted.retain(|height| self.headers.trusted(*height).is_none() && head.is_none_or(|head| *height <= head));
        let next: BTreeSet<SequencerHeight> = self.joiners().map(Joiner::next).collect();
        let soon = self.limits.headers_ahead / 2;
        let is_urgent = |height| next.iter().any(|next| *next <= height && height <= next.plus(soon));
        let Routes { commits: wanted, links } = self.headers.routes(&wanted, is_urgent, self.now);
        self.plan_links(&links, deadline, out);
        // A header that nobody wants any more is not waited for.
        self.headers.wanted.retain(|height, want| {
            wanted.contains(height) || want.attempt.is_in_flight() || matches!(want.stage, Stage::Verifying)
        });
        for height in wanted {
            // What a cell needs next always has a place, or headers that one cell cannot get would hold up the others.
            if next.contains(&height) || self.headers.wanted.len() < self.limits.headers_in_flight {
                self.headers.wanted.entry(height).or_default();
            }
        }
        let heights: Vec<SequencerHeight> = self.headers.wanted.keys().copied().collect();
        for height in heights {
            self.plan_header(height, &chain_id, deadline, out);
        }
        let in_flight = |pending: &Transactions| pending.items.is_none() && pending.attempt.is_in_flight();
        let busy = self.headers.transactions.values().filter(|pending| in_flight(pending)).count();
        let mut room = self.limits.headers_in_flight.saturating_sub(busy);
        for (height, pending) in &mut self.headers.transactions {
            if room > 0 && pending.items.is_none() && pending.attempt.is_due(self.now) {
                room -= 1;
                let call = Call::FetchBlockTransactions { height: *height };
                let id = self.calls.call(Purpose::Transactions(*height), deadline, call, out);
                pending.attempt.started(id);
            }
        }
    }

    /// `wanted` are trusted heights and the lowest height to be linked to each.
    fn plan_links(
        &mut self,
        wanted: &BTreeMap<SequencerHeight, SequencerHeight>,
        deadline: Timestamp,
        out: &mut Outbox,
    ) {
        self.headers.links.retain(|anchor, links| wanted.contains_key(anchor) || links.attempt.is_in_flight());
        // Only what is in flight takes up room: what failed must be able to go on as well.
        let in_flight = self.headers.links.values().filter(|links| links.attempt.is_in_flight()).count();
        let mut room = self.limits.headers_in_flight.saturating_sub(in_flight);
        for (anchor, first) in wanted {
            if room == 0 {
                break;
            }
            let links = self.headers.links.entry(*anchor).or_default();
            if links.attempt.is_due(self.now) {
                room -= 1;
                links.first = *first;
                let call = Call::FetchHeaders { first: *first, last: anchor.minus(1) };
                let id = self.calls.call(Purpose::Links(*anchor), deadline, call, out);
                links.attempt.started(id);
            }
        }
    }

    fn plan_header(&mut self, height: SequencerHeight, chain_id: &str, deadline: Timestamp, out: &mut Outbox) {
        let Some(want) = self.headers.wanted.get(&height) else { return };
        if !want.attempt.is_due(self.now) {
            return;
        }
        let mut job = None;
        let mut call = None;
        match &want.stage {
            Stage::Header => call = Some((Purpose::Header(height), Call::FetchSignedHeader { height })),
            Stage::Validators(signed_header) => {
                let hash = validators_hash(signed_header);
                match hash.and_then(|hash| self.headers.set(&hash)) {
                    Some(set) => job = Some((signed_header.clone(), Validators::Known(Arc::clone(set)))),
                    None if hash.is_some_and(|hash| self.headers.is_fetching_set(&hash)) => {}
                    None => call = Some((Purpose::Validators(height), Call::FetchValidators { height })),
                }
            }
            Stage::Verify(signed_header, validators) => {
                job = Some((signed_header.clone(), Validators::Fetched(validators.clone())));
            }
            Stage::Verifying => {}
        }
        let Some(want) = self.headers.wanted.get_mut(&height) else { return };
        if let Some((signed_header, validators)) = job {
            let (chain_id, limits) = (chain_id.to_owned(), Arc::clone(&self.limits));
            let job = Job::VerifyHeader { height, chain_id, signed_header, validators, limits };
            let id = self.calls.verify(Purpose::HeaderJob(height), job, out);
            want.stage = Stage::Verifying;
            want.attempt.started(id);
        } else if let Some((purpose, call)) = call {
            let id = self.calls.call(purpose, deadline, call, out);
            want.attempt.started(id);
        }
    }

    fn plan_celestia(&mut self, out: &mut Outbox) {
        let (Some(head), Some(chain_id)) = (self.scanner.head(), self.follower.chain_id.as_deref()) else { return };
        let in_flight = self.scanner.reads.values().filter(|read| read.attempt.is_in_flight()).count();
        let count = self.scanner.reads_max(&self.limits);
        let mut room = count.saturating_sub(in_flight);
        if room == 0 {
            return;
        }
        let mut wanted: BTreeMap<CelestiaHeight, BTreeMap<CellId, RollupId>> = BTreeMap::new();
        let mut gaps = Vec::new();
        for (id, cell) in &mut self.cells {
            let Some(running) = cell.running_mut() else { continue };
            if !running.identified {
                continue;
            }
            let rollup_id = running.session.rollup_id;
            let Some(joiner) = running.joiner.as_mut() else { continue };
            let evidence = self.headers.evidence(joiner.next());
            for height in joiner.wants_to_read(head, evidence, count, &self.limits) {
                wanted.entry(height).or_default().insert(*id, rollup_id);
            }
            match joiner.lack() {
                Some(Lack::Exhausted { window_end }) if head > window_end => {
                    gaps.push((*id, joiner.next(), "the whole look-ahead window was read without finding the block"));
                }
                Some(Lack::RollupData(height)) if joiner.frontier() > head => {
                    gaps.push((*id, height, "its metadata lists the rollup, but the rollup's data was not found yet"));
                }
                _ => {}
            }
        }
        // What failed and is wanted by nobody any more is forgotten.
        self.scanner
            .reads
            .retain(|height, read| wanted.contains_key(height) || read.decoding || read.attempt.is_in_flight());
        for (height, cells) in wanted {
            if room == 0 {
                break;
            }
            let read = self.scanner.reads.entry(height).or_default();
            if read.decoding || !read.attempt.is_due(self.now) {
                continue;
            }
            let mut namespaces = BTreeSet::from([Namespace::of_sequencer(chain_id)]);
            namespaces.extend(cells.values().map(Namespace::of_rollup));
            read.cells = cells.into_keys().collect();
            let call = Call::FetchBlobs { height, namespaces: namespaces.into_iter().collect() };
            let deadline = self.now.after(self.limits.fetch_deadline);
            let id = self.calls.call(Purpose::Blobs(height), deadline, call, out);
            read.attempt.started(id);
            room -= 1;
        }
        for (id, missing, reason) in gaps {
            if let Some(cell) = self.cells.get_mut(&id) {
                cell.report_gap(missing, reason, out);
            }
        }
    }

    // ---- view ----

    /// A copy of what an operator may want to know.
    pub fn status(&self, now: Timestamp) -> Status {
        Status {
            sequencer: SequencerStatus { chain_id: self.follower.chain_id.clone(), head: self.follower.head },
            celestia: CelestiaStatus {
                chain_id: self.scanner.chain_id().map(str::to_owned),
                head: self.scanner.head(),
                block_time: self.scanner.block_time(),
            },
            cells: self.cells.iter().map(|(id, cell)| (*id, self.cell_status(cell, now))).collect(),
            dropped: self.dropped.clone(),
        }
    }

    fn cell_status(&self, cell: &Cell, now: Timestamp) -> CellStatus {
        let running = cell.running();
        let head = |level: Level| {
            let session = &running?.session;
            let block = match level {
                Level::Soft => &session.commitment.soft,
                Level::Firm => &session.commitment.firm,
            };
            let height = session.map.to_sequencer(block.number()).ok();
            Some(Head { number: block.number(), hash: block.hash().to_owned(), height })
        };
        CellStatus {
            mode: cell.spec.mode,
            phase: match cell.state {
                State::Opening => Phase::Opening,
                State::Running(_) => Phase::Running,
                State::Parked(_) => Phase::Parked,
                State::Stopped => Phase::Stopped,
            },
            soft: head(Level::Soft),
            firm: head(Level::Firm),
            lowest_celestia_search_height: running.map(|running| running.session.commitment.lowest),
            celestia_read_below: running.and_then(|running| Some(running.joiner.as_ref()?.frontier())),
            waiting_for: self.waits(cell, now),
            executed: cell.executed,
            sessions: cell.sessions,
        }
    }

    /// Everything that keeps a cell from advancing (L3); never empty.
    fn waits(&self, cell: &Cell, now: Timestamp) -> Vec<Wait> {
        let running = match &cell.state {
            State::Parked(reason) => return vec![Wait::Parked { reason: reason.clone() }],
            State::Stopped => return vec![Wait::Stopped],
            State::Opening => {
                let wait = match cell.opening.due() {
                    Some(at) if cell.opening.failures() == 0 && at > now => {
                        Wait::SessionDelay { left_ms: u64::try_from(at.since(now).as_millis()).unwrap_or(u64::MAX) }
                    }
                    _ => Wait::Session { attempts: cell.opening.number() },
                };
                return vec![wait];
            }
            State::Running(running) => running,
        };
        let mut waits = Vec::new();
        if self.follower.chain_id.is_none() {
            waits.push(Wait::SequencerIdentity { attempts: self.follower.identify.number() });
        }
        if cell.spec.mode.follows_firm() && self.scanner.chain_id().is_none() {
            waits.push(Wait::CelestiaIdentity { attempts: self.scanner.head_poll.number() });
        }
        if let Some(step) = &running.step {
            waits.push(match &step.work {
                Work::Execute { number, .. } => Wait::Execution { number: *number },
                Work::Commit { moved, .. } => Wait::Commitment { number: moved.number },
                Work::LookUp { number, .. } => Wait::ExecutedBlock { number: *number },
            });
        }
        if cell.spec.mode.follows_soft() {
            waits.extend(self.soft_wait(cell));
        }
        waits.extend(running.joiner.as_ref().and_then(|joiner| self.firm_wait(joiner)));
        if waits.is_empty() {
            waits.push(Wait::NextStep);
        }
        waits
    }

    fn soft_wait(&self, cell: &Cell) -> Option<Wait> {
        let next = cell.running()?.session.next_soft()?;
        if cell.running()?.session.ends_before(next) {
            return None;
        }
        let Some((next, _)) = cell.soft_bound(&self.limits) else {
            return cell.running()?.identified.then_some(Wait::Spread { limit: self.limits.soft_firm_spread });
        };
        if self.follower.peek(cell.id, next).is_some() {
            return None;
        }
        if self.follower.head.is_none_or(|head| head < next) {
            return Some(Wait::SequencerBlock { height: next });
        }
        let attempts = self.follower.slots.get(&next).map_or(1, |slot| slot.attempt.number());
        Some(Wait::SoftBlock { height: next, attempts })
    }

    fn firm_wait(&self, joiner: &Joiner) -> Option<Wait> {
        Some(match joiner.lack()? {
            Lack::Unread(height) if self.scanner.head().is_none_or(|head| head < height) => {
                Wait::CelestiaBlock { height }
            }
            Lack::Unread(height) => {
                let attempts = self.scanner.reads.get(&height).map_or(1, |read| read.attempt.number());
                Wait::Blobs { height, attempts }
            }
            Lack::Header(height) => {
                let attempts = self.headers.wanted.get(&height).map_or(1, |want| want.attempt.number());
                Wait::Header { height, attempts }
            }
            Lack::RollupData(height) => Wait::RollupData { height },
            Lack::Exhausted { window_end } => Wait::Gap { height: joiner.next(), window_end },
        })
    }
}
