//! One line for each thing that happens, when it happens: what A does on the left, what B does on the right.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    A,
    B,
}

/// The clock of a run, and its printer.
pub(crate) struct Timeline {
    start: Instant,
    lines: Mutex<Vec<String>>,
}

impl Timeline {
    pub(crate) fn begin() -> Self {
        let timeline = Self { start: Instant::now(), lines: Mutex::default() };
        timeline.print(format!("{:>6}  {:<WIDTH$}  {:<WIDTH$}  balance", "ms", "A", "B"));
        timeline
    }

    pub(crate) fn say(&self, who: Who, what: &str) {
        self.line(who, what, None);
    }

    /// As `say`, with the balance that the account has from now on.
    pub(crate) fn say_balance(&self, who: Who, what: &str, balance: i64) {
        self.line(who, what, Some(balance));
    }

    /// Everything that was printed.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn line(&self, who: Who, what: &str, balance: Option<i64>) {
        let (a, b) = match who {
            Who::A => (what, ""),
            Who::B => ("", what),
        };
        let balance = balance.map(|balance| balance.to_string()).unwrap_or_default();
        let ms = self.start.elapsed().as_millis();
        let line = format!("{ms:>6}  {a:<WIDTH$}  {b:<WIDTH$}  {balance:>7}");
        self.print(line.trim_end().to_owned());
    }

    fn print(&self, line: String) {
        println!("{line}");
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

const WIDTH: usize = 36;
