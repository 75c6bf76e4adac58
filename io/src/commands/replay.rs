//! `downbeat replay`: takes the conductor through a recorded run again and compares what it wishes for.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
};

use downbeat::{
    config,
    journal::{self, Difference, Entries, Header, Life, Recorded, Replay, SourceError, Stepped, Visit},
    timeline,
};
use downbeat_core::{Command, Stamped, Timestamp};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Failure;

/// Take the conductor through a recorded run again: prints what happened, checks that the same follows, and stops at the
/// first difference.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Directory that was given to --journal, or one file of it
    path: PathBuf,
    /// Which start of the process, as counted in the directory; the newest unless given
    #[arg(long, value_name = "N")]
    life: Option<u64>,
    /// First event to print: its number, a time (2026-01-31T12:00:00Z), or a time since the start (+90s)
    #[arg(long, value_name = "SEQ|TIME", value_parser = place)]
    from: Option<Place>,
    /// Last event to print and to check, likewise
    #[arg(long, value_name = "SEQ|TIME", value_parser = place)]
    to: Option<Place>,
    /// Print JSON, one object per event and one at the end
    #[arg(long)]
    json: bool,
    /// Print no events, only how it ended
    #[arg(long, conflicts_with_all = ["from", "json"])]
    quiet: bool,
    /// Write a page that shows the run: the newest 10,000 events, to be opened in a browser
    #[arg(long, value_name = "FILE", conflicts_with = "unchecked")]
    html: Option<PathBuf>,
    /// Print what is recorded and check nothing: for a run whose beginning is gone, or of another version
    #[arg(long)]
    unchecked: bool,
}

const EXAMPLES: &str = "Examples:
  downbeat devnet --blocks 20 --journal journal
  downbeat replay journal --quiet               does the same follow as then?
  downbeat replay journal --from +2s --to +3s   what happened in the third second
  downbeat replay journal --life 1 --json
  downbeat replay journal --quiet --html run.html

Exit codes: 0 everything was equal (also where the recording just breaks off), 1 anything else.";

/// A point of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Seq(u64),
    At(Timestamp),
    AfterStart(std::time::Duration),
}

impl Place {
    fn is_after(self, seq: u64, at: Timestamp, start: Timestamp) -> bool {
        match self {
            Self::Seq(place) => place > seq,
            Self::At(place) => place > at,
            Self::AfterStart(duration) => start.after(duration) > at,
        }
    }

    fn is_before(self, seq: u64, at: Timestamp, start: Timestamp) -> bool {
        match self {
            Self::Seq(place) => place < seq,
            Self::At(place) => place < at,
            Self::AfterStart(duration) => start.after(duration) < at,
        }
    }
}

fn place(text: &str) -> Result<Place, String> {
    if let Some(duration) = text.strip_prefix('+') {
        return config::duration(duration).map(Place::AfterStart);
    }
    if let Ok(seq) = text.parse() {
        return Ok(Place::Seq(seq));
    }
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp_nanos);
    let nanos = nanos.and_then(|nanos| u64::try_from(nanos).ok());
    let problem = || format!("{text:?} is no number of an event, no time as 2026-01-31T12:00:00Z, and no +90s");
    nanos.map(|nanos| Place::At(Timestamp(nanos))).ok_or_else(problem)
}

/// How reading and replaying ended.
struct Ended {
    events: u64,
    difference: Option<Box<Difference>>,
    /// The conductor panicked as it did then.
    panicked: bool,
    /// Stopped by `--to`.
    stopped: bool,
    error: Option<SourceError>,
    reason: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let lives = journal::lives(&arguments.path).map_err(Failure::new)?;
    let life = choose(&lives, arguments)?;
    let mut entries = life.entries().map_err(Failure::new)?;
    let mut printer = Printer {
        // A reader that went away is no reason to fail.
        out: BufWriter::new(Box::new(std::io::stdout().lock())),
        start: entries.header().started_at,
        from: arguments.from,
        json: arguments.json,
        quiet: arguments.quiet,
    };
    printer.introduce(life, lives.len(), entries.header());
    let ended = if arguments.unchecked {
        list(&mut entries, arguments, &mut printer)
    } else {
        let mut replay = Replay::new(entries.header())
            .map_err(|error| Failure::new(format!("life {}: {error}; --unchecked lists its events", life.number)))?;
        let mut page = arguments.html.as_ref().map(|_| {
            let command = format!("downbeat replay {} --life {}", arguments.path.display(), life.number);
            timeline::Builder::new(format!("Life {} of {}", life.number, arguments.path.display()), command)
        });
        let ended = check(&mut entries, &mut replay, arguments, &mut |input, result, commands, conductor| {
            printer.replayed(input, commands);
            if let Some(page) = &mut page {
                page.step(input, result, commands, conductor);
            }
        });
        if let (Some(file), Some(mut page)) = (&arguments.html, page) {
            if let Some(difference) = &ended.difference {
                page.violation("replay", "something else follows than what was recorded", difference.at);
            }
            std::fs::write(file, timeline::html(&page.build()))
                .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        }
        ended
    };
    printer.conclude(life, arguments, &ended);
    drop(printer);
    if let Some(difference) = ended.difference {
        let Difference { seq, .. } = *difference;
        return Err(Failure::new(format!("event {} differs, {} before it were equal", seq.0, ended.events)));
    }
    match ended.error {
        Some(error) if !error.is_torn() => Err(Failure::new(format!("{error}; {} events before it", ended.events))),
        _ => Ok(()),
    }
}

fn choose<'a>(lives: &'a [Life], arguments: &Arguments) -> Result<&'a Life, Failure> {
    let numbers = || lives.iter().map(|life| life.number.to_string()).collect::<Vec<_>>().join(", ");
    let life = match arguments.life {
        None => lives.last(),
        Some(number) => lives.iter().find(|life| life.number == number),
    };
    let life = life.ok_or_else(|| Failure::new(format!("no such life; there are {}", numbers())))?;
    if arguments.unchecked || life.has_its_beginning() {
        return Ok(life);
    }
    let first = lives.iter().find(|life| life.has_its_beginning());
    let other = match first {
        Some(first) => format!("the first that can be replayed is --life {}", first.number),
        None => "there is no other".to_owned(),
    };
    let gone = "was deleted to keep to the bound, or is in another file";
    let line = format!("the beginning of life {} {gone}: {other}; --unchecked lists its events", life.number);
    Err(Failure::new(line))
}

/// Replays until the end, a difference, or `--to`. `visit` sees every event, what followed, and the conductor after it.
fn check(entries: &mut Entries, replay: &mut Replay, arguments: &Arguments, visit: Visit<'_>) -> Ended {
    let start = entries.header().started_at;
    let mut ended = Ended { events: 0, difference: None, panicked: false, stopped: false, error: None, reason: None };
    for entry in entries.by_ref() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                ended.error = Some(error);
                break;
            }
        };
        if arguments.to.is_some_and(|to| to.is_before(entry.seq.0, entry.at, start)) {
            ended.stopped = true;
            break;
        }
        match replay.step(entry, visit) {
            Ok(Stepped::Equal) => {}
            Ok(Stepped::PanickedAgain) => ended.panicked = true,
            Err(difference) => {
                ended.difference = Some(difference);
                break;
            }
        }
    }
    ended.events = replay.equal();
    ended.reason = entries.end().map(str::to_owned);
    ended
}

/// Prints what is recorded.
fn list(entries: &mut Entries, arguments: &Arguments, printer: &mut Printer) -> Ended {
    let mut ended = Ended { events: 0, difference: None, panicked: false, stopped: false, error: None, reason: None };
    for entry in entries.by_ref() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                ended.error = Some(error);
                break;
            }
        };
        if arguments.to.is_some_and(|to| to.is_before(entry.seq.0, entry.at, printer.start)) {
            ended.stopped = true;
            break;
        }
        ended.events += 1;
        ended.panicked = entry.outbox.is_none();
        let event = match &entry.event {
            Recorded::Event(event) => journal::describe_event(event),
            Recorded::JobFinished(id) => format!("#{} finished", id.ordinal),
        };
        let kinds = entry.outbox.iter().flat_map(|outbox| &outbox.kinds);
        let commands: Vec<String> = kinds.map(|kind| journal::kind_name(*kind).to_owned()).collect();
        printer.event(entry.seq.0, entry.at, &event, &commands);
    }
    ended.reason = entries.end().map(str::to_owned);
    ended
}

struct Printer {
    out: BufWriter<Box<dyn Write>>,
    start: Timestamp,
    from: Option<Place>,
    json: bool,
    quiet: bool,
}

impl Printer {
    fn line(&mut self, line: impl std::fmt::Display) {
        let _ = writeln!(self.out, "{line}");
    }

    fn introduce(&mut self, life: &Life, lives: usize, header: &Header) {
        if !self.json {
            let others = if lives > 1 { format!(" (one of {lives}, see --life)") } else { String::new() };
            self.line(format_args!(
                "life {}{others}, recorded by downbeat {} from {}",
                life.number,
                header.program,
                time_of_day(header.started_at),
            ));
        }
    }

    fn replayed(&mut self, input: &Stamped, commands: &[Command]) {
        if self.quiet || self.from.is_some_and(|from| from.is_after(input.seq.0, input.at, self.start)) {
            return;
        }
        let commands: Vec<String> = commands.iter().map(journal::describe_command).collect();
        self.event(input.seq.0, input.at, &journal::describe_event(&input.event), &commands);
    }

    fn event(&mut self, seq: u64, at: Timestamp, event: &str, commands: &[String]) {
        if self.quiet || self.from.is_some_and(|from| from.is_after(seq, at, self.start)) {
            return;
        }
        if self.json {
            return self.line(json!({"seq": seq, "at": at, "event": event, "commands": commands}));
        }
        let since = at.since(self.start);
        self.line(format_args!("{seq:>7} {:>5}.{:06}  {event}", since.as_secs(), since.subsec_micros()));
        for command in commands {
            self.line(format_args!("{:>20}  -> {command}", ""));
        }
    }

    fn conclude(&mut self, life: &Life, arguments: &Arguments, ended: &Ended) {
        let end = match (&ended.error, &ended.reason) {
            (Some(error), _) => error.to_string(),
            (None, Some(reason)) => format!("the recording ended because {reason}"),
            (None, None) if ended.stopped => "the rest was not looked at".to_owned(),
            (None, None) => "the recording breaks off: the process was killed, or is still running".to_owned(),
        };
        if self.json {
            let difference = ended.difference.as_ref().map(|difference| {
                json!({
                    "seq": difference.seq, "at": difference.at, "event": difference.event,
                    "expected": difference.expected.to_string(), "found": difference.found.to_string(),
                    "commands": difference.commands,
                })
            });
            let count = if arguments.unchecked { "listed" } else { "equal" };
            return self.line(json!({
                "life": life.number, count: ended.events, "panicked": ended.panicked, "end": end,
                "difference": difference,
            }));
        }
        if let Some(difference) = &ended.difference {
            return self.line(difference);
        }
        let what = if arguments.unchecked { "listed" } else { "replayed, all equal" };
        self.line(format_args!("{} events {what}; {end}", ended.events));
        if ended.panicked {
            self.line("the conductor did not come back from the last event: it panicked");
        }
    }
}

fn time_of_day(at: Timestamp) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0)).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_event_a_time_or_a_time_since_the_start() {
        assert_eq!(place("17"), Ok(Place::Seq(17)));
        assert_eq!(place("+1500ms"), Ok(Place::AfterStart(std::time::Duration::from_millis(1_500))));
        assert_eq!(place("1970-01-01T00:00:01Z"), Ok(Place::At(Timestamp(1_000_000_000))));
        for text in ["", "-1", "yesterday", "1900-01-01T00:00:00Z", "+soon"] {
            place(text).unwrap_err();
        }
    }
}
