//! What a Celestia node says of a height where it has to prove it, and how it lies.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use downbeat_core::{
    CelestiaHeight, Fault,
    celestia::{
        Namespace,
        square::{NamespacedHash, RowProof, UnverifiedNamespace, UnverifiedRow},
    },
    event::CelestiaBlock,
    light::SignedBlock,
};
use downbeat_world::{
    celestia::Block,
    relayer::{Packing, Relayer, RelayerConfig},
    square::Square,
    validators::Member,
};

use crate::{
    fault::{Draw, Kind, Spot},
    peers::{not_yet, signed_by_strangers, strangers},
    queue::Simulation,
};

/// Headers that no quorum of Celestia's validators signed.
const FORGED: [Kind; 3] = [Kind::CelestiaStrangers, Kind::CelestiaNoQuorum, Kind::CelestiaBranch];

impl Simulation {
    /// Header, roots and namespaces of a height, lies included.
    pub(crate) fn celestia_block(
        &mut self,
        mut height: CelestiaHeight,
        namespaces: &[Namespace],
        spot: Spot,
    ) -> Result<CelestiaBlock, Fault> {
        if let Some(mut draw) = self.fires(Kind::OtherCelestiaBlock, spot) {
            height = if draw.below(2) == 0 { height.next() } else { CelestiaHeight(height.0.saturating_sub(1)) };
        }
        let forge = |kind| Some((kind, self.may_forge(kind).then(|| self.fires(kind, spot)).flatten()?));
        let forged_header = FORGED.map(forge).into_iter().flatten().next();
        let forged_roots = self.fires(Kind::ForgedRoots, spot);
        let block = self.world.celestia.block(height).ok_or_else(not_yet)?;
        let mut square = self.world.celestia.square(height).ok_or_else(not_yet)?;
        let (kind, draw) = forged_header.unzip();
        if kind == Some(Kind::CelestiaBranch) {
            square = self.branch(height);
        } else if let Some(mut draw) = draw.or(forged_roots) {
            let left_out = draw.index(block.blobs().len());
            let kept = block.blobs().iter().enumerate().filter(|(index, _)| *index != left_out);
            let kept = kept.map(|(_, blob)| (&blob.namespace, blob.data.as_ref()));
            square = self.world.celestia.square_of(kept);
        }
        let signed = match kind {
            None => self.genuine_header(height)?,
            Some(kind) => self.forged_header(height, &square, kind)?,
        };
        let mut namespaces: Vec<_> = namespaces.iter().map(|namespace| square.namespace(*namespace)).collect();
        if let Some(mut draw) = self.fires(Kind::ForgedShares, spot)
            && let Some((_, row)) = with_shares(&mut namespaces, &square, &mut draw)
        {
            let share = draw.index(row.shares.len());
            let mut bytes = row.shares[share].to_vec();
            // Behind namespace, version and length: the share stays one of its namespace.
            let place = 34 + draw.index(bytes.len() - 34);
            bytes[place] = !bytes[place];
            row.shares[share] = Bytes::from(bytes);
        }
        if let Some(mut draw) = self.fires(Kind::NarrowedRows, spot)
            && let Some((index, row)) = with_shares(&mut namespaces, &square, &mut draw)
        {
            let columns = columns(row);
            if columns.len() > 1 {
                let part =
                    if draw.below(2) == 0 { columns.start + 1..columns.end } else { columns.start..columns.end - 1 };
                *row = square.columns(index, part);
            }
        }
        if let Some(mut draw) = self.fires(Kind::FalseAbsence, spot)
            && let Some((index, row)) = with_shares(&mut namespaces, &square, &mut draw)
        {
            *row = match draw.below(3) {
                0 => UnverifiedRow { shares: Vec::new(), proof: RowProof::default() },
                1 => square.absence(index, columns(row).start),
                _ => square.absence(index, columns(row).end),
            };
        }
        if let Some(mut draw) = self.fires(Kind::WrongProof, spot)
            && let Some((_, row)) = with_shares(&mut namespaces, &square, &mut draw)
        {
            match draw.below(3) {
                0 => row.proof.nodes.truncate(draw.index(row.proof.nodes.len())),
                1 => (row.proof.start, row.proof.end) = (row.proof.start + 1, row.proof.end + 1),
                _ => row.proof.nodes.iter_mut().for_each(|node| *node = NamespacedHash::from_bytes([0; 90])),
            }
        }
        if let Some(mut draw) = self.fires(Kind::WithheldRows, spot) {
            let place = draw.index(namespaces.len());
            if let Some(UnverifiedNamespace { rows, .. }) = namespaces.get_mut(place) {
                rows.truncate(draw.index(rows.len()));
            }
        }
        Ok(CelestiaBlock { signed, availability: square.header().clone(), namespaces })
    }

    /// The header of a height alone, lies included.
    pub(crate) fn celestia_header(&mut self, height: CelestiaHeight, spot: Spot) -> Result<SignedBlock, Fault> {
        for kind in FORGED {
            if self.may_forge(kind) && self.fires(kind, spot).is_some() {
                let empty = self.world.celestia.square_of(std::iter::empty());
                return self.forged_header(height, &empty, kind);
            }
        }
        self.genuine_header(height)
    }

    /// What a height could hold if the relayer were faster.
    fn branch(&self, height: CelestiaHeight) -> Arc<Square> {
        let config = RelayerConfig { delay: Duration::ZERO, packing: Packing::Stored, ..RelayerConfig::default() };
        let sequencer = &self.world.sequencer;
        let early = Relayer::new(config, self.world.relayer.next(), None).blobs_for(height, self.now(), sequencer);
        let posted = self.world.celestia.block(height).into_iter().flat_map(Block::blobs);
        let posted = posted.map(|blob| (blob.namespace, blob.data.clone()));
        let mut blobs: Vec<_> = posted.chain(early).collect();
        blobs.sort_by_key(|(namespace, _)| *namespace);
        self.world.celestia.square_of(blobs.iter().map(|(namespace, data)| (namespace, data.as_ref())))
    }

    /// Who believes the first header that comes can be told anything: only later ones are refused.
    fn may_forge(&self, kind: Kind) -> bool {
        kind == Kind::CelestiaNoQuorum
            || self.scenario().celestia_chain.has_root()
            || self.conductor().status(self.now()).celestia.trusted.is_some()
    }

    fn genuine_header(&self, height: CelestiaHeight) -> Result<SignedBlock, Fault> {
        let block = self.world.celestia.block(height).ok_or_else(not_yet)?;
        Ok(SignedBlock { signed_header: block.signed_header.clone(), validators: block.validators().infos() })
    }

    /// A header that commits to `square`: strangers signed it, or as many of the validators as just do not suffice.
    fn forged_header(&mut self, height: CelestiaHeight, square: &Square, kind: Kind) -> Result<SignedBlock, Fault> {
        let block = self.world.celestia.block(height).ok_or_else(not_yet)?;
        let (mut header, set, at) = (block.signed_header.header.clone(), Arc::clone(block.validators()), block.time());
        header.data_hash = Some(tendermint::Hash::Sha256(square.header().hash()));
        if kind != Kind::CelestiaNoQuorum {
            let validators = strangers().1.infos();
            return Ok(SignedBlock { signed_header: signed_by_strangers(header, at), validators });
        }
        let total: u64 = set.members().iter().map(|member| member.power).sum();
        let mut left = total * 2 / 3;
        let mut signers = BTreeSet::new();
        for member in set.members().iter().filter(|member| member.power > 0) {
            if member.power <= left {
                left -= member.power;
                signers.insert(member.number);
            }
        }
        let signs = |member: &Member| signers.contains(&member.number);
        let signed_header = self.world.celestia.sign(header, &set, at, signs);
        Ok(SignedBlock { signed_header, validators: set.infos() })
    }
}

/// A row in which there is something, with its index in the square.
fn with_shares<'a>(
    namespaces: &'a mut [UnverifiedNamespace],
    square: &Square,
    draw: &mut Draw,
) -> Option<(usize, &'a mut UnverifiedRow)> {
    let mut rows = Vec::new();
    for received in namespaces {
        let indexes: Vec<usize> = square.header().rows_covering(&received.namespace).map(|(index, _)| index).collect();
        rows.extend(indexes.into_iter().zip(&mut received.rows).filter(|(_, row)| !row.shares.is_empty()));
    }
    let place = draw.index(rows.len());
    (place < rows.len()).then(|| rows.swap_remove(place))
}

fn columns(row: &UnverifiedRow) -> std::ops::Range<usize> {
    let column = |column: u32| usize::try_from(column).unwrap_or(usize::MAX);
    column(row.proof.start)..column(row.proof.end)
}
