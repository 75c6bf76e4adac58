//! What is trusted, persisted and shown as evidence (S1, S4, S15, S18).

use std::collections::BTreeSet;

use downbeat_core::{
    Call, CelestiaHeight, Record, RollupId, SequencerHeight, Timestamp,
    celestia::FalseNamespaces,
    cell::Mode,
    light::{ConflictingHeaders, RootSetting, SoftTrust, Trust},
    sequencer::{BlockFalsehood, FalseBlock},
    wire::proto::astria::sequencerblock::v1::FilteredSequencerBlock,
};
use downbeat_world::{World, validators::ValidatorSet};
use prost::Message as _;
use tendermint::{
    Time,
    block::{CommitSig, Header, signed_header::SignedHeader},
};

use super::{Watch, calls::beginning};

impl Watch {
    /// S16: with trust on first use, what it began with is handed out to be kept before anything follows from it, or a
    /// crash would leave an execution that the next life cannot account for. S9: and nothing follows from evidence.
    pub(super) fn acts_on_record(&mut self, call: &Call) {
        let trust = &self.limits.trust;
        let relies = trust.soft == SoftTrust::Consensus || self.mode == Mode::FirmOnly;
        let began_somewhere = trust.level == Trust::Consensus && trust.root == RootSetting::FirstUse;
        if began_somewhere && relies && !self.has_record {
            let detail = format!("{} before what trust began with was persisted", beginning(call, 40));
            self.broken("S16", detail);
        }
        if self.has_evidence {
            self.broken("S9", "an execution after validators were found to have signed twice");
        }
    }

    /// S1: what the next life begins with is proven. S18: evidence only if validators did sign twice, and such that
    /// others can check it.
    pub(super) fn persists(&mut self, records: &[Record], now: Timestamp, world: &World) {
        for record in records {
            match record {
                Record::SequencerHeader(record) => {
                    let height = SequencerHeight(record.height());
                    let genuine = world.sequencer.signed_header(height).map(|signed| &signed.header);
                    let is_proven = self.proven.contains(&height) && genuine == Some(record.header());
                    if !is_proven && !self.twins.contains(&record.header().hash()) {
                        self.broken(
                            "S1",
                            format!("header {height} was persisted and no commit for it was seen in time"),
                        );
                    }
                    if timestamp(record.header().time) > now.after(self.limits.trust.clock_drift) {
                        self.broken("S12", format!("header {height} was trusted before its time"));
                    }
                    self.has_record = true;
                }
                Record::CelestiaHeader(record) => {
                    let block = world.celestia.block(CelestiaHeight(record.height()));
                    if block.map(|block| &block.signed_header.header) != Some(record.header()) {
                        let height = record.height();
                        self.broken("S1", format!("a Celestia header {height} was persisted that is not the chain's"));
                    }
                }
                Record::SequencerConflict(conflict) => {
                    if let Err(reason) = self.is_evidence(conflict, world) {
                        self.broken("S18", format!("no evidence about height {}: {reason}", conflict.height));
                    }
                    self.has_evidence = true;
                }
                Record::FalseBlock(evidence) => {
                    if let Err(reason) = self.is_false_block(evidence, world) {
                        let FalseBlock { height, reason: claimed, .. } = evidence.as_ref();
                        self.broken("S18", format!("no evidence of {claimed} at sequencer height {height}: {reason}"));
                    }
                    if !self.false_blocks.1.insert(evidence.reason) {
                        self.broken("L8", format!("a second piece of evidence of {}", evidence.reason));
                    }
                }
                Record::FalseNamespaces(evidence) => {
                    if let Err(reason) = self.is_falsehood(evidence, world) {
                        let FalseNamespaces { height, reason: claimed, .. } = evidence.as_ref();
                        self.broken("S18", format!("no evidence of {claimed} at Celestia height {height}: {reason}"));
                    }
                }
            }
        }
    }

    /// Whether somebody who has only the bytes can tell that this is not the block that the validators signed; and whether
    /// a server did answer it, and answered falsely.
    pub(super) fn is_false_block(&self, evidence: &FalseBlock, world: &World) -> Result<(), String> {
        let shown = FalseBlock::from_json(evidence.to_json().as_bytes()).map_err(|error| error.to_string())?;
        shown.verify(&self.limits).map_err(|error| error.to_string())?;
        if !self.soft_answers.get(&shown.height).is_some_and(|answers| answers.contains(&shown.block)) {
            return Err("no server answered this".to_owned());
        }
        let (header, height) = (&shown.header.signed_header.header, SequencerHeight(shown.height));
        // Of two signed headers the server may know the other one: then it was the validators who lied.
        if self.twins.contains(&header.hash()) && shown.reason == BlockFalsehood::OtherHash {
            return Ok(());
        }
        if world.sequencer.signed_header(height).map(|signed| &signed.header) != Some(header) {
            return Err("the header is not the chain's".to_owned());
        }
        let answer = FilteredSequencerBlock::decode(shown.block).map_err(|error| error.to_string())?;
        let ids = answer
            .rollup_transactions
            .iter()
            .filter_map(|part| part.rollup_id.as_ref()?.inner.as_ref().try_into().ok());
        let ids: Vec<RollupId> = ids.map(RollupId).collect();
        // Of whichever height: what is true there is no lie, however wrong as an answer.
        let own = SequencerHeight(answer.header.as_ref().map_or(0, |header| header.height));
        let genuine = world.sequencer.block(own).map(|block| block.published.filtered(&ids));
        if genuine == Some(answer) {
            return Err("the server told the truth".to_owned());
        }
        Ok(())
    }

    /// Whether somebody who has only the bytes can tell that this is not in the block that Celestia's validators signed.
    pub(super) fn is_falsehood(&self, evidence: &FalseNamespaces, world: &World) -> Result<(), String> {
        let shown = FalseNamespaces::from_json(evidence.to_json().as_bytes()).map_err(|error| error.to_string())?;
        shown.verify(&self.limits).map_err(|error| error.to_string())?;
        let genuine = world.celestia.block(CelestiaHeight(shown.height)).map(|block| &block.signed_header.header);
        if genuine != Some(&shown.header.signed_header.header) {
            return Err("the header is not the chain's".to_owned());
        }
        Ok(())
    }

    /// Whether the validators of the height did sign both headers, and whether somebody who has only the bytes can tell.
    pub(super) fn is_evidence(&self, conflict: &ConflictingHeaders, world: &World) -> Result<(), String> {
        let height = SequencerHeight(conflict.height);
        let shown = ConflictingHeaders::from_json(conflict.to_json().as_bytes()).map_err(|error| error.to_string())?;
        shown.verify(self.limits.validators).map_err(|error| error.to_string())?;
        let genuine = world.sequencer.signed_header(height).map(|signed| &signed.header);
        let set = world.sequencer.validators(height).map(ValidatorSet::hash);
        for block in [&shown.trusted, &shown.other] {
            let header = &block.signed_header.header;
            if genuine != Some(header) && !self.twins.contains(&header.hash()) {
                return Err("a header that no validator signed".to_owned());
            }
            if set != Some(header.validators_hash) {
                return Err("signed by others than the validators of the height".to_owned());
            }
        }
        Ok(())
    }

    /// S12: whether trust may go on to a signed header that comes now, for all that this life was shown before.
    pub(super) fn is_in_time(&mut self, header: &Header, now: Timestamp) -> bool {
        let trust = &self.limits.trust;
        let until = timestamp(header.time).after(trust.trusting_period);
        let is_root = match &trust.root {
            RootSetting::Header { height, .. } => *height == header.height.value(),
            RootSetting::FirstUse | RootSetting::Genesis(_) => true,
        };
        let begins = self.is_first && is_root && until > now;
        if trust.level == Trust::Consensus && !begins && self.trusts_until.is_none_or(|trusts| trusts <= now) {
            return false;
        }
        self.trusts_until = self.trusts_until.max(Some(until));
        true
    }

    /// A genuine header whose successor is proven is proven as well.
    pub(super) fn follows_by_hash(&mut self, header: &Header, world: &World) {
        let height = SequencerHeight(header.height.value());
        let genuine = world.sequencer.signed_header(height).map(|signed| &signed.header);
        let is_below_twin = !self.below_twins.is_empty() && self.below_twins.contains(&header.hash());
        if genuine == Some(header) && (is_below_twin || self.proven.contains(&height.next())) {
            self.proven.insert(height);
        } else if is_below_twin {
            self.below_twins.extend(parent_of(header));
        }
    }
}

pub(super) fn height_of(header: &Header) -> SequencerHeight {
    SequencerHeight(header.height.value())
}

/// The hash of the header before.
pub(super) fn parent_of(header: &Header) -> Option<tendermint::Hash> {
    header.last_block_id.map(|parent| parent.hash)
}

pub(super) fn timestamp(time: Time) -> Timestamp {
    u64::try_from(time.unix_timestamp_nanos()).map_or(Timestamp::ZERO, Timestamp)
}

/// Whether distinct validators of the model's own set at `height` have really signed this, with more than two thirds of
/// the power. What they sign is compared with what they signed, which is known here.
pub(super) fn has_quorum(signed: &SignedHeader, height: SequencerHeight, world: &World) -> bool {
    let Some(block) = world.sequencer.block(height) else { return false };
    if block.signed_header.header != signed.header || block.signed_header.commit.block_id != signed.commit.block_id {
        return false;
    }
    let votes = |vote: &CommitSig| match vote {
        CommitSig::BlockIdFlagCommit { validator_address, .. } => Some(*validator_address),
        _ => None,
    };
    let genuine = &block.signed_header.commit.signatures;
    let shown = signed.commit.signatures.iter().filter(|vote| genuine.contains(vote));
    let signers: BTreeSet<_> = shown.filter_map(votes).collect();
    let members = block.validators.members();
    let total: u128 = members.iter().map(|member| u128::from(member.power)).sum();
    let counted =
        members.iter().filter(|member| signers.contains(&member.address)).map(|member| u128::from(member.power));
    3 * counted.sum::<u128>() > 2 * total
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use downbeat_world::{SequencerConfig, WorldConfig};

    use super::*;

    #[test]
    fn three_of_five_are_no_quorum_and_nobody_counts_twice() {
        let sequencer = SequencerConfig { validators: vec![1; 5], ..SequencerConfig::default() };
        let mut world = World::new(WorldConfig { sequencer, ..WorldConfig::default() });
        world.step(world.now().after(Duration::from_secs(5)));
        let height = SequencerHeight(4);
        let signed = world.sequencer.signed_header(height).expect("a block").clone();
        let without = |count: usize| {
            let mut signed = signed.clone();
            signed.commit.signatures[..count].fill(CommitSig::BlockIdFlagAbsent);
            signed
        };
        assert!(has_quorum(&signed, height, &world) && has_quorum(&without(1), height, &world));
        assert!(!has_quorum(&without(2), height, &world));
        let mut repeated = without(2);
        repeated.commit.signatures[0] = repeated.commit.signatures[4].clone();
        assert!(!has_quorum(&repeated, height, &world));
        let mut other = signed.clone();
        other.header.data_hash = None;
        assert!(!has_quorum(&other, height, &world), "another header");
        assert!(!has_quorum(&signed, height.next(), &world), "another height");
    }
}
