//! One line that says where a conductor stands and what it waits for.

use std::fmt;

use downbeat_core::{
    light::Trust,
    view::{CellStatus, Head, Phase, Status, Wait},
};

/// Prints a status on one line.
#[derive(Clone, Copy, Debug)]
pub struct StatusLine<'a>(pub &'a Status);

impl fmt::Display for StatusLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status) = self;
        let sequencer = &status.sequencer;
        write!(f, "trust {}", sequencer.trust)?;
        if let Some(trusted) = sequencer.trusted {
            write!(f, " up to {trusted}")?;
        }
        write!(f, ", soft {}, ", sequencer.soft_trust)?;
        write!(f, "sequencer {}, celestia {}", or_unknown(sequencer.head), or_unknown(status.celestia.head))?;
        if status.celestia.trust == Trust::Consensus {
            match status.celestia.trusted {
                Some(trusted) => write!(f, " (proven up to {trusted})")?,
                None => f.write_str(" (proven)")?,
            }
        }
        match &status.gossip {
            Some(gossip) if gossip.fresh => write!(f, ", peers {}", or_unknown(gossip.newest))?,
            // Without a server there is nobody else to be asked.
            Some(gossip) if gossip.alone => f.write_str(", peers are silent")?,
            Some(_) => f.write_str(", peers are silent, servers are asked")?,
            None => {}
        }
        for (id, cell) in &status.cells {
            write!(f, " | {id}")?;
            match cell.phase {
                Phase::Opening => write!(f, " opening")?,
                Phase::Running => {}
                Phase::Parked => write!(f, " PARKED")?,
                Phase::Stopped => write!(f, " stopped")?,
            }
            write!(f, " soft {} firm {}", number(cell.soft.as_ref()), number(cell.firm.as_ref()))?;
            if let Some(lag) = lag(status, cell) {
                write!(f, " lag {lag}")?;
            }
            write!(f, ", waiting for {}", waits(&cell.waiting_for))?;
        }
        Ok(())
    }
}

fn or_unknown(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// Rollup number of a head.
pub fn number(head: Option<&Head>) -> String {
    or_unknown(head.map(|head| head.number))
}

/// How many sequencer heights the cell's newest committed block is behind the sequencer.
pub fn lag(status: &Status, cell: &CellStatus) -> Option<u64> {
    let head = if cell.mode.follows_soft() { cell.soft.as_ref() } else { cell.firm.as_ref() };
    Some(status.sequencer.head?.0.saturating_sub(head?.height?.0))
}

/// All reasons, in words.
pub fn waits(waits: &[Wait]) -> String {
    if waits.is_empty() {
        return "nothing".to_owned();
    }
    waits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use downbeat_core::{
        CelestiaHeight, CellId, RollupNumber, SequencerHeight,
        cell::Mode,
        view::{CelestiaStatus, GossipStatus, SequencerStatus},
    };

    use super::*;

    fn head(number: u64, height: u64) -> Head {
        Head { number: RollupNumber(number), hash: "0x".into(), height: Some(SequencerHeight(height)) }
    }

    fn cell(phase: Phase, soft: Option<Head>, firm: Option<Head>, waiting_for: Vec<Wait>) -> CellStatus {
        CellStatus {
            mode: Mode::SoftAndFirm,
            phase,
            soft,
            firm,
            lowest_celestia_search_height: None,
            celestia_read_below: None,
            waiting_for,
            executed: 0,
            sessions: 1,
        }
    }

    #[test]
    fn the_line_says_where_each_rollup_stands_and_why_it_waits() {
        let waiting_for = vec![
            Wait::SoftBlock { height: SequencerHeight(119), attempts: 3 },
            Wait::CelestiaBlock { height: CelestiaHeight(41) },
        ];
        let cells = BTreeMap::from([
            (CellId(0), cell(Phase::Running, Some(head(8, 118)), Some(head(5, 115)), waiting_for)),
            (CellId(1), cell(Phase::Opening, None, None, vec![Wait::Session { attempts: 1 }])),
            (CellId(2), cell(Phase::Parked, None, None, vec![Wait::Parked { reason: "it lied".into() }])),
        ]);
        let mut status = Status {
            sequencer: SequencerStatus {
                head: Some(SequencerHeight(120)),
                trusted: Some(SequencerHeight(119)),
                ..SequencerStatus::default()
            },
            celestia: CelestiaStatus { trusted: Some(CelestiaHeight(40)), ..CelestiaStatus::default() },
            cells,
            dropped: BTreeMap::new(),
            gossip: None,
        };
        assert_eq!(
            StatusLine(&status).to_string(),
            "trust consensus up to 119, soft consensus, sequencer 120, celestia ? (proven up to 40) | cell-0 soft 8 firm 5 lag 2, waiting for soft block 119 (try 3) and Celestia \
             block 41 to be made | cell-1 opening soft ? firm ?, waiting for a session from the rollup node | cell-2 \
             PARKED soft ? firm ?, waiting for nothing: parked, it lied"
        );
        let mut gossip = GossipStatus { newest: Some(SequencerHeight(121)), fresh: true, ..GossipStatus::default() };
        for (fresh, alone, words) in [
            (true, false, "(proven up to 40), peers 121 |"),
            (false, true, "(proven up to 40), peers are silent |"),
            (false, false, "(proven up to 40), peers are silent, servers are asked |"),
        ] {
            (gossip.fresh, gossip.alone) = (fresh, alone);
            status.gossip = Some(gossip.clone());
            let line = StatusLine(&status).to_string();
            assert!(line.contains(words), "{line}");
        }
    }
}
