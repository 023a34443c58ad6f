//! Printing: tables and JSON on stdout, remarks and progress on stderr. The only place that prints.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use primal_replay::Progress;
use rustix::event::{PollFd, PollFlags};
use serde::Serialize;

use crate::Failure;

/// How often an idle command looks whether anybody still reads what it prints.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// One line of data. A closed pipe is no error: the reader has seen enough.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One line of many. `false` once the reader has closed the pipe: then there is no use in going on.
#[must_use]
pub(crate) fn more(text: &str) -> bool {
    writeln!(std::io::stdout(), "{text}").is_ok()
}

/// Waits until the reader of stdout has closed it. Without this nobody would notice before the next line is written.
pub(crate) async fn closed() {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let stdout = std::io::stdout();
        let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut asked, Some(&none)).is_ok()
            && asked.iter().any(|stdout| stdout.revents().intersects(PollFlags::ERR | PollFlags::HUP))
        {
            return;
        }
    }
}

/// A value as one line of JSON; `false` once the reader has closed the pipe.
pub(crate) fn json_line(value: &impl Serialize) -> Result<bool, Failure> {
    Ok(more(&serde_json::to_string(value).map_err(Failure::failed)?))
}

/// One remark.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What went wrong.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// A value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::failed)?);
    Ok(())
}

/// A table.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table.add_rows(rows);
    line(&table.to_string());
}

/// Names and values below each other.
pub(crate) fn pairs(pairs: &[(&str, String)]) {
    let widest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        line(format!("{name:<widest$}  {}", printable(value)).trim_end());
    }
}

/// A table of which the end is not known: columns are as wide as what has come so far.
pub(crate) struct Columns {
    widths: Vec<usize>,
    waiting: Vec<Vec<String>>,
    block: usize,
}

impl Columns {
    /// `block` rows are held back to find the widths from; 1 prints each row at once.
    pub(crate) fn new(header: &[&str], block: usize) -> Self {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Columns { widths: Vec::new(), waiting: vec![header], block }
    }

    /// Adds a row; `false` once the reader has closed the pipe.
    #[must_use]
    pub(crate) fn row(&mut self, row: Vec<String>) -> bool {
        self.waiting.push(row.iter().map(|cell| printable(cell)).collect());
        self.waiting.len() <= self.block || self.flush()
    }

    /// Prints what is held back; `false` once the reader has closed the pipe.
    #[must_use]
    pub(crate) fn flush(&mut self) -> bool {
        for row in &self.waiting {
            self.widths.resize(row.len().max(self.widths.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let widths = &self.widths;
        let text = |row: Vec<String>| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        std::mem::take(&mut self.waiting).into_iter().all(|row| more(&text(row)))
    }
}

/// A line of CSV (RFC 4180).
pub(crate) fn csv(cells: &[String]) -> String {
    let quoted = |cell: &String| match cell.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    cells.iter().map(quoted).collect::<Vec<_>>().join(",")
}

/// Text of somebody else's without what would move a terminal's cursor or change its colours.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The start of a text, where the whole would be too long for a table.
pub(crate) fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// JSON with one member a line; numbers and strings stay as they were written.
pub(crate) fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut rest = json.chars().peekable();
    while let Some(c) = rest.next() {
        if in_string {
            if c.is_control() {
                out.push_str(&format!("\\u{:04x}", c as u32))
            } else {
                out.push(c)
            }
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => {}
            '{' | '[' => {
                out.push(c);
                while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(close) = rest.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    out.push('\n');
                    out.extend(std::iter::repeat_n("  ", depth));
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                out.push('\n');
                out.extend(std::iter::repeat_n("  ", depth));
                out.push(c);
            }
            ',' => {
                out.push_str(",\n");
                out.extend(std::iter::repeat_n("  ", depth));
            }
            ':' => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

/// A number with thin groups of three, as people read it.
pub(crate) fn grouped(number: impl Into<i128>) -> String {
    let digits = number.into().to_string();
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

/// So many seconds, as people read them.
pub(crate) fn span(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{} h {minutes} min", grouped(i128::from(hours))),
    }
}

/// Progress bars below each other on a terminal; nothing elsewhere.
pub(crate) struct Bars(MultiProgress);

impl Bars {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Bars(MultiProgress::with_draw_target(match terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        }))
    }

    /// Another one, with what it is about.
    pub(crate) fn bar(&self, what: &str) -> Bar {
        Bar { bars: self.0.clone(), what: what.to_owned(), bar: Mutex::new(ProgressBar::hidden()) }
    }

    /// Prints something above them.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    pub(crate) fn clear(&self) {
        let _ = self.0.clear();
    }
}

/// A progress bar on a terminal; nothing elsewhere.
pub(crate) struct Bar {
    bars: MultiProgress,
    what: String,
    bar: Mutex<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        Bars::new().bar("")
    }

    pub(crate) fn finish(&self) {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Progress for Bar {
    fn begin(&self, phase: &str, total: u64) {
        let known = "{msg:<18} {bar:32} {human_pos:>11}/{human_len} events  {per_sec:>16}  ETA {eta}";
        let unknown = "{msg:<18} {spinner} {human_pos:>11} events  {per_sec:>16}";
        let style = ProgressStyle::with_template(if total > 0 { known } else { unknown });
        let mut slot = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        slot.finish_and_clear();
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), ProgressDrawTarget::hidden());
        let bar = self.bars.add(bar);
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(format!("{} {phase}", self.what).trim_start().to_owned());
        *slot = bar;
    }

    fn skip(&self, events: u64) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.inc(events);
        bar.reset_eta();
    }

    fn advance(&self, events: u64) {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).inc(events);
    }
}

#[cfg(test)]
mod tests {
    use super::{csv, grouped, indented, printable, short};

    #[test]
    fn json_is_laid_out_and_nothing_in_it_changes() {
        let json = "{ \"a\":[1.50,{}, [ ] ,\"\u{9b}x, {\\\"y\\\": 1}\\\\\"],\"b\" : {\"c\":9007199254740993}} ";
        let expected = r#"{
  "a": [
    1.50,
    {},
    [],
    "\u009bx, {\"y\": 1}\\"
  ],
  "b": {
    "c": 9007199254740993
  }
}"#;
        assert_eq!(indented(json), expected);
    }

    #[test]
    fn cells_are_quoted_cut_and_made_harmless() {
        let row = ["plain", "a,b", "say \"x\"", "two\nlines", ""].map(str::to_owned);
        assert_eq!(csv(&row), "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",");
        assert_eq!(printable("é\u{1b}[31m\n"), "é\\u{1b}[31m\\n");
        assert_eq!((short("äöü", 3), short("äöüß", 3)), ("äöü".to_owned(), "äöü…".to_owned()));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(23_094), grouped(-1_000_898)],
            ["0", "999", "23,094", "-1,000,898"]
        );
    }
}
