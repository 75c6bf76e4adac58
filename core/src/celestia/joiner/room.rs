//! What goes when there is no more room.

use std::collections::BTreeSet;

use super::Joiner;
use crate::{ids::BlockHash, limits::Limits};

impl Joiner {
    /// Gives up what is least likely to be needed soon until the buffer is at most twice its limit. Blocks that are
    /// proven for the next heights stay.
    pub(super) fn make_room(&mut self, limits: &Limits) {
        let most = limits.firm_buffer_bytes.saturating_mul(2);
        if self.bytes <= most {
            return;
        }
        let candidates = self.heights.values().flat_map(|slot| &slot.candidates);
        let claimed: BTreeSet<BlockHash> = candidates.map(|(_, metadata)| metadata.block_hash()).collect();
        let unclaimed: Vec<BlockHash> = self.records.keys().filter(|hash| !claimed.contains(*hash)).copied().collect();
        for hash in unclaimed {
            if self.bytes <= most {
                return;
            }
            self.give_up_records(hash);
        }
        // The farthest height goes, with the rollup data that it claims, unless it is the next one.
        while self.bytes > most
            && let Some(entry) = self.heights.last_entry().filter(|entry| *entry.key() != self.next)
        {
            let slot = entry.remove();
            self.bytes = self.bytes.saturating_sub(slot.bytes());
            let found = slot.candidates.iter().map(|(celestia, _)| *celestia);
            let found = found.chain(slot.named.iter().copied());
            for celestia in found.chain(slot.data_at) {
                self.give_up(celestia);
            }
            for (_, metadata) in slot.candidates {
                self.give_up_records(metadata.block_hash());
            }
        }
        while self.bytes > most
            && let Some(hash) = self.records.last_key_value().map(|(hash, _)| *hash)
        {
            self.give_up_records(hash);
        }
    }

    pub(super) fn give_up_records(&mut self, hash: BlockHash) {
        for (celestia, record) in self.records.remove(&hash).unwrap_or_default() {
            self.bytes = self.bytes.saturating_sub(record.wire_size());
            self.give_up(celestia);
        }
    }
}
