//! Shares of one namespace, and the blobs that they carry.
//!
//! A share begins with its namespace and a byte that tells version and whether a sequence begins. The first share of a
//! sequence goes on with the length of the data (four bytes, big-endian) and, in version 1, with the signer.

use bytes::Bytes;

use crate::celestia::Namespace;

/// Bytes in a share.
pub const SHARE_LEN: usize = 512;

/// Where version and beginning are told.
const INFO: usize = Namespace::LEN;
/// Where the length of a sequence, or the data of a share that continues one, begins.
const AFTER_INFO: usize = INFO + 1;
/// Bytes of the length of a sequence.
const LENGTH_LEN: usize = 4;
/// Bytes of the account that paid for a blob of version 1.
const SIGNER_LEN: usize = 20;

/// A sequence of shares that holds no blob. `share` counts the shares of the namespace at this height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSequence {
    #[error("bad share sequence: share {share} has version {version}, which is not known here")]
    UnknownVersion { share: usize, version: u8 },
    #[error("bad share sequence: share {share} continues nothing")]
    NoBeginning { share: usize },
    #[error("bad share sequence: of the {length} bytes that begin in share {share} only {found} are there")]
    CutShort { share: usize, length: u32, found: usize },
}

/// The namespace that a share of the right size says it is of.
pub(super) fn namespace_of(share: &[u8]) -> Namespace {
    let mut bytes = [0; Namespace::LEN];
    bytes.copy_from_slice(&share[..Namespace::LEN]);
    Namespace::from_bytes(bytes)
}

/// Puts blobs together from all shares of a namespace at one height, each of [`SHARE_LEN`] bytes. A sequence that is no
/// blob is passed over, and what follows is read all the same.
pub(super) fn assemble<'a>(shares: impl Iterator<Item = &'a Bytes>) -> (Vec<Bytes>, Vec<BadSequence>) {
    let (mut blobs, mut bad) = (Vec::new(), Vec::new());
    let mut shares = shares.enumerate().peekable();
    while let Some((index, first)) = shares.next() {
        let (version, begins) = info(first);
        if !begins {
            bad.push(BadSequence::NoBeginning { share: index });
            while shares.next_if(|(_, share)| !info(share).1).is_some() {}
            continue;
        }
        let start = match version {
            0 => AFTER_INFO + LENGTH_LEN,
            1 => AFTER_INFO + LENGTH_LEN + SIGNER_LEN,
            _ => {
                bad.push(BadSequence::UnknownVersion { share: index, version });
                while shares.next_if(|(_, share)| !info(share).1).is_some() {}
                continue;
            }
        };
        let mut length = [0; LENGTH_LEN];
        length.copy_from_slice(&first[AFTER_INFO..AFTER_INFO + LENGTH_LEN]);
        let length = u32::from_be_bytes(length);
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        // Memory grows with the shares that are there, whatever length is claimed.
        let mut data = Vec::new();
        take(&mut data, &first[start..], wanted);
        while data.len() < wanted {
            let Some((_, share)) = shares.next_if(|(_, share)| info(share) == (version, false)) else { break };
            take(&mut data, &share[AFTER_INFO..], wanted);
        }
        match data.len() {
            // Padding: a sequence without data.
            0 => {}
            found if found < wanted => bad.push(BadSequence::CutShort { share: index, length, found }),
            _ => blobs.push(data.into()),
        }
    }
    (blobs, bad)
}

/// Version, and whether a sequence begins here.
fn info(share: &[u8]) -> (u8, bool) {
    (share[INFO] >> 1, share[INFO] & 1 == 1)
}

fn take(data: &mut Vec<u8>, content: &[u8], wanted: usize) {
    let missing = wanted.saturating_sub(data.len());
    data.extend_from_slice(&content[..missing.min(content.len())]);
}

/// Shares in files: a list of standard base64.
pub(super) mod text {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(shares: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(shares.iter().map(|share| STANDARD.encode(share)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes>, D::Error> {
        let shares = Vec::<String>::deserialize(deserializer)?.into_iter();
        shares.map(|share| STANDARD.decode(share).map(Bytes::from).map_err(D::Error::custom)).collect()
    }
}
