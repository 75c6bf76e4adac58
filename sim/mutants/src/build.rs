//! Makes the programs: a copy of the source with the mutants that compile woven in, and the tests and the simulator of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    Failure, text,
    weave::{Mutant, Place, Woven, blamed, weave},
};

/// The switch is put there.
const ROOT: &str = "core/src/lib.rs";

/// Copies what git knows or would take, but for files that mutants are woven into.
pub fn copy(mutants: &[Mutant], tree: &Path) -> Result<(), Failure> {
    let files = Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output()?;
    for file in String::from_utf8(files.stdout)?.split_terminator('\0') {
        if file != ROOT && mutants.iter().all(|mutant| mutant.file != file) {
            write(&tree.join(file), &fs::read(file)?)?;
        }
    }
    Ok(())
}

/// Unchanged files keep their time, so that they are not compiled again.
fn write(target: &Path, content: &[u8]) -> Result<(), Failure> {
    fs::create_dir_all(target.parent().unwrap_or(target))?;
    if fs::read(target).ok().as_deref() != Some(content) {
        fs::write(target, content)?;
    }
    Ok(())
}

/// Mutants by number.
type Numbers = BTreeSet<usize>;

/// Weaves mutants in until what is left compiles. Returns those that do not, and those that have no place. Some that do
/// not may be known already.
pub fn weave_all(
    mutants: &[Mutant],
    mut unviable: Numbers,
    tree: &Path,
    folder: &Path,
) -> Result<(Numbers, Numbers), Failure> {
    let switched =
        format!("#![allow(warnings, arithmetic_overflow)]\n{}{}", fs::read_to_string(ROOT)?, include_str!("switch.rs"));
    write(&tree.join(ROOT), switched.as_bytes())?;
    for _ in 0..30 {
        let mut places: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        let files: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
        for file in files {
            let of_file = mutants.iter().filter(|mutant| mutant.file == file && !unviable.contains(&mutant.number));
            let Woven { text, places: found, impossible } =
                weave(&fs::read_to_string(file)?, &of_file.cloned().collect::<Vec<_>>())?;
            write(&tree.join(file), text.as_bytes())?;
            unviable.extend(impossible);
            places.insert(file, found);
        }
        let (is_good, messages) = cargo(tree, folder, &["check", "--package", "downbeat-core"])?;
        if is_good {
            let woven: Numbers = places.values().flatten().map(|place| place.number).collect();
            let rest = mutants.iter().map(|mutant| mutant.number);
            let rest = rest.filter(|number| !woven.contains(number) && !unviable.contains(number)).collect();
            return Ok((unviable, rest));
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

/// The programs that judge: name and path. All of them, or the core's own tests only.
pub fn build(tree: &Path, folder: &Path, is_all: bool) -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let core: &[&str] = &["test", "--no-run", "--package", "downbeat-core"];
    // In one build, so that both share what they depend on.
    let others: &[&str] = &["build", "--package", "downbeat-tests", "--package", "downbeat-sim"];
    let others = [others, &["--no-default-features", "--test", "vectors", "--bin", "downbeat-sim"]].concat();
    let mut programs = Vec::new();
    for arguments in [core, &others].into_iter().take(if is_all { 2 } else { 1 }) {
        let (is_good, messages) = cargo(tree, folder, arguments)?;
        if !is_good {
            return Err("what is to judge does not build".into());
        }
        for made in &messages {
            let Some(path) = made["executable"].as_str() else { continue };
            let name = match (made["target"]["name"].as_str(), made["profile"]["test"] == true) {
                (Some("vectors"), true) => "vectors",
                (Some("downbeat-sim"), false) => "seeds",
                (Some(_), true) => "core",
                _ => continue,
            };
            let kept = folder.join(Path::new(path).file_name().ok_or("a program without a name")?);
            fs::copy(path, &kept)?;
            programs.push((name, kept));
        }
    }
    programs.sort_by_key(|(name, _)| ["core", "vectors", "seeds"].iter().position(|known| known == name));
    Ok(programs)
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
