//! Genuine messages are taken, and nothing else: each wrong one is refused by its name.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use tendermint::block::CommitSig;

use super::{message::MessageError, *};
use crate::{
    celestia::BlobError,
    ids::{BlockHash, RollupId, SequencerHeight},
    light::{Check, Genesis, Refusal, TrustedState},
    limits::Limits,
    sequencer::{BindRefusal, CommitError, DataItems, SequencedBlock},
    testing::{CHAIN, Made, ROLLUP, block, block_after, block_with_items, sealed},
    time::Timestamp,
    verified::Verified,
};

const OTHER: RollupId = RollupId([8; 32]);
const ABSENT: RollupId = RollupId([9; 32]);

fn verdict(made: &Made, message: &Message) -> Result<GenuineBlock, Verdict> {
    verify_block(message, &made.root(), made.moment(), &Limits::default()).map_err(|refusal| refusal.verdict)
}

fn refused(made: &Made, message: &Message) -> Refused {
    match verdict(made, message) {
        Err(Verdict::Reject(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

fn bound(made: &Made) -> std::sync::Arc<Verified<BoundBlock>> {
    verdict(made, &made.messages()[0]).expect("genuine").bound
}

/// The block message with something changed, in its canonical form.
fn changed(made: &Made, change: impl FnOnce(&mut BlockMessage)) -> Message {
    let limits = Limits::default();
    let mut message = BlockMessage::decode(&made.messages()[0], &limits).expect("genuine");
    change(&mut message);
    message.encode()
}

#[test]
fn what_one_node_publishes_another_one_takes_and_it_is_the_block_that_a_server_gives() {
    let limits = Limits::default();
    for made in [block(4, &[ROLLUP, OTHER]), block_with_items(5, &[OTHER, ROLLUP]), block(6, &[])] {
        let messages = made.messages();
        let topics: Vec<Topic> = messages.iter().map(|message| message.topic).collect();
        let rollups = made.records.iter().map(made_id);
        assert_eq!(topics[0], Topic::Blocks);
        assert_eq!(
            topics[1..].iter().copied().collect::<std::collections::BTreeSet<_>>(),
            rollups.map(Topic::Rollup).collect()
        );
        let genuine = verdict(&made, &messages[0]).expect("genuine");
        assert_eq!((genuine.light.hash(), genuine.bound.block_hash()), (made.trusted().hash(), made.trusted().hash()));
        for message in &messages {
            let wire = sealed(message);
            let opened = Message::open(message.topic, &wire, &limits).expect("in its wrapping");
            assert_eq!((&opened, identify(message.topic, &wire, &limits)), (message, Some(message.id())));
            if message.topic == Topic::Rollup(ROLLUP) {
                let block = verify_rollup(message, &genuine.bound, &limits).expect("genuine");
                let record = made.records.iter().position(|record| made_id(record) == ROLLUP).expect("listed");
                let record =
                    crate::sequencer::RollupRecord::decode(&made.records[record].encode_to_vec().into(), &limits);
                let firm = made.bound().block_with(&record.expect("a record")).expect("genuine data");
                assert_eq!(block, firm, "what Celestia holds is the same block");
            }
        }
        let empty: Verified<SequencedBlock> = genuine.bound.empty_block(&ABSENT).expect("not listed");
        assert_eq!((empty.height(), empty.transactions().len()), (made.height(), 0));
        assert_eq!(genuine.bound.empty_block(&ROLLUP).is_none(), genuine.bound.lists(&ROLLUP));
    }
}

fn made_id(record: &crate::wire::proto::astria::sequencerblock::v1::SubmittedRollupData) -> RollupId {
    RollupId(record.rollup_id.as_ref().expect("an id").inner[..].try_into().expect("32 bytes"))
}

#[test]
fn sources_have_names_in_metrics() {
    assert_eq!([Source::Server, Source::Gossip, Source::Peer].map(Source::name), ["server", "gossip", "peer"]);
}

#[test]
fn a_log_shows_of_a_message_what_it_is_about_and_not_its_content() {
    let message = &block(4, &[ROLLUP]).messages()[0];
    let expected = format!("Message(blocks, 4, {}, {} bytes)", message.block_hash, message.body.len());
    assert_eq!(format!("{message:?}"), expected);
}

#[test]
fn what_cannot_be_a_message_is_refused_before_anything_is_unpacked() {
    let message = &block(4, &[ROLLUP]).messages()[0];
    let (wire, limits) = (sealed(message), Limits::default());
    let open = |wire: &[u8]| Message::open(Topic::Blocks, wire, &limits).expect_err("no message");
    assert_eq!(open(&[]), MessageError::TooShort(0));
    assert_eq!(open(&wire[..40]), MessageError::TooShort(40));
    assert!(matches!(open(&wire[..41]), MessageError::Packed(BlobError::Truncated)));
    assert!(matches!(open(&wire[..wire.len() - 1]), MessageError::Packed(_)));
    assert!(matches!(open(&[&wire[..], &[0]].concat()), MessageError::Packed(BlobError::TrailingBytes(1))));
    let mut other = wire.to_vec();
    other[0] = 2;
    assert_eq!(open(&other), MessageError::Version(2));
    let mut small = Limits::default();
    small.gossip.message_bytes = wire.len() - 1;
    let refused = Message::open(Topic::Blocks, &wire, &small).expect_err("too long");
    assert_eq!(refused, MessageError::TooLong { actual: wire.len(), max: wire.len() - 1 });
    small.gossip.message_bytes = wire.len();
    assert!(Message::open(Topic::Blocks, &wire, &small).is_ok(), "the bound is inclusive");
    small.gossip.body_bytes = message.body.len() - 1;
    let refused = Message::open(Topic::Blocks, &wire, &small).expect_err("too much in it");
    assert!(matches!(refused, MessageError::Packed(BlobError::Bomb { .. })), "{refused}");
    assert_eq!(identify(Topic::Blocks, &other, &limits), None);
}

#[test]
fn a_body_in_any_other_form_is_refused() {
    let made = block(4, &[ROLLUP]);
    let genuine = made.messages().remove(0);
    let with = |body: Vec<u8>| Message { body: body.into(), ..genuine.clone() };
    let body = genuine.body.to_vec();
    // A field that nobody knows, a field twice, and a length with one byte more than it needs.
    let unknown = [&body[..], &[0xa2, 0x06, 0x00]].concat();
    let twice = [&body[..], &body[..]].concat();
    for bad in [unknown, twice] {
        let refused = refused(&made, &with(bad));
        assert!(matches!(refused, Refused::Message(MessageError::NotCanonical("body"))), "{refused}");
        assert_eq!(refused.name(), "not_canonical");
    }
    assert!(matches!(refused(&made, &with(vec![0xff])), Refused::Message(MessageError::Field(_))));
    assert!(matches!(refused(&made, &with(vec![])), Refused::Message(_)));
    // Nobody checks a vote for nil, so there must be none.
    let nil = changed(&made, |message| {
        if let CommitSig::BlockIdFlagCommit { validator_address, timestamp, signature } =
            message.signed.commit.signatures[0].clone()
        {
            message.signed.commit.signatures.push(CommitSig::BlockIdFlagNil {
                validator_address,
                timestamp,
                signature,
            });
        }
    });
    assert!(matches!(refused(&made, &nil), Refused::Message(MessageError::NotCanonical("commit"))));
}

#[test]
fn lists_are_counted_before_they_are_decoded() {
    let made = block(4, &[ROLLUP, OTHER]);
    let message = &made.messages()[0];
    let decode = |limits: Limits| BlockMessage::decode(message, &limits).map(drop);
    for limits in [Limits { validators: 0, ..Limits::default() }, Limits { list_entries: 1, ..Limits::default() }] {
        assert!(matches!(decode(limits), Err(MessageError::Field(_))));
    }
    assert_eq!(decode(Limits { validators: 1, list_entries: 2, ..Limits::default() }), Ok(()));
    let few = Limits { transactions: 0, ..Limits::default() };
    assert!(RollupMessage::decode(&made.messages()[1], &few).is_err());
}

#[test]
fn a_head_that_is_not_that_of_the_content_is_refused() {
    let made = block(4, &[ROLLUP]);
    let genuine = made.messages().remove(0);
    let height = Message { height: SequencerHeight(5), ..genuine.clone() };
    assert!(matches!(refused(&made, &height), Refused::Message(MessageError::Height { .. })));
    let hash = Message { block_hash: BlockHash([1; 32]), ..genuine };
    assert_eq!(refused(&made, &hash).name(), "head");
}

#[test]
fn a_set_that_is_not_the_trusted_one_is_taken_as_the_message_shows_it() {
    let made = block(4, &[ROLLUP]);
    let other = tendermint::PublicKey::from_raw_ed25519(&[0x58; 32]).expect("a key");
    let mut validators = made.validators.clone();
    validators.push(tendermint::validator::Info::new(other, 1_u32.into()));
    let time = block(1, &[]).signed.header.time;
    let genesis = Genesis { chain_id: CHAIN.to_owned(), time, initial_height: 1, validators };
    let state = TrustedState::of_genesis(genesis, 2).expect("two validators");
    let check = Check::From(Box::new(state));
    let genuine = verify_block(&made.messages()[0], &check, made.moment(), &Limits::default());
    assert_eq!(genuine.expect("ten of eleven signed").light.validators().infos(), made.validators);
}

#[test]
fn a_header_that_does_not_follow_from_what_is_trusted_is_refused_by_name() {
    let made = block(4, &[ROLLUP]);
    let untrusted = |message: &Message| match refused(&made, message) {
        Refused::Untrusted(Refusal::Commit(error)) => error,
        other => panic!("{other}"),
    };
    let unsigned = changed(&made, |message| message.signed.commit.signatures[0] = CommitSig::BlockIdFlagAbsent);
    assert!(matches!(untrusted(&unsigned), CommitError::NoQuorum { counted: 0, .. }));
    let of_other = changed(&made, |message| message.signed.commit = block(4, &[OTHER]).signed.commit);
    assert!(matches!(untrusted(&of_other), CommitError::BlockHash { .. }));
    let of_later = changed(&made, |message| message.signed.commit = block(5, &[]).signed.commit);
    assert!(matches!(refused(&made, &of_later), Refused::Message(MessageError::Unreadable { .. })));
    let other_signature = changed(&made, |message| {
        let other = block(4, &[OTHER]).signed.commit.signatures.remove(0);
        message.signed.commit.signatures[0] = other;
    });
    assert!(matches!(untrusted(&other_signature), CommitError::Signature(_)));
    let crowd = changed(&made, |message| {
        let vote = message.signed.commit.signatures[0].clone();
        message.signed.commit.signatures.push(vote);
    });
    assert!(matches!(untrusted(&crowd), CommitError::SignatureCount { .. }));
    let stranger = changed(&made, |message| {
        message.validators = vec![tendermint::validator::Info::new(message.validators[0].pub_key, 11_u32.into())];
    });
    assert!(matches!(untrusted(&stranger), CommitError::Validators { .. }));
    let nobody = changed(&made, |message| message.validators.clear());
    assert!(matches!(refused(&made, &nobody), Refused::Set(_)));
    // A header that nobody signed, with the hash that it has.
    let altered = changed(&made, |message| {
        message.signed.header.app_hash = vec![1].try_into().expect("any bytes");
        message.claim.block_hash = crate::sequencer::header_hash(&message.signed.header);
    });
    assert!(matches!(untrusted(&altered), CommitError::BlockHash { .. }));
}

#[test]
fn trust_decides_what_a_message_is_worth() {
    let made = block(4, &[ROLLUP]);
    let (limits, message) = (Limits::default(), made.messages().remove(0));
    let verified = |check: &Check, now| match verify_block(&message, check, now, &limits) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal.verdict),
    };
    let other = Check::Root { chain_id: CHAIN.to_owned(), hash: BlockHash([1; 32]) };
    let Err(Verdict::Reject(refused)) = verified(&other, made.moment()) else { panic!("another chain") };
    assert_eq!(refused.name(), "header");
    let foreign = Check::FirstUse { chain_id: "other".to_owned() };
    let refused = verified(&foreign, made.moment());
    let expected = CommitError::ChainId { expected: "other".to_owned(), actual: CHAIN.to_owned() };
    assert_eq!(refused, Err(Verdict::Reject(Refused::Untrusted(Refusal::Commit(expected)))));
    let below = block(3, &[]);
    let from = |made: &Made| Check::From(Box::new(TrustedState::of_block(&made.light())));
    assert_eq!(verified(&from(&below), made.moment()), Ok(()));
    // Nobody is to blame for what this node's clock or its trust do not let it judge.
    assert_eq!(verified(&from(&below), Timestamp(1)), Err(Verdict::Ignore(Ignored::Clock)));
    let late = made.moment().after(std::time::Duration::from_hours(24 * 30));
    assert_eq!(verified(&from(&below), late), Err(Verdict::Ignore(Ignored::Clock)));
    assert_eq!(verified(&from(&made), made.moment()), Err(Verdict::Ignore(Ignored::Stale)));
}

#[test]
fn data_that_do_not_lead_into_the_header_are_refused_by_name() {
    type Change = fn(&mut BlockMessage);
    let made = block(4, &[ROLLUP, OTHER]);
    let changes: [(Change, &str); 6] = [
        (|message| message.claim.tree.rollup_ids.truncate(1), "list of rollup ids is not covered"),
        (|message| message.claim.tree.header.data_hash = [1; 32], "not covered by the data hash"),
        (|message| message.claim.tree.header.rollup_transactions_root = [1; 32], "not covered by the data hash"),
        (
            |message| {
                let tree = &mut message.claim.tree;
                tree.rollup_transactions_proof = tree.rollup_ids_proof.clone();
            },
            "as data item 1, not 0",
        ),
        (|message| message.claim.tree.upgrade_change_hashes.push([1; 32]), "begin with bare roots"),
        (|message| message.items = Some(DataItems { digests: vec![], next: None }), "data items that it does not need"),
    ];
    for (change, reason) in changes {
        let refused = refused(&made, &changed(&made, change)).to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    // Consistent in itself and of another block.
    let other = changed(&made, |message| message.claim.tree = other_tree());
    let refused = refused(&made, &other);
    assert!(matches!(refused, Refused::NotBound(BindRefusal::DataHash { .. })), "{refused}");
}

fn other_tree() -> crate::sequencer::DataTree {
    let other = block(4, &[ROLLUP]);
    BlockMessage::decode(&other.messages()[0], &Limits::default()).expect("genuine").claim.tree
}

#[test]
fn where_the_proofs_cannot_tell_the_digests_of_the_data_items_do() {
    type Change = fn(&mut DataItems);
    let made = block_with_items(5, &[ROLLUP]);
    let genuine = BlockMessage::decode(&made.messages()[0], &Limits::default()).expect("genuine");
    let items = genuine.items.clone().expect("needed");
    assert_eq!((items.digests.len(), items.next.as_ref()), (3, made.items.get(2)));
    let changes: [(Change, &str); 5] = [
        (|items| items.digests[2] = [1; 32], "the committed header's is"),
        (|items| items.digests.truncate(2), "the committed header's is"),
        (|items| items.next = None, "data item 2 of the committed block is not the next item"),
        (|items| items.next = Some(Bytes::from_static(b"other")), "is not the next item"),
        (|items| items.digests.push([1; 32]), "the committed header's is"),
    ];
    for (change, reason) in changes {
        let message = changed(&made, |message| message.items.iter_mut().for_each(change));
        let refused = refused(&made, &message).to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    let without = changed(&made, |message| message.items = None);
    assert!(matches!(refused(&made, &without), Refused::NotBound(BindRefusal::NeedsTransactions)));
}

#[test]
fn data_of_a_rollup_that_are_not_those_of_the_block_are_refused_by_name() {
    let (made, limits) = (block(4, &[ROLLUP, OTHER]), Limits::default());
    let block_of = bound(&made);
    let genuine = made.messages().into_iter().find(|message| message.topic == Topic::Rollup(ROLLUP)).expect("listed");
    let refused = |message: &Message| verify_rollup(message, &block_of, &limits).expect_err("refused");
    assert!(verify_rollup(&genuine, &block_of, &limits).is_ok());
    let decoded = RollupMessage::decode(&genuine, &limits).expect("genuine");
    let with = |change: fn(&mut RollupMessage), rollup| {
        let mut message = decoded.clone();
        change(&mut message);
        message.encode(rollup, genuine.height, genuine.block_hash)
    };
    assert!(matches!(refused(&with(|message| message.transactions.clear(), ROLLUP)), Refused::Data { .. }));
    let more = with(|message| message.transactions.push(Bytes::from_static(b"more")), ROLLUP);
    assert_eq!(refused(&more).name(), "rollup_data");
    assert!(matches!(refused(&with(|_| {}, OTHER)), Refused::Data { .. }), "of another rollup");
    assert_eq!(refused(&with(|_| {}, ABSENT)), Refused::NotListed(ABSENT));
    let other = Message { block_hash: BlockHash([1; 32]), ..genuine.clone() };
    assert!(matches!(refused(&other), Refused::OtherBlock { .. }));
    let elsewhere = Message { height: SequencerHeight(5), ..genuine.clone() };
    assert!(matches!(refused(&elsewhere), Refused::OtherBlock { .. }));
    let no_proof = Message { body: Bytes::new(), ..genuine.clone() };
    assert!(matches!(refused(&no_proof), Refused::Message(MessageError::Field(_))));
    let on_blocks = Message { topic: Topic::Blocks, ..genuine };
    assert!(verify_rollup(&on_blocks, &block_of, &limits).is_err());
}

#[test]
fn no_byte_of_a_genuine_message_can_be_changed() {
    for made in [block(4, &[ROLLUP]), block_with_items(5, &[ROLLUP])] {
        let (messages, block_of, limits) = (made.messages(), bound(&made), Limits::default());
        for message in &messages {
            for index in 0..message.body.len() {
                for flip in [0x01, 0x80] {
                    let mut body = message.body.to_vec();
                    body[index] ^= flip;
                    let changed = Message { body: body.into(), ..message.clone() };
                    let is_taken = match message.topic {
                        Topic::Blocks => verdict(&made, &changed).is_ok(),
                        Topic::Rollup(_) => verify_rollup(&changed, &block_of, &limits).is_ok(),
                    };
                    assert!(!is_taken, "{message:?} with byte {index} changed by {flip:#x}");
                    assert_ne!(changed.id(), message.id());
                }
            }
        }
    }
}

#[test]
fn equal_contents_have_one_name_however_they_travel() {
    let made = block(4, &[ROLLUP, OTHER]);
    let messages = made.messages();
    let ids: std::collections::BTreeSet<MessageId> = messages.iter().map(Message::id).collect();
    assert_eq!(ids.len(), messages.len());
    let again = Message { topic: Topic::Rollup(ABSENT), ..messages[1].clone() };
    assert_ne!(again.id(), messages[1].id(), "the topic is part of the name");
    let next = block_after(&made, &[ROLLUP, OTHER]).messages();
    assert!(next.iter().all(|message| !ids.contains(&message.id())));
}

proptest! {
    /// Whatever is done to the bytes on their way: what is taken is what was sent.
    #[test]
    fn a_message_that_was_tampered_with_is_never_taken_for_another_one(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..4),
    ) {
        let made = block(4, &[ROLLUP, OTHER]);
        let (messages, block_of, limits) = (made.messages(), bound(&made), Limits::default());
        for message in &messages {
            let mut wire = sealed(message).to_vec();
            for (index, byte, way) in &cuts {
                let at = index.index(wire.len());
                match way {
                    0 => wire[at] = *byte,
                    1 => wire.insert(at, *byte),
                    _ => drop(wire.remove(at)),
                }
            }
            let Ok(opened) = Message::open(message.topic, &wire, &limits) else { continue };
            let is_taken = match opened.topic {
                Topic::Blocks => verdict(&made, &opened).is_ok(),
                Topic::Rollup(_) => verify_rollup(&opened, &block_of, &limits).is_ok(),
            };
            prop_assert!(!is_taken || opened == *message, "{opened:?}");
        }
    }

    /// Nothing that anybody sends stops anything.
    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (made, limits) = (block(4, &[ROLLUP]), Limits::default());
        let block_of = bound(&made);
        for topic in [Topic::Blocks, Topic::Rollup(ROLLUP)] {
            prop_assert!(Message::open(topic, &noise, &limits).is_err() || noise.len() > 41);
            let message = Message {
                topic,
                height: made.height(),
                block_hash: made.trusted().hash(),
                body: noise.clone().into(),
            };
            prop_assert!(verdict(&made, &message).is_err());
            prop_assert!(verify_rollup(&message, &block_of, &limits).is_err());
        }
    }
}

#[test]
fn every_reason_has_one_name() {
    for ignored in Ignored::ALL {
        assert_eq!(serde_json::to_value(ignored).expect("JSON"), ignored.name());
        assert_eq!(Verdict::Ignore(ignored).name(), ignored.name());
    }
    assert_eq!(Verdict::Accept.to_string(), "accepted");
}
