//! A chain's genesis file, as far as trust begins with it.

use downbeat_core::{json, light::Genesis};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use tendermint::{PublicKey, Time, validator, vote};

use crate::lenient;

/// As it lies in a node's `config` directory, or as `genesis` answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Answer { result: Inner },
    Inner(Inner),
    Bare(Bare),
}

#[derive(Deserialize)]
struct Inner {
    genesis: Bare,
}

#[derive(Deserialize)]
struct Bare {
    genesis_time: Time,
    chain_id: String,
    #[serde(default, deserialize_with = "lenient::number")]
    initial_height: u64,
    #[serde(default)]
    validators: Vec<Validator>,
}

#[derive(Deserialize)]
struct Validator {
    #[serde(deserialize_with = "public_key")]
    pub_key: PublicKey,
    #[serde(deserialize_with = "lenient::number")]
    power: u64,
}

fn public_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    let value = Value::deserialize(deserializer)?;
    json::from_slice(value.to_string().as_bytes()).map_err(D::Error::custom)
}

/// Reads a genesis file.
///
/// # Errors
/// Says what is wrong with it, and what to do where it names no validators.
pub fn parse(text: &str) -> Result<Genesis, String> {
    let file: File = serde_json::from_str(text).map_err(|error| format!("this is no genesis file: {error}"))?;
    let (File::Answer { result: Inner { genesis } } | File::Inner(Inner { genesis }) | File::Bare(genesis)) = file;
    if genesis.validators.is_empty() {
        let problem = "it names no validators, the application does; take height and hash of a header that you trust and \
                       set sequencer.trust_root = \"HEIGHT:HASH\" instead";
        return Err(problem.to_owned());
    }
    let info = |validator: Validator| {
        let power = vote::Power::try_from(validator.power).map_err(|error| format!("a validator's power: {error}"))?;
        Ok(validator::Info::new(validator.pub_key, power))
    };
    let mut validators = genesis.validators.into_iter().map(info).collect::<Result<Vec<_>, String>>()?;
    // The file has any order, the chain this one.
    validators.sort_by_key(|info| (std::cmp::Reverse(info.power.value()), info.address));
    Ok(Genesis {
        chain_id: genesis.chain_id,
        time: genesis.genesis_time,
        initial_height: genesis.initial_height.max(1),
        validators,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = r#"{
        "genesis_time": "2023-09-26T11:52:07Z", "chain_id": "private", "initial_height": "1", "app_state": {},
        "validators": [
            {"address": "00", "power": "5", "name": "a",
             "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "B5pejcSXafZMJItPewOx4gOZrUqFiJffHxZ5n8Gwvug="}},
            {"address": "00", "power": "9", "name": "",
             "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "yvrJ+hVxB/nh6sKTG+rrrpzyJgr4bxZ5KXM6VEw3t8w="}}
        ]}"#;

    #[test]
    fn a_genesis_is_read_as_a_file_and_as_a_nodes_answer() {
        let bare = parse(BARE).unwrap();
        assert_eq!((bare.chain_id.as_str(), bare.initial_height), ("private", 1));
        let powers: Vec<u64> = bare.validators.iter().map(|info| info.power.value()).collect();
        assert_eq!(powers, [9, 5], "in the order in which the chain hashes them");
        assert_eq!(parse(&format!("{{\"genesis\": {BARE}}}")), Ok(bare.clone()));
        assert_eq!(parse(&format!("{{\"jsonrpc\": \"2.0\", \"result\": {{\"genesis\": {BARE}}}}}")), Ok(bare));
    }

    #[test]
    fn what_is_no_root_of_trust_is_refused_with_a_reason() {
        let empty = r#"{"genesis_time": "2023-09-26T11:52:07Z", "chain_id": "private", "validators": []}"#;
        assert!(parse(empty).unwrap_err().contains("sequencer.trust_root"));
        let padding = "====".to_owned() + "\"";
        let key = BARE.replace("=\"", &padding);
        assert!(
            key.contains(&padding) && parse(&key).unwrap_err().contains("no genesis file"),
            "a decoder would panic"
        );
        assert!(parse("{}").unwrap_err().contains("no genesis file"));
    }
}
