//! Every invariant once, by id. What code, violations and documents name is looked up here.

/// Something that must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invariant {
    /// `S1` to `S20` and `L1` to `L10`.
    pub id: &'static str,
    /// A few words.
    pub name: &'static str,
    pub kind: Kind,
    /// One sentence that is true or false of a run.
    pub statement: &'static str,
}

/// What breaking it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something happened that must never happen.
    Safety,
    /// Something did not happen in time.
    Liveness,
}

/// The invariant with this id.
pub fn by_id(id: &str) -> Option<&'static Invariant> {
    ALL.iter().find(|invariant| invariant.id == id)
}

const fn safety(id: &'static str, name: &'static str, statement: &'static str) -> Invariant {
    Invariant { id, name, kind: Kind::Safety, statement }
}

const fn liveness(id: &'static str, name: &'static str, statement: &'static str) -> Invariant {
    Invariant { id, name, kind: Kind::Liveness, statement }
}

/// All of them, safety first, in the order of their numbers.
pub const ALL: &[Invariant] = &[
    safety(
        "S1",
        "exact quorum",
        "No block is made firm before a commit for it, or for a header that links down to it, was seen in which distinct \
         validators of that height hold more than two thirds of the power.",
    ),
    safety(
        "S2",
        "all bytes bound",
        "Hash, time and elements of every firm block are those of the block that the validators committed to.",
    ),
    safety(
        "S3",
        "no omission",
        "A block in which the sequencer has data for the rollup is executed with all of it, in order, or not at all.",
    ),
    safety(
        "S4",
        "verify before remember",
        "Input that is refused leaves no trace but in the counters of what was refused: with it and without it the same \
         chain results.",
    ),
    safety(
        "S5",
        "next height only",
        "The blocks of a session are executed in order, without a gap, each once on every branch.",
    ),
    safety(
        "S6",
        "right parent",
        "A soft block is put on the soft head and a firm block on the firm head, which then is the soft head as well.",
    ),
    safety(
        "S7",
        "height bijection",
        "Block number and sequencer height follow from each other by the session's start, and nothing outside the \
         session's range has either.",
    ),
    safety(
        "S8",
        "heads monotone",
        "Firm is never above soft, and neither they nor the search height are asked to go back, restarts included.",
    ),
    safety(
        "S9",
        "confirm what was executed",
        "Firm confirms a soft block only if it was made from the same sequencer block with the same content; if not, the \
         conflict is reported and neither becomes firm.",
    ),
    safety("S10", "idempotence", "An answer that comes again, or after nobody waits for it any more, has no effect."),
    safety(
        "S11",
        "one effect per intent",
        "A call whose outcome is unknown is not made again in the session in which it may have taken effect.",
    ),
    safety(
        "S12",
        "failed check is not passed",
        "What a check would have had to show is not assumed when the check could not be made.",
    ),
    safety("S13", "peer contract", "A reply of the rollup that contradicts the request or itself is not built upon."),
    safety(
        "S14",
        "reset equals fresh start",
        "A new session begins in the state in which a new process would begin it.",
    ),
    safety(
        "S15",
        "fork cleanliness",
        "Nothing that was derived only from data that Celestia no longer has stays firm, and what reappears is accepted.",
    ),
    safety(
        "S16",
        "crash equivalence",
        "After a crash between any two effects the run leads to the same chain as without it.",
    ),
    safety(
        "S17",
        "determinism",
        "The same scenario leads to the same history, whatever the process did before and wherever it runs.",
    ),
    safety("S18", "identity", "Nothing of another chain, namespace, rollup or session has any effect."),
    safety(
        "S19",
        "session bounds",
        "Nothing is executed or committed beyond the session's last block, and reaching it opens exactly one new session.",
    ),
    safety(
        "S20",
        "absent is not zero",
        "Zero, empty, absent and genesis are told apart wherever they mean different things.",
    ),
    liveness(
        "L1",
        "firm progress",
        "Once faults have stopped, firm follows what lies on Celestia inside the permitted window within a bounded time.",
    ),
    liveness(
        "L2",
        "soft progress",
        "Once faults have stopped, soft reaches the sequencer's head or its permitted lead within a bounded time.",
    ),
    liveness(
        "L3",
        "no silent stall",
        "Work that is left is in flight, due at a deadline, or said to wait for something.",
    ),
    liveness("L4", "poison tolerance", "Nothing that a stranger posts or sends stops a cell or the process."),
    liveness("L5", "passing faults only delay", "Faults that may pass end no cell, however many there are."),
    liveness("L6", "lost notices heal", "A piece of news that is lost is asked for again."),
    liveness("L7", "resets converge", "There are no more sessions than there are reasons for new ones."),
    liveness(
        "L8",
        "bounded resources",
        "What is held, what is in flight and how often peers are called stay within their limits whatever comes in.",
    ),
    liveness(
        "L9",
        "prompt and final stop",
        "A stop ends within a bounded time, gives up no effect that would have come in it, and nothing follows it.",
    ),
    liveness(
        "L10",
        "any start order",
        "Peers may come up in any order and late: once they are all there the node works.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_there_once_and_in_order() {
        let expected = (1..=20).map(|number| (format!("S{number}"), Kind::Safety));
        let expected = expected.chain((1..=10).map(|number| (format!("L{number}"), Kind::Liveness)));
        let actual = ALL.iter().map(|invariant| (invariant.id.to_owned(), invariant.kind));
        assert_eq!(actual.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!(by_id("S9").map(|invariant| invariant.name), Some("confirm what was executed"));
        assert_eq!(by_id("S21"), None);
    }

    #[test]
    fn statements_are_sentences() {
        for Invariant { id, name, statement, .. } in ALL {
            assert!(statement.ends_with('.') && statement.len() > 40 && name.len() < 30, "{id}");
        }
    }
}
