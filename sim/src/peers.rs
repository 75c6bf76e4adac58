//! The peers' side of every call, with the lies that faults put into it.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use downbeat_core::{
    Answer, BlockHash, Call, CelestiaHeight, CellId, Fault, FaultClass, Node, RollupId, SequencerHeight, Timestamp,
    event::{Blob, CelestiaHead},
    fault,
    wire::proto::astria::execution::v2::{
        ExecutedBlockIdentifier, GetExecutedBlockMetadataRequest, executed_block_identifier::Identifier,
    },
    wire::proto::astria::sequencerblock::v1::FilteredSequencerBlock,
};
use downbeat_world::{
    RollupNode, World, cometbft,
    forge::Forgery,
    memo::{Fingerprint, Generations},
    published::PublishedBlock,
    rollup::{Code, Method, Misbehaviour, Status},
    validators::{Keyring, ValidatorSet},
};
use prost::Message as _;
use tendermint::block::{CommitSig, Header, signed_header::SignedHeader};

use crate::{
    fault::{Kind, Site, Spot},
    probe::Probe,
    queue::Simulation,
};

/// Whom a call goes to; what partitions cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Sequencer,
    CometBft,
    Celestia,
    Others,
    Node(u32),
}

/// Where a call is made.
pub(crate) fn site_of(call: &Call) -> Site {
    match call {
        Call::IdentifySequencer => Site::Identity,
        Call::FetchSequencerHead => Site::Head,
        Call::FetchSoftBlock { .. } => Site::SoftBlock,
        Call::FetchSignedHeader { .. } => Site::Header,
        Call::FetchHeaders { .. } => Site::Headers,
        Call::FetchValidators { .. } => Site::Validators,
        Call::FetchBlockTransactions { .. } => Site::BlockData,
        Call::FetchCelestiaHead => Site::CelestiaHead,
        Call::FetchBlobs { .. } | Call::FetchNamespaces { .. } => Site::Blobs,
        Call::FetchCelestiaHeader { .. } | Call::FetchCelestiaHeaders { .. } => Site::CelestiaHeader,
        Call::OpenSession { cell } => Site::Session(cell.0),
        Call::ExecuteBlock { cell, .. } => Site::Execute(cell.0),
        Call::UpdateCommitment { cell, .. } => Site::Commit(cell.0),
        Call::FetchExecutedBlock { cell, .. } => Site::LookUp(cell.0),
        Call::FetchFromPeers { .. } => Site::Peers,
    }
}

/// Whom a call at a site goes to.
pub(crate) fn peer_of(site: Site) -> Peer {
    match site {
        Site::SoftBlock => Peer::Sequencer,
        Site::Peers | Site::Gossip => Peer::Others,
        Site::CelestiaHead | Site::Blobs | Site::CelestiaHeader => Peer::Celestia,
        site => site.cell().map_or(Peer::CometBft, Peer::Node),
    }
}

pub(crate) fn not_yet() -> Fault {
    Fault::new(FaultClass::NotYet, "no such height yet")
}

fn gone() -> Fault {
    Fault::new(FaultClass::Gone, "no longer kept")
}

impl Simulation {
    /// Performs a call as the peer does, lies included.
    pub(crate) fn perform(&mut self, call: Call, node: Node, spot: Spot) -> Result<Answer, Fault> {
        Ok(match call {
            Call::IdentifySequencer => {
                Answer::SequencerIdentified { chain_id: self.world.sequencer.chain_id().to_owned() }
            }
            Call::FetchSequencerHead => {
                let head = self.world.sequencer.head().minus(self.behind(node));
                let height = if let Some(mut draw) = self.fires(Kind::StaleHead, spot) {
                    head.minus(draw.within(1, 20))
                } else if let Some(mut draw) = self.fires(Kind::FutureHead, spot) {
                    head.plus(draw.within(1, 100))
                } else {
                    head
                };
                Answer::SequencerHeadFetched { height }
            }
            Call::FetchSoftBlock { height, rollup_ids } => self.soft_block(height, &rollup_ids, spot)?,
            Call::FetchSignedHeader { mut height } => {
                self.withholds(spot)?;
                if let Some(mut draw) = self.fires(Kind::OtherHeader, spot) {
                    height = if draw.below(2) == 0 { height.next() } else { height.minus(1) };
                }
                let signed = self.shown(height, node).ok_or_else(not_yet)?;
                Answer::SignedHeaderFetched { signed_header: Box::new(self.altered(signed, spot)) }
            }
            Call::FetchHeaders { first, last } => {
                if self.bad_nodes.without_blockchain == Some(node) {
                    return Err(Fault::new(fault::cometbft_error(-32601, "Method not found"), "no such method"));
                }
                let heights = (first.0..=last.0).map(SequencerHeight);
                let mut headers: Vec<_> =
                    heights.filter_map(|height| self.shown(height, node)).map(|signed| signed.header).collect();
                if let Some(mut draw) = self.fires(Kind::BrokenLink, spot) {
                    let at = draw.index(headers.len());
                    if let Some(header) = headers.get_mut(at) {
                        header.app_hash = draw.array::<32>().to_vec().try_into().unwrap_or_default();
                    }
                }
                if self.fires(Kind::GappedLinks, spot).is_some() && headers.len() > 2 {
                    headers.remove(headers.len() / 2);
                }
                if let Some(mut draw) = self.fires(Kind::MissingLinks, spot) {
                    headers.truncate(draw.index(headers.len().max(1)));
                }
                Answer::HeadersFetched { headers }
            }
            Call::FetchValidators { height } => {
                self.withholds(spot)?;
                let mut validators = self.world.sequencer.validators(height).ok_or_else(not_yet)?.infos();
                if let Some(mut draw) = self.fires(Kind::ForgedValidators, spot) {
                    let at = draw.index(validators.len());
                    // A set that cannot be, or one that could.
                    if draw.below(3) == 0 {
                        validators.extend(validators.get(at).cloned());
                    } else if let Some(validator) = validators.get_mut(at) {
                        validator.power = u32::try_from(draw.below(1 << 20)).unwrap_or(1).into();
                    }
                }
                if self.fires(Kind::ForeignCommit, spot).is_some() || self.bad_nodes.liar == Some(node) {
                    validators = strangers().1.infos();
                }
                Answer::ValidatorsFetched { validators }
            }
            Call::FetchBlockTransactions { height } => {
                self.withholds(spot)?;
                let mut transactions = self.world.sequencer.transactions(height).ok_or_else(not_yet)?;
                if let Some(mut draw) = self.fires(Kind::ForgedTransactions, spot) {
                    transactions.push(Bytes::copy_from_slice(&draw.array::<8>()));
                }
                self.hit(Probe::DataItemsFetched);
                Answer::BlockTransactionsFetched { transactions }
            }
            Call::FetchCelestiaHead => self.celestia_head(spot)?,
            Call::FetchBlobs { height, namespaces } => {
                self.withholds_blobs(spot)?;
                let block = self.world.celestia.block(height).ok_or_else(not_yet)?;
                let wanted = block.blobs().iter().filter(|blob| namespaces.contains(&blob.namespace));
                let mut blobs: Vec<_> =
                    wanted.map(|blob| Blob { namespace: blob.namespace, data: blob.data.clone() }).collect();
                if self.fires(Kind::DoubledBlobs, spot).is_some() {
                    blobs.extend(blobs.clone());
                }
                if let Some(mut draw) = self.fires(Kind::ShuffledBlobs, spot) {
                    draw.shuffle(&mut blobs);
                }
                let unreadable = if self.fires(Kind::UnreadableBlobs, spot).is_some() { 2 } else { 0 };
                Answer::BlobsFetched { blobs, unreadable }
            }
            Call::FetchNamespaces { height, namespaces } => {
                self.withholds_blobs(spot)?;
                Answer::NamespacesFetched { block: Box::new(self.celestia_block(height, &namespaces, spot)?) }
            }
            Call::FetchCelestiaHeader { height } => {
                self.withholds_blobs(spot)?;
                Answer::CelestiaHeaderFetched { header: Box::new(self.celestia_header(height, spot)?) }
            }
            Call::FetchCelestiaHeaders { first, last } => {
                self.withholds_blobs(spot)?;
                let heights = (first.0..=last.0).map(CelestiaHeight);
                let headers = heights.map(|height| Ok(self.celestia_header(height, spot)?.signed_header.header));
                let headers = headers.collect::<Result<_, Fault>>()?;
                self.hit(Probe::CelestiaHeadersLinked);
                Answer::CelestiaHeadersFetched { headers }
            }
            Call::OpenSession { cell } => {
                self.misbehave(cell, spot, Method::CreateExecutionSession);
                let session = self.node(cell)?.create_execution_session().map_err(|status| rollup_fault(&status))?;
                Answer::SessionOpened { session: Box::new(session) }
            }
            Call::ExecuteBlock { cell, request } => {
                self.misbehave(cell, spot, Method::ExecuteBlock);
                let response = self.node(cell)?.execute_block(request).map_err(|status| rollup_fault(&status))?;
                Answer::BlockExecuted { response: Box::new(response) }
            }
            Call::UpdateCommitment { cell, request } => {
                self.misbehave(cell, spot, Method::UpdateCommitmentState);
                let commitment =
                    self.node(cell)?.update_commitment_state(request).map_err(|status| rollup_fault(&status))?;
                Answer::CommitmentUpdated { commitment: Box::new(commitment) }
            }
            Call::FetchFromPeers { height, rollups } => {
                let answer = self.peers_answer(height, &rollups, spot);
                return answer.unwrap_or_else(|| Err(Fault::transient("there are no peers")));
            }
            Call::FetchExecutedBlock { cell, number } => {
                self.misbehave(cell, spot, Method::GetExecutedBlockMetadata);
                let identifier = ExecutedBlockIdentifier { identifier: Some(Identifier::Number(number.0)) };
                let request = GetExecutedBlockMetadataRequest { identifier: Some(identifier) };
                let metadata =
                    self.node(cell)?.get_executed_block_metadata(request).map_err(|status| rollup_fault(&status))?;
                self.hit(Probe::ExecutedBlockLookedUp);
                Answer::ExecutedBlockFetched { metadata: Box::new(metadata) }
            }
        })
    }

    /// By how many heights a node is behind the others.
    fn behind(&self, node: Node) -> u64 {
        let lagging = self.bad_nodes.lagging.filter(|(lagging, _)| *lagging == node && self.is_faulty());
        lagging.map_or(0, |(_, behind)| behind)
    }

    /// What a CometBFT node has at a height.
    fn shown(&mut self, height: SequencerHeight, node: Node) -> Option<SignedHeader> {
        if height > self.world.sequencer.head().minus(self.behind(node)) {
            return None;
        }
        let now = self.now();
        if self.bad_nodes.twin == Some(node)
            && let Some(twin) = self.bad_nodes.fork.at(height, &self.world, now)
        {
            self.signed_twice(&twin.header);
            return Some(twin);
        }
        let signed = self.world.sequencer.signed_header(height)?.clone();
        Some(if self.bad_nodes.liar == Some(node) { signed_by_strangers(signed.header, now) } else { signed })
    }

    fn withholds_blobs(&mut self, spot: Spot) -> Result<(), Fault> {
        if self.fires(Kind::WithheldBlobs, spot).is_some() {
            return Err(not_yet());
        }
        if self.fires(Kind::PrunedBlobs, spot).is_some() {
            return Err(gone());
        }
        Ok(())
    }

    fn withholds(&mut self, spot: Spot) -> Result<(), Fault> {
        if self.fires(Kind::WithheldHeight, spot).is_some() {
            return Err(not_yet());
        }
        if self.fires(Kind::PrunedHeight, spot).is_some() {
            return Err(gone());
        }
        Ok(())
    }

    fn soft_block(
        &mut self,
        mut height: SequencerHeight,
        rollup_ids: &[RollupId],
        spot: Spot,
    ) -> Result<Answer, Fault> {
        self.withholds(spot)?;
        if let Some(mut draw) = self.fires(Kind::OtherHeight, spot) {
            height = if draw.below(2) == 0 { height.next() } else { height.minus(1) };
        }
        let mut lie = None;
        if let Some(mut draw) = self.fires(Kind::Equivocation, spot) {
            lie = Some(match draw.below(4) {
                0 => Forgery::Later(1),
                3 => Forgery::ChainId("another-chain".to_owned()),
                1 => Forgery::BlockHash(BlockHash(draw.array())),
                _ => Forgery::Transactions(Bytes::copy_from_slice(&draw.array::<8>())),
            });
        } else if let Some(mut draw) = self.fires(Kind::OmittedRollup, spot) {
            lie = rollup_ids.get(draw.index(rollup_ids.len())).copied().map(Forgery::WithoutRollup);
        }
        let served = self.world.sequencer.served(height).ok_or_else(not_yet)?;
        // What differs from the chain's block, if anything does.
        let mut other = matches!(served, Cow::Owned(_)).then(|| served.filtered(rollup_ids));
        if let Some(lie) = lie {
            let forged = served.forged(lie).filtered(rollup_ids);
            if forged != served.filtered(rollup_ids) {
                other = Some(forged);
                self.lied_about(height);
            }
        }
        if let Some(mut draw) = self.fires(Kind::OmittedData, spot) {
            let genuine = || published_of(&self.world, height).map(|block| block.filtered(rollup_ids));
            let mut block = other.map_or_else(genuine, Ok)?;
            if !block.rollup_transactions.is_empty() {
                block.rollup_transactions.remove(draw.index(block.rollup_transactions.len()));
            }
            other = Some(block);
        }
        if self.fires(Kind::OtherChain, spot).is_some() {
            let chain = published_of(&self.world, height)?.forged(Forgery::ChainId("another-sequencer".to_owned()));
            other = Some(chain.forged(Forgery::Later(1)).filtered(rollup_ids));
        }
        let genuine = || encoded_block(&self.world, height, rollup_ids).ok_or_else(not_yet);
        let mut bytes = other.map_or_else(genuine, |block| Ok(block.encode_to_vec().into()))?;
        // Altered bytes could be a lie that only the commit tells from the truth; cut ones never are.
        if let Some(mut draw) = self.fires(Kind::GarbledBlock, spot) {
            bytes.truncate(draw.index(bytes.len()));
            // Cut between two fields it may be a smaller block that is consistent in itself.
            if FilteredSequencerBlock::decode(bytes.clone()).is_ok() {
                self.lied_about(height);
            }
        }
        Ok(Answer::SoftBlockFetched { block: bytes })
    }

    fn altered(&mut self, mut signed: SignedHeader, spot: Spot) -> SignedHeader {
        if self.fires(Kind::WeakCommit, spot).is_some() {
            for index in self.surplus(&signed) {
                signed.commit.signatures[index] = CommitSig::BlockIdFlagAbsent;
            }
        }
        if let Some(mut draw) = self.fires(Kind::RepeatedSigner, spot) {
            let surplus = self.surplus(&signed);
            let rest: Vec<_> = (0..signed.commit.signatures.len()).filter(|index| !surplus.contains(index)).collect();
            if let Some(copied) = rest.get(draw.index(rest.len())).map(|index| signed.commit.signatures[*index].clone())
            {
                for index in surplus {
                    signed.commit.signatures[index].clone_from(&copied);
                }
            }
        }
        if let Some(mut draw) = self.fires(Kind::ForgedSignature, spot) {
            for index in self.surplus(&signed) {
                let forged =
                    tendermint::Signature::try_from([draw.array::<32>(), draw.array::<32>()].concat().as_slice());
                if let CommitSig::BlockIdFlagCommit { signature, .. } = &mut signed.commit.signatures[index] {
                    *signature = forged.ok();
                }
            }
        }
        if let Some(mut draw) = self.fires(Kind::ForeignCommit, spot) {
            signed.header.data_hash = tendermint::Hash::try_from(draw.array::<32>().to_vec()).ok();
            let (keyring, strangers) = strangers();
            let at = self.now();
            signed.commit = cometbft::commit(&signed.header, 0, &strangers, keyring, |_| (cometbft::Vote::Commit, at));
        }
        if self.fires(Kind::FutureHeader, spot).is_some() {
            let later = signed.header.time + std::time::Duration::from_hours(1);
            signed.header.time = later.unwrap_or(signed.header.time);
        }
        if let Some(mut draw) = self.fires(Kind::ForgedHeader, spot) {
            signed.header.data_hash = tendermint::Hash::try_from(draw.array::<32>().to_vec()).ok();
        }
        signed
    }

    /// As few signatures for the block as can be without which the others are no quorum, the weakest ones first: what
    /// is left is as close to two thirds as it can be.
    fn surplus(&self, signed: &SignedHeader) -> Vec<usize> {
        let height = SequencerHeight(signed.header.height.value());
        let Some(set) = self.world.sequencer.validators(height) else { return Vec::new() };
        let power = |index: &usize| set.members().get(*index).map_or(0, |member| member.power);
        let total: u64 = set.members().iter().map(|member| member.power).sum();
        let is_for = |signature: &CommitSig| matches!(signature, CommitSig::BlockIdFlagCommit { .. });
        let signatures = signed.commit.signatures.iter().enumerate();
        let mut signers: Vec<usize> =
            signatures.filter(|(_, signature)| is_for(signature)).map(|(index, _)| index).collect();
        signers.sort_by_key(power);
        let mut left: u64 = signers.iter().map(power).sum();
        let mut surplus = Vec::new();
        for index in signers {
            if 3 * left <= 2 * total {
                break;
            }
            left -= power(&index);
            surplus.push(index);
        }
        surplus
    }

    fn celestia_head(&mut self, spot: Spot) -> Result<Answer, Fault> {
        let celestia = &self.world.celestia;
        let block = celestia.block(celestia.head()).ok_or_else(not_yet)?;
        let (time, tail) = (block.time(), celestia.tail());
        let mut head = CelestiaHead { chain_id: celestia.chain_id().to_owned(), height: celestia.head(), time };
        if let Some(mut draw) = self.fires(Kind::StaleCelestiaHead, spot) {
            head.height = head.height.minus(draw.within(1, 10)).max(tail);
        } else if let Some(mut draw) = self.fires(Kind::FutureCelestiaHead, spot) {
            head.height = head.height.plus(draw.within(1, 50));
        }
        if self.fires(Kind::OtherCelestia, spot).is_some() {
            "another-celestia".clone_into(&mut head.chain_id);
        }
        Ok(Answer::CelestiaHeadFetched { head })
    }

    /// What the next call to a rollup node meets.
    fn misbehave(&mut self, cell: CellId, spot: Spot, method: Method) {
        let refuse = |code, text: &str| Misbehaviour::Refuse(Status::new(code, text));
        let mut ordered = None;
        for kind in [
            Kind::Busy,
            Kind::Denied,
            Kind::Broken,
            Kind::WrongNumber,
            Kind::WrongParent,
            Kind::WrongLookUp,
            Kind::WrongEcho,
            Kind::EmptyReply,
        ] {
            let fits = match kind {
                Kind::WrongNumber | Kind::WrongParent => method == Method::ExecuteBlock,
                Kind::WrongLookUp => method == Method::GetExecutedBlockMetadata,
                Kind::WrongEcho => method == Method::UpdateCommitmentState,
                Kind::Denied => matches!(method, Method::ExecuteBlock | Method::UpdateCommitmentState),
                _ => true,
            };
            let Some(mut draw) = fits.then(|| self.fires(kind, spot)).flatten() else { continue };
            if kind.may_park() {
                self.excuse(cell);
            }
            ordered = Some(match kind {
                Kind::Busy => refuse(Code::ResourceExhausted, "busy"),
                Kind::Denied => refuse(Code::PermissionDenied, "denied"),
                Kind::Broken => refuse(Code::Internal, "broken"),
                Kind::WrongNumber => Misbehaviour::NumberOff(draw.within(1, 3)),
                Kind::WrongParent => Misbehaviour::OtherParentHash,
                Kind::WrongLookUp if draw.below(2) == 0 => Misbehaviour::OtherParentHash,
                Kind::WrongLookUp => Misbehaviour::OtherSequencerHash,
                Kind::EmptyReply => Misbehaviour::EmptyReply,
                _ => match draw.below(3) {
                    0 => Misbehaviour::OtherSoft,
                    1 => Misbehaviour::OtherFirm,
                    _ => Misbehaviour::OtherSearchHeight,
                },
            });
        }
        if let (Some(misbehaviour), Ok(node)) = (ordered, self.node(cell)) {
            node.misbehave(method, misbehaviour, 1);
        }
    }

    fn node(&mut self, cell: CellId) -> Result<&mut RollupNode, Fault> {
        let id = self.node_id(cell);
        self.world.rollups.get_mut(&id).ok_or_else(|| Fault::transient("no such node"))
    }

    pub(crate) fn node_id(&self, cell: CellId) -> RollupId {
        let index = usize::try_from(cell.0).unwrap_or(usize::MAX);
        self.world.node_ids().get(index).copied().unwrap_or(RollupId([0; 32]))
    }
}

fn rollup_fault(status: &Status) -> Fault {
    Fault::new(fault::execution_status(status.code as i32), status.to_string())
}

/// What a call is about, in numbers: its kind, and the height or number that it names.
pub(crate) fn summary(call: &Call) -> (Site, u64) {
    let number = match call {
        Call::FetchSoftBlock { height, .. }
        | Call::FetchSignedHeader { height }
        | Call::FetchValidators { height }
        | Call::FetchBlockTransactions { height }
        | Call::FetchFromPeers { height, .. } => height.0,
        Call::FetchHeaders { first, last } => first.0.wrapping_mul(31).wrapping_add(last.0),
        Call::FetchBlobs { height, .. }
        | Call::FetchNamespaces { height, .. }
        | Call::FetchCelestiaHeader { height } => height.0,
        Call::FetchCelestiaHeaders { first, last } => first.0.wrapping_mul(31).wrapping_add(last.0),
        Call::ExecuteBlock { request, .. } => request.timestamp.as_ref().map_or(0, |time| time.seconds.unsigned_abs()),
        Call::UpdateCommitment { request, .. } => request.commitment_state.as_ref().map_or(0, |state| {
            let soft = state.soft_executed_block_metadata.as_ref().map_or(0, |block| block.number);
            let firm = state.firm_executed_block_metadata.as_ref().map_or(0, |block| block.number);
            soft.wrapping_mul(1_000_003).wrapping_add(firm)
        }),
        Call::FetchExecutedBlock { number, .. } => number.0,
        Call::IdentifySequencer | Call::FetchSequencerHead | Call::FetchCelestiaHead | Call::OpenSession { .. } => 0,
    };
    (site_of(call), number)
}

/// The header as it would be on a chain of strangers, with their commit: consistent in itself.
pub(crate) fn signed_by_strangers(mut header: Header, at: Timestamp) -> SignedHeader {
    let (keyring, strangers) = strangers();
    header.validators_hash = strangers.hash();
    header.next_validators_hash = strangers.hash();
    let commit = cometbft::commit(&header, 0, &strangers, keyring, |_| (cometbft::Vote::Commit, at));
    // Both are of one height, which is all that is asked.
    SignedHeader::new(header, commit).expect("one height")
}

/// Validators of nobody's chain.
pub(crate) fn strangers() -> (Keyring, ValidatorSet) {
    let keyring = Keyring::new(u64::MAX);
    let set = ValidatorSet::genesis(keyring, &[(0, 1)]);
    (keyring, set)
}

fn published_of(world: &World, height: SequencerHeight) -> Result<&PublishedBlock, Fault> {
    world.sequencer.block(height).map(|block| &block.published).ok_or_else(not_yet)
}

/// Answers that are kept: runs share their worlds.
const ANSWERS_KEPT: usize = 16_384;

/// A block of the chain as `GetFilteredSequencerBlock` answers it.
pub(crate) fn encoded_block(world: &World, height: SequencerHeight, rollup_ids: &[RollupId]) -> Option<Bytes> {
    static KEPT: Mutex<Generations<Fingerprint, Bytes>> = Mutex::new(Generations::new(ANSWERS_KEPT));
    let block = world.sequencer.block(height)?;
    // The hash stands for all that is in the block.
    let key = Fingerprint::of([&block.hash().0[..]].into_iter().chain(rollup_ids.iter().map(|id| &id.0[..])));
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().get(&key) {
        return Some(known);
    }
    let encoded = Bytes::from(block.published.filtered(rollup_ids).encode_to_vec());
    kept().insert(key, encoded.clone());
    Some(encoded)
}

/// The moment `time` as one clock shows it whose offset from another is `offset` nanoseconds.
pub(crate) fn shifted(time: Timestamp, offset: i128) -> Timestamp {
    let nanos = (i128::from(time.0) + offset).clamp(0, i128::from(u64::MAX));
    Timestamp(u64::try_from(nanos).unwrap_or(u64::MAX))
}
