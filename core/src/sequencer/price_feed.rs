//! Extended commit info and the prices in it (reference §1.7, §6.6).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::{
    limits::Limits,
    wire::{
        field::FieldError,
        proto::{
            astria::{
                primitive::v1::Int128,
                protocol::price_feed::v1::ExtendedCommitInfoWithCurrencyPairMapping as CommitInfo,
                sequencerblock::v1::{Price, PriceFeedData, RollupData, rollup_data},
            },
            astria_vendored::tendermint::abci::{BlockIdFlag, ExtendedVoteInfo},
            connect::{abci::v2::OracleVoteExtension, types::v2::CurrencyPair},
        },
        scan,
    },
};

/// Checks everything about extended commit info but the vote extensions, which may hold anything.
pub fn check(bytes: &Bytes, limits: &Limits) -> Result<(), FieldError> {
    decode(bytes, limits).map(drop)
}

/// The element that goes in front of a rollup block's others. None if a vote extension cannot be read; an element
/// without prices if there are none.
pub fn first_transaction(bytes: &Bytes, limits: &Limits) -> Result<Option<RollupData>, FieldError> {
    let info = decode(bytes, limits)?;
    // A later entry with the same id replaces the earlier one.
    let pairs: BTreeMap<u64, (&CurrencyPair, u64)> = info
        .id_to_currency_pair
        .iter()
        .filter_map(|entry| Some((entry.id, (entry.currency_pair.as_ref()?, entry.decimals))))
        .collect();
    let votes = info.extended_commit_info.as_ref().map_or(&[][..], |info| &info.votes);
    let Some(quotes) = collect_quotes(votes, &pairs, limits) else { return Ok(None) };
    let prices = quotes.into_iter().map(|((pair, decimals), mut quotes)| Price {
        currency_pair: Some(pair.clone()),
        price: Some(int128(median(&mut quotes))),
        decimals,
    });
    let value = rollup_data::Value::PriceFeedData(PriceFeedData { prices: prices.collect() });
    Ok(Some(RollupData { value: Some(value) }))
}

/// Decodes and checks (reference §1.7).
fn decode(bytes: &Bytes, limits: &Limits) -> Result<CommitInfo, FieldError> {
    scan::at_most(bytes, &[1, 2], limits.list_entries, "votes")?;
    scan::at_most(bytes, &[2], limits.list_entries, "currency pairs")?;
    let info = CommitInfo::decode(bytes.clone())?;
    let refuse = |reason| Err(FieldError::ExtendedCommitInfo(reason));
    let Some(commit) = &info.extended_commit_info else { return refuse("missing") };
    if commit.round < 0 {
        return refuse("negative round");
    }
    for vote in &commit.votes {
        let Some(validator) = &vote.validator else { return refuse("vote without validator") };
        if validator.address.len() != 20 {
            return refuse("validator address is not 20 bytes");
        }
        if validator.power < 0 {
            return refuse("negative voting power");
        }
        if !matches!(vote.extension_signature.len(), 0 | 64) {
            return refuse("extension signature is not 64 bytes");
        }
        if !matches!(
            BlockIdFlag::try_from(vote.block_id_flag),
            Ok(BlockIdFlag::Absent | BlockIdFlag::Commit | BlockIdFlag::Nil)
        ) {
            return refuse("unknown block id flag");
        }
    }
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    for entry in &info.id_to_currency_pair {
        let Some(pair) = &entry.currency_pair else { return refuse("id without currency pair") };
        if !is_name(&pair.base) || !is_name(&pair.quote) {
            return refuse("currency is not made of letters");
        }
        if entry.decimals > 255 {
            return refuse("more than 255 decimals");
        }
    }
    Ok(info)
}

type Quoted<'a> = ((&'a CurrencyPair, u64), Vec<i128>);

/// Prices by currency pair, in the order in which the pairs first appear. None if a vote extension cannot be read.
fn collect_quotes<'a>(
    votes: &[ExtendedVoteInfo],
    pairs: &BTreeMap<u64, (&'a CurrencyPair, u64)>,
    limits: &Limits,
) -> Option<Vec<Quoted<'a>>> {
    let mut quotes: Vec<Quoted<'a>> = Vec::new();
    let mut places = BTreeMap::new();
    for vote in votes {
        scan::at_most(&vote.vote_extension, &[1], limits.list_entries, "prices").ok()?;
        let extension = OracleVoteExtension::decode(vote.vote_extension.clone()).ok()?;
        for (id, price) in &extension.prices {
            let price = i128::from_be_bytes(price.as_ref().try_into().ok()?);
            let Some(&(pair, decimals)) = pairs.get(id) else { continue };
            let place = *places.entry((&pair.base, &pair.quote, decimals)).or_insert_with(|| {
                quotes.push(((pair, decimals), Vec::new()));
                quotes.len() - 1
            });
            quotes[place].1.push(price);
        }
    }
    Some(quotes)
}

/// The middle price; between two, half of each with the fractions dropped, plus one if both are odd and positive.
fn median(prices: &mut [i128]) -> i128 {
    prices.sort_unstable();
    let high = prices.len() / 2;
    match prices {
        [] => 0,
        prices if prices.len() % 2 == 1 => prices[high],
        prices => {
            let (low, high) = (prices[high - 1], prices[high]);
            low / 2 + high / 2 + i128::from(low % 2 == 1 && high % 2 == 1)
        }
    }
}

fn int128(value: i128) -> Int128 {
    let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15] = value.to_le_bytes();
    Int128 {
        lo: u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        hi: u64::from_le_bytes([b8, b9, b10, b11, b12, b13, b14, b15]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::{
        astria::protocol::price_feed::v1::IdWithCurrencyPair,
        astria_vendored::tendermint::abci::{ExtendedCommitInfo, Validator},
    };

    #[test]
    fn medians_are_those_of_the_reference() {
        let max = i128::MAX;
        let table: [(&[i128], i128); 9] = [
            (&[1], 1),
            (&[20, 10], 15),
            (&[21, 22, 23, 1, 2, 10, 3], 10),
            (&[21, 22, 23, 1, 2, 3], 12),
            (&[10, 15, 20, 25], 17),
            (&[max, max, 1], max),
            (&[max, max, max - 1, max - 1], max - 1),
            (&[-5, -3], -3),
            (&[i128::MIN, i128::MIN], i128::MIN),
        ];
        for (prices, expected) in table {
            assert_eq!(median(&mut prices.to_vec()), expected, "{prices:?}");
        }
    }

    #[test]
    fn halves_of_a_price_are_those_of_its_twos_complement() {
        assert_eq!(int128(-1), Int128 { lo: u64::MAX, hi: u64::MAX });
        assert_eq!(int128((1 << 64) + 7), Int128 { lo: 7, hi: 1 });
    }

    #[test]
    fn invalid_commit_info_is_refused() {
        let table: [(&str, &str); 7] = [
            ("", "nothing"),
            ("0a0b08ffffffffffffffffff01", "negative round"),
            ("0a021200", "vote without validator"),
            ("0a0812060a040a020101", "short validator address"),
            ("0a0012021801", "id without pair"),
            ("0a00120a12080a01311203555344", "digit in a currency"),
            ("0a00120d120a0a0342544312035553441880020a00", "too many decimals"),
        ];
        for (hex, name) in table {
            let bytes = Bytes::from(hex::decode(hex).expect("hex"));
            assert!(check(&bytes, &Limits::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_crowd_of_votes_is_refused_before_it_is_decoded() {
        let mut votes = [0x12, 0x00].repeat(20_000);
        let mut bytes = vec![0x0a, 0xc0, 0xb8, 0x02];
        bytes.append(&mut votes);
        let error = check(&Bytes::from(bytes), &Limits::default()).expect_err("too many");
        assert_eq!(error.to_string(), "more than 16384 votes");
    }

    #[test]
    fn bounds_of_commit_info_are_inclusive() {
        let check = |round: i32, power: i64, decimals: u64, base: &str| {
            let validator = Some(Validator { address: vec![1; 20].into(), power });
            let block_id_flag = BlockIdFlag::Commit.into();
            let vote = ExtendedVoteInfo { validator, block_id_flag, ..ExtendedVoteInfo::default() };
            let pair = CurrencyPair { base: base.to_owned(), quote: "USD".to_owned() };
            let info = CommitInfo {
                extended_commit_info: Some(ExtendedCommitInfo { round, votes: vec![vote] }),
                id_to_currency_pair: vec![IdWithCurrencyPair { id: 1, currency_pair: Some(pair), decimals }],
            };
            super::check(&info.encode_to_vec().into(), &Limits::default()).map_err(|error| error.to_string())
        };
        assert_eq!(check(0, 0, 255, "A"), Ok(()));
        for refused in [check(-1, 0, 0, "A"), check(0, -1, 0, "A"), check(0, 0, 256, "A"), check(0, 0, 0, "")] {
            assert!(refused.is_err());
        }
    }
}
