//! What the commands share: how they end, the runtime they run on, and the signals they listen to.

use std::{fmt::Display, io::Write as _, process::ExitCode};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

pub(crate) mod devnet;
pub(crate) mod inspect;
pub(crate) mod peers;
pub(crate) mod replay;
pub(crate) mod run;

/// Exit code for a configuration that cannot be used (`EX_CONFIG` of sysexits).
const BAD_CONFIGURATION: u8 = 78;

/// Threads that run the driver and parse answers. With a second one every answer would wake it and be handed over,
/// which costs more than parsing: catching up was a third slower. Long work runs on blocking threads.
const WORKERS: usize = 1;

/// Threads that verify, and look names up. More would cost memory and find no processor.
const BLOCKING_THREADS: usize = 4;

/// Why a command failed: one line and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    code: u8,
}

impl Failure {
    pub(crate) fn new(line: impl Display) -> Self {
        Self { line: line.to_string(), code: 1 }
    }

    pub(crate) fn configuration(problem: impl Display) -> Self {
        Self { line: format!("bad configuration: {problem}"), code: BAD_CONFIGURATION }
    }

    /// What to say, on one line.
    pub(crate) fn line(&self) -> String {
        self.line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// The runtime of a command.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("downbeat")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))
}

/// What asks a process to end: SIGTERM and SIGINT. From its making on, neither kills the process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// To be made inside a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("cannot listen to signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Writes a line to standard output. A reader that went away is no reason to fail.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A seed of the operating system's entropy.
pub(crate) fn entropy() -> Result<[u8; 32], Failure> {
    use rand_core::TryRngCore as _;
    let mut seed = [0; 32];
    let filled = rand_core::OsRng.try_fill_bytes(&mut seed);
    filled.map_err(|error| Failure::new(format!("the system has no entropy: {error}")))?;
    Ok(seed)
}
