//! Runs the mutants of `downbeat-core` that `cargo mutants` lists, all from one build.
//!
//! A build per mutant would take days. Here all of them are woven into one copy of the source ([`weave`]), each behind a
//! switch; what does not compile is left out ([`build`]); then each mutant runs against the tests of the core, the
//! conformance vectors and a fixed number of simulated seeds ([`judge`]).
//!
//! `cargo run --release --manifest-path sim/mutants/Cargo.toml -- FOLDER`, from the root. The folder keeps the copy, its
//! build and `results.jsonl`, which an interrupted run goes on from; remove that file after a change of the source.
//! After a change of the core's tests, `--again` runs them once more on what nobody noticed.

mod build;
mod judge;
mod weave;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::{Command, ExitCode},
};

use serde_json::{Value, json};

use build::{build, copy, weave_all};
use judge::Judge;
use weave::Mutant;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(folder) = arguments.first().filter(|first| !first.starts_with('-')) else {
        eprintln!(
            "usage: downbeat-mutants FOLDER [PART OF A MUTANT'S NAME] [--again], from the root of the repository"
        );
        return ExitCode::FAILURE;
    };
    let is_again = arguments.iter().any(|argument| argument == "--again");
    let only = arguments.iter().skip(1).find(|argument| !argument.starts_with('-')).map(String::as_str);
    match run(Path::new(folder), only, is_again) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path, only: Option<&str>, is_again: bool) -> Result<String, Failure> {
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let tree = folder.join("tree");
    let mutants = list()?;
    let results = folder.join("results.jsonl");
    let done = fs::read_to_string(&results).unwrap_or_default();
    let done = done.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let mut verdicts: BTreeMap<String, String> =
        done.iter().map(|line| (text(&line["mutant"]), text(&line["verdict"]))).collect();
    let mut file = fs::OpenOptions::new().append(true).create(true).open(&results)?;
    let mut note = |verdicts: &mut BTreeMap<_, _>, mutant: &Mutant, verdict: String| {
        let before = verdicts.insert(mutant.name.clone(), verdict.clone());
        if before.as_ref() == Some(&verdict) {
            return Ok(());
        }
        writeln!(file, "{}", json!({ "mutant": mutant.name, "verdict": verdict }))
    };

    copy(&mutants, &tree)?;
    let known = mutants.iter().filter(|mutant| verdicts.get(&mutant.name).is_some_and(|verdict| verdict == "unviable"));
    let (unviable, unwoven) = weave_all(&mutants, known.map(|mutant| mutant.number).collect(), &tree, &folder)?;
    eprintln!("{} mutants, {} do not compile, {} cannot be woven", mutants.len(), unviable.len(), unwoven.len());
    for (numbers, verdict) in [(&unviable, "unviable"), (&unwoven, "unwoven")] {
        for mutant in mutants.iter().filter(|mutant| numbers.contains(&mutant.number)) {
            note(&mut verdicts, mutant, verdict.to_owned())?;
        }
    }

    let mut judges = Vec::new();
    for (name, program) in build(&tree, &folder, !is_again)? {
        judges.push(Judge::new(name, program, &tree)?);
    }
    for mutant in &mutants {
        let is_wanted = only.is_none_or(|only| mutant.name.contains(only));
        let is_open = match verdicts.get(&mutant.name).map(String::as_str) {
            None => !is_again,
            Some(verdict) => is_again && verdict != "unwoven" && is_missed(verdict),
        };
        if is_wanted && is_open {
            let verdict = judge(mutant, &judges, &tree)?;
            // What the core's tests did not come to, another program may have.
            if !is_again || !is_missed(&verdict) {
                note(&mut verdicts, mutant, verdict)?;
            }
        }
    }
    let listed: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    verdicts.retain(|mutant, _| listed.contains(mutant.as_str()));
    Ok(summary(&verdicts))
}

fn judge(mutant: &Mutant, judges: &[Judge], tree: &Path) -> Result<String, Failure> {
    let mut is_reached = false;
    for judge in judges {
        let (cases, how) = judge.judge(mutant.number, tree)?;
        is_reached |= cases > 0;
        if let Some(how) = how {
            return Ok(format!("{} {how}", judge.name));
        }
    }
    Ok(if is_reached { "survived" } else { "unreached" }.to_owned())
}

/// Nobody noticed it. What cannot be woven is to be judged by hand.
fn is_missed(verdict: &str) -> bool {
    matches!(verdict, "survived" | "unreached" | "unwoven")
}

fn summary(verdicts: &BTreeMap<String, String>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for verdict in verdicts.values() {
        *counts.entry(verdict).or_default() += 1;
    }
    let missed: Vec<_> = verdicts.iter().filter(|(_, verdict)| is_missed(verdict)).collect();
    let viable = verdicts.len() - counts.get("unviable").copied().unwrap_or(0);
    let caught = viable - missed.len();
    let mut lines: Vec<String> = missed.iter().map(|(mutant, verdict)| format!("{verdict}: {mutant}")).collect();
    lines.extend(counts.iter().map(|(verdict, count)| format!("{verdict} {count}")));
    // In tenths of a percent, rounded down: a share is not made better than it is.
    let share = caught * 1_000 / viable.max(1);
    lines.push(format!("{caught} of {viable} viable mutants caught: {}.{} %", share / 10, share % 10));
    lines.join("\n")
}

/// What `cargo mutants` would do, without `core/src/canary.rs`: deliberate bugs, which are compiled out here.
fn list() -> Result<Vec<Mutant>, Failure> {
    let mut command = Command::new("cargo");
    command.args(["mutants", "--list", "--json", "--package", "downbeat-core", "--exclude", "core/src/canary.rs"]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("cargo mutants: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let list: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let place = |at: &Value| Some((at["line"].as_u64()?.try_into().ok()?, at["column"].as_u64()?.try_into().ok()?));
    let mutant = |(number, mutant): (usize, &Value)| {
        Some(Mutant {
            number,
            file: text(&mutant["file"]),
            name: text(&mutant["name"]),
            genre: text(&mutant["genre"]),
            start: place(&mutant["span"]["start"])?,
            end: place(&mutant["span"]["end"])?,
            replacement: text(&mutant["replacement"]),
        })
    };
    list.iter().enumerate().map(mutant).collect::<Option<_>>().ok_or_else(|| "an unknown form of mutants".into())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
