//! What comes from the input: limits, answers of any kind, and answers near the truth.

use arbitrary::Unstructured;
use bytes::Bytes;
use downbeat_core::{
    Answer, Call, CelestiaHeight, Limits, SequencerHeight, Timestamp,
    event::{Blob, CelestiaBlock, CelestiaHead},
    light::{SignedBlock, Trust},
    wire::proto::astria::execution::v2::{
        CommitmentState, ExecuteBlockResponse, ExecutedBlockMetadata, ExecutionSession,
    },
};
use downbeat_world::relayer::metadata_blob;

use super::model::Model;
use crate::fuzz::blob::stored;

fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or_default()
}

/// A number: often small, often at an edge, sometimes any.
fn number(input: &mut Unstructured<'_>) -> u64 {
    const EDGE: u64 = 1 << 63;
    match byte(input) {
        0xff => u64::MAX,
        0xfe => u64::MAX - 1,
        0xfd => EDGE,
        0xfc => EDGE - 1,
        0xfb => EDGE - 2,
        0xfa => input.arbitrary().unwrap_or_default(),
        small => small.into(),
    }
}

/// A text: mostly short, sometimes longer than what is accepted.
fn text(input: &mut Unstructured<'_>) -> String {
    match byte(input) {
        0xff => "x".repeat(2_000),
        length => (0..length & 7).map(|_| char::from(byte(input) & 0x7f)).collect(),
    }
}

/// Default, small, all one, or each drawn.
pub(super) fn limits(choice: u8, input: &mut Unstructured<'_>) -> Limits {
    // No input gains anything by unpacking more.
    let unpacked = Limits { blob_unpacked_bytes: 64 << 10, blob_ratio_floor_bytes: 16 << 10, ..Limits::default() };
    let celestia_trust = if choice & 16 == 0 { Trust::Endpoint } else { Trust::Consensus };
    let default = Limits { stay_when_parked: choice & 8 != 0, celestia_trust, ..unpacked };
    let mut size = |most: u8| usize::from(byte(input) % most) + 1;
    match choice & 7 {
        0..=2 => default,
        3 | 4 => Limits {
            candidates_per_height: size(3),
            firm_buffer_bytes: size(255) * 80,
            soft_buffer_bytes: size(255) * 20,
            headers_in_flight: size(3),
            trusted_headers: size(10),
            celestia_in_flight: size(3),
            soft_in_flight: size(3),
            validator_sets: 1,
            soft_ahead: size(8) as u64,
            soft_firm_spread: size(8) as u64,
            firm_ahead: size(60) as u64,
            headers_ahead: size(60) as u64,
            ..default
        },
        5 => Limits {
            cells: 2,
            soft_in_flight: 1,
            soft_ahead: 1,
            soft_buffer_bytes: 1,
            soft_firm_spread: 1,
            celestia_in_flight: 1,
            firm_ahead: 1,
            firm_buffer_bytes: 1,
            candidates_per_height: 1,
            headers_in_flight: 1,
            headers_ahead: 1,
            trusted_headers: 1,
            validator_sets: 1,
            ..default
        },
        6 => Limits {
            cells: usize::MAX,
            soft_in_flight: 1_000,
            soft_ahead: u64::MAX,
            soft_buffer_bytes: usize::MAX,
            soft_firm_spread: u64::MAX,
            celestia_in_flight: 1_000,
            firm_ahead: u64::MAX,
            firm_buffer_bytes: usize::MAX,
            candidates_per_height: usize::MAX,
            headers_in_flight: 1_000,
            headers_ahead: u64::MAX,
            trusted_headers: usize::MAX,
            validator_sets: usize::MAX,
            validators: usize::MAX,
            blob_bytes: usize::MAX,
            list_entries: usize::MAX,
            transactions: usize::MAX,
            soft_block_bytes: usize::MAX,
            text_bytes: usize::MAX,
            ..default
        },
        _ => Limits {
            validators: size(5),
            blob_bytes: size(200) * 20,
            blob_unpacked_bytes: size(200) * 40,
            blob_ratio: size(5),
            blob_ratio_floor_bytes: size(200) * 10,
            list_entries: size(5),
            transactions: size(5),
            soft_block_bytes: size(200) * 10,
            text_bytes: size(100),
            ..default
        },
    }
}

/// Whether a lie in the answer is believed: the endpoints that the operator chose, and the rollup itself.
pub(super) fn misleads(call: &Call) -> bool {
    !matches!(
        call,
        Call::FetchSequencerHead
            | Call::FetchSoftBlock { .. }
            | Call::FetchSignedHeader { .. }
            | Call::FetchHeaders { .. }
            | Call::FetchValidators { .. }
            | Call::FetchBlockTransactions { .. }
            | Call::FetchBlobs { .. }
            | Call::FetchNamespaces { .. }
            | Call::FetchCelestiaHeader { .. }
            | Call::FetchCelestiaHeaders { .. }
            | Call::FetchFromPeers { .. }
    )
}

fn block(input: &mut Unstructured<'_>) -> ExecutedBlockMetadata {
    ExecutedBlockMetadata {
        number: number(input),
        hash: text(input),
        parent_hash: text(input),
        timestamp: (byte(input) != 0).then(prost_types::Timestamp::default),
        sequencer_block_hash: text(input),
    }
}

/// An answer of any kind, without any sense.
pub(super) fn any_answer(input: &mut Unstructured<'_>) -> Answer {
    match byte(input) % 13 {
        0 => Answer::SequencerIdentified { chain_id: text(input) },
        1 => Answer::SequencerHeadFetched { height: SequencerHeight(number(input)) },
        2 => Answer::SoftBlockFetched { block: text(input).into_bytes().into() },
        3 => Answer::HeadersFetched { headers: Vec::new() },
        4 => Answer::ValidatorsFetched { validators: Vec::new() },
        5 => Answer::BlockTransactionsFetched { transactions: vec![Bytes::new(); usize::from(byte(input) & 3)] },
        6 => Answer::CelestiaHeadFetched {
            head: CelestiaHead {
                chain_id: text(input),
                height: CelestiaHeight(number(input)),
                time: Timestamp(number(input)),
            },
        },
        7 => Answer::BlobsFetched { blobs: Vec::new(), unreadable: u32::MAX },
        8 => Answer::SessionOpened { session: Box::default() },
        9 => Answer::SessionOpened {
            session: Box::new(ExecutionSession { session_id: text(input), ..Default::default() }),
        },
        10 => Answer::BlockExecuted {
            response: Box::new(ExecuteBlockResponse { executed_block_metadata: Some(block(input)) }),
        },
        11 => Answer::CommitmentUpdated {
            commitment: Box::new(CommitmentState {
                soft_executed_block_metadata: Some(block(input)),
                firm_executed_block_metadata: Some(block(input)),
                lowest_celestia_search_height: number(input),
            }),
        },
        _ => Answer::ExecutedBlockFetched { metadata: Box::new(block(input)) },
    }
}

pub(super) fn twist_bytes(bytes: &Bytes, input: &mut Unstructured<'_>) -> Bytes {
    let mut bytes = bytes.to_vec();
    for _ in 0..=byte(input) & 3 {
        let (at, to) = (usize::from(input.arbitrary::<u16>().unwrap_or_default()), byte(input));
        let length = bytes.len().max(1);
        match bytes.get_mut(at % length) {
            Some(byte) => *byte = to,
            None => bytes.push(to),
        }
    }
    bytes.into()
}

fn twist_block(block: &mut ExecutedBlockMetadata, input: &mut Unstructured<'_>) {
    match byte(input) % 5 {
        0 => block.number = number(input),
        1 => block.hash = text(input),
        2 => block.parent_hash = text(input),
        3 => block.timestamp = None,
        _ => block.sequencer_block_hash = text(input),
    }
}

fn twist_commitment(state: &mut CommitmentState, input: &mut Unstructured<'_>) {
    match byte(input) % 6 {
        0 => state.soft_executed_block_metadata = None,
        1 => state.firm_executed_block_metadata = None,
        2 => state.lowest_celestia_search_height = number(input),
        3 => state.soft_executed_block_metadata.iter_mut().for_each(|block| twist_block(block, input)),
        4 => state.firm_executed_block_metadata.iter_mut().for_each(|block| twist_block(block, input)),
        _ => {
            let moved = number(input);
            let heads = [&mut state.soft_executed_block_metadata, &mut state.firm_executed_block_metadata];
            heads.into_iter().flatten().for_each(|block| block.number = moved);
        }
    }
}

/// The true answer to `call` with something wrong in it.
pub(super) fn twist(answer: Answer, call: &Call, model: &Model, input: &mut Unstructured<'_>) -> Answer {
    let sequencer = &model.world.sequencer;
    let other = SequencerHeight(u64::from(byte(input) % 32));
    match answer {
        Answer::FetchedFromPeers { peer, mut block, mut rollups } => {
            match (byte(input) % 5, rollups.first_mut()) {
                (0, _) => block = None,
                (1, Some((_, data))) => *data = twist_bytes(data, input),
                (2, Some((id, _))) => id.0[0] ^= 1,
                (3, Some(_)) => rollups.extend(rollups.clone()),
                _ => block = block.map(|block| twist_bytes(&block, input)),
            }
            Answer::FetchedFromPeers { peer, block, rollups }
        }
        Answer::SequencerIdentified { .. } => Answer::SequencerIdentified { chain_id: text(input) },
        Answer::SequencerHeadFetched { .. } => Answer::SequencerHeadFetched { height: SequencerHeight(number(input)) },
        Answer::SoftBlockFetched { block } => Answer::SoftBlockFetched { block: twist_bytes(&block, input) },
        Answer::SignedHeaderFetched { mut signed_header } => {
            match (byte(input) % 4, sequencer.signed_header(other)) {
                (0, Some(header)) => *signed_header = header.clone(),
                (1, Some(header)) => signed_header.header = header.header.clone(),
                (2, Some(header)) => signed_header.commit = header.commit.clone(),
                _ => {
                    signed_header.commit.signatures.truncate(usize::from(byte(input) & 3));
                }
            }
            Answer::SignedHeaderFetched { signed_header }
        }
        Answer::HeadersFetched { mut headers } => {
            match (byte(input) % 4, sequencer.signed_header(other)) {
                (0, _) => headers.truncate(usize::from(byte(input) & 7)),
                (1, _) => headers.reverse(),
                (2, Some(header)) => headers.insert(0, header.header.clone()),
                _ => headers.extend(headers.clone()),
            }
            Answer::HeadersFetched { headers }
        }
        Answer::ValidatorsFetched { mut validators } => {
            match byte(input) % 4 {
                0 => validators.clear(),
                1 => validators.extend(validators.clone()),
                2 => drop(validators.pop()),
                _ => validators.iter_mut().for_each(|validator| {
                    validator.power = u32::from(byte(input)).into();
                }),
            }
            Answer::ValidatorsFetched { validators }
        }
        Answer::BlockTransactionsFetched { mut transactions } => {
            match (byte(input) % 3, transactions.first().cloned()) {
                (0, _) => drop(transactions.pop()),
                (1, Some(first)) => transactions[0] = twist_bytes(&first, input),
                _ => transactions.push(Bytes::new()),
            }
            Answer::BlockTransactionsFetched { transactions }
        }
        Answer::CelestiaHeadFetched { mut head } => {
            match byte(input) % 3 {
                0 => head.chain_id = text(input),
                1 => head.height = CelestiaHeight(number(input)),
                _ => head.time = Timestamp(number(input)),
            }
            Answer::CelestiaHeadFetched { head }
        }
        Answer::NamespacesFetched { mut block } => {
            twist_namespaces(&mut block, other, model, input);
            Answer::NamespacesFetched { block }
        }
        Answer::CelestiaHeaderFetched { mut header } => {
            twist_signed(&mut header, input);
            Answer::CelestiaHeaderFetched { header }
        }
        Answer::CelestiaHeadersFetched { mut headers } => {
            match byte(input) % 3 {
                0 => headers.reverse(),
                1 => headers.truncate(usize::from(byte(input) & 7)),
                _ => headers.iter_mut().for_each(|header| header.data_hash = None),
            }
            Answer::CelestiaHeadersFetched { headers }
        }
        Answer::BlobsFetched { blobs, .. } => twist_blobs(blobs, call, other, model, input),
        Answer::SessionOpened { mut session } => {
            twist_session(&mut session, input);
            Answer::SessionOpened { session }
        }
        Answer::BlockExecuted { mut response } => {
            match (byte(input) % 4, &mut response.executed_block_metadata) {
                (0, metadata) => *metadata = None,
                (_, Some(block)) => twist_block(block, input),
                _ => {}
            }
            Answer::BlockExecuted { response }
        }
        Answer::CommitmentUpdated { mut commitment } => {
            twist_commitment(&mut commitment, input);
            Answer::CommitmentUpdated { commitment }
        }
        Answer::ExecutedBlockFetched { mut metadata } => {
            twist_block(&mut metadata, input);
            Answer::ExecutedBlockFetched { metadata }
        }
    }
}

fn twist_blobs(
    mut blobs: Vec<Blob>,
    call: &Call,
    other: SequencerHeight,
    model: &Model,
    input: &mut Unstructured<'_>,
) -> Answer {
    let namespaces = match call {
        Call::FetchBlobs { namespaces, .. } => namespaces.as_slice(),
        _ => &[],
    };
    let Some(namespace) = namespaces.get(usize::from(byte(input)) % namespaces.len().max(1)).copied() else {
        return Answer::BlobsFetched { blobs, unreadable: 0 };
    };
    match byte(input) % 6 {
        0 => blobs.clear(),
        1 => blobs.reverse(),
        2 => blobs.extend(blobs.clone()),
        3 => {
            let length = usize::from(byte(input)).min(input.len());
            let data = input.bytes(length).unwrap_or_default();
            blobs.push(Blob { namespace, data: stored(data).into() });
        }
        4 => {
            // Metadata of another height, perhaps with a change.
            let metadata = model.world.sequencer.metadata(other);
            blobs.extend(metadata.map(|mut metadata| {
                if byte(input) & 1 == 1
                    && let Some(header) = &mut metadata.header
                {
                    header.height = number(input);
                }
                Blob { namespace, data: metadata_blob(vec![metadata]) }
            }));
        }
        _ => {
            let place = usize::from(byte(input)) % blobs.len().max(1);
            if let Some(blob) = blobs.get_mut(place) {
                blob.data = twist_bytes(&blob.data, input);
            }
        }
    }
    Answer::BlobsFetched { blobs, unreadable: u32::from(byte(input)) }
}

fn twist_namespaces(block: &mut CelestiaBlock, other: SequencerHeight, model: &Model, input: &mut Unstructured<'_>) {
    let celestia = &model.world.celestia;
    let (choice, place) = (byte(input) % 11, usize::from(byte(input)));
    let count = block.namespaces.len().max(1);
    let received = block.namespaces.get_mut(place % count);
    let rows = received.map(|received| &mut received.rows);
    let row = rows.and_then(|rows| {
        let count = rows.len().max(1);
        rows.get_mut(place % count)
    });
    let other = CelestiaHeight(other.0);
    match (choice, row) {
        (0, Some(row)) => row.shares.clear(),
        (1, Some(row)) => drop(row.shares.pop()),
        (2, Some(row)) => row.shares.iter_mut().for_each(|share| *share = twist_bytes(share, input)),
        (3, Some(row)) => row.proof.nodes.truncate(usize::from(byte(input) & 3)),
        (4, Some(row)) => row.proof.start = row.proof.start.wrapping_add(u32::from(byte(input))),
        (5, Some(row)) => row.proof.absence = row.proof.nodes.last().copied(),
        (6, _) => block.namespaces.iter_mut().for_each(|received| received.rows.clear()),
        (7, _) => block.namespaces.reverse(),
        (8, _) => {
            // Another block, as a whole or under this header.
            let (Some(found), Some(square)) = (celestia.block(other), celestia.square(other)) else { return };
            block.availability = square.header().clone();
            for received in &mut block.namespaces {
                *received = square.namespace(received.namespace);
            }
            if byte(input) & 1 == 0 {
                block.signed.signed_header = found.signed_header.clone();
            }
        }
        (9, _) => twist_signed(&mut block.signed, input),
        _ => block.availability.row_roots.truncate(usize::from(byte(input))),
    }
}

fn twist_signed(block: &mut SignedBlock, input: &mut Unstructured<'_>) {
    match byte(input) % 5 {
        0 => block.validators.clear(),
        1 => block.signed_header.commit.signatures.clear(),
        2 => block.signed_header.header.data_hash = None,
        3 => block.signed_header.header.last_block_id = None,
        _ => block.validators.extend(block.validators.first().cloned()),
    }
}

fn twist_session(session: &mut ExecutionSession, input: &mut Unstructured<'_>) {
    for _ in 0..=byte(input) & 3 {
        let Some(parameters) = &mut session.execution_session_parameters else { return };
        match byte(input) % 10 {
            0 => session.session_id = text(input),
            1 => parameters.rollup_id = None,
            2 => parameters.rollup_start_block_number = number(input),
            3 => parameters.rollup_end_block_number = number(input),
            4 => parameters.sequencer_chain_id = text(input),
            5 => parameters.sequencer_start_block_height = number(input),
            6 => parameters.celestia_chain_id = text(input),
            7 => parameters.celestia_search_height_max_look_ahead = number(input),
            8 => session.commitment_state.iter_mut().for_each(|state| twist_commitment(state, input)),
            _ => session.execution_session_parameters = None,
        }
    }
}
