//! The `downbeat` command as a process: exit codes, signals, what it prints and what it never prints.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use downbeat_core::{RollupNumber, SequencerHeight};
use downbeat_world::{
    RollupNode, WorldConfig,
    serve::{Devnet, DevnetConfig, DevnetHandle},
};
use tempfile::TempDir;

/// No wait lasts longer; far above what is needed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stop is promised to take no longer.
const STOP: Duration = Duration::from_secs(10);

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.celestia-secret";

/// A process of the command, with no variable of this one's environment. Killed when dropped.
struct Process {
    child: Child,
    output: TempDir,
}

struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    took: Duration,
}

impl Process {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let output = TempDir::new().expect("a directory");
        let file = |name: &str| File::create(output.path().join(name)).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_downbeat"))
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the command starts");
        Self { child, output }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill starts").success(), "no process to send {name} to");
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.output.path().join(name)).expect("written by the process");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn ended(mut self) -> Ended {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                let (stdout, stderr) = (self.read("stdout"), self.read("stderr"));
                return Ended { status, stdout, stderr, took: began.elapsed() };
            }
            let in_time = began.elapsed() < PATIENCE;
            assert!(in_time, "it did not end\n{}\n{}", self.read("stdout"), self.read("stderr"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The one line on standard error.
    #[track_caller]
    fn only_line(&self) -> &str {
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        self.stderr.trim_end()
    }
}

/// A world whose conductor is another process.
struct Net {
    net: DevnetHandle,
    /// Serves it; dropped after it.
    _runtime: tokio::runtime::Runtime,
}

impl Net {
    fn start(celestia_token: Option<&str>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut world = WorldConfig {
            block_time: Duration::from_millis(50),
            celestia_block_time: Duration::from_millis(100),
            da_delay: Duration::from_millis(100),
            ..WorldConfig::default()
        };
        world.session.sequencer_start = SequencerHeight(3);
        let celestia_token = celestia_token.map(str::to_owned);
        let config = DevnetConfig { world, celestia_token, ..DevnetConfig::default() };
        let net = runtime.block_on(Devnet::start(config)).expect("loopback addresses can be bound");
        Self { net, _runtime: runtime }
    }

    /// The variables of the reference conductor for this world, and others after them.
    fn variables<'a>(&'a self, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let urls = &self.net.urls;
        let mut variables = vec![
            ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", urls.sequencer_grpc.as_str()),
            ("ASTRIA_CONDUCTOR_SEQUENCER_COMETBFT_URL", urls.cometbft.as_str()),
            ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", urls.celestia.as_str()),
            ("ASTRIA_CONDUCTOR_EXECUTION_RPC_URL", urls.executions[0].as_str()),
            ("ASTRIA_CONDUCTOR_EXECUTION_COMMIT_LEVEL", "SoftAndFirm"),
            ("ASTRIA_CONDUCTOR_SEQUENCER_BLOCK_TIME_MS", "20"),
            ("ASTRIA_CONDUCTOR_CELESTIA_BLOCK_TIME_MS", "50"),
            ("ASTRIA_CONDUCTOR_NO_CELESTIA_AUTH", "true"),
            ("ASTRIA_CONDUCTOR_NO_OTEL", "true"),
            ("ASTRIA_CONDUCTOR_NO_METRICS", "true"),
        ];
        variables.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
        variables.extend(others.iter().copied());
        variables
    }

    fn run(&self, others: &[(&str, &str)]) -> Process {
        Process::start(&["run"], &self.variables(others))
    }

    fn node<R>(&self, look: impl FnOnce(&mut RollupNode) -> R) -> R {
        self.net.world.with(|world| {
            let id = world.node_ids()[0];
            look(world.rollups.get_mut(&id).expect("the node"))
        })
    }

    /// Waits for a condition on the node while the process runs.
    fn until(&self, process: &mut Process, what: &str, condition: impl Fn(&mut RollupNode) -> bool) {
        let began = Instant::now();
        while !self.node(&condition) {
            let is_running = process.is_running();
            if !is_running || began.elapsed() >= PATIENCE {
                let (stdout, stderr) = (process.read("stdout"), process.read("stderr"));
                panic!("in vain for {what}, running: {is_running}\n{stdout}\n{stderr}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Each committed block is the sequencer's of that height.
    #[track_caller]
    fn assert_chain(&self) {
        self.net.world.with(|world| {
            let node = &world.rollups[&world.node_ids()[0]];
            for number in 1..=node.soft().0 {
                let block = node.block(RollupNumber(number)).expect("committed");
                let made = world.sequencer.block(SequencerHeight(number + 2)).expect("made");
                assert_eq!(block.metadata.sequencer_block_hash, made.hash().to_string(), "rollup block {number}");
            }
        });
    }
}

fn a_signal_stops_a_running_conductor(signal: &str) {
    let net = Net::start(None);
    let mut process = net.run(&[]);
    net.until(&mut process, "ten soft and three firm blocks", |node| node.soft().0 >= 10 && node.firm().0 >= 3);
    process.signal(signal);
    let ended = process.ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.took < STOP, "it took {:?}", ended.took);
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.contains(&format!("SIG{signal}: stopping")), "{}", ended.stdout);
    net.assert_chain();
}

#[test]
fn sigterm_ends_a_conductor_that_was_configured_with_the_reference_conductors_variables() {
    a_signal_stops_a_running_conductor("TERM");
}

#[test]
fn sigint_ends_a_conductor_that_was_configured_with_the_reference_conductors_variables() {
    a_signal_stops_a_running_conductor("INT");
}

#[test]
fn a_signal_ends_a_conductor_whose_peers_do_not_answer() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let variables = [
        ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", url.as_str()),
        ("ASTRIA_CONDUCTOR_SEQUENCER_COMETBFT_URL", url.as_str()),
        ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", url.as_str()),
        ("ASTRIA_CONDUCTOR_EXECUTION_RPC_URL", url.as_str()),
    ];
    let process = Process::start(&["run"], &variables);
    // It has asked, so it listens to signals by now.
    drop(silent.accept().expect("a connection"));
    process.signal("TERM");
    let ended = process.ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.took < STOP, "it took {:?}", ended.took);
}

#[test]
fn a_conductor_that_is_killed_and_started_again_goes_on_with_the_same_chain() {
    let net = Net::start(None);
    for blocks in [4, 8, 12] {
        let mut process = net.run(&[]);
        net.until(&mut process, "some blocks", |node| node.soft().0 >= blocks);
        process.signal("KILL");
        assert_eq!(process.ended().status.code(), None);
    }
    let mut process = net.run(&[]);
    net.until(&mut process, "firm blocks above", |node| node.firm().0 >= 14);
    process.signal("TERM");
    assert_eq!(process.ended().status.code(), Some(0));
    net.assert_chain();
}

#[test]
fn a_conductor_that_is_killed_goes_on_from_the_headers_that_it_trusted() {
    let net = Net::start(None);
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().to_str().expect("a text");
    let begins = |ended: &Ended| ended.stdout.contains("no root of trust is configured");
    for (life, blocks) in [4, 10, 16].into_iter().enumerate() {
        let mut process = net.run(&[("DOWNBEAT_DATA_DIR", path)]);
        net.until(&mut process, "some firm blocks", |node| node.firm().0 >= blocks);
        process.signal("KILL");
        let ended = process.ended();
        assert_eq!(ended.status.code(), None);
        assert_eq!(begins(&ended), life == 0, "trust begins once\n{}", ended.stdout);
    }
    net.assert_chain();
    // Without what was kept it begins once more.
    let mut process = net.run(&[]);
    net.until(&mut process, "another firm block", |node| node.firm().0 >= 20);
    process.signal("TERM");
    assert!(begins(&process.ended()));
}

#[test]
fn a_configuration_that_cannot_be_used_exits_78_and_names_the_variable() {
    for (name, value, accepted) in [
        ("ASTRIA_CONDUCTOR_EXECUTION_COMMIT_LEVEL", "Sometimes", "SoftAndFirm"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", "nonsense", "http://127.0.0.1:8080"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_COMETBFT_URL", "ftp://127.0.0.1", "http"),
        ("ASTRIA_CONDUCTOR_EXECUTION_RPC_URL", "http://", "http://127.0.0.1:50051"),
        ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", "127.0.0.1:26658", "http://127.0.0.1:26658"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_BLOCK_TIME_MS", "2s", "milliseconds"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_REQUESTS_PER_SECOND", "0", "above 0"),
        ("ASTRIA_CONDUCTOR_NO_CELESTIA_AUTH", "maybe", "true"),
        ("ASTRIA_CONDUCTOR_LOG", "=!", "downbeat=debug"),
        ("ASTRIA_CONDUCTOR_METRICS_HTTP_LISTENER_ADDR", "everywhere", "127.0.0.1:9000"),
        ("DOWNBEAT_LIMITS__SOFT_IN_FLIGHT", "many", "whole number"),
        ("DOWNBEAT_CELL__0__MODE", "softonly", "SoftOnly"),
    ] {
        let ended = Process::start(&["run"], &[(name, value)]).ended();
        assert_eq!(ended.status.code(), Some(78), "{name}: {}", ended.stderr);
        let line = ended.only_line();
        assert!(line.contains(name) && line.contains(accepted), "{name}: {line}");
        assert_eq!(ended.stdout, "", "{name}: nothing was begun");
    }
    let ended = Process::start(&["run", "--config", "/nowhere/downbeat.toml"], &[]).ended();
    assert_eq!(ended.status.code(), Some(78));
    assert!(ended.only_line().contains("/nowhere/downbeat.toml"));
}

#[test]
fn a_wrong_chain_ends_the_process_with_one_line_that_names_both() {
    for sequencer in [true, false] {
        let net = Net::start(None);
        net.node(|node| {
            let session = &mut node.config_mut().sessions[0];
            let wrong = if sequencer { &mut session.sequencer_chain_id } else { &mut session.celestia_chain_id };
            "another-chain".clone_into(wrong);
        });
        let ended = net.run(&[]).ended();
        assert_eq!(ended.status.code(), Some(1), "{}\n{}", ended.stdout, ended.stderr);
        let line = ended.only_line();
        let actual = if sequencer { "\"downbeat-sequencer\"" } else { "\"downbeat-celestia\"" };
        assert!(line.contains("\"another-chain\"") && line.contains(actual), "{line}");
        assert_eq!(net.node(|node| node.soft().0), 0, "nothing was executed");
    }
}

#[test]
fn a_devnet_ends_after_its_blocks_with_a_summary() {
    let arguments = "devnet --blocks 3 --block-time 50ms --da-delay 100ms --rollups 2 --seed 7";
    let ended = Process::start(&arguments.split(' ').collect::<Vec<_>>(), &[]).ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!(ended.stderr, "");
    assert!(!ended.stdout.contains('\x1b'), "no terminal, no colours: {:?}", ended.stdout);
    let summary = ended.stdout.lines().find(|line| line.contains("blocks are firm on each of 2 rollups"));
    let firm = summary.and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
    assert!(firm.is_some_and(|firm| firm >= 3), "{}", ended.stdout);
}

#[test]
fn peers_of_a_devnet_have_the_same_blocks_though_one_alone_knows_the_sequencer() {
    let arguments = "devnet --peers 4 --blocks 5 --block-time 100ms --da-delay 200ms --rollups 2";
    let ended = Process::start(&arguments.split(' ').collect::<Vec<_>>(), &[]).ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let same = ended.stdout.lines().filter(|line| line.contains("all 4 conductors have block")).count();
    assert_eq!(same, 2, "{}", ended.stdout);
    let by_server = ended.stdout.lines().filter(|line| line.starts_with("conductor") && line.contains("by Server"));
    assert_eq!(by_server.count(), 1, "{}", ended.stdout);
}

#[test]
fn ctrl_c_ends_a_devnet_and_leaves_nothing_behind() {
    let mut process = Process::start(&["devnet", "--block-time", "50ms"], &[]);
    let began = Instant::now();
    while !process.read("stdout").contains("rollup 0 http://") {
        assert!(process.is_running() && began.elapsed() < PATIENCE, "{}", process.read("stderr"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let stdout = process.read("stdout");
    let address = stdout.split("rollup 0 http://").nth(1).and_then(|rest| rest.lines().next()).expect("an address");
    let address: std::net::SocketAddr = address.trim().parse().expect("an address");
    std::net::TcpStream::connect(address).expect("the node listens");
    process.signal("INT");
    let ended = process.ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.took < STOP, "it took {:?}", ended.took);
    std::net::TcpStream::connect(address).expect_err("nobody listens any more");
}

#[test]
fn peers_of_a_running_conductor_are_listed_and_its_key_is_its_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let net = Net::start(None);
    let folder = TempDir::new().expect("a directory");
    let data_dir = folder.path().to_str().expect("a path that is text");
    let absent = Process::start(&["peers", "--data-dir", data_dir], &[]).ended();
    assert_eq!(absent.status.code(), Some(1));
    assert!(absent.only_line().contains("is a conductor with gossip.enabled running"), "{}", absent.stderr);

    let chain_id = net.net.world.with(|world| world.config().sequencer.chain_id.clone());
    let settings = [
        ("DOWNBEAT_DATA_DIR", data_dir),
        ("DOWNBEAT_GOSSIP__ENABLED", "true"),
        ("DOWNBEAT_GOSSIP__CHAIN_ID", &chain_id),
        ("DOWNBEAT_GOSSIP__LISTEN", "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1"),
    ];
    let mut process = net.run(&settings);
    net.until(&mut process, "three soft blocks", |node| node.soft().0 >= 3);
    let listed = Process::start(&["peers", "--data-dir", data_dir], &[]).ended();
    let shown = process.read("stdout") + &process.read("stderr");
    assert_eq!((listed.status.code(), listed.stderr.as_str()), (Some(0), ""), "{shown}");
    assert!(listed.stdout.contains(", peers: 0") && listed.stdout.contains("/quic-v1"), "{}", listed.stdout);
    let json = Process::start(&["peers", "--json"], &[("DOWNBEAT_DATA_DIR", data_dir)]).ended();
    let report: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert!(report["counters"]["published"].as_u64() > Some(0), "{report}");
    for name in ["node.key", "peers.sock"] {
        let mode = std::fs::metadata(folder.path().join("gossip").join(name)).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    process.signal("TERM");
    let ended = process.ended();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);

    // Whoever else may read the key could pretend to be this node.
    let key = folder.path().join("gossip/node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let refused = net.run(&settings).ended();
    assert_eq!(refused.status.code(), Some(78), "{}", refused.stderr);
    assert!(refused.only_line().contains("chmod 600"), "{}", refused.stderr);
}

#[test]
fn gossip_without_what_it_needs_is_refused_with_what_to_set() {
    let net = Net::start(None);
    let listen = ("DOWNBEAT_GOSSIP__LISTEN", "/ip4/127.0.0.1/tcp/0");
    let table = [
        (("DOWNBEAT_GOSSIP__PUBLISH", "true"), "set gossip.chain_id"),
        (("DOWNBEAT_TRUST", "endpoint"), "trust = \"consensus\""),
        (("DOWNBEAT_GOSSIP__CONNECTIONS", "1"), "DOWNBEAT_GOSSIP__CONNECTIONS: 1 is less than"),
    ];
    for (setting, what) in table {
        let ended = net.run(&[("DOWNBEAT_GOSSIP__ENABLED", "true"), listen, setting]).ended();
        assert_eq!(ended.status.code(), Some(78), "{setting:?}: {}", ended.stderr);
        assert!(ended.only_line().contains(what), "{setting:?}: {}", ended.stderr);
    }
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/dusk-5").join(name)
}

#[test]
fn inspect_shows_what_a_blob_of_a_public_network_holds_and_that_its_proofs_hold() {
    for (file, expected) in
        [("batched_metadata.base64.txt", "astria-dusk-5"), ("batched_rollup_data.base64.txt", "rollup_id")]
    {
        let path = vector(file);
        let ended = Process::start(&["inspect", "blob", path.to_str().expect("a text")], &[]).ended();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{file}");
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert!(report.is_object() && ended.stdout.contains(expected), "{file}: {}", ended.stdout);
    }
    let ended = Process::start(&["inspect", "blob", "/nowhere/blob"], &[]).ended();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.only_line().contains("/nowhere/blob"), "{}", ended.stderr);
}

#[test]
fn inspect_says_what_evidence_proves_and_refuses_what_proves_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/evidence-v1/forged-shares.json");
    let ended = Process::start(&["inspect", "evidence", path.to_str().expect("a text")], &[]).ended();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&report["kind"], &report["reason"]), (&"false_namespaces".into(), &"forged_shares".into()));
    assert!(report["not_proven"].as_str().is_some_and(|text| text.contains("who gave this answer")), "{report}");

    let block = path.with_file_name("false-block.json");
    let ended = Process::start(&["inspect", "evidence", block.to_str().expect("a text")], &[]).ended();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&report["kind"], &report["reason"]), (&"false_block".into(), &"other_data".into()));
    assert!(report["detail"].as_str().is_some_and(|text| text.contains("the committed header's is")), "{report}");

    let folder = TempDir::new().expect("a directory");
    let changed = folder.path().join("changed.json");
    let genuine = std::fs::read_to_string(&path).expect("the fixture");
    for (from, to, named) in [
        ("\"height\": 7,", "\"height\": 8,", "asked for 8"),
        ("forged_shares", "wrong_proof", "by forged_shares and not by wrong_proof"),
        ("\"chain_id\"", "\"chain\"", "no evidence in JSON"),
    ] {
        std::fs::write(&changed, genuine.replacen(from, to, 1)).expect("written");
        let ended = Process::start(&["inspect", "evidence", changed.to_str().expect("a text")], &[]).ended();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stdout);
        assert!(ended.only_line().contains(named), "{}", ended.stderr);
    }
}

/// What must not be found in any output.
const SECRETS: [&str; 5] = ["celestia-secret", "hunter2", "grpc-secret", "query-secret", "path-secret"];

#[track_caller]
fn assert_no_secret(what: &str, output: &str) {
    use base64::Engine as _;
    let encoded =
        |user: &str, password: &str| base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let hidden = [encoded("operator", "hunter2"), encoded("operator", "grpc-secret")];
    for secret in SECRETS.into_iter().chain(hidden.iter().map(String::as_str)) {
        let found = output.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "{what}: {secret}");
    }
}

fn with_credentials(url: &str, credentials: &str, rest: &str) -> String {
    format!("{}{rest}", url.replacen("http://", &format!("http://{credentials}@"), 1))
}

#[test]
fn no_secret_is_ever_printed_at_any_level() {
    let net = Net::start(Some(TOKEN));
    let urls = &net.net.urls;
    let grpc = with_credentials(&urls.sequencer_grpc, "operator:grpc-secret", "");
    let cometbft = with_credentials(&urls.cometbft, "operator:hunter2", "/path-secret?key=query-secret");
    let celestia = format!("{}/path-secret", urls.celestia);
    let journal = TempDir::new().expect("a directory");
    let everything = "trace,h2=trace,hyper=trace,hyper_util=trace,rustls=trace,tonic=trace,tower=trace";
    let secrets = [
        ("ASTRIA_CONDUCTOR_NO_CELESTIA_AUTH", "false"),
        ("ASTRIA_CONDUCTOR_CELESTIA_BEARER_TOKEN", TOKEN),
        ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", grpc.as_str()),
        ("ASTRIA_CONDUCTOR_SEQUENCER_COMETBFT_URL", cometbft.as_str()),
        ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", celestia.as_str()),
        ("DOWNBEAT_JOURNAL", journal.path().to_str().expect("a path that is text")),
    ];

    // When all goes well, whatever the level.
    for level in [everything, "trace", "info"] {
        let reached = net.node(|node| node.firm().0) + 3;
        let mut process = net.run(&[&secrets[..], &[("ASTRIA_CONDUCTOR_LOG", level)]].concat());
        net.until(&mut process, "three firm blocks", |node| node.firm().0 >= reached);
        process.signal("TERM");
        let ended = process.ended();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        let is_there = if level == everything { "TRACE h2::" } else { "INFO downbeat" };
        assert!(ended.stdout.contains(is_there), "{level}: {}", ended.stdout);
        assert_no_secret(level, &ended.stdout);
        assert_no_secret(level, &ended.stderr);
    }

    // When peers refuse, or cannot be reached.
    let refused = [("ASTRIA_CONDUCTOR_CELESTIA_BEARER_TOKEN", "another.path-secret")];
    let away = [
        ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", "http://operator:grpc-secret@127.0.0.1:1/path-secret"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_COMETBFT_URL", "http://operator:hunter2@127.0.0.1:1/path-secret?k=query-secret"),
        ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", "http://operator:hunter2@127.0.0.1:1/path-secret"),
        ("ASTRIA_CONDUCTOR_EXECUTION_RPC_URL", "http://operator:grpc-secret@127.0.0.1:1/path-secret"),
    ];
    for others in [&refused[..], &away[..]] {
        let kept = secrets.iter().filter(|(name, _)| others.iter().all(|(other, _)| other != name)).copied();
        let others: Vec<_> = kept.chain(others.iter().copied()).chain([("ASTRIA_CONDUCTOR_LOG", everything)]).collect();
        let mut process = net.run(&others);
        let began = Instant::now();
        while !process.read("stdout").contains("failed (try 2)") {
            assert!(process.is_running() && began.elapsed() < PATIENCE, "{}", process.read("stdout"));
            std::thread::sleep(Duration::from_millis(5));
        }
        process.signal("TERM");
        let ended = process.ended();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_no_secret("a failure", &ended.stdout);
        assert_no_secret("a failure", &ended.stderr);
    }

    // What was recorded of all these lives.
    let lives = downbeat::journal::lives(journal.path()).expect("every life has recorded");
    assert_eq!(lives.len(), 5);
    for life in lives {
        let mut entries = life.entries().expect("a journal");
        assert_no_secret("the journal's header", &format!("{:?}", entries.header()));
        let mut count = 0;
        for entry in entries.by_ref() {
            assert_no_secret("the journal", &format!("{:?}", entry.expect("whole")));
            count += 1;
        }
        assert!(count > 5 && entries.end() == Some("the driver ended"), "{count} events");
    }

    // When the configuration is wrong.
    for (name, value) in [
        ("ASTRIA_CONDUCTOR_CELESTIA_BEARER_TOKEN", "celestia-secret with blanks"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", "ftp://operator:hunter2@host"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_COMETBFT_URL", "operator:hunter2@host"),
        ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", "http://:99999/path-secret?key=query-secret"),
    ] {
        let ended = Process::start(&["run"], &[(name, value)]).ended();
        assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
        assert!(ended.only_line().contains(name), "{}", ended.stderr);
        assert_no_secret(name, &ended.stderr);
    }
}
