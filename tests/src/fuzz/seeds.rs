//! The inputs that fuzzing starts from, made out of the conformance vectors. Deterministic, so that what is committed
//! under `fuzz/seeds` can be compared with what this makes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use downbeat::journal::{Reader, encode};
use downbeat_core::{
    RollupId, Timestamp,
    celestia::{Namespace, square::NamespacedHash},
    gossip::Topic,
};
use downbeat_world::{CelestiaChain, CelestiaConfig};
use prost::encoding::encode_varint;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    genuine::{BLOCKS, files, read, read_json},
    gossip::sealed,
};

/// One input: target, name, content.
pub type Seed = (&'static str, String, Vec<u8>);

/// All inputs to start from.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    blobs(&mut seeds);
    filtered_blocks(&mut seeds);
    messages(&mut seeds);
    cometbft(&mut seeds);
    celestia(&mut seeds);
    configurations(&mut seeds);
    evidence(&mut seeds);
    state_machines(&mut seeds);
    journals(&mut seeds);
    for number in 0..8 {
        seeds.push(("merkle", format!("noise-{number}"), noise(number, 100 << (number % 4))));
    }
    seeds
}

/// Bytes that look random and are the same each time.
fn noise(number: usize, length: usize) -> Vec<u8> {
    let block = |index: usize| <[u8; 32]>::from(Sha256::digest(format!("{number}/{index}")));
    (0..length.div_ceil(32)).flat_map(block).take(length).collect()
}

/// The last two parts of a path as a file name.
fn name(path: &str) -> String {
    path.rsplit('/').take(2).collect::<Vec<_>>().join("-").replace('.', "-")
}

/// A list with these entries, as a blob holds it.
fn list(entries: &[&[u8]]) -> Vec<u8> {
    let mut list = Vec::new();
    for entry in entries {
        list.push(0x0a);
        encode_varint(entry.len() as u64, &mut list);
        list.extend_from_slice(entry);
    }
    list
}

fn blobs(seeds: &mut Vec<Seed>) {
    let mut add = |kind: u8, name: String, rest: &[u8]| seeds.push(("blob", name, [&[kind], rest].concat()));
    for (index, block) in BLOCKS.iter().enumerate().step_by(3) {
        add(2, format!("metadata-{index}"), &list(&[&block.metadata]));
        if let Some(data) = &block.rollup_data {
            add(3, format!("rollup-data-{index}"), &list(&[data]));
        }
    }
    let [first, second] = [&BLOCKS[0], &BLOCKS[1]];
    add(2, "metadata-of-two-and-junk".to_owned(), &list(&[&first.metadata, b"junk", &second.metadata]));
    for kind in ["metadata", "rollup_data"] {
        let base64 = read(&format!("dusk-5/batched_{kind}.base64.txt"));
        let blob = STANDARD.decode(base64.trim_ascii()).expect("base64");
        add(1, format!("dusk-{kind}"), &blob);
    }
    for file in ["current/celestia-0050/blob-1.br", "pre-aspen/celestia-0051/blob-3.br"] {
        add(0, name(file), &read(file));
        add(5, format!("tiny-{}", name(file)), &read(file));
    }
    for file in files("refuse") {
        let bytes = read(&file);
        let kind = match file.strip_prefix("refuse/").and_then(|file| file.split('-').next()) {
            Some("blob") => 1,
            Some("SubmittedMetadata") => 2,
            Some("SubmittedRollupData") => 3,
            _ => continue,
        };
        add(kind, name(&file), &if kind == 1 { bytes } else { list(&[&bytes]) });
    }
}

fn filtered_blocks(seeds: &mut Vec<Seed>) {
    let mut add = |kind: u8, name: String, rest: &[u8]| seeds.push(("filtered_block", name, [&[kind], rest].concat()));
    for (index, block) in BLOCKS.iter().enumerate().step_by(2) {
        add(0, format!("block-{index}"), &block.filtered);
    }
    for file in files("refuse").iter().filter(|file| file.contains("FilteredSequencerBlock")) {
        add(0, name(file), &read(file));
    }
    add(2, "tiny".to_owned(), &BLOCKS[3].filtered);
    for number in 0..8 {
        add(1, format!("made-{number}"), &noise(number, 200 << (number % 4)));
    }
}

fn messages(seeds: &mut Vec<Seed>) {
    let mut add = |way: u8, index: usize, name: String, rest: &[u8]| {
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        seeds.push(("gossip", name, [&[way, index], rest].concat()));
    };
    for (index, block) in BLOCKS.iter().enumerate().step_by(3) {
        for (topic, wire) in sealed(block) {
            let kind = if topic == Topic::Blocks { "block" } else { "rollup" };
            add(0, index, format!("{kind}-{index}"), &wire);
            add(2, index, format!("small-{kind}-{index}"), &wire);
        }
    }
    for number in 0..8 {
        add(1, number, format!("changed-{number}"), &noise(number, 8 << (number % 4)));
    }
}

fn evidence(seeds: &mut Vec<Seed>) {
    let mut add = |name: &str, content: Vec<u8>| seeds.push(("evidence", name.to_owned(), content));
    for name in ["false-block", "forged-shares"] {
        add(name, read(&format!("../fixtures/evidence-v1/{name}.json")));
    }
    let signed = |name: &str| {
        let header = read_json(&format!("commits/{name}.commit.json"))["signed_header"].take();
        let validators = read_json(&format!("commits/{name}.validators.json"))["validators"].take();
        json!({"signed_header": header, "validators": validators})
    };
    let (trusted, other) = (signed("1-of-1"), signed("4-of-5-ones"));
    let chain_id = trusted["signed_header"]["header"]["chain_id"].clone();
    let conflict = json!({"chain_id": chain_id, "height": 2, "trusted": trusted, "other": other});
    add("conflict", conflict.to_string().into_bytes());
    add("genesis", read("current/genesis.json"));
}

fn cometbft(seeds: &mut Vec<Seed>) {
    let mut add = |method: u8, how: u8, name: String, rest: &[u8]| {
        seeds.push(("cometbft_json", name, [&[method, how], rest].concat()));
    };
    let envelope = |result: &Value| json!({"jsonrpc": "2.0", "id": 0, "result": result}).to_string();
    for (directory, height) in [("current/block-0004", 4), ("current/block-0011", 11), ("pre-aspen/block-0007", 7)] {
        for (method, kind) in [(2, "commit"), (4, "validators"), (5, "block")] {
            let file = format!("{directory}/{kind}.json");
            add(method, height << 3, name(&file), &read(&file));
            if height == 4 {
                add(method, (height << 3) | 6, format!("body-{kind}"), envelope(&read_json(&file)).as_bytes());
            }
        }
    }
    for kind in ["3-of-5-ones", "nil-majority", "other-height", "header-not-hashing"] {
        add(2, 2 << 3, kind.to_owned(), &read(&format!("commits/{kind}.commit.json")));
    }
    let header = |file: &str| json!({"header": read_json(file)["signed_header"]["header"]});
    let metas = ["current/block-0004/commit.json", "current/block-0005/commit.json"].map(header);
    add(3, 3 << 3, "blockchain".to_owned(), json!({"last_height": "9", "block_metas": metas}).to_string().as_bytes());
    add(0, 0, "genesis".to_owned(), &read("current/genesis.json"));
    add(1, 0, "abci-info".to_owned(), br#"{"response":{"data":"x","last_block_height":"12"}}"#);
    add(1, 0, "abci-info-as-a-list".to_owned(), b"[[1]]");
    add(1, 0, "abci-info-of-a-new-node".to_owned(), br#"{"response":{}}"#);
    let status = br#"{"node_info":{"network":"astria"},"sync_info":{"latest_block_height":"12"}}"#;
    let (genesis, status) = (b"null".as_slice(), status.as_slice());
    add(0, 0, "status-for-genesis".to_owned(), &[genesis, status].join(&0xff));
    let set = read_json("current/block-0004/validators.json");
    let page = |from: usize, to: usize| {
        let validators = &set["validators"].as_array().expect("a list")[from..to];
        json!({"block_height": "4", "count": (to - from).to_string(), "total": "4", "validators": validators})
            .to_string()
            .into_bytes()
    };
    add(4, 4 << 3, "validators-in-pages".to_owned(), &[page(0, 1), page(1, 3), page(3, 4)].join(&0xff));
    let error = br#"{"code":-32603,"message":"Internal error","data":"height 9 must be less than or equal to 8"}"#;
    add(2, 5, "error".to_owned(), error);
    let http = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n27\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":null}\r\n0\r\n\r\n";
    add(1, 7, "http-in-chunks".to_owned(), http);
    add(1, 7, "http-status".to_owned(), b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\nproxy");
}

fn celestia(seeds: &mut Vec<Seed>) {
    let mut add = |method: u8, how: u8, name: String, rest: &[u8]| {
        seeds.push(("celestia_json", name, [&[method, how], rest].concat()));
    };
    for chain in ["current", "pre-aspen"] {
        for height in ["celestia-0050", "celestia-0051"] {
            let blobs: Vec<Value> = files(&format!("{chain}/{height}"))
                .iter()
                .filter(|file| file.contains("blob-") && file.contains(".json"))
                .map(|file| read_json(file))
                .collect();
            let text = Value::from(blobs).to_string();
            add(0, 0, format!("blobs-{chain}-{height}"), text.as_bytes());
            let header = json!({"header": read_json(&format!("{chain}/{height}/extended_header.json"))["header"]});
            add(1, 0, format!("head-{chain}-{height}"), header.to_string().as_bytes());
        }
    }
    let odd = br#"[null,5,{"namespace":"AAAA","data":"AQ=="},{"namespace":"AAAAAAAAAAAAAAAAAAAAAAAAAAbxR6YheAboJu8=","data":"AQ==","index":-1},{"data":"!"}]"#;
    add(0, 0, "odd-elements".to_owned(), odd);
    add(0, 0, "elements-as-lists".to_owned(), br#"[["AAAAAAAAAAAAAAAAAAAAAAAAAAbxR6YheAboJu8=","AQ=="]]"#);
    add(1, 0, "head-as-a-list".to_owned(), br#"[["mocha-4",12,"2023-06-23T10:40:48Z"]]"#);
    add(0, 0, "null".to_owned(), b"null");
    for (name, content) in [("whole-namespaces", 900), ("absent-namespace", 0)] {
        let pieces = whole_namespaces(content).map(|piece| piece.to_string().into_bytes());
        add(2, 0, name.to_owned(), &pieces.join(&0xff));
    }
    add(0, 5, "not-found".to_owned(), br#"{"code":1,"message":"blob: not found"}"#);
    add(0, 6, "body".to_owned(), br#"{"jsonrpc":"2.0","id":0,"result":[]}"#);
    add(0, 7, "http".to_owned(), b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"id\":0,\"result\":[]}");
}

/// Header and two namespaces of one block, as a Celestia node sends them: a blob of so many bytes is in the second, and
/// one in a third that lies behind both.
fn whole_namespaces(length: usize) -> [Value; 3] {
    let mut chain = CelestiaChain::new(&CelestiaConfig::default());
    let [first, second, third] = [1, 2, 3].map(|number| Namespace::of_rollup(&RollupId([number; 32])));
    for (namespace, length) in [(second, length), (third, 40)] {
        if length > 0 {
            chain.submit(namespace, vec![7; length].into()).expect("postable");
        }
    }
    let height = chain.make_block(Timestamp(1_700_000_000_000_000_000));
    let (block, square) = (chain.block(height).expect("made"), chain.square(height).expect("made"));
    let nodes =
        |nodes: &[NamespacedHash]| -> Value { nodes.iter().map(|node| STANDARD.encode(node.as_bytes())).collect() };
    let namespace = |namespace| -> Value {
        let rows = square.namespace(namespace).rows.into_iter().map(|row| {
            json!({
                "shares": row.shares.iter().map(|share| STANDARD.encode(share)).collect::<Value>(),
                "proof": {
                    "start": row.proof.start,
                    "end": row.proof.end,
                    "nodes": nodes(&row.proof.nodes),
                    "leaf_hash": row.proof.absence.map(|node| STANDARD.encode(node.as_bytes())),
                },
            })
        });
        rows.collect()
    };
    let (rows, columns) = (&square.header().row_roots, &square.header().column_roots);
    let header = json!({
        "header": serde_json::to_value(&block.signed_header.header).expect("a header"),
        "dah": {"row_roots": nodes(rows), "column_roots": nodes(columns)},
    });
    [header, namespace(first), namespace(second)]
}

fn configurations(seeds: &mut Vec<Seed>) {
    let mut add = |name: &str, pieces: &[&str]| {
        seeds.push(("config", name.to_owned(), pieces.join("\0").into_bytes()));
    };
    // The example of the reference (§7.2).
    let astria = [
        "CELESTIA_BLOCK_TIME_MS=12000",
        "CELESTIA_NODE_HTTP_URL=http://127.0.0.1:26658",
        "NO_CELESTIA_AUTH=false",
        "CELESTIA_BEARER_TOKEN=eyJhbGciOi.topsecret",
        "SEQUENCER_GRPC_URL=http://127.0.0.1:8080",
        "SEQUENCER_COMETBFT_URL=http://127.0.0.1:26657",
        "SEQUENCER_BLOCK_TIME_MS=2000",
        "SEQUENCER_REQUESTS_PER_SECOND=500",
        "EXECUTION_RPC_URL=http://127.0.0.1:50051",
        "LOG=astria_conductor=info",
        "EXECUTION_COMMIT_LEVEL=SoftAndFirm",
        "FORCE_STDOUT=false",
        "NO_OTEL=false",
        "NO_METRICS=true",
        "METRICS_HTTP_LISTENER_ADDR=127.0.0.1:9000",
    ];
    let astria: Vec<String> = astria.iter().map(|line| format!("ASTRIA_CONDUCTOR_{line}")).collect();
    let pieces: Vec<&str> = [""].into_iter().chain(astria.iter().map(String::as_str)).collect();
    add("astria", &pieces);
    let file = "log = 'debug'\ntrust = 'endpoint'\n[sequencer]\ngrpc_url = 'http://a:1'\nrequests_per_second = 9\n\
                [celestia]\nurl = 'https://user:password@b/key?token=x'\nbody_limit_bytes = 1_000\n\
                [[cell]]\nexecution_url = 'http://[::1]:3'\nmode = 'SoftOnly'\nexpected_sequencer_chain_id = 'astria'\n\
                [limits]\nsoft_ahead = 1_000\nfetch_deadline = '2s'\nbackoff_last = '1m'\nstay_when_parked = true\n";
    add("file", &[file]);
    add("two-cells", &["[[cell]]\nexecution_url='http://a'\n[[cell]]\nexecution_url='http://b'\nmode='FirmOnly'"]);
    add(
        "all-layers",
        &[
            file,
            "RUST_LOG=trace",
            "NO_COLOR=1",
            "DOWNBEAT_CELESTIA__URL=http://c/path",
            "DOWNBEAT_CELESTIA__BEARER_TOKEN=' token '",
            "DOWNBEAT_CELL__0__MODE=FirmOnly",
            "DOWNBEAT_LIMITS__SOFT_IN_FLIGHT=3",
            "OTEL_EXPORTER_OTLP_ENDPOINT=http://d",
            "-limits.soft_in_flight=4",
            "-log=h2=debug,downbeat=trace",
        ],
    );
    for (name, flag) in [
        ("largest", "-limits.soft_ahead=9223372036854775807"),
        ("smallest", "-limits.list_entries=1"),
        ("longest", "-limits.session_delay_last=31536000000"),
        ("wrong-unit", "-limits.fetch_deadline=2 weeks"),
        ("unknown", "-limits.soft_haed=1"),
        ("wrong-url", "-celestia.url=ws://user:hunter2@host/key"),
        ("wrong-filter", "-log=downbeat=loud"),
    ] {
        add(name, &["", flag]);
    }
    add("not-toml", &["celestia.bearer_token = 'hunter2"]);
    add("deep", &["a = [[[[[[[[[[[[1]]]]]]]]]]]]"]);
}

fn journals(seeds: &mut Vec<Seed>) {
    let mut add =
        |kind: u8, name: &str, rest: &[u8]| seeds.push(("journal", name.to_owned(), [&[kind], rest].concat()));
    add(0, "every-event-of-version-1", &read("../fixtures/journal-v1/every-event.journal"));
    let file = read("../fixtures/journal-v2/every-event.journal");
    add(0, "every-event", &file);
    add(0, "torn", &file[..file.len() / 2]);
    let (mut records, mut count) = (Vec::new(), 0);
    for entry in Reader::new(file.as_slice()).expect("a journal") {
        let entry = entry.expect("a fixture is undamaged");
        let outbox = entry.outbox.clone();
        let record = encode(&entry.into_stamped_without_outcome(), outbox.as_ref());
        add(2, &format!("record-{count}"), &record);
        encode_varint(record.len() as u64, &mut records);
        records.extend_from_slice(&record);
        count += 1;
    }
    add(1, "records", &records);
    for (name, damage) in [
        ("undamaged", &[][..]),
        ("cut", &[0, 0, 0x10, 0, 0]),
        ("changed", &[1, 0, 0x08, 0, 7]),
        ("longer", &[2, 0, 0x04, 0, 7]),
        ("zeros", &[3, 0, 0x20, 0, 0]),
        ("shorter", &[4, 0, 0x02, 0, 50, 1, 0, 0, 9, 9]),
    ] {
        add(3, name, damage);
    }
}

fn state_machines(seeds: &mut Vec<Seed>) {
    for limits in 0_u8..8 {
        for mode in 0_u8..3 {
            let mut input = vec![limits, mode | (limits & 1) << 6 | mode << 3, limits];
            // Some limits are drawn.
            input.extend_from_slice(&noise(usize::from(limits), 12));
            // Far into a healthy run, then whatever comes.
            input.extend_from_slice(&vec![0xfd; 2 + 5 * usize::from(mode)]);
            input.extend_from_slice(&noise(usize::from(limits * 3 + mode), 150));
            seeds.push(("state_machine", format!("limits-{limits}-mode-{mode}"), input));
        }
    }
    // The sixteens let Celestia's node prove what it says.
    for (name, limits, choice) in [
        ("lies", 0, 5),
        ("answers-of-any-kind", 0, 4),
        ("late", 0, 7),
        ("lost-replies", 0, 8),
        ("failures", 0, 3),
        ("proven", 16, 0xd),
        ("proven-lies", 16, 5),
        ("proven-late", 16, 7),
    ] {
        let mut input = vec![limits, 0, 0, 0xfd, 0xfd];
        for (place, byte) in noise(9, 120).into_iter().enumerate() {
            input.extend_from_slice(&[
                (byte & 0x30) | choice,
                byte,
                u8::try_from(place).expect("a small number"),
                0xdd,
            ]);
        }
        seeds.push(("state_machine", name.to_owned(), input));
    }
    // Other conductors send messages, answer and lie; with a server beside them and without, for one rollup and two.
    for (name, limits, choice) in [
        ("peers", 0, 0x81),
        ("peers-alone", 0x20, 0x81),
        ("peers-firm", 0, 0x80),
        ("peers-alone-firm", 0x20, 0x80),
        ("peers-two", 0, 0xc1),
        ("peers-alone-two", 0x20, 0xc9),
    ] {
        let mut input = vec![limits, choice, 0, 0xfe, 0xfe, 0xfe, 0xfe];
        for (place, byte) in (0_u8..40).cycle().zip(noise(9, 100)) {
            let lie = if place % 3 == 0 { 0xfe } else { 5 };
            input.extend_from_slice(&[(byte & 0x70) | 0xd, place, byte & 0x1f, 0xde, lie, byte]);
        }
        seeds.push(("state_machine", name.to_owned(), input));
    }
    seeds.push(("state_machine", "stop".to_owned(), [&[0, 0, 0][..], &[0xfd; 6], &[0xcc, 0, 0, 0, 0, 1]].concat()));
}
