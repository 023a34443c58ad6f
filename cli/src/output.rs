//! Printing: tables and JSON on stdout, remarks and progress on stderr. The only place that prints.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use primal_replay::Progress;
use serde::Serialize;

use crate::Failure;

/// One line of data. A closed pipe is no error: the reader has seen enough.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
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

/// A progress bar on a terminal; nothing elsewhere.
pub(crate) struct Bar(Mutex<ProgressBar>);

impl Bar {
    pub(crate) fn new() -> Self {
        Bar(Mutex::new(ProgressBar::hidden()))
    }

    pub(crate) fn finish(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, phase: &str, total: u64) {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let known = "{msg:<18} {bar:32} {human_pos:>11}/{human_len} events  {per_sec:>16}  ETA {eta}";
        let unknown = "{msg:<18} {spinner} {human_pos:>11} events  {per_sec:>16}";
        let style = ProgressStyle::with_template(if total > 0 { known } else { unknown });
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), target);
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(phase.to_owned());
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.finish_and_clear();
        *slot = bar;
    }

    fn advance(&self, events: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).inc(events);
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(23_094), grouped(-1_000_898)],
            ["0", "999", "23,094", "-1,000,898"]
        );
    }
}
