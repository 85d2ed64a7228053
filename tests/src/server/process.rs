//! A server's process, which does not outlive this one.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use rustix::process::Pid;

/// A server, and the shell that ends it when this process ends, even if it is killed.
pub(super) struct Process {
    shell: Child,
    /// The shell's standard input: the shell ends the server when it is closed.
    pipe: Option<ChildStdin>,
    pid: Pid,
}

impl Process {
    /// The words of `place` precede the program.
    pub(super) fn spawn(
        place: &[&str],
        program: &str,
        file: Option<&str>,
        listens: &[&str],
        options: &[String],
        folder: &Path,
    ) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", RUN_SERVER])
            .args(place)
            .arg(program)
            .args(file)
            .args(listens)
            .args(["--save", "", "--daemonize", "no"])
            .args(options)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let pipe = shell.stdin.take();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line from the shell");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("cannot run `{program}`: {HINT}"));
        Self { shell, pipe, pid }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.shell.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The shell ends after the server.
        let _ = self.shell.wait();
    }
}

/// Runs the server and prints its pid. Kills the server when standard input is closed; ends after the server.
const RUN_SERVER: &str = r#"
command -v "$0" >/dev/null || { echo missing; exit 1; }
"$0" "$@" >>log 2>&1 </dev/null &
server=$!
echo "$server"
exec >/dev/null 3<&0
{ read -r _ <&3; kill -9 "$server"; } 2>/dev/null &
reader=$!
wait "$server" 2>/dev/null
kill "$reader" 2>/dev/null
"#;
const HINT: &str = "`./tests/run` installs it, or set REDIS_SERVER to the path of one";
