//! `downbeat peers`: asks a running conductor whom it is connected with.

use std::{fmt::Write as _, path::PathBuf};

use downbeat::gossip::{
    ClassCounters, GossipCounters, PeerClass, PeerInfo,
    peers_socket::{self, PeersReport, Race},
};

use super::{Failure, run, runtime, say};

/// List the peers of a running conductor: score, latency, space, address and what they say to be.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Data directory of the conductor; also `data_dir` of the file, or DOWNBEAT_DATA_DIR
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// TOML file that the conductor runs with; also DOWNBEAT_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  downbeat peers --data-dir /var/lib/downbeat
  downbeat peers --config downbeat.toml --json

Scores: above 0 is good, below -20 a peer gets no gossip, below -80 it is sent away.";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let flags: Vec<_> = arguments.data_dir.iter().map(|directory| ("data_dir".to_owned(), directory.clone())).collect();
    let config = run::load_with(arguments.config.as_ref(), &flags)?;
    let Some(data_dir) = config.data_dir else {
        return Err(Failure::configuration("no data directory is named: use --data-dir, or data_dir in the file"));
    };
    let path = peers_socket::path(&data_dir);
    let report = runtime()?.block_on(peers_socket::ask(&path)).map_err(|error| {
        let what_to_do = "is a conductor with gossip.enabled running with this data directory?";
        Failure::new(format!("{}: {error}; {what_to_do}", path.display()))
    })?;
    if arguments.json {
        say(serde_json::to_string_pretty(&report).map_err(Failure::new)?);
    } else {
        say(table(&report));
    }
    Ok(())
}

fn table(report: &PeersReport) -> String {
    let PeersReport { peer, space, addresses, counters, race, peers } = report;
    let GossipCounters { accepted, ignored, rejected, overflowed, expired, published, .. } = counters;
    let mut text = format!("this is {peer} in space {space}, peers: {}\n", peers.len());
    // Writing to a text cannot fail.
    for address in addresses {
        let _ = writeln!(text, "  listens on {address}");
    }
    let dropped = ignored + overflowed + expired;
    let _ = writeln!(
        text,
        "  messages: {accepted} accepted, {rejected} rejected, {dropped} dropped, {published} published"
    );
    for (class, counts) in PeerClass::ALL.map(|class| (class, counters.classes.of(class))) {
        let ClassCounters { connected, accepted, rejected, ignored, overflowed, answers, failures, .. } = counts;
        if counts.connections > 0 {
            let _ = writeln!(
                text,
                "  {} peers: {connected} connected, messages: {accepted} accepted, {rejected} rejected, {} dropped, \
                 answers: {answers} good, {failures} bad or none",
                class.name(),
                ignored + overflowed
            );
        }
    }
    if let Some(Race { fresh, won, .. }) = race {
        let won: Vec<_> = won.iter().map(|(source, count)| format!("{source} {count}")).collect();
        let silent = if *fresh { "" } else { "; peers are silent" };
        let _ = writeln!(
            text,
            "  first with a block: {}{silent}",
            if won.is_empty() { "nobody".to_owned() } else { won.join(", ") }
        );
    }
    let _ =
        write!(text, "{:<52}  {:>7} {:>9}  {:<16}  {:<5}  agent, address", "peer", "score", "latency", "space", "mesh");
    for info in peers {
        let PeerInfo { peer, score, space, agent, addresses, is_in_mesh, is_inbound, is_explicit, .. } = info;
        let latency = info.latency.map_or_else(|| "?".to_owned(), |latency| format!("{latency:.1?}"));
        let (space, agent) = (space.as_deref().unwrap_or("?"), agent.as_deref().unwrap_or("?"));
        let address = addresses.first().map_or("?", String::as_str);
        let mesh = if *is_in_mesh { "yes" } else { "no" };
        let direction = if *is_inbound { "from" } else { "at" };
        let explicit = if *is_explicit { ", explicit" } else { "" };
        let _ = write!(
            text,
            "\n{peer:<52}  {score:>7.1} {latency:>9}  {space:<16}  {mesh:<5}  {agent}, {direction} {address}{explicit}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_table_shows_each_peer_on_a_line() {
        let info = |peer: &str, is_inbound: bool| PeerInfo {
            peer: peer.to_owned(),
            addresses: vec!["/ip4/192.0.2.1/tcp/26700".to_owned()],
            agent: Some("downbeat/0.1.0".to_owned()),
            space: Some("0011223344556677".to_owned()),
            score: -3.25,
            latency: is_inbound.then_some(Duration::from_micros(1_500)),
            is_inbound,
            is_explicit: !is_inbound,
            class: if is_inbound { PeerClass::Inbound } else { PeerClass::Explicit },
            is_in_mesh: true,
            connected_for: Duration::from_secs(1),
        };
        let mut counters = GossipCounters { accepted: 7, ignored: 1, expired: 2, ..GossipCounters::default() };
        counters.classes.inbound =
            ClassCounters { connected: 1, connections: 2, accepted: 7, ignored: 1, failures: 3, ..Default::default() };
        let won = [("gossip".to_owned(), 5), ("server".to_owned(), 2)].into();
        let report = PeersReport {
            peer: "me".to_owned(),
            space: "0011223344556677".to_owned(),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            counters,
            race: Some(Race { fresh: false, won, verdicts: [].into() }),
            peers: vec![info("one", true), info("two", false)],
        };
        let table = table(&report);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "this is me in space 0011223344556677, peers: 2");
        assert_eq!(lines[2], "  messages: 7 accepted, 0 rejected, 3 dropped, 0 published");
        assert_eq!(
            lines[3],
            "  inbound peers: 1 connected, messages: 7 accepted, 0 rejected, 1 dropped, answers: 0 good, 3 bad or none"
        );
        assert_eq!(lines[4], "  first with a block: gossip 5, server 2; peers are silent");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(lines[6]),
            "one -3.2 1.5ms 0011223344556677 yes downbeat/0.1.0, from /ip4/192.0.2.1/tcp/26700"
        );
        assert_eq!(
            words(lines[7]),
            "two -3.2 ? 0011223344556677 yes downbeat/0.1.0, at /ip4/192.0.2.1/tcp/26700, explicit"
        );
    }
}
