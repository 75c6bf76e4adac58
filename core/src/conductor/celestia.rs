//! Which Celestia headers are to be got, and what becomes of blocks that wait for them.

use std::{collections::BTreeSet, sync::Arc};

use tendermint::block::Header;

use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    celestia::{ExpectedBlock, FalseNamespaces, Falsehood, Joiner, Run, Way},
    cell::Cell,
    command::{Call, Command, HEADERS_MAX, Outbox, Report, Subject},
    event::CelestiaBlock,
    fault::Fault,
    ids::{CelestiaHeight, CellId},
    job::{CelestiaTop, Found, HeaderRefusal, Job, LinkedHeaders, VerifyCelestiaHeaders},
    light::{Check, HeaderId, Refusal, RootSetting, SignedBlock},
    record::Record,
};

use super::Conductor;

impl Conductor {
    /// Whole namespaces of a height have come. They wait until its header is trusted.
    pub(super) fn namespaces_fetched(&mut self, height: CelestiaHeight, block: Box<CelestiaBlock>, out: &mut Outbox) {
        let Some(read) = self.scanner.reads.get_mut(&height) else { return };
        read.attempt.answered(self.now);
        read.held = Some((block, self.now));
        self.decode_held(out);
    }

    /// Goes on with blocks whose header is trusted now.
    fn decode_held(&mut self, out: &mut Outbox) {
        let Some(trusting) = &self.celestia else { return };
        let mut ready = Vec::new();
        for (height, read) in &mut self.scanner.reads {
            let unchecked = || Some(HeaderId::of_unchecked(&read.held.as_ref()?.0.signed.signed_header.header));
            let too_early = canary(Canary::CelestiaReadTooEarly).then(unchecked).flatten();
            if let Some(header) = too_early.or_else(|| trusting.id(*height).cloned())
                && let Some((block, _)) = read.held.take()
            {
                let expected = ExpectedBlock { header, namespaces: read.namespaces.clone() };
                ready.push((*height, Found::Block { block, expected }));
            }
        }
        for (height, found) in ready {
            self.blobs_fetched(height, found, out);
        }
    }

    /// Blocks that wait for a header, lowest first.
    fn celestia_runs(&self) -> Vec<Run> {
        let Some(trusting) = &self.celestia else { return Vec::new() };
        let mut runs: Vec<Run> = Vec::new();
        for (height, read) in &self.scanner.reads {
            let Some((_, since)) = read.held.as_ref().filter(|_| trusting.id(*height).is_none()) else { continue };
            match runs.last_mut() {
                Some(run) if run.top.next() == *height => run.top = *height,
                _ => runs.push(Run { first: *height, top: *height, since: *since, grows: false }),
            }
        }
        for run in &mut runs {
            // A block that failed before is not waited for.
            let above = self.scanner.reads.get(&run.top.next());
            run.grows = above.is_some_and(|read| read.attempt.is_in_flight() && read.attempt.failures() == 0);
        }
        runs
    }

    pub(super) fn plan_celestia_headers(&mut self, out: &mut Outbox) {
        let lowest = self.joiners().map(Joiner::frontier).min();
        if let Some((trusting, lowest)) = self.celestia.as_mut().zip(lowest) {
            trusting.make_room(lowest);
        }
        let (Some(head), Some(chain_id)) = (self.scanner.head_to_trust(), self.scanner.chain_id().map(str::to_owned))
        else {
            return;
        };
        if !self.cells.values().any(|cell| cell.running().is_some() && cell.spec.mode.follows_firm()) {
            return;
        }
        let (runs, length_max) = (self.celestia_runs(), self.scanner.reads_max(&self.limits));
        let Some(trusting) = &mut self.celestia else { return };
        let Way { checks, steps, links, expired } = trusting.way(&runs, head, length_max, self.now);
        if let Some(refusal) = expired {
            return self.celestia_trust_expired(&refusal, out);
        }
        let (now, deadline) = (self.now, self.now.after(self.limits.fetch_deadline));
        trusting.steps.retain(|height, step| steps.contains(height) || !step.attempt.is_due(now));
        trusting.links.retain(|anchor, pending| links.contains_key(anchor) || !pending.attempt.is_due(now));
        // Only what is in flight takes up room: what failed must be able to go on as well.
        let most = self.limits.celestia_in_flight.max(1);
        let mut room = most.saturating_sub(trusting.steps.values().filter(|it| it.attempt.is_in_flight()).count());
        for height in &steps {
            let step = trusting.steps.entry(*height).or_default();
            if room > 0 && step.header.is_none() && step.attempt.is_due(now) {
                room -= 1;
                let call = Call::FetchCelestiaHeader { height: *height };
                step.attempt.started(self.calls.call(Purpose::CelestiaHeader(*height), deadline, call, out));
            }
        }
        let mut room = most.saturating_sub(trusting.links.values().filter(|it| it.attempt.is_in_flight()).count());
        for (anchor, first) in links {
            let pending = trusting.links.entry(anchor).or_default();
            if room > 0 && pending.attempt.is_due(now) {
                room -= 1;
                let call = Call::FetchCelestiaHeaders { first, last: anchor };
                pending.attempt.started(self.calls.call(Purpose::CelestiaLinks(anchor), deadline, call, out));
            }
        }
        let fetched =
            steps.iter().filter(|height| trusting.steps.get(height).is_some_and(|step| step.header.is_some()));
        // What may have become known by the way is decoded, and the next commit is checked.
        let next = checks.into_iter().chain(fetched.map(|height| (*height, *height))).next();
        if let Some((height, first)) = next.filter(|_| trusting.checking.is_none()) {
            self.check_celestia_header(height, first, &chain_id, out);
        }
        self.decode_held(out);
    }

    /// Has the commit of `height` checked, and the headers below it down to `first` linked to it.
    fn check_celestia_header(
        &mut self,
        height: CelestiaHeight,
        first: CelestiaHeight,
        chain_id: &str,
        out: &mut Outbox,
    ) {
        let Some(trusting) = &mut self.celestia else { return };
        let held = |height: &CelestiaHeight| -> Option<&SignedBlock> {
            self.scanner.reads.get(height)?.held.as_ref().map(|(block, _)| &block.signed)
        };
        let step = trusting.steps.get(&height).and_then(|step| step.header.as_deref());
        let Some(block) = held(&height).or(step).cloned() else { return };
        let below = (first.0..height.0).rev().map(CelestiaHeight);
        let headers = below.map_while(|height| Some(held(&height)?.signed_header.header.clone())).collect();
        let check = Box::new(trusting.client.check(height.0, chain_id, self.now));
        let top = CelestiaTop::Signed { height, block: Box::new(block), check, at: self.now };
        let job = VerifyCelestiaHeaders { top, headers, limits: Arc::clone(&self.limits) };
        let job = Job::VerifyCelestiaHeaders(Box::new(job));
        self.calls.verify(Purpose::CelestiaHeaderJob(height), job, out);
        trusting.checking = Some(height);
    }

    pub(super) fn celestia_header_fetched(&mut self, height: CelestiaHeight, header: Box<SignedBlock>) {
        let Some(step) = self.celestia.as_mut().and_then(|trusting| trusting.steps.get_mut(&height)) else { return };
        step.attempt.answered(self.now);
        step.header = Some(header);
    }

    pub(super) fn celestia_headers_fetched(&mut self, anchor: CelestiaHeight, headers: &[Header], out: &mut Outbox) {
        let Some(trusting) = &mut self.celestia else { return };
        let (Some(id), Some(links)) = (trusting.id(anchor).cloned(), trusting.links.get_mut(&anchor)) else {
            trusting.links.remove(&anchor);
            return;
        };
        let mut headers = headers.to_vec();
        headers.sort_by_key(|header| std::cmp::Reverse(header.height));
        headers.truncate(usize::try_from(HEADERS_MAX).unwrap_or(usize::MAX));
        let job = VerifyCelestiaHeaders { top: CelestiaTop::Known(id), headers, limits: Arc::clone(&self.limits) };
        let job = Job::VerifyCelestiaHeaders(Box::new(job));
        links.attempt.started(self.calls.verify(Purpose::CelestiaLinksJob(anchor), job, out));
    }

    /// The commit of `height` was checked.
    pub(super) fn celestia_header_checked(
        &mut self,
        height: CelestiaHeight,
        result: &Result<Box<LinkedHeaders>, HeaderRefusal>,
        out: &mut Outbox,
    ) {
        let Some(trusting) = &mut self.celestia else { return };
        trusting.checking = None;
        match result {
            Ok(linked) => {
                trusting.forget_step(height);
                if let Some((check, block)) = linked.light.as_deref() {
                    if matches!(check, Check::FirstUse { .. }) {
                        out.report(Report::CelestiaTrustedOnFirstUse { height, hash: block.hash() });
                    }
                    trusting.client.accept(block);
                }
                self.celestia_headers_linked(linked, out);
            }
            Err(refusal) => self.celestia_header_refused(height, refusal, out),
        }
    }

    /// Headers below a trusted hash were compared.
    pub(super) fn celestia_links_checked(
        &mut self,
        anchor: CelestiaHeight,
        result: &Result<Box<LinkedHeaders>, HeaderRefusal>,
        out: &mut Outbox,
    ) {
        let broken = match result {
            Ok(linked) => linked.broken.as_ref().map(ToString::to_string),
            Err(refusal) => Some(refusal.reason.clone()),
        };
        let is_empty = result.as_ref().map_or(true, |linked| linked.ids.is_empty());
        if is_empty {
            let reason = broken.unwrap_or_else(|| "the headers asked for are not among those that came".to_owned());
            self.drop_input(Subject::CelestiaBlock, format!("below Celestia height {}", anchor.next()), &reason, out);
            return self.failed(Purpose::CelestiaLinks(anchor), &Fault::invalid(reason), out);
        }
        if let Some(trusting) = &mut self.celestia {
            trusting.links.remove(&anchor);
        }
        if let Ok(linked) = result {
            self.celestia_headers_linked(linked, out);
        }
    }

    fn celestia_headers_linked(&mut self, linked: &LinkedHeaders, out: &mut Outbox) {
        // What follows from it waits until it is kept.
        self.plan_celestia_persistence(false, out);
        let Some(trusting) = &mut self.celestia else { return };
        trusting.learn(linked.ids.iter().cloned());
        self.decode_held(out);
    }

    /// A header is not trusted, or not yet.
    fn celestia_header_refused(&mut self, height: CelestiaHeight, refusal: &HeaderRefusal, out: &mut Outbox) {
        let Some(trusting) = &mut self.celestia else { return };
        if let Some(light) = &refusal.light {
            if trusting.client.refuse(height.0, light) {
                // Nobody is to blame: the way leads through another height.
                trusting.forget_step(height);
                return;
            }
            if matches!(light, Refusal::Expired { .. }) && trusting.client.newest().is_none() {
                match self.limits.celestia.root {
                    // Only the head itself can be too old then: it is asked for again later.
                    RootSetting::FirstUse if trusting.begins_at_head => {}
                    RootSetting::FirstUse => {
                        trusting.forget_step(height);
                        trusting.begins_at_head = true;
                        return;
                    }
                    RootSetting::Header { .. } | RootSetting::Genesis(_) => {
                        return self.celestia_trust_expired(light, out);
                    }
                }
            }
        }
        self.drop_input(refusal.subject, format!("Celestia height {height}"), &refusal.reason, out);
        let fault = Fault::invalid(refusal.reason.as_str());
        if let Some(read) = self.scanner.reads.get_mut(&height).filter(|read| read.held.is_some()) {
            read.held = None;
            read.unproven = Some(fault.detail.clone());
            self.failed(Purpose::Blobs(height), &fault, out);
        } else {
            self.failed(Purpose::CelestiaHeader(height), &fault, out);
        }
    }

    /// Keeps what shows others that an answer was false, unless there is such evidence already. Nothing stops for it: the
    /// height is asked for again, as after every refusal.
    pub(super) fn answered_falsely(&mut self, evidence: Option<&FalseNamespaces>, out: &mut Outbox) {
        let Some(evidence) = evidence.filter(|evidence| self.falsehoods.insert(evidence.reason)) else { return };
        let evidence = Box::new(evidence.clone());
        out.push(Command::Persist { records: vec![Record::FalseNamespaces(evidence.clone())] });
        out.report(Report::FalseNamespaces { evidence });
    }

    /// Nothing more of Celestia can be trusted. Only the operator can help.
    fn celestia_trust_expired(&mut self, refusal: &Refusal, out: &mut Outbox) {
        let days = self.limits.celestia.trusting_period.as_secs() / 86_400;
        let reason = format!(
            "Celestia: {refusal}, and {days} days are permitted. Take height and hash of a newer header from a source \
             that you trust, set celestia.trust_root = \"HEIGHT:HASH\" and start again"
        );
        let needs = |cell: &Cell| !cell.is_over() && cell.spec.mode.follows_firm();
        let cells: Vec<CellId> = self.cells.iter().filter(|(_, cell)| needs(cell)).map(|(id, _)| *id).collect();
        for cell in cells {
            self.with_cell(cell, out, |cell, ctx| cell.park(reason.clone(), ctx));
            self.forget_cell(cell, out);
        }
    }

    /// Persists how far trust in Celestia has come.
    pub(super) fn plan_celestia_persistence(&mut self, is_last: bool, out: &mut Outbox) {
        let Some(trusting) = &mut self.celestia else { return };
        if let Some(record) = trusting.record(self.now, &self.limits, is_last) {
            out.push(Command::Persist { records: vec![Record::CelestiaHeader(record)] });
        }
    }
}

/// What evidence an earlier life has kept.
pub(super) fn falsehoods(records: &[Record]) -> BTreeSet<Falsehood> {
    let kept = records.iter().filter_map(|record| match record {
        Record::FalseNamespaces(evidence) => Some(evidence.reason),
        _ => None,
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{celestia::square::DataAvailabilityHeader, limits::Limits, testing::block};

    fn evidence(reason: Falsehood) -> FalseNamespaces {
        let made = block(4, &[]);
        FalseNamespaces {
            chain_id: String::new(),
            height: 4,
            reason,
            header: SignedBlock { signed_header: made.signed, validators: made.validators },
            roots: DataAvailabilityHeader { row_roots: Vec::new(), column_roots: Vec::new() },
            answer: None,
        }
    }

    #[test]
    fn evidence_is_kept_and_told_once_for_each_reason_in_all_lives() {
        let says = |conductor: &mut Conductor, evidence: &FalseNamespaces| {
            let mut out = Outbox::new();
            conductor.answered_falsely(Some(evidence), &mut out);
            out.drain().collect::<Vec<_>>()
        };
        let (first, other) = (evidence(Falsehood::MissingRow), evidence(Falsehood::ForgedRoots));
        let mut conductor = Conductor::new(Limits::default(), [1; 32], &[]);
        let [Command::Persist { records }, Command::Report(report)] = &says(&mut conductor, &first)[..] else {
            panic!("kept first, told then")
        };
        assert_eq!(*report, Report::FalseNamespaces { evidence: Box::new(first.clone()) });
        assert!(says(&mut conductor, &FalseNamespaces { height: 5, ..first.clone() }).is_empty(), "one is enough");
        assert_eq!(says(&mut conductor, &other).len(), 2);
        let mut next = Conductor::new(Limits::default(), [2; 32], records);
        assert!(says(&mut next, &first).is_empty(), "an earlier life has it");
        assert_eq!(says(&mut next, &other).len(), 2);
    }
}
