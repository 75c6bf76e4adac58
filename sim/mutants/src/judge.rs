//! Runs mutants against the programs, as little of them as will do: only tests and seeds that come to the mutant, quick
//! ones first, until one fails.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::Failure;

const SEEDS: u32 = 200;
/// A mutant that takes so much longer than the program without it hangs.
const PATIENCE: u32 = 10;
/// Kilobytes of address space, so that a mutant that collects without end hurts nobody.
const MEMORY_KB: u64 = 4_000_000;
/// Tests that take as long together run in the first process, four times as long in the second one, and so on: the test
/// harness does not stop where one fails.
const FIRST_PORTION: Duration = Duration::from_millis(20);
/// One that waits without using the processor hangs as well.
const WAIT_MAX: Duration = Duration::from_mins(2);

/// A program that has to notice mutants.
pub struct Judge {
    pub name: &'static str,
    program: PathBuf,
    /// Quick ones first.
    cases: Vec<Case>,
}

/// A test or a seed.
struct Case {
    name: String,
    /// Mutants that it comes to.
    reached: BTreeSet<usize>,
    time: Duration,
}

impl Judge {
    /// Runs each case twice without a mutant: to see what it reaches, and how long it takes.
    pub fn new(name: &'static str, program: PathBuf, tree: &Path) -> Result<Self, Failure> {
        let mut judge = Self { name, program, cases: Vec::new() };
        let list = judge.program.with_extension("reached");
        for case in judge.names()? {
            let _ = fs::remove_file(&list);
            let limit = WAIT_MAX;
            if judge.notices(&[&case], ("MUTANTS_REACHED", &list.to_string_lossy()), limit, tree)?.is_some() {
                return Err(format!("{case} of {} fails without any mutant", judge.program.display()).into());
            }
            let reached = fs::read_to_string(&list).unwrap_or_default();
            let reached = reached.lines().filter_map(|line| line.parse().ok()).collect();
            let start = Instant::now();
            judge.notices(&[&case], ("MUTANT", ""), limit, tree)?;
            judge.cases.push(Case { name: case, reached, time: start.elapsed() });
        }
        judge.cases.sort_by_key(|case| case.time);
        Ok(judge)
    }

    fn is_simulator(&self) -> bool {
        self.name == "seeds"
    }

    fn names(&self) -> Result<Vec<String>, Failure> {
        if self.is_simulator() {
            return Ok((0..SEEDS).map(|seed| seed.to_string()).collect());
        }
        let output = Command::new(&self.program).args(["--list", "--format", "terse"]).output()?;
        let names = String::from_utf8(output.stdout)?;
        Ok(names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// How many cases come to the mutant, and how they fail, if they do.
    pub fn judge(&self, mutant: usize, tree: &Path) -> Result<(usize, Option<&'static str>), Failure> {
        let cases: Vec<&Case> = self.cases.iter().filter(|case| case.reached.contains(&mutant)).collect();
        let (mut rest, mut portion) = (cases.as_slice(), FIRST_PORTION);
        while !rest.is_empty() {
            let mut time = Duration::ZERO;
            let fitting = rest.iter().take_while(|case| {
                time += case.time;
                time <= portion
            });
            let count = if self.is_simulator() { 1 } else { fitting.count().max(1) };
            let (now, later) = rest.split_at(count);
            let names: Vec<&str> = now.iter().map(|case| case.name.as_str()).collect();
            let time = now.iter().map(|case| case.time).sum();
            if let Some(how) = self.notices(&names, ("MUTANT", &mutant.to_string()), time, tree)? {
                return Ok((cases.len(), Some(how)));
            }
            (rest, portion) = (later, portion.saturating_mul(4));
        }
        Ok((cases.len(), None))
    }

    /// How a run of these cases with this variable fails, if it does. `time` is what they take without a mutant.
    fn notices(
        &self,
        cases: &[&str],
        variable: (&str, &str),
        time: Duration,
        tree: &Path,
    ) -> Result<Option<&'static str>, Failure> {
        // Of the processor's time, so that others on the machine make nothing hang.
        let seconds = (time * PATIENCE).as_secs() + 2;
        let mut command = Command::new("sh");
        let limits = format!("ulimit -v {MEMORY_KB}; ulimit -t {seconds}; ulimit -c 0; exec \"$0\" \"$@\"");
        command.arg("-c").arg(limits).arg(&self.program);
        if self.is_simulator() {
            command.args(["run", "--seeds", "1", "--failures", "1", "--first"]);
        } else {
            command.args(["-q", "--test-threads", "1", "--exact"]);
        }
        // Nothing is gained by the smallest input that fails.
        command.args(cases).env("PROPTEST_RNG_SEED", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.env(variable.0, variable.1).env("RUST_BACKTRACE", "0");
        command.current_dir(tree.join("core")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                // SIGXCPU, SIGKILL.
                let is_late = status.signal().is_some_and(|signal| signal == 24 || signal == 9);
                return Ok((!status.success()).then_some(if is_late { "hung" } else { "failed" }));
            }
            if start.elapsed() > WAIT_MAX + time * PATIENCE {
                child.kill()?;
                child.wait()?;
                return Ok(Some("hung"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
