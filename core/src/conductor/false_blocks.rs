//! Gathers what shows others that a soft block was false. The header that it contradicts is mostly trusted by hash links, so
//! that its commit is asked for, once more, when it is known that something can be shown with it.
//!
//! One refused block at a time is looked at, nothing waits for it, and nothing follows from it: the height is asked for
//! again as after every refusal. Of each way to be false one piece of evidence is enough, in all lives of a data directory.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tendermint::{block::signed_header::SignedHeader, validator};

use crate::{
    calls::Purpose,
    cell::report_failure,
    command::{Call, Command, Outbox, Report},
    fault::Fault,
    ids::{Node, SequencerHeight},
    job::{BlockVerdict, Job, ProveFalseBlock, Validators},
    record::Record,
    retry::{Attempt, backoff},
    sequencer::{BLOCK_BYTES, BlockFalsehood, DataItems, TrustedHeader, header_hash, validators_hash},
    verified::Verified,
};

use super::Conductor;

/// Failures after which a refused block is given up: its commit cannot be had.
const TRIES: u32 = 6;

/// What is kept of false blocks, and the refused one that is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct FalseBlocks {
    kept: BTreeSet<BlockFalsehood>,
    suspect: Option<Box<Suspect>>,
}

/// A refused block.
#[derive(Clone, Debug)]
struct Suspect {
    height: SequencerHeight,
    block: Bytes,
    items: Option<DataItems>,
    /// What it is held against, as soon as that is trusted.
    header: Option<Verified<TrustedHeader>>,
    attempt: Attempt,
    /// Who was asked.
    node: Node,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    /// Whether it contradicts its header, whatever was asked for.
    Judge,
    /// It does: the header is to be fetched with its commit.
    Header,
    Validators(Box<SignedHeader>),
    Prove(Box<SignedHeader>, Vec<validator::Info>),
}

impl FalseBlocks {
    pub(super) fn restored(records: &[Record]) -> Self {
        let kept = records.iter().filter_map(|record| match record {
            Record::FalseBlock(evidence) => Some(evidence.reason),
            _ => None,
        });
        Self { kept: kept.collect(), suspect: None }
    }

    /// When something is to be done that nothing else brings about.
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        self.suspect.as_ref().filter(|suspect| suspect.header.is_some()).map(|suspect| &suspect.attempt)
    }

    /// Bytes of the refused block, and how many there may be.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.suspect.as_ref().map_or(0, |suspect| suspect.block.len()), BLOCK_BYTES)
    }
}

impl Conductor {
    /// Whether an encoded block of this many bytes is kept until its header has confirmed it.
    pub(super) fn keeps_for_evidence(&self, bytes: usize) -> bool {
        self.headers.trusting.is_some()
            && self.false_blocks.kept.len() < BlockFalsehood::ALL.len()
            && bytes <= BLOCK_BYTES
            && self.follower.encoded_bytes().saturating_add(bytes) <= self.limits.soft_buffer_bytes
    }

    /// A block of the sequencer's service was refused, for a reason that may show others something.
    pub(super) fn suspect(&mut self, height: SequencerHeight, items: Option<DataItems>) {
        let encoded = self.follower.slots.get_mut(&height).and_then(|slot| slot.encoded.take());
        // Kept for peers, it may be of any length; and what is held against a header is not given up for another.
        let Some(block) = encoded.filter(|block| self.headers.trusting.is_some() && block.len() <= BLOCK_BYTES) else {
            return;
        };
        let FalseBlocks { kept, suspect } = &mut self.false_blocks;
        if kept.len() < BlockFalsehood::ALL.len() && suspect.as_ref().is_none_or(|known| known.header.is_none()) {
            let (attempt, node) = (Attempt::default(), self.headers.node);
            *suspect = Some(Box::new(Suspect { height, block, items, header: None, attempt, node, step: Step::Judge }));
        }
    }

    pub(super) fn plan_false_blocks(&mut self, out: &mut Outbox) {
        let (now, deadline) = (self.now, self.now.after(self.limits.fetch_deadline));
        let due = self.false_blocks.suspect.as_mut().filter(|suspect| suspect.attempt.is_due(now));
        let Some(suspect) = due else { return };
        let height = suspect.height;
        let header = suspect.header.take().or_else(|| self.headers.trusted(height).cloned());
        let Some(header) = header else { return };
        suspect.header = Some(header.clone());
        let commit = match &suspect.step {
            Step::Judge => None,
            Step::Header => {
                let node = self.headers.whom(height, &suspect.attempt, suspect.node, &self.limits);
                suspect.node = node;
                let call = Call::FetchSignedHeader { height };
                let id = self.calls.call_node(Purpose::FalseBlockHeader, deadline, call, node, out);
                return suspect.attempt.started(id);
            }
            Step::Validators(signed) => {
                let set = validators_hash(signed).and_then(|hash| self.headers.set(&hash));
                let Some(set) = set else {
                    let call = Call::FetchValidators { height };
                    let id = self.calls.call_node(Purpose::FalseBlockValidators, deadline, call, suspect.node, out);
                    return suspect.attempt.started(id);
                };
                Some((signed.clone(), Validators::Known(Arc::clone(set))))
            }
            Step::Prove(signed, validators) => Some((signed.clone(), Validators::Fetched(validators.clone()))),
        };
        let (block, items, limits) = (suspect.block.clone(), suspect.items.clone(), Arc::clone(&self.limits));
        let job = ProveFalseBlock { block, items, header, commit, limits };
        let id = self.calls.verify(Purpose::FalseBlockJob, Job::ProveFalseBlock(Box::new(job)), out);
        suspect.attempt.started(id);
    }

    /// Header and commit have come.
    pub(super) fn false_block_header(&mut self, signed: &SignedHeader, out: &mut Outbox) {
        let Some(suspect) = &mut self.false_blocks.suspect else { return };
        let trusted = suspect.header.as_ref().map(|header| header.hash());
        if trusted == Some(header_hash(&signed.header)) {
            suspect.attempt.answered(self.now);
            suspect.step = Step::Validators(Box::new(signed.clone()));
        } else {
            let fault = Fault::invalid("the header is another one than the trusted one");
            self.false_block_failed(Purpose::FalseBlockHeader, &fault, out);
        }
    }

    /// The set has come that is said to have signed it.
    pub(super) fn false_block_validators(&mut self, validators: &[validator::Info]) {
        let Some(suspect) = &mut self.false_blocks.suspect else { return };
        suspect.attempt.answered(self.now);
        if let Step::Validators(signed) = &suspect.step {
            suspect.step = Step::Prove(signed.clone(), validators.to_vec());
        }
    }

    pub(super) fn false_block_judged(&mut self, verdict: &BlockVerdict, out: &mut Outbox) {
        let FalseBlocks { kept, suspect } = &mut self.false_blocks;
        match verdict {
            BlockVerdict::False(reason) if !kept.contains(reason) => {
                if let Some(suspect) = suspect {
                    suspect.attempt.answered(self.now);
                    suspect.step = Step::Header;
                }
            }
            BlockVerdict::False(_) | BlockVerdict::Unknown(_) => *suspect = None,
            BlockVerdict::Proven(evidence) => {
                *suspect = None;
                if kept.insert(evidence.reason) {
                    out.push(Command::Persist { records: vec![Record::FalseBlock(evidence.clone())] });
                    out.report(Report::FalseBlock { evidence: evidence.clone() });
                }
            }
            BlockVerdict::NotCommitted(reason) => {
                let fault = Fault::invalid(reason.as_str());
                self.false_block_failed(Purpose::FalseBlockJob, &fault, out);
            }
        }
    }

    /// The commit was not to be had, or is none.
    pub(super) fn false_block_failed(&mut self, purpose: Purpose, fault: &Fault, out: &mut Outbox) {
        let Some(suspect) = &mut self.false_blocks.suspect else { return };
        let failures = suspect.attempt.failures().saturating_add(1);
        if failures >= TRIES {
            self.false_blocks.suspect = None;
            return;
        }
        let delay = backoff(failures, self.limits.backoff_first, self.limits.backoff_last, &mut self.rng);
        suspect.attempt.failed(self.now, delay);
        suspect.step = Step::Header;
        report_failure(purpose, failures, delay, fault, out);
    }
}
