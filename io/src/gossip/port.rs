//! Between the core's words and the network.

use std::sync::Arc;

use downbeat_core::{
    Answer, Event, Fault, FaultClass, Limits, RollupId, SequencerHeight,
    gossip::{Message, Topic, Verdict},
};

use super::{Acceptance, FetchError, Fetched, Gossip, Label, ReadLabel, Received};

/// As relayers do it: a full block of 256 kB takes a few milliseconds.
const QUALITY: i32 = 5;

/// A window of 256 kB, in bits.
const WINDOW: i32 = 18;

/// Reads labels as the core reads messages.
pub fn label_reader(limits: Limits) -> Arc<ReadLabel> {
    Arc::new(move |topic, bytes| {
        let message = Message::open(topic, bytes, &limits).ok()?;
        Some(Label { id: message.id().0, height: message.height.0, unpacked: message.body.len() })
    })
}

/// A message as it travels.
pub fn seal(message: &Message) -> Vec<u8> {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: QUALITY,
        lgwin: WINDOW,
        size_hint: message.body.len(),
        ..brotli::enc::BrotliEncoderParams::default()
    };
    let mut packed = Vec::new();
    // Memory can be read and written; what is packed only half could not be read, and is not sent.
    if let Err(error) = brotli::BrotliCompress(&mut message.body.as_ref(), &mut packed, &parameters) {
        tracing::warn!("a message could not be packed: {error}");
    }
    message.seal(&packed)
}

impl From<&Verdict> for Acceptance {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Accept => Self::Accept,
            Verdict::Ignore(_) => Self::Ignore,
            Verdict::Reject(_) => Self::Reject,
        }
    }
}

impl From<Received> for Event {
    fn from(Received { handle, peer, topic, bytes }: Received) -> Self {
        Self::Gossiped { handle, peer, topic, bytes }
    }
}

/// Performs `FetchFromPeers`.
///
/// # Errors
/// If nobody could be asked, or the peer did not answer, or has nothing of the height.
pub(crate) async fn fetch(gossip: &Gossip, height: SequencerHeight, rollups: &[RollupId]) -> Result<Answer, Fault> {
    let topics = std::iter::once(Topic::Blocks).chain(rollups.iter().copied().map(Topic::Rollup)).collect();
    let Fetched { peer, messages } = gossip.fetch(height.0, topics).await.map_err(|error| fault(&error))?;
    if messages.is_empty() {
        return Err(Fault::new(FaultClass::NotYet, "the peer has nothing of this height"));
    }
    let (mut block, mut of_rollups) = (None, Vec::new());
    for (topic, bytes) in messages {
        match topic {
            Topic::Blocks => block = Some(bytes),
            Topic::Rollup(id) => of_rollups.push((id, bytes)),
        }
    }
    of_rollups.sort_by_key(|(id, _)| *id);
    Ok(Answer::FetchedFromPeers { peer, block, rollups: of_rollups })
}

/// Another peer may come, or answer; and where the network has ended, servers go on without it.
fn fault(error: &FetchError) -> Fault {
    Fault::new(FaultClass::Transient, error.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use downbeat_core::BlockHash;

    use super::*;

    #[test]
    fn a_sealed_message_opens_again_and_has_one_label() {
        let limits = Limits::default();
        let read = label_reader(limits.clone());
        for body in [Vec::new(), vec![7; 300_000], (0..200_000_u32).flat_map(u32::to_be_bytes).collect()] {
            let topic = Topic::Rollup(RollupId([3; 32]));
            let message =
                Message { topic, height: SequencerHeight(9), block_hash: BlockHash([5; 32]), body: Bytes::from(body) };
            let wire = seal(&message);
            assert_eq!(Message::open(topic, &wire, &limits).as_ref(), Ok(&message));
            assert_eq!(read(topic, &wire), Some(Label { id: message.id().0, height: 9, unpacked: message.body.len() }));
            assert_ne!(read(Topic::Blocks, &wire).map(|label| label.id), Some(message.id().0));
            assert_eq!(read(topic, &wire[..40]), None);
        }
    }
}
