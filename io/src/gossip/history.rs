//! Messages that were accepted, by height, to be handed to whoever asks: the newest heights, bounded in number and bytes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Topic;

#[derive(Debug)]
pub(super) struct History {
    heights_max: usize,
    bytes_max: usize,
    heights: BTreeMap<u64, BTreeMap<Topic, Bytes>>,
    bytes: usize,
}

impl History {
    pub(super) fn new(heights_max: usize, bytes_max: usize) -> Self {
        Self { heights_max, bytes_max, heights: BTreeMap::new(), bytes: 0 }
    }

    /// Keeps an accepted message; the first one of its height and topic stays.
    pub(super) fn keep(&mut self, height: u64, topic: Topic, bytes: Bytes) {
        if self.heights.len() >= self.heights_max
            && !self.heights.contains_key(&height)
            && self.range().is_some_and(|(lowest, _)| height < lowest)
        {
            return;
        }
        let size = bytes.len();
        let of_height = self.heights.entry(height).or_default();
        if of_height.contains_key(&topic) {
            return;
        }
        of_height.insert(topic, bytes);
        self.bytes += size;
        while self.heights.len() > self.heights_max || self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.heights.pop_first() else { break };
            self.bytes -= oldest.values().map(Bytes::len).sum::<usize>();
        }
    }

    /// What is kept of a height in the topics asked for, up to so many bytes together.
    pub(super) fn find(&self, height: u64, topics: &[Topic], bytes_max: usize) -> Vec<(Topic, Bytes)> {
        let Some(of_height) = self.heights.get(&height) else { return Vec::new() };
        let mut room = bytes_max;
        let mut found = Vec::new();
        for topic in topics {
            if let Some(bytes) = of_height.get(topic)
                && let Some(left) = room.checked_sub(bytes.len())
            {
                room = left;
                found.push((*topic, bytes.clone()));
            }
        }
        found
    }

    /// The lowest and the highest height of which anything is kept.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        Some((*self.heights.first_key_value()?.0, *self.heights.last_key_value()?.0))
    }
}

#[cfg(test)]
mod tests {
    use downbeat_core::RollupId;

    use super::*;

    const ROLLUP: Topic = Topic::Rollup(RollupId([1; 32]));

    fn of(size: usize) -> Bytes {
        Bytes::from(vec![7; size])
    }

    #[test]
    fn the_newest_heights_are_kept() {
        let mut history = History::new(3, 1_000);
        for height in [5, 3, 4, 6, 2] {
            history.keep(height, Topic::Blocks, of(10));
        }
        assert_eq!(history.range(), Some((4, 6)));
        assert_eq!(history.bytes, 30);
        assert!(history.find(3, &[Topic::Blocks], 100).is_empty());
        assert_eq!(history.find(4, &[Topic::Blocks, ROLLUP], 100), [(Topic::Blocks, of(10))]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut history = History::new(100, 100);
        for height in 0..10 {
            history.keep(height, Topic::Blocks, of(30));
            history.keep(height, ROLLUP, of(10));
        }
        assert_eq!((history.range(), history.bytes), (Some((8, 9)), 80));
        history.keep(10, Topic::Blocks, of(101));
        assert_eq!((history.range(), history.bytes), (None, 0), "what is larger than all room is not kept");
    }

    #[test]
    fn the_first_message_of_a_place_stays_and_an_answer_has_a_bound() {
        let mut history = History::new(3, 1_000);
        history.keep(1, Topic::Blocks, of(10));
        history.keep(1, Topic::Blocks, of(20));
        history.keep(1, ROLLUP, of(30));
        assert_eq!(history.bytes, 40);
        assert_eq!(history.find(1, &[Topic::Blocks, ROLLUP], 39), [(Topic::Blocks, of(10))]);
        assert_eq!(history.find(1, &[Topic::Blocks, ROLLUP], 40).len(), 2);
    }
}
