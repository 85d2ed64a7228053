//! Processes, as the system sees them: which are alive, and which this process has to reap.

use std::{fs, io, process::Command};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// The program that is running, even if its file was replaced or removed: `/proc` leads to the original.
pub(crate) fn own_program() -> io::Result<Command> {
    const RUNNING: &str = "/proc/self/exe";
    if fs::symlink_metadata(RUNNING).is_ok() {
        let mut command = Command::new(RUNNING);
        std::os::unix::process::CommandExt::arg0(&mut command, "redlock");
        return Ok(command);
    }
    std::env::current_exe().map(Command::new)
}

/// Makes this process the parent of the processes that its children leave behind, where the system can
/// (Linux): as long as it runs, no other process has to reap them.
pub(crate) fn adopt_orphans() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Reaps the children that have died, except for those that other code waits for.
pub(crate) fn reap_orphans(waited_for: &[Pid]) {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return;
    }
    let Ok(children) = fs::read_dir("/proc") else { return };
    let own = rustix::process::getpid();
    for pid in children.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let dead_child = stat(pid).is_some_and(|stat| stat.parent == own.as_raw_pid() && stat.is_dead());
        if let Some(pid) = Pid::from_raw(pid).filter(|pid| dead_child && !waited_for.contains(pid)) {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// Whether a process has died and nobody has waited for it, if the system shows it.
pub(crate) fn is_zombie(pid: Pid) -> bool {
    stat(pid.as_raw_pid()).is_some_and(|stat| stat.is_dead())
}

/// Whether all processes that are left of a group have died and nobody has waited for them, if the system
/// shows it.
pub(crate) fn are_zombies(group: Pid) -> bool {
    // Where the processes of other users are hidden, one of the group can be among them.
    if stat(1).is_none() {
        return false;
    }
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let members = pids.filter_map(stat).filter(|stat| stat.group == group.as_raw_pid());
    let dead: Vec<bool> = members.map(|stat| stat.is_dead()).collect();
    !dead.is_empty() && dead.into_iter().all(|dead| dead)
}

fn stat(pid: i32) -> Option<Stat> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return None;
    }
    Stat::read(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// The first fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    group: i32,
}

impl Stat {
    /// The program's name comes before them in parentheses, and may contain anything.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.rsplit_once(')')?.1.split_whitespace();
        let state = words.next()?.chars().next()?;
        Some(Self { state, parent: words.next()?.parse().ok()?, group: words.next()?.parse().ok()? })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_parsed_whatever_the_name_of_its_program() {
        let read = Stat::read("17 (a) S 1 (b) Z 4 5 6 0 -1").unwrap();
        assert_eq!(read, Stat { state: 'Z', parent: 4, group: 5 });
        assert!(read.is_dead());
        for line in ["", "17", "17 (a)", "17 (a) S", "17 (a) S 1", "17 (a) S x 2"] {
            assert_eq!(Stat::read(line), None, "{line}");
        }
    }
}
