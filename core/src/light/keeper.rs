//! What of a client's progress is kept across restarts, and when.

use std::time::Duration;

use super::{
    client::{Client, Root},
    record::TrustedRecord,
    settings::RootSetting,
    verify::{Options, TrustedState},
};
use crate::time::Timestamp;

/// Says which state of a client is to be persisted next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeper {
    /// Height of the newest record, and when it was handed out.
    persisted: Option<(u64, Timestamp)>,
}

impl Keeper {
    /// A client that begins with what an earlier life persisted, or where that is lower than a configured root, with that.
    pub(crate) fn restore(
        options: Options,
        root: &RootSetting,
        validators_max: usize,
        record: Option<&TrustedRecord>,
    ) -> (Client, Self) {
        // Whoever reads the configuration has checked the genesis.
        let root = root.root(validators_max).unwrap_or_default();
        let record = record.filter(|record| match &root {
            Root::Header { height, .. } => record.height() >= *height,
            Root::State(_) | Root::FirstUse => true,
        });
        let state = record.and_then(|record| record.state().ok());
        let persisted = state.as_ref().map(|state| (state.height(), Timestamp::ZERO));
        let root = state.map_or(root, |state| Root::State(Box::new(state)));
        (Client::new(options, root), Self { persisted })
    }

    /// Whether `newest` is to be persisted now: the first state at once, later ones once in a `period`, the last one in any
    /// case.
    pub(crate) fn record(
        &mut self,
        newest: &TrustedState,
        now: Timestamp,
        period: Duration,
        is_last: bool,
    ) -> Option<TrustedRecord> {
        let is_due =
            self.persisted.is_none_or(|(height, at)| newest.height() > height && (is_last || now >= at.after(period)));
        if !is_due {
            return None;
        }
        // A genesis is configured and needs no record.
        let record = TrustedRecord::of_state(newest)?;
        self.persisted = Some((newest.height(), now));
        Some(record)
    }
}
