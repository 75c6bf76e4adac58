//! How fast Downbeat catches up with blocks that are all there already, beside bare clients that verify nothing.
//!
//! The model world answers with replies that were encoded beforehand. It runs in this process, and every client in one
//! of its own, so that processor time and memory are the client's alone. Clients take turns; what is printed are
//! medians over the rounds, and ratios within a round.

mod bare;
mod client;
mod measure;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    client::Kind,
    measure::{Row, rows},
    world::Workload,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measure how fast blocks are caught up with, side by side with bare clients that verify nothing
#[derive(Debug, Parser)]
#[command(after_help = "Without --blocks, --transactions or --size both workloads of the project are measured:
2000 blocks of 10 transactions of 256 bytes, and 500 blocks of 100 transactions of 1024 bytes.

  bare-soft  GetFilteredSequencerBlock (16 at a time), decode, ExecuteBlock, UpdateCommitmentState; tonic's own
             channel; no proof, hash or signature is looked at, no price feed derived, no commit fetched
  bare-firm  blob.GetAll (4 heights at a time), base64, brotli, decode, match by block hash, ExecuteBlock,
             UpdateCommitmentState; likewise
  soft, firm, both
             Downbeat's SoftOnly, FirmOnly and SoftAndFirm with everything verified. `both` is held against
             bare-soft although it commits every block twice: three round trips instead of two
  soft-endpoint, firm-endpoint, both-endpoint
             the same with trust and celestia_trust = \"endpoint\"; `x endp.` holds what is verified against these

What trust in consensus costs: catchup --blocks 10000 --validators 100 --modes soft,soft-endpoint,both,both-endpoint")]
struct Arguments {
    /// Blocks to catch up with
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    blocks: Option<u64>,
    /// Transactions in each
    #[arg(long)]
    transactions: Option<u64>,
    /// Bytes of each transaction
    #[arg(long)]
    size: Option<u64>,
    /// Validators of the sequencer, and as many of Celestia
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    validators: u64,
    /// How often each client takes its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Clients that take part
    #[arg(long, value_delimiter = ',', default_value = "bare-soft,soft,bare-firm,firm,both")]
    modes: Vec<Kind>,
    /// Settings for Downbeat, such as limits.soft_in_flight=32
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Print JSON, one line per workload
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    client: Option<Hidden>,
}

#[derive(Debug, clap::Subcommand)]
enum Hidden {
    /// Be one client, until standard input ends
    #[command(hide = true)]
    Client(client::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.client {
        Some(Hidden::Client(client)) => client::run(client),
        None => measure_all(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("catchup: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(arguments: &Arguments) -> Result<(), Error> {
    let validators = arguments.validators;
    let workloads = match (arguments.blocks, arguments.transactions, arguments.size) {
        (None, None, None) => vec![
            Workload { blocks: 2_000, transactions: 10, size: 256, validators },
            Workload { blocks: 500, transactions: 100, size: 1_024, validators },
        ],
        (blocks, transactions, size) => vec![Workload {
            blocks: blocks.unwrap_or(2_000),
            transactions: transactions.unwrap_or(10),
            size: size.unwrap_or(256),
            validators,
        }],
    };
    for workload in workloads {
        let runs = world::play(workload, &arguments.modes, arguments.rounds, &arguments.set)?;
        let rows = rows(&arguments.modes, &runs);
        if arguments.json {
            println!("{}", serde_json::json!({ "workload": workload, "rows": rows, "runs": runs }));
        } else {
            print_table(workload, arguments.rounds, &rows);
        }
    }
    Ok(())
}

fn print_table(workload: Workload, rounds: u32, rows: &[Row]) {
    let Workload { blocks, transactions, size, validators } = workload;
    println!("\n{blocks} blocks of {transactions} x {size} bytes, {validators} validators, median of {rounds}");
    println!(
        "{:<13} {:>9} {:>8} {:>8} {:>14} {:>8} {:>10} {:>12} {:>14}",
        "client", "blocks/s", "x bare", "x endp.", "CPU s/1000", "x bare", "peak MiB", "commits/1000", "requests/block"
    );
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    for row in rows {
        println!(
            "{:<13} {:>9.0} {:>8} {:>8} {:>14.3} {:>8} {:>10.1} {:>12.1} {:>14.3}",
            row.kind.to_string(),
            row.blocks_per_second,
            ratio(row.speed_ratio),
            ratio(row.endpoint_ratio),
            row.cpu_seconds_per_1000_blocks,
            ratio(row.cpu_ratio),
            row.peak_mib,
            row.commits_per_1000_blocks,
            row.requests_per_block,
        );
    }
}
