use super::*;
use crate::{
    testing::{CHAIN, Made, ROLLUP, block, metadata_blob, rollup_blob},
    wire::proto::{
        astria::{
            primitive::v1::{Int128, Uint128},
            sequencerblock::v1::{Deposit, Price, PriceFeedData},
        },
        connect::types::v2::CurrencyPair,
    },
};

/// The block as a node that serves whole ones sends it.
fn whole(made: &Made) -> SequencerBlock {
    SequencerBlock {
        header: made.filtered.header.clone(),
        rollup_transactions: made.filtered.rollup_transactions.clone(),
        rollup_transactions_proof: made.filtered.rollup_transactions_proof.clone(),
        rollup_ids_proof: made.filtered.rollup_ids_proof.clone(),
        block_hash: made.filtered.block_hash.clone(),
        ..SequencerBlock::default()
    }
}

fn inspected(message: &impl Message) -> Result<BlockReport, InspectError> {
    inspect_block(&message.encode_to_vec())
}

#[test]
fn every_message_of_the_sequencer_is_told_from_the_others_and_found_genuine() {
    let made = block(4, &[ROLLUP, RollupId([8; 32])]);
    let Ok(BlockReport::FilteredSequencerBlock(filtered)) = inspected(&made.filtered) else { panic!("filtered") };
    let Ok(BlockReport::SequencerBlock(whole)) = inspected(&whole(&made)) else { panic!("whole") };
    for report in [&filtered, &whole] {
        assert!(report.verdict.accepted && report.proofs.rollup_transactions && report.proofs.rollup_ids, "{report:?}");
        assert!(report.rollups.len() == 2 && report.rollups.iter().all(|rollup| rollup.proof_holds));
        assert_eq!(report.rollup_ids, [base64(&ROLLUP.0), base64(&[8; 32])]);
        assert_eq!(report.block_hash, made.trusted().hash().to_string());
        let header = report.sequencer_block_header.as_ref().expect("a header");
        assert_eq!((header.chain_id.as_str(), header.height), (CHAIN, 4));
        assert_eq!(header.time.as_deref(), Some("2023-11-14T22:13:24Z"));
    }
    let Ok(BlockReport::SubmittedMetadata(metadata)) = inspected(&made.metadata) else { panic!("metadata") };
    assert!(metadata.verdict.accepted && metadata.proofs.extended_commit_info.is_none());
    let Ok(BlockReport::SubmittedRollupData(data)) = inspected(&made.records[1]) else { panic!("rollup data") };
    assert!(data.verdict.accepted && data.item_count == 1);
    let root = &made.metadata.header.as_ref().expect("a header").rollup_transactions_root;
    assert_eq!(data.proof_leads_to, Some(hex::encode(root)));
}

#[test]
fn a_message_with_few_marks_of_its_kind_is_recognised_and_others_are_not() {
    let made = block(4, &[ROLLUP]);
    let mut without_proofs = made.metadata.clone();
    (without_proofs.rollup_transactions_proof, without_proofs.rollup_ids_proof) = (None, None);
    let Ok(BlockReport::SubmittedMetadata(report)) = inspected(&without_proofs) else { panic!("metadata") };
    assert!(!report.verdict.accepted && !report.proofs.rollup_ids);
    let header_only = SequencerBlock { header: made.filtered.header.clone(), ..SequencerBlock::default() };
    assert!(inspected(&header_only).is_err(), "one mark is too few");
    let hashed = SequencerBlock { block_hash: made.filtered.block_hash.clone(), ..header_only };
    assert!(matches!(inspected(&hashed), Ok(BlockReport::SequencerBlock(_) | BlockReport::FilteredSequencerBlock(_))));
    let mut headless = made.metadata.clone();
    headless.header.as_mut().expect("a header").data_hash = Bytes::from_static(b"short");
    (headless.rollup_transactions_proof, headless.rollup_ids_proof) = (None, None);
    assert!(inspected(&headless).is_err(), "a header has a time and a data hash");
    let unproven = SubmittedRollupData { proof: None, sequencer_block_hash: Bytes::new(), ..made.records[0].clone() };
    assert!(matches!(inspected(&unproven), Ok(BlockReport::SubmittedRollupData(_))));
    let blob = inspect_blob(&rollup_blob(&ROLLUP, [unproven]).data, &Limits::default());
    assert!(matches!(blob.map(|report| report.records), Ok(Records::RollupData(_))), "no metadata has such a field");
    // A proof counts when it is one of some tree.
    let proven = |proof: primitive::Proof| SubmittedMetadata {
        block_hash: made.metadata.block_hash.clone(),
        rollup_transactions_proof: Some(proof),
        ..SubmittedMetadata::default()
    };
    assert!(inspected(&proven(primitive::Proof::default())).is_err());
    assert!(inspected(&proven(primitive::Proof { tree_size: 1, ..primitive::Proof::default() })).is_ok());
    // A hash alone stands at the beginning of many messages.
    let hash = SubmittedMetadata { block_hash: made.metadata.block_hash.clone(), ..SubmittedMetadata::default() };
    assert!(inspected(&hash).is_err() && inspect_block(b"").is_err() && inspect_block(b"some text").is_err());
    let mut crowd = made.filtered.encode_to_vec();
    for _ in 0..=Limits::default().transactions {
        prost::encoding::bytes::encode(7, &Bytes::new(), &mut crowd);
    }
    assert!(inspect_block(&crowd).is_err(), "too much to be decoded");
}

#[test]
fn a_whole_block_whose_data_were_changed_is_refused_for_what_is_wrong() {
    let refusal = |change: fn(&mut SequencerBlock)| {
        let mut changed = whole(&block(4, &[ROLLUP, RollupId([8; 32])]));
        change(&mut changed);
        let Ok(BlockReport::SequencerBlock(report)) = inspected(&changed) else { panic!("a whole block") };
        assert!(!report.verdict.accepted);
        report.verdict.refused_because.expect("a reason")
    };
    let transactions = "the rollup transactions are not covered by the data hash";
    let ids = "the rollup ids are not covered by the data hash";
    assert_eq!(refusal(|block| block.rollup_transactions[0].transactions.clear()), transactions);
    assert_eq!(refusal(|block| drop(block.rollup_transactions.pop())), transactions);
    assert_eq!(refusal(|block| block.rollup_transactions_proof = block.rollup_ids_proof.clone()), transactions);
    assert_eq!(refusal(|block| block.rollup_ids_proof = block.rollup_transactions_proof.clone()), ids);
    let other_hash = refusal(|block| block.header.as_mut().expect("a header").data_hash = vec![1; 32].into());
    assert_eq!(other_hash, transactions, "a proof of the right place, in another tree");
    let commit_info = refusal(|block| {
        block.extended_commit_info_with_proof = Some(ExtendedCommitInfoWithProof::default());
    });
    assert_eq!(commit_info, "extended commit info is not covered by the data hash");
}

#[test]
fn blobs_are_recognised_by_their_entries_as_bytes_and_as_base64() {
    let made = block(4, &[ROLLUP]);
    let limits = Limits::default();
    let metadata = metadata_blob([made.metadata.clone(), made.metadata.clone()]).data;
    let report = inspect_blob(&metadata, &limits).expect("a blob");
    assert!(matches!(&report.records, Records::Metadata(entries) if entries.len() == 2));
    assert_eq!((report.number_of_entries, report.compressed_size_bytes), (2, metadata.len()));
    let ratio = f64::from(u32::try_from(report.decompressed_size_bytes).expect("small"))
        / f64::from(u32::try_from(metadata.len()).expect("small"));
    assert!((report.compression_ratio - ratio).abs() < 1e-9 && ratio > 0.9 && ratio < 1.0);
    let text = format!(" {}\n", STANDARD.encode(&metadata));
    assert_eq!(inspect_blob(text.as_bytes(), &limits), Ok(report));
    let data = inspect_blob(&rollup_blob(&ROLLUP, made.records.clone()).data, &limits).expect("a blob");
    assert!(matches!(&data.records, Records::RollupData(entries) if entries.len() == 1));
    // Entries without any mark of either kind.
    let nothing = inspect_blob(&metadata_blob([SubmittedMetadata::default()]).data, &limits);
    assert_eq!(nothing, Err(InspectError::Unknown("list of metadata or of rollup data")));
    assert!(matches!(inspect_blob(b"", &limits), Err(InspectError::Blob(_))), "nothing is no base64");
}

#[test]
fn an_entry_that_cannot_be_read_is_shown_as_such_beside_the_others() {
    let made = block(4, &[ROLLUP]);
    let mut crowd = made.records[0].clone();
    crowd.transactions = vec![Bytes::new(); Limits::default().transactions + 1];
    let limits = Limits { blob_ratio: 1_000, ..Limits::default() };
    let report = inspect_blob(&rollup_blob(&ROLLUP, [made.records[0].clone(), crowd]).data, &limits);
    let Records::RollupData(entries) = report.expect("a blob").records else { panic!("rollup data") };
    assert!(matches!(&entries[0], Entry::Readable(_)));
    assert!(matches!(&entries[1], Entry::Unreadable { unreadable } if unreadable.contains("more than 65536")));
}

#[test]
fn amounts_and_prices_are_shown_as_the_numbers_they_are() {
    let amount = Some(Uint128 { lo: 5, hi: 3 });
    let deposit = rollup_data::Value::Deposit(Deposit { amount, ..Deposit::default() });
    let ElementReport::Deposit(report) = describe_value(RollupData { value: Some(deposit) }) else {
        panic!("a deposit")
    };
    assert_eq!(report.amount, "55340232221128654853");
    let price = |lo, hi| {
        let currency_pair = Some(CurrencyPair { base: "BTC".to_owned(), quote: "USD".to_owned() });
        Price { currency_pair, price: Some(Int128 { lo, hi }), decimals: 8 }
    };
    let feed = PriceFeedData { prices: vec![price(u64::MAX, u64::MAX), price(7, 1)] };
    let feed = rollup_data::Value::PriceFeedData(feed);
    let ElementReport::PriceFeedData(prices) = describe_value(RollupData { value: Some(feed) }) else {
        panic!("a price feed")
    };
    let shown: Vec<_> = prices.iter().map(|price| (price.currency_pair.as_str(), price.price.as_str())).collect();
    assert_eq!(shown, [("BTC/USD", "-1"), ("BTC/USD", "18446744073709551623")]);
    assert_eq!(describe_element(&Bytes::new()), ElementReport::Empty);
    assert_eq!(describe_element(&Bytes::from_static(&[0xff])), ElementReport::Undecodable("/w==".to_owned()));
}
