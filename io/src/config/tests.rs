use super::*;

/// The example values of the reference (§7.2).
const ASTRIA_EXAMPLE: [(&str, &str); 15] = [
    ("CELESTIA_BLOCK_TIME_MS", "12000"),
    ("CELESTIA_NODE_HTTP_URL", "http://127.0.0.1:26658"),
    ("NO_CELESTIA_AUTH", "false"),
    ("CELESTIA_BEARER_TOKEN", "eyJhbGciOi.topsecret"),
    ("SEQUENCER_GRPC_URL", "http://127.0.0.1:8080"),
    ("SEQUENCER_COMETBFT_URL", "http://127.0.0.1:26657"),
    ("SEQUENCER_BLOCK_TIME_MS", "2000"),
    ("SEQUENCER_REQUESTS_PER_SECOND", "500"),
    ("EXECUTION_RPC_URL", "http://127.0.0.1:50051"),
    ("LOG", "astria_conductor=info"),
    ("EXECUTION_COMMIT_LEVEL", "SoftAndFirm"),
    ("FORCE_STDOUT", "false"),
    ("NO_OTEL", "false"),
    ("NO_METRICS", "true"),
    ("METRICS_HTTP_LISTENER_ADDR", "127.0.0.1:9000"),
];

fn astria(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut environment: BTreeMap<String, String> =
        ASTRIA_EXAMPLE.iter().map(|(name, value)| (format!("{ASTRIA}{name}"), (*value).to_owned())).collect();
    environment.extend(changes.iter().map(|(name, value)| (format!("{ASTRIA}{name}"), (*value).to_owned())));
    Config::load(None, environment, &[])
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn without_any_configuration_the_defaults_serve_a_local_network() {
    let config = Config::load(None, [], &[]).unwrap();
    assert_eq!(config.limits, Limits { celestia_trust: Trust::Consensus, ..Limits::default() });
    assert_eq!(config.cells[&CellId(0)].execution_url.to_string(), "http://127.0.0.1:50051");
    assert_eq!(config.cells[&CellId(0)].spec.mode, Mode::SoftAndFirm);
    assert_eq!(config.sequencer.grpc_url.to_string(), "http://127.0.0.1:8080");
    assert_eq!(config.sequencer.cometbft_url.to_string(), "http://127.0.0.1:26657");
    assert_eq!(config.celestia.url.to_string(), "http://127.0.0.1:26658");
    assert_eq!(config.log.filter, "info");
    assert!(!config.needs_tls() && config.not_offered.is_empty());
}

#[test]
fn all_fifteen_variables_of_the_reference_have_their_meaning() {
    let config = astria(&[
        ("CELESTIA_BLOCK_TIME_MS", "6000"),
        ("CELESTIA_NODE_HTTP_URL", "https://celestia.example/key"),
        ("SEQUENCER_GRPC_URL", "http://a:1"),
        ("SEQUENCER_COMETBFT_URL", "http://b:2"),
        ("SEQUENCER_BLOCK_TIME_MS", "1500"),
        ("SEQUENCER_REQUESTS_PER_SECOND", "7"),
        ("EXECUTION_RPC_URL", "http://c:3"),
        ("LOG", "astria_conductor=debug"),
        ("EXECUTION_COMMIT_LEVEL", "FirmOnly"),
        ("OF_TOMORROW", "ignored"),
    ])
    .unwrap();
    assert_eq!(config.limits.celestia_poll, Duration::from_secs(6));
    assert_eq!(config.limits.sequencer_poll, Duration::from_millis(1_500));
    assert_eq!(config.celestia.url.to_string(), "https://celestia.example:443/…");
    assert_eq!(config.celestia.bearer_token.as_ref().unwrap().expose(), "eyJhbGciOi.topsecret");
    assert_eq!(config.sequencer.grpc_url.to_string(), "http://a:1");
    assert_eq!(config.sequencer.cometbft_url.to_string(), "http://b:2");
    assert_eq!(config.sequencer.requests_per_second, Some(7));
    assert_eq!(config.cells.len(), 1);
    assert_eq!(config.cells[&CellId(0)].execution_url.to_string(), "http://c:3");
    assert_eq!(config.cells[&CellId(0)].spec.mode, Mode::FirmOnly);
    assert_eq!(config.log.filter, "info,downbeat=debug,astria_conductor=debug");
    assert_eq!(config.not_offered, ["trace export (OTLP): not available in this version"]);
    assert!(config.needs_tls());
    assert!(!format!("{config:?}").contains("topsecret"), "the configuration shows its token");
}

#[test]
fn authentication_is_left_out_on_request_even_with_a_placeholder_for_a_token() {
    let config = astria(&[("NO_CELESTIA_AUTH", "true"), ("CELESTIA_BEARER_TOKEN", "<JWT Bearer token>")]).unwrap();
    assert_eq!(config.celestia.bearer_token, None);
}

#[test]
fn values_may_be_quoted() {
    let config = astria(&[("EXECUTION_COMMIT_LEVEL", "\"SoftOnly\""), ("CELESTIA_BLOCK_TIME_MS", " '6000' ")]).unwrap();
    assert_eq!(config.cells[&CellId(0)].spec.mode, Mode::SoftOnly);
    assert_eq!(config.limits.celestia_poll, Duration::from_secs(6));
}

#[test]
fn a_wrong_value_names_its_variable_and_what_is_accepted_and_no_secret() {
    let table = [
        ("CELESTIA_BLOCK_TIME_MS", "0", "above 0"),
        ("CELESTIA_BLOCK_TIME_MS", "6s", "milliseconds"),
        ("CELESTIA_NODE_HTTP_URL", "ws://127.0.0.1:26658", "neither http nor https"),
        ("CELESTIA_NODE_HTTP_URL", "user:hunter2@host", "expected a URL such as http://127.0.0.1:26658"),
        ("NO_CELESTIA_AUTH", "maybe", "\"maybe\" is neither true nor false"),
        ("CELESTIA_BEARER_TOKEN", "hunter2 with blanks", "cannot stand in an HTTP header"),
        ("SEQUENCER_GRPC_URL", "127.0.0.1", "expected a URL such as http://127.0.0.1:8080"),
        ("SEQUENCER_COMETBFT_URL", "http://", "expected a URL such as http://127.0.0.1:26657"),
        ("SEQUENCER_BLOCK_TIME_MS", "-1", "\"-1\" is not a whole number above 0"),
        ("SEQUENCER_REQUESTS_PER_SECOND", "0", "above 0"),
        ("EXECUTION_RPC_URL", "node.example/key/hunter2", "expected a URL such as http://127.0.0.1:50051"),
        ("EXECUTION_RPC_URL", "key/hunter2?to=http://node.example", "expected a URL such as http://127.0.0.1:50051"),
        ("LOG", "downbeat=loud", "not a log filter"),
        ("EXECUTION_COMMIT_LEVEL", "soft", "none of SoftOnly, FirmOnly and SoftAndFirm"),
        ("FORCE_STDOUT", "x", "neither true nor false"),
        ("NO_OTEL", "x", "neither true nor false"),
        ("NO_METRICS", "x", "neither true nor false"),
        ("METRICS_HTTP_LISTENER_ADDR", "localhost", "127.0.0.1:9000"),
    ];
    for (name, value, accepted) in table {
        let error = astria(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{ASTRIA}{name}: ")), "{error}");
        assert!(error.contains(accepted), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_not_offered_is_said() {
    let config = astria(&[("NO_METRICS", "false"), ("NO_OTEL", "true")]).unwrap();
    assert_eq!(config.not_offered, ["metrics listener: not available in this version"]);
}

const FILE: &str = r#"
        log = "debug"
        [sequencer]
        grpc_url = "http://file:1"
        requests_per_second = 9
        [celestia]
        url = "http://file:2"
        [[cell]]
        execution_url = "http://file:3"
        mode = "SoftOnly"
        expected_sequencer_chain_id = "astria"
        [limits]
        soft_ahead = 1_000
        fetch_deadline = "2s"
        backoff_last = "1m"
        stay_when_parked = true
    "#;

#[test]
fn each_layer_goes_over_the_one_before() {
    let variables = environment(&[
        ("RUST_LOG", "trace"),
        ("ASTRIA_CONDUCTOR_SEQUENCER_GRPC_URL", "http://astria:1"),
        ("ASTRIA_CONDUCTOR_CELESTIA_NODE_HTTP_URL", "http://astria:2"),
        ("DOWNBEAT_CELESTIA__URL", "http://downbeat:2"),
        ("DOWNBEAT_CELL__0__MODE", "FirmOnly"),
        ("DOWNBEAT_LIMITS__SOFT_IN_FLIGHT", "3"),
        ("DOWNBEAT_CONFIG", "elsewhere.toml"),
    ]);
    let flags = [("limits.soft_in_flight".to_owned(), "4".to_owned())];
    let config = Config::load(Some(("file.toml", FILE)), variables, &flags).unwrap();
    assert!(config.log.filter.ends_with(",debug"), "{}", config.log.filter);
    assert_eq!(config.sequencer.grpc_url.to_string(), "http://astria:1");
    assert_eq!(config.sequencer.requests_per_second, Some(9));
    assert_eq!(config.celestia.url.to_string(), "http://downbeat:2");
    let cell = &config.cells[&CellId(0)];
    assert_eq!((cell.execution_url.to_string().as_str(), cell.spec.mode), ("http://file:3", Mode::FirmOnly));
    assert_eq!(cell.spec.expected_sequencer_chain_id.as_deref(), Some("astria"));
    let limits = &config.limits;
    assert_eq!((limits.soft_ahead, limits.soft_in_flight, limits.stay_when_parked), (1_000, 4, true));
    assert_eq!((limits.fetch_deadline, limits.backoff_last), (Duration::from_secs(2), Duration::from_mins(1)));
}

#[test]
fn the_journal_is_off_unless_a_directory_is_named() {
    let load = |file, variables: &[(&str, &str)]| Config::load(Some(("file.toml", file)), environment(variables), &[]);
    assert_eq!(load("journal.max_bytes = 2_000_000", &[]).unwrap().journal, None);
    let journal = load("[journal]\ndir = 'a'", &[("DOWNBEAT_JOURNAL__MAX_BYTES", "2_000_000")]).unwrap().journal;
    assert_eq!(journal, Some(JournalConfig { directory: "a".into(), bytes_max: 2_000_000 }));
    let journal = load("[journal]\ndir = 'a'", &[("DOWNBEAT_JOURNAL", "b")]).unwrap().journal;
    assert_eq!(journal, Some(JournalConfig { directory: "b".into(), bytes_max: 1 << 30 }));
    let error = load("journal = { dir = 'a', max_bytes = 1000 }", &[]).unwrap_err();
    assert_eq!(error.origin, "file.toml: journal.max_bytes");
    assert!(error.problem.contains("at least 1048576"), "{error}");
}

#[test]
fn what_is_believed_of_celestia_is_chosen_apart_from_the_limits() {
    let load = |file, variables: &[(&str, &str)]| {
        Config::load(Some(("file.toml", file)), environment(variables), &[]).unwrap().limits.celestia_trust
    };
    assert_eq!(load("", &[]), Trust::Consensus, "as of the sequencer");
    assert_eq!(load("trust = 'endpoint'", &[]), Trust::Endpoint);
    assert_eq!(load("celestia_trust = 'endpoint'", &[]), Trust::Endpoint);
    assert_eq!(load("trust = 'endpoint'\ncelestia_trust = 'consensus'", &[]), Trust::Consensus);
    assert_eq!(load("celestia_trust = 'endpoint'", &[("DOWNBEAT_CELESTIA_TRUST", "consensus")]), Trust::Consensus);
}

#[test]
fn trust_in_celestia_has_a_root_and_a_period_of_its_own() {
    let load = |file| Config::load(Some(("file.toml", file)), [], &[]).unwrap().limits.celestia;
    assert_eq!(load(""), RootedTrust::default());
    let set =
        format!("celestia = {{ trust_root = '7:{}', trusting_period = '10d', clock_drift = '3s' }}", "ab".repeat(32));
    let root = RootSetting::Header { height: 7, hash: BlockHash([0xab; 32]) };
    let (trusting_period, clock_drift) = (Duration::from_hours(240), Duration::from_secs(3));
    assert_eq!(load(&set), RootedTrust { root, trusting_period, clock_drift });
}

#[test]
fn several_rollups_stand_in_one_file() {
    let file = "[[cell]]\nexecution_url = 'http://a:1'\n[[cell]]\nexecution_url = 'http://b:2'\nmode = 'SoftOnly'";
    let config = Config::load(Some(("file.toml", file)), [], &[]).unwrap();
    let cells: Vec<_> = config.cells.iter().map(|(id, cell)| (id.0, cell.execution_url.to_string())).collect();
    assert_eq!(cells, [(0, "http://a:1".to_owned()), (1, "http://b:2".to_owned())]);
    let astria = environment(&[("ASTRIA_CONDUCTOR_EXECUTION_RPC_URL", "http://c:3")]);
    let error = Config::load(Some(("file.toml", file)), astria, &[]).unwrap_err();
    assert_eq!(error.origin, "ASTRIA_CONDUCTOR_EXECUTION_RPC_URL");
}

#[test]
fn mistakes_in_a_file_name_their_place() {
    let table = [
        ("celestia.url = 5", "file.toml: celestia.url", "expected a URL"),
        ("[sequencer]\ngprc_url = 'http://a'", "file.toml: sequencer.gprc_url", "there is no setting"),
        ("limits.soft_ahead = 0", "file.toml: limits.soft_ahead", "above 0"),
        ("limits.soft_ahead = 'x'", "file.toml: limits.soft_ahead", "whole number"),
        ("limits.soft_haed = 1", "file.toml: limits.soft_haed", "soft_ahead"),
        ("limits.fetch_deadline = '2 weeks'", "file.toml: limits.fetch_deadline", "250ms"),
        ("limits.stay_when_parked = 2", "file.toml: limits.stay_when_parked", "true nor false"),
        ("limits.backoff_first = '1h'", "limits", "backoff_first is longer"),
        ("trust = 'me'", "file.toml: trust", "neither consensus nor endpoint"),
        ("sequencer.trust_root = '5:zz'", "file.toml: sequencer.trust_root", "no height and hash"),
        ("celestia.trust_root = '0:'", "file.toml: celestia.trust_root", "no height and hash"),
        ("celestia_trust = 'nobody'", "file.toml: celestia_trust", "neither consensus nor endpoint"),
        ("limits.celestia_trust = 'consensus'", "file.toml: limits.celestia_trust", "no limit"),
        ("[[cell]]\nmode = 'SoftOnly'\n[[cell]]\nmode = 'SoftOnly'", "cell.0.execution_url", "missing"),
        ("celestia.bearer_token = 'hunter2", "file.toml near line 1", "not TOML"),
    ];
    for (text, origin, problem) in table {
        let error = Config::load(Some(("file.toml", text)), [], &[]).unwrap_err();
        assert_eq!(error.origin, origin, "{text}: {error}");
        assert!(error.problem.contains(problem), "{text}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn what_strangers_cause_is_logged_only_on_request() {
    assert!(env_filter("info").to_string().contains("libp2p=error"));
    let asked = env_filter("info,libp2p_kad=debug").to_string();
    assert!(!asked.contains("libp2p=error") && asked.contains("quinn=error"), "{asked}");
}

#[test]
fn directives_for_the_reference_conductor_apply_here_too() {
    let table = [
        ("error", "error"),
        ("h2=debug,debug", "h2=info,hyper=info,hyper_util=info,rustls=info,tonic=info,h2=debug,debug"),
        ("astria_conductor=debug", "info,downbeat=debug,astria_conductor=debug"),
        ("warn,astria_conductor::celestia=trace", "warn,downbeat=trace,astria_conductor::celestia=trace"),
        ("hyper=off", "info,hyper=off"),
    ];
    for (text, filter) in table {
        assert_eq!(log_filter(text).as_deref(), Ok(filter), "{text}");
    }
}
