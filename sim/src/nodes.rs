//! The CometBFT nodes of a run: which of them are bad, how, and what the second chain looks like that validators signed.

use std::collections::BTreeMap;

use downbeat_core::{Node, SequencerHeight, Timestamp, light::Trust};
use downbeat_world::{World, cometbft};
use tendermint::block::signed_header::SignedHeader;

use crate::{
    Scenario,
    fault::{Draw, Injector, Kind, Spot},
};

/// Which of the nodes do what all run long. At least one does nothing of all that.
#[derive(Debug, Default)]
pub(crate) struct BadNodes {
    /// Shows what strangers signed.
    pub(crate) liar: Option<Node>,
    /// Never answers.
    pub(crate) silent: Option<Node>,
    /// Shows the second chain.
    pub(crate) twin: Option<Node>,
    /// Is so many heights behind.
    pub(crate) lagging: Option<(Node, u64)>,
    /// Does not serve several headers at once.
    pub(crate) without_blockchain: Option<Node>,
    pub(crate) fork: Fork,
}

impl BadNodes {
    pub(crate) fn drawn(injector: &mut Injector, scenario: &Scenario, run: Spot) -> Self {
        let (mut bad, nodes) = (Self::default(), scenario.trust.nodes);
        if scenario.trust.level != Trust::Consensus {
            return bad;
        }
        let any = |mut draw: Draw| Node(u32::try_from(draw.below(nodes.into())).unwrap_or(0));
        bad.without_blockchain = injector.fires(Kind::NoBlockchain, run).map(any);
        if nodes < 2 {
            return bad;
        }
        // Trust has to begin with something configured: whoever is asked first could be the liar.
        bad.liar = injector.fires(Kind::LyingNode, run).filter(|_| scenario.trust.has_root()).map(any);
        bad.silent = injector.fires(Kind::SilentNode, run).map(any).and_then(|node| bad.free(node, nodes));
        if let Some(mut draw) = injector.fires(Kind::DoubleSigned, run) {
            bad.fork.first = SequencerHeight(draw.within(2, 25));
            bad.twin = bad.free(any(draw), nodes);
        }
        if let Some(mut draw) = injector.fires(Kind::LaggingNode, run) {
            let behind = draw.within(1, 12);
            bad.lagging = bad.free(any(draw), nodes).map(|node| (node, behind));
        }
        bad
    }

    /// `node`, or the next one that is as good as any, if one of these is left besides.
    fn free(&self, node: Node, nodes: u32) -> Option<Node> {
        let taken = [self.liar, self.silent, self.twin, self.lagging.map(|(node, _)| node)];
        let is_free = |node: &Node| !taken.contains(&Some(*node));
        if (0..nodes).map(Node).filter(is_free).count() < 2 {
            return None;
        }
        std::iter::successors(Some(node), |node| Some(node.next(nodes))).find(is_free)
    }
}

/// A second chain above some height, committed to by the same validators as the first one.
#[derive(Debug, Default)]
pub(crate) struct Fork {
    /// The first height with two blocks.
    first: SequencerHeight,
    headers: BTreeMap<SequencerHeight, SignedHeader>,
}

impl Fork {
    /// What the second chain has at `height`; nothing where there is only one chain.
    pub(crate) fn at(&mut self, height: SequencerHeight, world: &World, now: Timestamp) -> Option<SignedHeader> {
        if height < self.first || height > world.sequencer.head() {
            return None;
        }
        let begin = self.headers.last_key_value().map_or(self.first, |(last, _)| last.next());
        for next in (begin.0..=height.0).map(SequencerHeight) {
            let mut header = world.sequencer.signed_header(next)?.header.clone();
            header.app_hash = [0xdb; 32].to_vec().try_into().unwrap_or_default();
            if let Some(parent) = self.headers.get(&next.minus(1)) {
                header.last_block_id = Some(cometbft::block_id(&parent.header));
            }
            self.headers.insert(next, world.sequencer.sign_again(header, now)?);
        }
        self.headers.get(&height).cloned()
    }
}
