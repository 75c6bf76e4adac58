//! A CometBFT node's JSON-RPC for the sequencer chain: `genesis`, `status`, `abci_info`, `block`, `commit`,
//! `validators` and `blockchain` (reference §4.4).

use std::future::Future;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use downbeat_core::SequencerHeight;
use serde_json::{Value, json};
use tendermint::{
    Signature,
    block::{Commit, CommitSig, Header, Id as BlockId},
};

use super::{
    Hooks, Listener, Shared,
    json_rpc::{self, Error, encode, number, param},
};
use crate::{
    SequencerChain, World, cometbft,
    sequencer::Block,
    validators::{Member, ValidatorSet},
};

/// Validators on a page unless asked otherwise, and at most.
const PER_PAGE: (u64, u64) = (30, 100);

/// Headers in a `blockchain` reply at most.
const BLOCKCHAIN_MAX: u64 = 20;

/// Serves the sequencer's CometBFT RPC until `shutdown`.
pub async fn serve<L: Listener>(
    listener: L,
    world: Shared<World>,
    hooks: Hooks,
    shutdown: impl Future<Output = ()> + Send,
) {
    json_rpc::serve(listener, CometBft(world), hooks, shutdown).await;
}

#[derive(Clone)]
struct CometBft(Shared<World>);

impl json_rpc::Api for CometBft {
    fn call(&self, method: &str, params: &Value) -> Result<Bytes, Error> {
        self.0.with(|world| call(&world.sequencer, method, params)).map(|value| encode(&value))
    }
}

/// The result of one call on `chain`.
pub(super) fn call(chain: &SequencerChain, method: &str, params: &Value) -> Result<Value, Error> {
    match method {
        "genesis" => Ok(genesis(chain)),
        "status" => Ok(status(chain)),
        "abci_info" => Ok(json!({ "response": {
            "data": "sequencer", "version": "3.0.0", "app_version": "3",
            "last_block_height": chain.head().to_string(),
            "last_block_app_hash": newest(chain).map(|header| BASE64.encode(header.app_hash.as_bytes())),
        } })),
        "block" => block_at(chain, params).map(block_json),
        "commit" => block_at(chain, params).map(|block| commit_result(block, chain.head())),
        "validators" => validators(chain, params),
        "blockchain" => blockchain(chain, params),
        _ => Err(Error::method_not_found(method)),
    }
}

fn internal(data: String) -> Error {
    Error { data: Some(data), ..Error::new(-32603, "Internal error") }
}

/// The height that the parameters ask for: the head if none; at most `highest`.
fn height(chain: &SequencerChain, params: &Value, highest: SequencerHeight) -> Result<SequencerHeight, Error> {
    let asked = param(params, "height", 0);
    if asked.is_null() {
        return Ok(chain.head());
    }
    let height = number(asked).map(SequencerHeight).ok_or_else(|| Error::invalid_params(format!("height {asked}")))?;
    if height.0 == 0 {
        return Err(internal(format!("height must be greater than 0, but got {height}")));
    }
    if height > highest {
        return Err(internal(format!(
            "height {height} must be less than or equal to the current blockchain height {}",
            chain.head()
        )));
    }
    if height < chain.tail() {
        return Err(internal(format!("height {height} is not available, lowest height is {}", chain.tail())));
    }
    Ok(height)
}

fn block_at<'a>(chain: &'a SequencerChain, params: &Value) -> Result<&'a Block, Error> {
    let height = height(chain, params, chain.head())?;
    chain.block(height).ok_or_else(|| internal(format!("no block at height {height}")))
}

fn validators(chain: &SequencerChain, params: &Value) -> Result<Value, Error> {
    let height = height(chain, params, chain.head().next())?;
    let set = chain.validators(height).ok_or_else(|| internal(format!("no validators at height {height}")))?;
    let total = set.members().len() as u64;
    let per_page = match number(param(params, "per_page", 2)) {
        None | Some(0) => PER_PAGE.0,
        Some(asked) => asked.min(PER_PAGE.1),
    };
    let pages = total.div_ceil(per_page).max(1);
    let page = number(param(params, "page", 1)).unwrap_or(1);
    if page == 0 || page > pages {
        return Err(internal(format!("page should be within [1, {pages}] range, given {page}")));
    }
    let slice = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let members = set.members().iter().skip(slice((page - 1) * per_page)).take(slice(per_page));
    let members: Vec<_> = members.map(member_json).collect();
    Ok(json!({
        "block_height": height.to_string(),
        "count": members.len().to_string(),
        "total": total.to_string(),
        "validators": members,
    }))
}

fn blockchain(chain: &SequencerChain, params: &Value) -> Result<Value, Error> {
    let head = chain.head().0;
    let asked = |name, position| number(param(params, name, position)).filter(|height| *height > 0);
    let max = asked("maxHeight", 1).map_or(head, |max| max.min(head));
    let min = asked("minHeight", 0).unwrap_or(1).max(chain.tail().0).max((max + 1).saturating_sub(BLOCKCHAIN_MAX));
    if min > max {
        return Err(internal(format!("min height {min} can't be greater than max height {max}")));
    }
    let meta = |block: &Block| {
        let size: usize = block.published.data().transactions().iter().map(Bytes::len).sum();
        json!({
            "block_id": block_id_json(&block.signed_header.commit.block_id),
            "block_size": size.to_string(),
            "header": header_json(&block.signed_header.header),
            "num_txs": block.published.data().transactions().len().to_string(),
        })
    };
    let blocks = (min..=max).rev().filter_map(|height| chain.block(SequencerHeight(height)));
    Ok(json!({ "last_height": head.to_string(), "block_metas": blocks.map(meta).collect::<Vec<_>>() }))
}

fn newest(chain: &SequencerChain) -> Option<&Header> {
    chain.signed_header(chain.head()).map(|signed| &signed.header)
}

fn genesis(chain: &SequencerChain) -> Value {
    let config = chain.config();
    let validator = |member: &Member| {
        json!({
            "address": member.address.to_string(),
            "pub_key": public_key_json(member),
            "power": member.power.to_string(),
            "name": format!("validator-{}", member.number),
        })
    };
    json!({ "genesis": {
        "genesis_time": cometbft::time(config.genesis_time).to_rfc3339(),
        "chain_id": chain.chain_id(),
        "initial_height": config.initial_height.0.max(1).to_string(),
        "consensus_params": {
            "block": { "max_bytes": "1048576", "max_gas": "-1" },
            "evidence": { "max_age_num_blocks": "4000", "max_age_duration": "1209600000000000", "max_bytes": "1048576" },
            "validator": { "pub_key_types": ["ed25519"] },
            "version": { "app": "0" },
            "abci": { "vote_extensions_enable_height": config.vote_extensions_from.map_or(0, |from| from.0).to_string() },
        },
        "validators": chain.genesis_validators().members().iter().map(validator).collect::<Vec<_>>(),
        "app_hash": "",
        "app_state": {},
    } })
}

fn status(chain: &SequencerChain) -> Value {
    let header = newest(chain);
    let earliest = chain.signed_header(chain.tail()).map(|signed| &signed.header);
    let hash = |header: Option<&Header>| header.map_or_else(String::new, |header| header.hash().to_string());
    let app_hash = |header: Option<&Header>| header.map_or_else(String::new, |header| header.app_hash.to_string());
    let time = |header: Option<&Header>| {
        header.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |header| header.time.to_rfc3339())
    };
    let first = chain.genesis_validators().members().first();
    json!({
        "node_info": {
            "protocol_version": { "p2p": "8", "block": "11", "app": "3" },
            "id": "0000000000000000000000000000000000000000",
            "listen_addr": "tcp://0.0.0.0:26656",
            "network": chain.chain_id(),
            "version": "0.38.17",
            "channels": "40202122233038606100",
            "moniker": "model",
            "other": { "tx_index": "off", "rpc_address": "tcp://0.0.0.0:26657" },
        },
        "sync_info": {
            "latest_block_hash": hash(header),
            "latest_app_hash": app_hash(header),
            "latest_block_height": chain.head().to_string(),
            "latest_block_time": time(header),
            "earliest_block_hash": hash(earliest),
            "earliest_app_hash": app_hash(earliest),
            "earliest_block_height": chain.tail().to_string(),
            "earliest_block_time": time(earliest),
            "catching_up": false,
        },
        "validator_info": first.map(|member| json!({
            "address": member.address.to_string(),
            "pub_key": public_key_json(member),
            "voting_power": member.power.to_string(),
        })),
    })
}

fn commit_result(block: &Block, head: SequencerHeight) -> Value {
    json!({
        "signed_header": {
            "header": header_json(&block.signed_header.header),
            "commit": commit_json(&block.signed_header.commit),
        },
        // The newest block's commit may still gain signatures.
        "canonical": block.published.height() < head,
    })
}

fn block_json(block: &Block) -> Value {
    let transactions = block.published.data().transactions();
    json!({
        "block_id": block_id_json(&block.signed_header.commit.block_id),
        "block": {
            "header": header_json(&block.signed_header.header),
            "data": { "txs": transactions.iter().map(|item| BASE64.encode(item)).collect::<Vec<_>>() },
            "evidence": { "evidence": [] },
            "last_commit": block.last_commit.as_ref().map_or_else(
                || json!({ "height": "0", "round": 0, "block_id": no_block_id(), "signatures": [] }),
                commit_json,
            ),
        },
    })
}

/// A header in CometBFT's form.
pub(super) fn header_json(header: &Header) -> Value {
    let optional = |hash: Option<tendermint::Hash>| hash.map_or_else(String::new, |hash| hash.to_string());
    json!({
        "version": { "block": header.version.block.to_string(), "app": header.version.app.to_string() },
        "chain_id": header.chain_id.as_str(),
        "height": header.height.to_string(),
        "time": header.time.to_rfc3339(),
        "last_block_id": header.last_block_id.as_ref().map_or_else(no_block_id, block_id_json),
        "last_commit_hash": optional(header.last_commit_hash),
        "data_hash": optional(header.data_hash),
        "validators_hash": header.validators_hash.to_string(),
        "next_validators_hash": header.next_validators_hash.to_string(),
        "consensus_hash": header.consensus_hash.to_string(),
        "app_hash": header.app_hash.to_string(),
        "last_results_hash": optional(header.last_results_hash),
        "evidence_hash": optional(header.evidence_hash),
        "proposer_address": header.proposer_address.to_string(),
    })
}

/// A commit in CometBFT's form.
pub(super) fn commit_json(commit: &Commit) -> Value {
    let vote = |flag: u8, address: String, time: String, signature: Option<&Signature>| {
        json!({
            "block_id_flag": flag,
            "validator_address": address,
            "timestamp": time,
            "signature": signature.map(|signature| BASE64.encode(signature.as_bytes())),
        })
    };
    let signature_json = |signature: &CommitSig| match signature {
        CommitSig::BlockIdFlagAbsent => vote(1, String::new(), "0001-01-01T00:00:00Z".to_owned(), None),
        CommitSig::BlockIdFlagCommit { validator_address, timestamp, signature } => {
            vote(2, validator_address.to_string(), timestamp.to_rfc3339(), signature.as_ref())
        }
        CommitSig::BlockIdFlagNil { validator_address, timestamp, signature } => {
            vote(3, validator_address.to_string(), timestamp.to_rfc3339(), signature.as_ref())
        }
    };
    json!({
        "height": commit.height.to_string(),
        "round": commit.round.value(),
        "block_id": block_id_json(&commit.block_id),
        "signatures": commit.signatures.iter().map(signature_json).collect::<Vec<_>>(),
    })
}

fn block_id_json(id: &BlockId) -> Value {
    json!({
        "hash": id.hash.to_string(),
        "parts": { "total": id.part_set_header.total, "hash": id.part_set_header.hash.to_string() },
    })
}

fn no_block_id() -> Value {
    json!({ "hash": "", "parts": { "total": 0, "hash": "" } })
}

fn public_key_json(member: &Member) -> Value {
    json!({ "type": "tendermint/PubKeyEd25519", "value": BASE64.encode(member.public.to_bytes()) })
}

fn member_json(member: &Member) -> Value {
    json!({
        "address": member.address.to_string(),
        "pub_key": public_key_json(member),
        "voting_power": member.power.to_string(),
        "proposer_priority": member.priority.to_string(),
    })
}

/// A validator set in the form of Celestia's extended header.
pub(super) fn validator_set_json(set: &ValidatorSet) -> Value {
    let proposer = set.members().iter().find(|member| member.address == set.proposer());
    json!({
        "validators": set.members().iter().map(member_json).collect::<Vec<_>>(),
        "proposer": proposer.map(member_json),
    })
}
