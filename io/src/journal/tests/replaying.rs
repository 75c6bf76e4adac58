//! A recorded run replays, and the first difference is named.

use super::*;

/// A conductor that is given a few events, recorded on the way.
fn recorded() -> Vec<Entry> {
    let mut conductor = downbeat_core::Conductor::new(Limits::default(), [3; 32], &[]);
    let spec =
        CellSpec { mode: Mode::SoftAndFirm, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
    let first = Event::CellInstalled { cell: CellId(0), spec };
    let mut entries = Vec::new();
    let mut asked = None;
    for seq in 0..5 {
        let event = match asked {
            None => first.clone(),
            Some(id) if seq < 3 => Event::Failed { id, fault: Fault::transient("away") },
            Some(_) => Event::DeadlineReached,
        };
        let input = stamped(seq * 1_000_000_000, event);
        let input = Stamped { seq: Seq(seq), ..input };
        let mut out = Outbox::new();
        let _ = conductor.handle(&input, &mut out);
        asked = out.iter().find_map(|command| match command {
            downbeat_core::Command::Call { id, .. } => Some(*id),
            _ => asked,
        });
        entries.push(Entry::new(input, Some(OutboxDigest::of(&out))));
    }
    entries
}

#[test]
fn a_recorded_run_replays_and_each_step_can_be_watched() {
    let mut replay = Replay::new(&header()).unwrap();
    let mut commands_seen = 0;
    for entry in recorded() {
        let seq = entry.seq;
        let stepped = replay.step(entry, &mut |input, _, commands, _| {
            assert_eq!(input.seq, seq);
            commands_seen += commands.len();
        });
        assert_eq!(stepped.unwrap(), Stepped::Equal);
    }
    assert_eq!(replay.equal(), 5);
    assert!(commands_seen > 4, "{commands_seen}");
}

#[test]
fn a_run_that_version_1_recorded_replays() {
    let mut conductor = Replay::new(&header()).unwrap();
    let mut digester = Digester::default();
    // As version 1 would have recorded it.
    let mut entries = recorded();
    for entry in &mut entries {
        let mut of_version_1 = None;
        let visit: Visit<'_> = &mut |_, _, commands, _| {
            of_version_1 = Some(digester.digest_like(&nothing_in_version_1(), commands.iter()));
        };
        conductor.step(entry.clone(), visit).unwrap();
        entry.outbox = of_version_1;
    }
    let mut replay = Replay::new(&header()).unwrap();
    for entry in entries.clone() {
        assert_eq!(replay.step(entry, &mut |_, _, _, _| {}).unwrap(), Stepped::Equal);
    }
    // The commands are hashed, and not just their number.
    let Some(OutboxDigest { hash: OutboxHash::Sha256(hash), .. }) = &mut entries[1].outbox else { panic!("a digest") };
    hash[15] ^= 1;
    let mut replay = Replay::new(&header()).unwrap();
    let differs = |entry| replay.step(entry, &mut |_, _, _, _| {}).is_err();
    assert_eq!(entries.into_iter().position(differs), Some(1));
}

#[test]
fn the_first_event_after_which_something_else_follows_is_named_with_both_outboxes() {
    let mut entries = recorded();
    entries[2].outbox = Some(OutboxDigest { hash: OutboxHash::Xxh3(1), kinds: vec![11, 200] });
    let mut replay = Replay::new(&header()).unwrap();
    let mut results = entries.into_iter().map(|entry| replay.step(entry, &mut |_, _, _, _| {}));
    assert!(results.by_ref().take(2).all(|result| result.is_ok()));
    let difference = results.next().unwrap().unwrap_err();
    assert_eq!(difference.seq, Seq(2));
    let text = difference.to_string();
    assert!(text.contains("ExecuteBlock, a command of another version") && text.contains("away"), "{text}");
    assert_eq!(difference.commands.len(), text.lines().count() - 3, "{text}");
}

#[test]
fn another_seed_a_missing_event_and_a_panic_that_does_not_come_again_are_differences() {
    let run = |header: &Header, entries: Vec<Entry>| {
        let mut replay = Replay::new(header).unwrap();
        entries.into_iter().find_map(|entry| replay.step(entry, &mut |_, _, _, _| {}).err())
    };
    assert!(run(&header(), recorded()).is_none());
    let other = Header { seed: [4; 32], ..header() };
    assert_eq!(run(&other, recorded()).unwrap().seq, Seq(0), "command ids differ");
    let mut gap = recorded();
    gap.remove(2);
    let difference = run(&header(), gap).unwrap();
    assert_eq!(difference.found.to_string(), "event 2 is due");
    let mut panicked = recorded();
    panicked[4].outbox = None;
    assert_eq!(run(&header(), panicked).unwrap().expected.to_string(), "a panic");
    let unreadable = Header { limits: r#"{"limit_of_tomorrow": 1}"#.to_owned(), ..header() };
    assert!(matches!(Replay::new(&unreadable), Err(ReplayError::Limits { .. })));
    // A decoder would panic at this key of a trusted genesis.
    let genesis = r#"{"genesis_time": "2026-01-01T00:00:00Z", "chain_id": "private", "validators": [{"power": "5",
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "B5pejcSXafZMJItPewOx4gOZrUqFiJffHxZ5n8Gwvug="}}]}"#;
    let mut limits = Limits::default();
    limits.trust.root = RootSetting::Genesis(Box::new(crate::genesis::parse(genesis).unwrap()));
    let limits = serde_json::to_string(&limits).unwrap();
    assert!(Replay::new(&Header { limits: limits.clone(), ..header() }).is_ok());
    let limits = limits.replace("vug=\"", "vug=====\"");
    assert!(matches!(Replay::new(&Header { limits, ..header() }), Err(ReplayError::Limits { .. })));
}
