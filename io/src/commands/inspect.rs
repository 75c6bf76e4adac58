//! `downbeat inspect`: says what a blob or a block holds, which of its proofs are true, and what evidence proves.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use downbeat_core::{Limits, inspect};
use serde::Serialize;

use super::{Failure, say};

/// Show what a blob or a block holds and which proofs hold, or what evidence proves, as JSON. Nothing is fetched.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A blob of the sequencer's or a rollup's namespace on Celestia
    #[command(after_help = "Example:\n  downbeat inspect blob blob.base64")]
    Blob {
        /// Base64 or binary; - for standard input
        file: PathBuf,
    },
    /// An encoded block of the sequencer, whole or filtered, or one record of a blob
    #[command(after_help = "Example:\n  downbeat inspect block block.bin")]
    Block {
        /// Base64 or binary; - for standard input
        file: PathBuf,
    },
    /// Evidence as a conductor keeps it in its data directory: that validators signed two headers of one height, or that
    /// something false was offered as the content of a Celestia block or as a block of the sequencer
    #[command(after_help = EVIDENCE)]
    Evidence {
        /// JSON; - for standard input
        file: PathBuf,
    },
}

const EVIDENCE: &str =
    "Two headers: checks both commits, each against the validators that its header names, and shows who signed both.
A false answer about a Celestia block: checks the commit of its header, and that roots or rows are not those of it. Who
gave the answer is not proven, for nodes do not sign answers.
A false soft block: the same, of a header of the sequencer and the block that was answered.
That these were the validators of the chain is for you to check: compare a validators_hash with a source of your own.

Examples:
  downbeat inspect evidence /var/lib/downbeat/evidence-4821000.json
  downbeat inspect evidence /var/lib/downbeat/evidence-celestia-2150000-forged_shares.json
  downbeat inspect evidence /var/lib/downbeat/evidence-sequencer-4821000-other_data.json";

const EXAMPLES: &str = "Examples:
  downbeat inspect blob blob.base64
  curl -s ... | jq -r '.result[0].data' | downbeat inspect blob -
  downbeat inspect block filtered-block.bin
  downbeat inspect evidence evidence-4821000.json

Exit codes: 0 something was decoded (whether its proofs hold is part of the output) or the evidence holds, 1 otherwise.";

/// Bytes of a file that are read.
const INPUT_MAX: u64 = 64 << 20;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let limits = Limits::default();
    match &arguments.what {
        What::Blob { file } => show(file, |bytes| inspect::inspect_blob(bytes, &limits)),
        What::Block { file } => show(file, inspect::inspect_block),
        What::Evidence { file } => show(file, |bytes| inspect::inspect_evidence(bytes, &limits)),
    }
}

fn show<T: Serialize, E: std::error::Error>(
    file: &Path,
    inspect: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", file.display()));
    let bytes = read(file).map_err(|error| failed(&error))?;
    let report = inspect(&bytes).map_err(|error| failed(&error))?;
    let json = serde_json::to_string_pretty(&report).map_err(|error| failed(&error))?;
    say(json);
    Ok(())
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut source: Box<dyn std::io::Read> =
        if file == Path::new("-") { Box::new(std::io::stdin().lock()) } else { Box::new(std::fs::File::open(file)?) };
    let mut bytes = Vec::new();
    source.by_ref().take(INPUT_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > INPUT_MAX) {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("larger than {INPUT_MAX} bytes")));
    }
    Ok(bytes)
}
