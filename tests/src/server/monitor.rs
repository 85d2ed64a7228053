//! What a server's `MONITOR` prints.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

/// The commands that clients send to a server, in the order in which it runs them.
#[derive(Debug)]
pub struct Monitor(BufReader<TcpStream>);

impl Monitor {
    /// Records from now on. A read waits for no longer than `patience`.
    pub(super) fn of(address: &str, patience: Duration) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        stream.write_all(b"MONITOR\r\n").expect("an open connection");
        let mut monitor = Self(BufReader::new(stream));
        assert_eq!(monitor.line(), "+OK");
        monitor
    }

    /// The names of the commands, up to the first one that contains `mark`. That one is left out, and so are
    /// the commands of scripts.
    pub fn until(&mut self, mark: &str) -> Vec<String> {
        let name = |line: String| line.split('"').nth(1).expect("a quoted name").to_owned();
        self.lines_until(mark).into_iter().map(name).collect()
    }

    /// As [`Monitor::until`], with their arguments, as the server prints them.
    pub fn lines_until(&mut self, mark: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if line.contains(mark) {
                return lines;
            }
            if !line.contains(" lua] ") {
                lines.push(line);
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line from MONITOR");
        assert!(line.ends_with('\n'), "MONITOR ended: {line:?}");
        line.trim_end().to_owned()
    }
}
