//! What happened: routes each fact to those who wait for it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    celestia::{Dropped, Joiner, Namespace},
    cell::{Cell, Context, report_failure},
    command::{Chain, Outbox, Report, Subject},
    event::{Answer, Refusal},
    fault::{Fault, FaultClass},
    ids::{CelestiaHeight, CellId, CommandId, RollupId, SequencerHeight},
    job::{BlobsRefusal, DecodeBlobs, DecodedBlobs, Found, Job, JobOutcome},
    light::Trust,
    retry::{Attempt, backoff},
    sequencer::{Content, SlotStage, SoftBlockRequest, Stage},
    time::Timestamp,
};

use super::Conductor;

impl Conductor {
    pub(super) fn answered(&mut self, id: CommandId, answer: &Answer, out: &mut Outbox) -> Result<(), Refusal> {
        let purpose = match (self.calls.get(id), answer) {
            (Some(pending), _) => pending.purpose,
            (None, Answer::BlockExecuted { .. }) if canary(Canary::AnswersByKind) => Purpose::Execute(CellId(0)),
            (None, _) => return Err(Refusal::UnknownCommand(id)),
        };
        match (purpose, answer) {
            (Purpose::SequencerIdentity, Answer::SequencerIdentified { chain_id }) => {
                self.calls.take(id);
                self.sequencer_identified(chain_id, out);
            }
            (Purpose::SequencerHead, Answer::SequencerHeadFetched { height }) => {
                self.calls.take(id);
                self.follower.head_fetched(*height, self.now);
                let next_poll = self.next_poll();
                self.follower.poll_again(next_poll);
                self.headers.claimed(self.follower.head_node, *height, self.now);
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
            (Purpose::Links(anchor), Answer::HeadersFetched { headers }) if !self.is_single(anchor) => {
                self.calls.take(id);
                self.headers_fetched(anchor, headers.clone(), out);
            }
            // From a node that does not serve several.
            (Purpose::Links(anchor), Answer::SignedHeaderFetched { signed_header }) if self.is_single(anchor) => {
                self.calls.take(id);
                self.headers_fetched(anchor, vec![signed_header.header.clone()], out);
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
            (Purpose::Witness(node), Answer::SignedHeaderFetched { signed_header }) => {
                self.calls.take(id);
                self.witness_has(node, signed_header);
            }
            (Purpose::WitnessValidators(node), Answer::ValidatorsFetched { validators }) => {
                self.calls.take(id);
                self.witness_names(node, validators);
            }
            (Purpose::FalseBlockHeader, Answer::SignedHeaderFetched { signed_header }) => {
                self.calls.take(id);
                self.false_block_header(signed_header, out);
            }
            (Purpose::FalseBlockValidators, Answer::ValidatorsFetched { validators }) => {
                self.calls.take(id);
                self.false_block_validators(validators);
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
            // What was asked for with proofs is not taken without.
            (Purpose::Blobs(height), Answer::BlobsFetched { blobs, unreadable })
                if self.limits.celestia_trust == Trust::Endpoint =>
            {
                self.calls.take(id);
                if *unreadable > 0 {
                    *self.dropped.entry(Subject::Blob).or_default() += u64::from(*unreadable);
                }
                self.scanner.fetched(blobs.iter().map(|blob| blob.data.len()).sum());
                self.blobs_fetched(height, Found::Blobs(blobs.clone()), out);
            }
            (Purpose::Blobs(height), Answer::NamespacesFetched { block })
                if self.limits.celestia_trust == Trust::Consensus =>
            {
                self.calls.take(id);
                self.namespaces_fetched(height, block.clone(), out);
            }
            (Purpose::CelestiaHeader(height), Answer::CelestiaHeaderFetched { header }) => {
                self.calls.take(id);
                self.celestia_header_fetched(height, header.clone());
            }
            (Purpose::CelestiaLinks(anchor), Answer::CelestiaHeadersFetched { headers }) => {
                self.calls.take(id);
                self.celestia_headers_fetched(anchor, headers, out);
            }
            (Purpose::Peers(height), Answer::FetchedFromPeers { .. }) => {
                self.calls.take(id);
                self.peers_answered(height, answer, out);
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

    pub(super) fn with_cell(&mut self, id: CellId, out: &mut Outbox, act: impl FnOnce(&mut Cell, &mut Context<'_>)) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let mut ctx = Context { now: self.now, limits: &self.limits, calls: &mut self.calls, rng: &mut self.rng, out };
        act(cell, &mut ctx);
    }

    fn sequencer_identified(&mut self, chain_id: &str, out: &mut Outbox) {
        if chain_id.is_empty() || chain_id.len() > self.limits.text_bytes {
            let fault = Fault::invalid(format!("the genesis has a chain id of {} bytes", chain_id.len()));
            return self.failed(Purpose::SequencerIdentity, &fault, out);
        }
        if self.is_other_chain(chain_id)
            && self.follower.identify.failures().saturating_add(1) < self.limits.trust.nodes
        {
            let fault = Fault::invalid(format!("the node serves chain {chain_id:?}, another one is expected"));
            return self.failed(Purpose::SequencerIdentity, &fault, out);
        }
        self.follower.identify.succeeded(self.now);
        self.follower.chain_id = Some(chain_id.to_owned());
        out.report(Report::ChainIdentified { chain: Chain::Sequencer, chain_id: chain_id.to_owned() });
    }

    /// Whether a header with its commit was asked for, to be linked to the one at `anchor`.
    fn is_single(&self, anchor: SequencerHeight) -> bool {
        self.headers.links.get(&anchor).is_some_and(|links| links.is_single)
    }

    /// Whether what is trusted, or a rollup, is of another chain.
    fn is_other_chain(&self, chain_id: &str) -> bool {
        let trusted = self.headers.trusting.as_ref().and_then(|trusting| trusting.newest());
        let sessions = self.cells.values().filter_map(|cell| cell.running());
        trusted.is_some_and(|state| state.chain_id() != chain_id)
            || sessions.map(|running| &running.session).any(|session| session.sequencer_chain_id != chain_id)
    }

    fn soft_block_fetched(&mut self, height: SequencerHeight, block: bytes::Bytes, out: &mut Outbox) {
        let publishes = self.gossip.is_some() && self.limits.gossip.publish;
        let is_kept = publishes || self.keeps_for_evidence(block.len());
        let Some(slot) = self.follower.slots.get_mut(&height) else { return };
        let Some(chain_id) = self.follower.chain_id.clone() else { return };
        let rollup_ids: BTreeSet<RollupId> = slot.owners.values().copied().collect();
        slot.stage = SlotStage::Verifying(block.len());
        slot.encoded = is_kept.then(|| block.clone());
        let request = SoftBlockRequest { height, chain_id, rollup_ids: rollup_ids.into_iter().collect() };
        let job = Job::VerifySoftBlock { block, request, limits: Arc::clone(&self.limits) };
        let id = self.calls.verify(Purpose::SoftBlockJob(height), job, out);
        slot.attempt.started(id);
    }

    fn headers_fetched(&mut self, anchor: SequencerHeight, headers: Vec<tendermint::block::Header>, out: &mut Outbox) {
        let Some(trusted) = self.headers.anchor(anchor).cloned() else {
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

    pub(super) fn blobs_fetched(&mut self, height: CelestiaHeight, found: Found, out: &mut Outbox) {
        let Some(chain_id) = self.follower.chain_id.clone() else { return };
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
            found,
            sequencer: Namespace::of_sequencer(&chain_id),
            rollups: running().map(|running| running.session.rollup_id).collect(),
            wanted: (first, last),
            headers: self.headers.all_trusted().range(first..=last).map(|(h, header)| (*h, header.clone())).collect(),
            contents: self.headers.known_contents(first, last),
            bound: joiners().flat_map(Joiner::bound_without_data).collect(),
            limits: Arc::clone(&self.limits),
        };
        let id = self.calls.verify(Purpose::BlobsJob(height), Job::DecodeBlobs(Box::new(job)), out);
        read.decoding = true;
        read.attempt.started(id);
    }

    pub(super) fn job_finished(
        &mut self,
        id: CommandId,
        outcome: &JobOutcome,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let purpose = self.calls.get(id).ok_or(Refusal::UnknownCommand(id))?.purpose;
        match (purpose, outcome) {
            (Purpose::SoftBlockJob(height), JobOutcome::SoftBlock(result)) => {
                self.calls.take(id);
                match result {
                    Ok(block) => {
                        self.follower.verified(height, block.clone(), self.limits.trust.soft, self.now);
                        self.bind_soft(height, out);
                    }
                    Err(reason) => {
                        self.drop_input(Subject::SoftBlock, format!("sequencer height {height}"), reason, out);
                        self.suspect(height, None);
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
                    Ok(signed) => self.header_verified(height, signed, out),
                    Err(refusal) => self.header_refused(height, refusal, out),
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
                        self.headers.make_room(&self.headers_next(), &self.limits);
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
                            pending.content = Some(Content::Items(items.clone()));
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
            (Purpose::WitnessJob(node), JobOutcome::Witness(outcome)) => {
                self.calls.take(id);
                self.witness_compared(node, outcome, out);
            }
            (Purpose::FalseBlockJob, JobOutcome::FalseBlock(verdict)) => {
                self.calls.take(id);
                self.false_block_judged(verdict, out);
            }
            (Purpose::GossipJob(handle), JobOutcome::Gossip(judged)) => {
                self.calls.take(id);
                self.gossip_judged(handle, judged, out);
            }
            (Purpose::PeersJob(height), JobOutcome::Gossip(judged)) => {
                self.calls.take(id);
                self.answer_judged(height, judged, out);
            }
            (Purpose::MessagesJob(height), JobOutcome::Messages(messages)) => {
                self.calls.take(id);
                self.gossip_made(height, messages, out);
            }
            (Purpose::CelestiaHeaderJob(height), JobOutcome::CelestiaHeaders(result)) => {
                self.calls.take(id);
                self.celestia_header_checked(height, result, out);
            }
            (Purpose::CelestiaLinksJob(anchor), JobOutcome::CelestiaHeaders(result)) => {
                self.calls.take(id);
                self.celestia_links_checked(anchor, result, out);
            }
            (Purpose::BlobsJob(height), JobOutcome::Blobs(result)) => {
                self.calls.take(id);
                match result {
                    Ok(decoded) => self.blobs_decoded(height, decoded, out),
                    Err(BlobsRefusal { reason, evidence }) => {
                        self.drop_input(Subject::CelestiaBlock, format!("Celestia height {height}"), reason, out);
                        self.answered_falsely(evidence.as_deref(), out);
                        let fault = Fault::invalid(reason.as_str());
                        if let Some(read) = self.scanner.reads.get_mut(&height) {
                            read.decoding = false;
                            read.unproven = Some(fault.detail.clone());
                        }
                        self.failed(Purpose::Blobs(height), &fault, out);
                    }
                }
            }
            _ => return Err(Refusal::WrongAnswer(id)),
        }
        Ok(())
    }

    fn blobs_decoded(&mut self, height: CelestiaHeight, decoded: &DecodedBlobs, out: &mut Outbox) {
        let at = format!("Celestia height {height}");
        if self.limits.celestia_trust == Trust::Consensus {
            self.scanner.fetched(decoded.bytes);
        }
        if let Some(trusting) = &mut self.celestia {
            trusting.learn(decoded.below.clone());
        }
        for (subject, reason) in &decoded.dropped {
            self.drop_input(*subject, at.clone(), reason, out);
        }
        *self.dropped.entry(Subject::Metadata).or_default() += decoded.dropped_more;
        if canary(Canary::BadBlobParks) && decoded.dropped.iter().any(|(subject, _)| *subject == Subject::Blob) {
            for cell in self.cells.keys().copied().collect::<Vec<_>>() {
                self.with_cell(cell, out, |cell, ctx| cell.park("a blob cannot be unpacked".to_owned(), ctx));
            }
        }
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
    pub(super) fn header_trusted(&mut self, height: SequencerHeight, out: &mut Outbox) {
        self.recall_content(height);
        let Some(header) = self.headers.trusted(height) else { return };
        let content = self.headers.content(height);
        let mut dropped = Dropped::new();
        let mut needs_content = false;
        for joiner in self.cells.values_mut().filter_map(Cell::joiner_mut) {
            needs_content |= joiner.header_trusted(header, content, &mut dropped);
        }
        if needs_content {
            self.headers.transactions.entry(height).or_default();
        }
        self.bind_soft(height, out);
        for (subject, reason) in dropped {
            self.drop_input(subject, format!("sequencer height {height}"), &reason, out);
        }
    }

    pub(super) fn drop_input(&mut self, what: Subject, at: String, reason: &str, out: &mut Outbox) {
        *self.dropped.entry(what).or_default() += 1;
        out.report(Report::Dropped { what, at, reason: reason.chars().take(Fault::DETAIL_MAX).collect() });
    }

    pub(super) fn failed(&mut self, purpose: Purpose, fault: &Fault, out: &mut Outbox) {
        match purpose {
            Purpose::Session(cell) | Purpose::Execute(cell) | Purpose::Commit(cell) | Purpose::ExecutedBlock(cell) => {
                self.with_cell(cell, out, |cell, ctx| cell.rollup_failed(purpose, fault, ctx));
                return self.forget_idle(cell, out);
            }
            Purpose::Witness(node) | Purpose::WitnessValidators(node) | Purpose::WitnessJob(node) => {
                return self.witness_failed(node, purpose, fault, out);
            }
            Purpose::FalseBlockHeader | Purpose::FalseBlockValidators | Purpose::FalseBlockJob => {
                return self.false_block_failed(purpose, fault, out);
            }
            _ => {}
        }
        self.ask_another(purpose);
        let attempt = match purpose {
            Purpose::SequencerIdentity if canary(Canary::IdentityAskedOnce) => {
                self.follower.identify = Attempt::due_at(Timestamp::MAX);
                None
            }
            Purpose::SequencerIdentity => Some(&mut self.follower.identify),
            Purpose::SequencerHead => Some(&mut self.follower.head_poll),
            Purpose::CelestiaHead => Some(&mut self.scanner.head_poll),
            Purpose::SoftBlock(height) | Purpose::SoftBlockJob(height) => {
                self.follower.slots.get_mut(&height).map(|slot| &mut slot.attempt)
            }
            Purpose::Header(height) | Purpose::Validators(height) | Purpose::HeaderJob(height) => {
                for joiner in self.cells.values_mut().filter_map(Cell::joiner_mut) {
                    joiner.header_failed(height);
                }
                if let Some(node) = self.headers.wanted.get(&height).map(|want| want.node) {
                    self.headers.doubt(node, height);
                }
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
            Purpose::Blobs(height) | Purpose::BlobsJob(height) => self.scanner.reads.get_mut(&height).map(|read| {
                // What cannot be had from this node at all is told apart from what is late.
                if fault.class == FaultClass::Invalid && self.celestia.is_some() {
                    read.unproven = Some(fault.detail.clone());
                }
                &mut read.attempt
            }),
            Purpose::Peers(height) | Purpose::PeersJob(height) => self.gossip.as_mut().and_then(|gossip| {
                gossip.counts.unanswered += 1;
                gossip.asks.get_mut(&height).map(|ask| &mut ask.attempt)
            }),
            Purpose::CelestiaHeader(height) => {
                let step = self.celestia.as_mut().and_then(|trusting| trusting.steps.get_mut(&height));
                step.map(|step| {
                    step.header = None;
                    step.problem = Some(fault.detail.clone());
                    &mut step.attempt
                })
            }
            Purpose::CelestiaLinks(anchor) => {
                let links = self.celestia.as_mut().and_then(|trusting| trusting.links.get_mut(&anchor));
                links.map(|links| {
                    links.problem = Some(fault.detail.clone());
                    &mut links.attempt
                })
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
    pub(super) fn forget_cell(&mut self, cell: CellId, out: &mut Outbox) {
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
        let next = self.headers_next();
        self.headers.forget_passed(&next);
    }

    /// What failed with one CometBFT node is tried with the next.
    fn ask_another(&mut self, purpose: Purpose) {
        let headers = &self.headers;
        let node = match purpose {
            Purpose::SequencerIdentity => Some(headers.node),
            Purpose::Header(height) | Purpose::Validators(height) | Purpose::HeaderJob(height) => {
                headers.wanted.get(&height).map(|want| want.node)
            }
            Purpose::Links(anchor) | Purpose::LinksJob(anchor) => headers.links.get(&anchor).map(|links| links.node),
            Purpose::Transactions(height) | Purpose::TransactionsJob(height) => {
                headers.transactions.get(&height).map(|pending| pending.node)
            }
            _ => None,
        };
        if let Some(node) = node {
            self.headers.give_up_on(node, &self.limits);
        }
    }

    pub(super) fn joiners(&self) -> impl Iterator<Item = &Joiner> {
        self.cells.values().filter_map(|cell| cell.running()?.joiner.as_ref())
    }
}
