//! One line for each thing that happens, when it happens.

use std::time::{Duration, Instant};

use redlock_redis_rs::{NodeOutcome, NodeReply};

/// The clock of the run, and its printer.
#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
    nodes: Vec<String>,
}

impl Timeline {
    pub(crate) fn new(nodes: Vec<String>) -> Self {
        Self { start: Instant::now(), nodes }
    }

    /// How long the run has been going on.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn node(&self, position: usize) -> &str {
        &self.nodes[position]
    }

    pub(crate) fn begin(&self, workers: &[&str]) {
        println!("{} workers, one resource, {} nodes:", workers.len(), self.nodes.len());
        for (position, node) in self.nodes.iter().enumerate() {
            println!("  {}  {node}", letter(position));
        }
        println!("Their votes when a round was won: ● granted  ○ refused  ✕ failed  · not waited for\n");
        let letters: Vec<String> = (0..self.nodes.len()).map(|position| letter(position).into()).collect();
        println!("{:>5}  {:<WHO$}  {:<WHAT$}  {}", "ms", "who", "what", letters.join(" "));
    }

    /// The lines of two workers are in the order of their holds: one prints before it releases, the other
    /// after it gets the lock.
    pub(crate) fn say(&self, at: Duration, who: &str, what: &str, votes: &[NodeReply]) {
        let votes: Vec<&str> = votes.iter().map(|vote| mark(&vote.outcome)).collect();
        let line = format!("{:>5}  {who:<WHO$}  {what:<WHAT$}  {}", at.as_millis(), votes.join(" "));
        println!("{}", line.trim_end());
    }

    pub(crate) fn end(&self) {
        println!();
    }
}

const WHO: usize = 15;
const WHAT: usize = 20;

/// A node's short name, where there is no room for the long one.
pub(crate) fn letter(position: usize) -> char {
    ('a'..='z').nth(position).unwrap_or('?')
}

fn mark(answer: &NodeOutcome) -> &'static str {
    match answer {
        NodeOutcome::Granted => "●",
        NodeOutcome::Refused => "○",
        NodeOutcome::Failed(_) | NodeOutcome::Late => "✕",
        NodeOutcome::Pending => "·",
        _ => "?",
    }
}

/// "1st", "2nd", ...
pub(crate) fn nth(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_as_people_do() {
        let said: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(nth).into();
        assert_eq!(said, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]);
    }
}
