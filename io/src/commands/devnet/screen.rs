//! Where a devnet shows how far it is.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use downbeat::{
    driver::Snapshot,
    status_line::{StatusLine, lag, number, waits},
};

/// How often the table is drawn.
const TABLE_PERIOD: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(1);

/// Where progress is shown: a table that is drawn again in its place, or line after line.
pub(super) struct Screen {
    is_terminal: bool,
    lines_drawn: usize,
    last: Vec<Arc<Snapshot>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stdout().is_terminal(), lines_drawn: 0, last: Vec::new() }
    }

    pub(super) fn period(&self) -> Duration {
        if self.is_terminal { TABLE_PERIOD } else { LINE_PERIOD }
    }

    /// Shows where each conductor is.
    pub(super) fn show(&mut self, snapshots: &[Arc<Snapshot>]) {
        let mut out = std::io::stdout().lock();
        // A reader that went away is no reason to fail.
        let _ = if self.is_terminal {
            let table = table(snapshots);
            let drawn = out.write_all(redraw(&table, self.lines_drawn).as_bytes()).and_then(|()| out.flush());
            self.lines_drawn = table.len();
            drawn
        } else {
            let is_shown = |(index, snapshot)| self.last.get(index).is_some_and(|last| Arc::ptr_eq(last, snapshot));
            let mut new = snapshots.iter().enumerate().filter(|shown| !is_shown(*shown));
            new.try_for_each(|(index, snapshot)| match snapshots.len() {
                1 => writeln!(out, "{}", StatusLine(&snapshot.status)),
                _ => writeln!(out, "conductor {index}: {}", StatusLine(&snapshot.status)),
            })
        };
        self.last = snapshots.to_vec();
    }
}

/// Goes up over what was drawn before and writes each line over the old one. Lines are cut at the terminal's edge (not
/// wrapped), so that going up by their number is right.
fn redraw(lines: &[String], lines_drawn: usize) -> String {
    let mut text = String::from("\x1b[?7l");
    if lines_drawn > 0 {
        let _ = write!(text, "\x1b[{lines_drawn}A");
    }
    for line in lines {
        let _ = write!(text, "\r{line}\x1b[K\n");
    }
    text.push_str("\x1b[J\x1b[?7h");
    text
}

fn table(snapshots: &[Arc<Snapshot>]) -> Vec<String> {
    let known = |head: Option<String>| head.unwrap_or_else(|| "?".to_owned());
    let Some(first) = snapshots.first() else { return Vec::new() };
    let is_one = snapshots.len() == 1;
    let mut lines = vec![
        format!(
            "sequencer head {}   Celestia head {}",
            known(first.status.sequencer.head.map(|head| head.to_string())),
            known(first.status.celestia.head.map(|head| head.to_string())),
        ),
        format!("{:<12} {:>8} {:>8} {:>5}  waiting for", "rollup", "soft", "firm", "lag"),
    ];
    for (index, snapshot) in snapshots.iter().enumerate() {
        for (id, cell) in &snapshot.status.cells {
            lines.push(format!(
                "{:<12} {:>8} {:>8} {:>5}  {}",
                if is_one { id.to_string() } else { format!("{index}: {id}") },
                number(cell.soft.as_ref()),
                number(cell.firm.as_ref()),
                known(lag(&snapshot.status, cell).map(|lag| lag.to_string())),
                waits(&cell.waiting_for),
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        let lines = ["one".to_owned(), "two".to_owned()];
        assert_eq!(redraw(&lines, 0), "\x1b[?7l\rone\x1b[K\n\rtwo\x1b[K\n\x1b[J\x1b[?7h");
        assert!(redraw(&lines, 2).starts_with("\x1b[?7l\x1b[2A\rone"));
    }
}
