//! The note that a lock may carry: who holds it, for people.

// Tests: below; tests/tests/it/sim/notes.rs, servers/notes.rs.

use std::{env, fmt, process, sync::Arc};

/// A short text about the holder of a lock, which the nodes store beside its keys while the lock is held.
///
/// [`RedlockBuilder::note`](crate::RedlockBuilder::note) and
/// [`LockRequest::note`](crate::LockRequest::note) take one. It is for people:
/// [`LockBackend::inspect`](crate::LockBackend::inspect) and the error of a client that was refused show
/// it, and nothing else depends on it. Whoever may read the keys of the nodes can read it, so it should
/// contain nothing secret.
///
/// ```
/// use redlock_core::Note;
///
/// assert_eq!(Note::new("nightly report").as_str(), "nightly report");
/// // HOST pid PID: TEXT
/// assert!(Note::of_process("nightly report").as_str().ends_with(": nightly report"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
// Thin, as each lock has room for one.
pub struct Note(Arc<String>);

impl Note {
    /// The longest note, in bytes of UTF-8.
    pub const MAX_LEN: usize = 256;

    /// A note with this text, and nothing else. What exceeds [`MAX_LEN`](Self::MAX_LEN) is cut off.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        let end = (0..=Self::MAX_LEN.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        Self(Arc::new(text))
    }

    /// A note with the host name and the ID of this process before the text: `HOST pid PID: TEXT`, and
    /// `HOST pid PID` for an empty one.
    ///
    /// The host name is the kernel's on Linux and Android, and elsewhere the environment variable
    /// `HOSTNAME` or `COMPUTERNAME`. It is left out when there is none: [`Note::new`] takes one of your
    /// own.
    #[must_use]
    pub fn of_process(text: impl AsRef<str>) -> Self {
        Self::new(described(host().as_deref(), process::id(), text.as_ref()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(self.as_str()))
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Note").field(&self.as_str()).finish()
    }
}

/// As [`Note::new`].
impl From<&str> for Note {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// As [`Note::new`].
impl From<String> for Note {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// A note of another client, which may have stored anything: cut, on one line, and without characters that
/// move the cursor or reorder the text around them.
pub(crate) fn foreign(text: &[u8]) -> String {
    printable(&String::from_utf8_lossy(&text[..text.len().min(Note::MAX_LEN)]))
}

fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        // Quotes and backslashes stay: what matters is that nothing is invisible.
        if matches!(letter, '"' | '\'' | '\\') {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_debug());
        }
    }
    shown
}

fn described(host: Option<&str>, pid: u32, text: &str) -> String {
    let host = host.map_or_else(String::new, |host| format!("{host} "));
    if text.is_empty() { format!("{host}pid {pid}") } else { format!("{host}pid {pid}: {text}") }
}

fn host() -> Option<String> {
    let kernels = if cfg!(any(target_os = "linux", target_os = "android")) {
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok()
    } else {
        None
    };
    let variable = || ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| env::var(name).ok());
    let host = kernels.or_else(variable)?;
    Some(host.trim().to_owned()).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character() {
        assert_eq!(Note::new("a".repeat(256)).as_str().len(), 256);
        assert_eq!(Note::new("a".repeat(257)).as_str().len(), 256);
        // 255 would be within the last one.
        let long = Note::new("\u{20ac}".repeat(86));
        assert_eq!((long.as_str().len(), long.as_str().chars().count()), (255, 85));
    }

    #[test]
    fn a_process_is_described_by_what_is_known_of_it() {
        assert_eq!(described(Some("build-3"), 42, "nightly report"), "build-3 pid 42: nightly report");
        assert_eq!(described(None, 42, "nightly report"), "pid 42: nightly report");
        assert_eq!(described(Some("build-3"), 42, ""), "build-3 pid 42");
        let pid = format!("pid {}: x", process::id());
        assert!(Note::of_process("x").as_str().ends_with(&pid));
        #[cfg(target_os = "linux")]
        assert_ne!(Note::of_process("x").as_str(), pid, "there is a host name");
    }

    #[test]
    fn a_foreign_note_is_one_printable_line() {
        for (stored, shown) in [
            (&b"host pid 1: it's \"C:\\\""[..], "host pid 1: it's \"C:\\\""),
            ("n\u{e4}chtlich \u{6771}".as_bytes(), "n\u{e4}chtlich \u{6771}"),
            (b"a\nb\r\x1b[2J\0", "a\\nb\\r\\u{1b}[2J\\0"),
            // The order of what follows, and no width.
            ("\u{202e}x\u{200b}".as_bytes(), "\\u{202e}x\\u{200b}"),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(foreign(stored), shown);
        }
        assert_eq!(foreign(&[b'a'; 1_000]).len(), Note::MAX_LEN);
        assert_eq!(Note::new("a\nb").to_string(), "a\\nb");
    }

    #[test]
    fn a_note_takes_a_word_of_each_lock() {
        assert_eq!(size_of::<Option<Note>>(), size_of::<usize>());
    }
}
