//! The text of a foreign error, or of a panic: all of it, in one line.

use std::{any::Any, error::Error};

/// An error and its sources, as the client library prints them. A source is left out when the text already
/// has it: some errors print their source themselves.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut text = in_one_line(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        let cause = in_one_line(&error.to_string());
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// The message of a panic. That of a failed assertion has several lines.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    in_one_line(text)
}

fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Cause {
        text: &'static str,
        source: Option<Box<Cause>>,
    }

    fn failed(cause: Cause) -> String {
        with_sources(&Cause { text: "connection failed", source: Some(Box::new(cause)) })
    }

    #[test]
    fn every_source_of_an_error_is_printed_once() {
        let io = || Some(Box::new(Cause { text: "refused (os error 111)", source: None }));
        let expected = "connection failed: io: refused (os error 111)";
        assert_eq!(failed(Cause { text: "io: refused (os error 111)", source: io() }), expected);
        assert_eq!(failed(Cause { text: "io", source: io() }), expected);
    }

    #[test]
    fn a_source_of_several_lines_is_printed_in_one() {
        let source = Cause { text: "parse error at 1\n\n  unexpected end\n", source: None };
        assert_eq!(failed(source), "connection failed: parse error at 1 unexpected end");
    }

    #[test]
    fn a_panic_is_printed_in_one_line() {
        assert_eq!(panic_text(&"no"), "no");
        assert_eq!(panic_text(&"failed\n  left: 1\n right: 2".to_owned()), "failed left: 1 right: 2");
        assert_eq!(panic_text(&7), "no message");
    }
}
