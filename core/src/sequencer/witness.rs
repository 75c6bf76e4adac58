//! What the other CometBFT nodes say about headers that were reached by signatures: every one of them is compared with
//! what each other node has, in any order and without anything waiting for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tendermint::{block::signed_header::SignedHeader, validator};

use crate::{
    ids::{Node, SequencerHeight},
    light::{Check, LightBlock},
    retry::Attempt,
    time::Timestamp,
    verified::Verified,
};

/// Headers that wait for one witness. While it is silent, the oldest go.
const WAITING: usize = 64;

/// A header that was reached by signatures, and what it followed from.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) block: Verified<LightBlock>,
    pub(crate) check: Check,
}

impl Reached {
    pub(crate) fn height(&self) -> SequencerHeight {
        SequencerHeight(self.block.height())
    }
}

/// All nodes but those that showed a header bear witness to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witnesses(BTreeMap<Node, Witness>);

/// A node that is asked what it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness {
    waiting: VecDeque<Waiting>,
    /// The highest header that it was to be asked for.
    newest: SequencerHeight,
    current: Option<(Waiting, Stage)>,
    attempt: Attempt,
}

#[derive(Clone, Debug)]
struct Waiting {
    reached: Arc<Reached>,
    failures: u32,
}

/// How far a comparison is.
#[derive(Clone, Debug)]
enum Stage {
    /// Its header and commit are to be fetched.
    Header,
    /// It has another header: the set that signed that is to be fetched.
    Validators(Box<SignedHeader>),
    /// To be compared.
    Compare(Box<SignedHeader>, Vec<validator::Info>),
}

/// What is to be done next to compare a header.
pub(crate) enum Step<'a> {
    FetchHeader(SequencerHeight),
    FetchValidators(SequencerHeight),
    Compare(&'a Reached, &'a SignedHeader, &'a [validator::Info]),
}

impl Witnesses {
    /// A header that `shown_by` has shown is to be compared with what every other of `nodes` has.
    pub(crate) fn offer(&mut self, reached: &Arc<Reached>, shown_by: Node, nodes: u32) {
        for node in (0..nodes).map(Node).filter(|node| *node != shown_by) {
            let Witness { waiting, newest, .. } = self.0.entry(node).or_default();
            *newest = reached.height().max(*newest);
            if waiting.len() >= WAITING {
                waiting.pop_front();
            }
            waiting.push_back(Waiting { reached: Arc::clone(reached), failures: 0 });
        }
    }

    pub(crate) fn of(&mut self, node: Node) -> Option<&mut Witness> {
        self.0.get_mut(&node)
    }

    pub(crate) fn all(&mut self) -> impl Iterator<Item = (Node, &mut Witness)> {
        self.0.iter_mut().map(|(node, witness)| (*node, witness))
    }

    /// When those want to be asked that have something to compare.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        let busy = self.0.values().filter(|witness| witness.current.is_some() || !witness.waiting.is_empty());
        busy.map(|witness| &witness.attempt)
    }

    /// The most headers that wait for one witness, and how many may.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.0.values().map(|witness| witness.waiting.len()).max().unwrap_or(0), WAITING)
    }
}

impl Witness {
    pub(crate) fn attempt(&mut self) -> &mut Attempt {
        &mut self.attempt
    }

    /// What is to be done now. What failed least goes first, or a header that this node does not have would hold up all
    /// others.
    pub(crate) fn step(&mut self, now: Timestamp) -> Option<Step<'_>> {
        if !self.attempt.is_due(now) {
            return None;
        }
        if self.current.is_none() {
            let (next, _) = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| waiting.failures)?;
            self.current = self.waiting.remove(next).map(|waiting| (waiting, Stage::Header));
        }
        let (waiting, stage) = self.current.as_ref()?;
        Some(match stage {
            Stage::Header => Step::FetchHeader(waiting.reached.height()),
            Stage::Validators(_) => Step::FetchValidators(waiting.reached.height()),
            Stage::Compare(signed_header, validators) => Step::Compare(&waiting.reached, signed_header, validators),
        })
    }

    /// The header that is being compared.
    pub(crate) fn reached(&self) -> Option<&Arc<Reached>> {
        self.current.as_ref().map(|(waiting, _)| &waiting.reached)
    }

    /// It has another header.
    pub(crate) fn has_other(&mut self, signed_header: SignedHeader, now: Timestamp) {
        if let Some((_, stage)) = &mut self.current {
            *stage = Stage::Validators(Box::new(signed_header));
        }
        self.attempt.answered(now);
    }

    /// The set that signed its header.
    pub(crate) fn names(&mut self, validators: &[validator::Info], now: Timestamp) {
        if let Some((_, stage)) = &mut self.current
            && let Stage::Validators(signed_header) = std::mem::replace(stage, Stage::Header)
        {
            *stage = Stage::Compare(signed_header, validators.to_vec());
        }
        self.attempt.answered(now);
    }

    /// The comparison has come to an end.
    pub(crate) fn compared(&mut self, now: Timestamp) -> Option<Arc<Reached>> {
        self.attempt.succeeded(now);
        self.current.take().map(|(waiting, _)| waiting.reached)
    }

    /// It could not say anything about the header, and is asked again after `delay`. One that says that it keeps the header
    /// no longer is asked for the next one instead; it is believed only when there is one, for what follows from the newest
    /// header rests on this comparison alone.
    pub(crate) fn failed(&mut self, is_gone: bool, now: Timestamp, delay: Duration) {
        if let Some((mut waiting, _)) = self.current.take() {
            let is_over = is_gone && waiting.reached.height() < self.newest;
            if !is_over && self.waiting.len() < WAITING {
                waiting.failures = waiting.failures.saturating_add(1);
                self.waiting.push_back(waiting);
            }
        }
        self.attempt.failed(now, delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::CommandId,
        sequencer::ValidatorSet,
        testing::{Made, block},
    };

    const NODES: u32 = 3;
    const NOW: Timestamp = Timestamp(1_000);

    fn made(height: u64) -> (Made, Arc<Reached>) {
        let made = block(height, &[]);
        let set = Arc::new(ValidatorSet::new(made.validators.clone(), 100).expect("a set"));
        let block = LightBlock::unchecked(made.signed.clone(), set);
        let reached = Reached { block, check: Check::FirstUse { chain_id: String::new() } };
        (made, Arc::new(reached))
    }

    fn offered(heights: impl IntoIterator<Item = u64>) -> Witnesses {
        let mut witnesses = Witnesses::default();
        for height in heights {
            witnesses.offer(&made(height).1, Node(0), NODES);
        }
        witnesses
    }

    fn asks(witness: &mut Witness, now: Timestamp) -> Option<u64> {
        match witness.step(now) {
            Some(Step::FetchHeader(height)) => Some(height.0),
            Some(Step::FetchValidators(_) | Step::Compare(..)) => panic!("it has not answered yet"),
            None => None,
        }
    }

    #[test]
    fn every_header_is_compared_with_what_each_other_node_has() {
        let mut witnesses = offered([5, 6, 9]);
        assert_eq!(witnesses.all().map(|(node, _)| node).collect::<Vec<_>>(), [Node(1), Node(2)], "not who showed it");
        for (_, witness) in witnesses.all() {
            for height in [5, 6, 9] {
                assert_eq!(asks(witness, NOW), Some(height));
                assert_eq!(witness.compared(NOW).map(|reached| reached.height().0), Some(height));
            }
            assert_eq!(asks(witness, NOW), None);
        }
        assert_eq!(witnesses.attempts().count(), 0, "nobody waits for anything");
    }

    #[test]
    fn a_witness_is_asked_one_thing_at_a_time() {
        let mut witnesses = offered([5]);
        let witness = witnesses.of(Node(1)).expect("a witness");
        assert_eq!(asks(witness, NOW), Some(5));
        witness.attempt().started(CommandId { incarnation: 1, ordinal: 1 });
        assert_eq!(asks(witness, NOW), None);
        let (other, _) = made(6);
        witness.has_other(other.signed, NOW);
        assert!(matches!(witness.step(NOW), Some(Step::FetchValidators(SequencerHeight(5)))));
        witness.names(&other.validators, NOW);
        assert!(matches!(witness.step(NOW), Some(Step::Compare(reached, ..)) if reached.height().0 == 5));
    }

    #[test]
    fn a_header_that_a_witness_does_not_have_holds_up_no_other() {
        let mut witnesses = offered([5, 6]);
        let witness = witnesses.of(Node(1)).expect("a witness");
        assert_eq!(asks(witness, NOW), Some(5));
        witness.failed(false, NOW, Duration::from_nanos(10));
        assert_eq!(asks(witness, NOW), None, "after a pause");
        let later = NOW.after(Duration::from_nanos(10));
        assert_eq!(asks(witness, later), Some(6));
        witness.compared(later);
        assert_eq!(asks(witness, later), Some(5), "once more");
    }

    #[test]
    fn a_witness_that_keeps_a_header_no_longer_is_believed_when_there_is_a_newer_one() {
        let mut witnesses = offered([5, 6]);
        let witness = witnesses.of(Node(1)).expect("a witness");
        assert_eq!(asks(witness, NOW), Some(5));
        witness.failed(true, NOW, Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(asks(witness, NOW), Some(6), "not 5 again, and nothing else would show that 6 is wrong");
            witness.failed(true, NOW, Duration::ZERO);
        }
        witnesses.offer(&made(7).1, Node(0), NODES);
        let witness = witnesses.of(Node(1)).expect("a witness");
        assert_eq!(asks(witness, NOW), Some(7), "it failed less");
        witness.compared(NOW);
        assert_eq!(asks(witness, NOW), Some(6));
        witness.failed(true, NOW, Duration::ZERO);
        assert_eq!(asks(witness, NOW), None, "it had the newer one");
    }

    #[test]
    fn the_oldest_go_while_a_witness_is_silent() {
        let mut witnesses = offered(1..=2 * WAITING as u64);
        assert_eq!(witnesses.waiting(), (WAITING, WAITING));
        let witness = witnesses.of(Node(2)).expect("a witness");
        assert_eq!(asks(witness, NOW), Some(WAITING as u64 + 1));
    }

    #[test]
    fn what_could_not_be_compared_does_not_come_back_where_there_is_no_room() {
        let mut witnesses = offered(1..=WAITING as u64);
        assert_eq!(witnesses.attempts().count(), 2, "both have something to do");
        let witness = witnesses.of(Node(1)).expect("a witness");
        assert_eq!(asks(witness, NOW), Some(1));
        witnesses.offer(&made(WAITING as u64 + 1).1, Node(2), NODES);
        let witness = witnesses.of(Node(1)).expect("a witness");
        witness.failed(false, NOW, Duration::ZERO);
        assert_eq!(witness.waiting.len(), WAITING);
        assert_eq!(asks(witness, NOW), Some(2));
    }
}
