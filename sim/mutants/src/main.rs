//! Runs the mutants of `downbeat-core` that `cargo mutants` lists, all from one build.
//!
//! A build per mutant would take days. Here all of them are woven into one copy of the source ([`weave`]), each behind a
//! switch; what does not compile is left out; then each mutant runs against the tests of the core, the conformance
//! vectors and a fixed number of simulated seeds. What a program never comes to is not run.
//!
//! `cargo run --release --manifest-path sim/mutants/Cargo.toml -- FOLDER`, from the root. The folder keeps the copy, its
//! build and `results.jsonl`, which an interrupted run goes on from; remove it after a change of the source.

mod weave;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use weave::{Mutant, Place, blamed, weave};

type Failure = Box<dyn std::error::Error>;

const SEEDS: &str = "200";
/// A mutant that takes so much longer than the program without it hangs.
const PATIENCE: u32 = 10;
/// Kilobytes of address space, so that a mutant that collects without end hurts nobody.
const MEMORY_KB: u64 = 8_000_000;

/// A program that has to notice mutants.
struct Judge {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<&'static str>,
    reached: BTreeSet<usize>,
    limit: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(folder) = arguments.first().filter(|first| !first.starts_with('-')) else {
        eprintln!("usage: downbeat-mutants FOLDER [PART OF A MUTANT'S NAME], from the root of the repository");
        return ExitCode::FAILURE;
    };
    match run(Path::new(folder), arguments.get(1).map(String::as_str)) {
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

fn run(folder: &Path, only: Option<&str>) -> Result<String, Failure> {
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let tree = folder.join("tree");
    let mutants = list()?;
    copy(&tree)?;
    let unviable = weave_all(&mutants, &tree, &folder)?;
    eprintln!("{} mutants, {} do not compile", mutants.len(), unviable.len());
    let mut judges = Vec::new();
    for (name, program) in build(&tree, &folder)? {
        judges.push(Judge::new(name, program, &folder, &tree)?);
    }
    let results = folder.join("results.jsonl");
    let done = fs::read_to_string(&results).unwrap_or_default();
    let done = done.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let mut verdicts: BTreeMap<String, (String, String)> =
        done.iter().map(|line| (text(&line["name"]), (text(&line["mutant"]), text(&line["verdict"])))).collect();
    let mut file = fs::OpenOptions::new().append(true).create(true).open(&results)?;
    for mutant in &mutants {
        // Names are unique but for code that only one set of features compiles.
        let key = format!("{} {}", mutant.number, mutant.name);
        if verdicts.contains_key(&key) || only.is_some_and(|only| !mutant.name.contains(only)) {
            continue;
        }
        let verdict =
            if unviable.contains(&mutant.number) { "unviable".to_owned() } else { judge(mutant, &judges, &tree)? };
        writeln!(file, "{}", json!({ "name": key, "mutant": mutant.name, "verdict": verdict }))?;
        verdicts.insert(key, (mutant.name.clone(), verdict));
    }
    Ok(summary(&verdicts))
}

fn summary(verdicts: &BTreeMap<String, (String, String)>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, verdict) in verdicts.values() {
        *counts.entry(verdict).or_default() += 1;
    }
    let escaped = ["survived", "unreached"].iter().filter_map(|verdict| counts.get(verdict)).sum::<usize>();
    let viable = verdicts.len() - counts.get("unviable").copied().unwrap_or(0);
    let missed = verdicts.values().filter(|(_, verdict)| verdict == "survived" || verdict == "unreached");
    let mut lines: Vec<String> = missed.map(|(mutant, verdict)| format!("{verdict}: {mutant}")).collect();
    lines.extend(counts.iter().map(|(verdict, count)| format!("{verdict} {count}")));
    let caught = viable - escaped;
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

/// Copies what git knows.
fn copy(tree: &Path) -> Result<(), Failure> {
    let files = Command::new("git").args(["ls-files", "-z"]).output()?;
    for file in String::from_utf8(files.stdout)?.split_terminator('\0') {
        let target = tree.join(file);
        fs::create_dir_all(target.parent().unwrap_or(tree))?;
        // Unchanged files keep their time, so that they are not compiled again.
        let content = fs::read(file)?;
        if fs::read(&target).ok().as_ref() != Some(&content) {
            fs::write(&target, content)?;
        }
    }
    Ok(())
}

fn cargo(tree: &Path, folder: &Path, arguments: &[&str]) -> Result<(bool, Vec<Value>), Failure> {
    let mut command = Command::new("cargo");
    command.args(arguments).arg("--message-format=json").current_dir(tree).stderr(Stdio::inherit());
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| folder.join("target").into());
    command.env("CARGO_TARGET_DIR", target).env("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
    let output = command.output()?;
    let messages = String::from_utf8(output.stdout)?;
    Ok((output.status.success(), messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

/// Weaves mutants in until what is left compiles. Returns those that do not.
fn weave_all(mutants: &[Mutant], tree: &Path, folder: &Path) -> Result<BTreeSet<usize>, Failure> {
    let root = Path::new("core/src/lib.rs");
    let mut unviable = BTreeSet::new();
    for _ in 0..30 {
        let mut places: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        let files: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
        for file in files {
            let of_file = mutants.iter().filter(|mutant| mutant.file == file && !unviable.contains(&mutant.number));
            let (text, found) = weave(&fs::read_to_string(file)?, &of_file.cloned().collect::<Vec<_>>())?;
            if fs::read_to_string(tree.join(file))? != text {
                fs::write(tree.join(file), text)?;
            }
            places.insert(file, found);
        }
        let switched = format!(
            "#![allow(warnings, arithmetic_overflow)]\n{}{}",
            fs::read_to_string(root)?,
            include_str!("switch.rs")
        );
        fs::write(tree.join(root), switched)?;
        let (is_good, messages) = cargo(tree, folder, &["check", "--package", "downbeat-core"])?;
        if is_good {
            let kept: BTreeSet<usize> = places.values().flatten().map(|place| place.number).collect();
            unviable.extend(mutants.iter().map(|mutant| mutant.number).filter(|number| !kept.contains(number)));
            return Ok(unviable);
        }
        let errors: Vec<&Value> =
            messages.iter().map(|message| &message["message"]).filter(|message| message["level"] == "error").collect();
        let before = unviable.len();
        // What an error points to beside its place is blamed only when nothing else is.
        for is_last_resort in [false, true] {
            if unviable.len() > before {
                break;
            }
            for (error, (file, places)) in errors.iter().flat_map(|error| places.iter().map(move |file| (error, file)))
            {
                unviable.extend(blamed(places, &spans(error, file, true), is_last_resort, &spans(error, file, false)));
            }
        }
        if unviable.len() == before {
            let texts: Vec<String> = errors.iter().map(|error| text(&error["rendered"])).collect();
            return Err(format!("no mutant explains that the core does not compile:\n{}", texts.join("\n")).into());
        }
        eprintln!("{} do not compile", unviable.len());
    }
    Err("no end of mutants that do not compile".into())
}

/// Bytes of a file that a compiler's message is about.
fn spans(message: &Value, file: &str, is_primary: bool) -> Vec<Range<usize>> {
    let byte = |value: &Value| value.as_u64().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    let spans = message["spans"].as_array().into_iter().flatten();
    let of_file = spans.filter(|span| span["file_name"].as_str().is_some_and(|name| name.ends_with(file)));
    let wanted = of_file.filter(|span| !is_primary || span["is_primary"] == true);
    wanted.map(|span| byte(&span["byte_start"])..byte(&span["byte_end"])).collect()
}

/// The programs that judge: name and path.
fn build(tree: &Path, folder: &Path) -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let parts: [(&str, &[&str]); 3] = [
        ("core", &["test", "--no-run", "--package", "downbeat-core"]),
        ("vectors", &["test", "--no-run", "--package", "downbeat-tests", "--test", "vectors"]),
        ("seeds", &["build", "--package", "downbeat-sim", "--no-default-features", "--bin", "downbeat-sim"]),
    ];
    let mut programs = Vec::new();
    for (name, arguments) in parts {
        let (is_good, messages) = cargo(tree, folder, arguments)?;
        if !is_good {
            return Err(format!("{name} does not build").into());
        }
        let made = messages.iter().filter(|message| message["profile"]["test"] == (name != "seeds"));
        let made = made.filter_map(|message| message["executable"].as_str());
        for path in made {
            let kept = folder.join(Path::new(path).file_name().ok_or("a program without a name")?);
            fs::copy(path, &kept)?;
            programs.push((name, kept));
        }
    }
    Ok(programs)
}

impl Judge {
    fn new(name: &'static str, program: PathBuf, folder: &Path, tree: &Path) -> Result<Self, Failure> {
        let arguments = match name {
            "seeds" => vec!["run", "--seeds", SEEDS, "--jobs", "1", "--failures", "1"],
            _ => vec!["-q"],
        };
        let mut judge = Self { name, program, arguments, reached: BTreeSet::new(), limit: Duration::from_mins(10) };
        let list = folder.join("reached");
        let _ = fs::remove_file(&list);
        if judge.notices(("MUTANTS_REACHED", &list.to_string_lossy()), tree)?.is_some() {
            return Err(format!("{} fails without any mutant", judge.program.display()).into());
        }
        let reached = fs::read_to_string(&list).unwrap_or_default();
        judge.reached = reached.lines().filter_map(|line| line.parse().ok()).collect();
        let start = Instant::now();
        judge.notices(("MUTANT", ""), tree)?;
        judge.limit = start.elapsed() * PATIENCE + Duration::from_secs(10);
        Ok(judge)
    }

    /// How a run with this variable fails, if it does.
    fn notices(&self, variable: (&str, &str), tree: &Path) -> Result<Option<&'static str>, Failure> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -v {MEMORY_KB} -c 0; exec \"$0\" \"$@\"")).arg(&self.program);
        command
            .args(&self.arguments)
            .env(variable.0, variable.1)
            .env("PROPTEST_RNG_SEED", "1")
            .env("RUST_BACKTRACE", "0");
        command.current_dir(tree.join("core")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((!status.success()).then_some("failed"));
            }
            if start.elapsed() > self.limit {
                child.kill()?;
                child.wait()?;
                return Ok(Some("hung"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn judge(mutant: &Mutant, judges: &[Judge], tree: &Path) -> Result<String, Failure> {
    let mut is_reached = false;
    for judge in judges.iter().filter(|judge| judge.reached.contains(&mutant.number)) {
        is_reached = true;
        if let Some(how) = judge.notices(("MUTANT", &mutant.number.to_string()), tree)? {
            return Ok(format!("{} {how}", judge.name));
        }
    }
    Ok(if is_reached { "survived" } else { "unreached" }.to_owned())
}
