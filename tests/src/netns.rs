//! A network namespace for one server. It can be cut off: then the kernel silently drops all packets.

use std::{
    fmt,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicU8, Ordering},
};

/// A network namespace, and the pair of virtual interfaces that leads there. `Drop` removes them.
///
/// Needs root, and `ip` of iproute2.
pub struct Namespace {
    name: String,
    /// The interface on the host's side.
    device: String,
    /// The third octet of both addresses: 198.18.x.1 and 198.18.x.2, of the range reserved for tests.
    network: u8,
    /// The hardware addresses of the host's side and of the namespace's.
    hardware: [String; 2],
}

impl Namespace {
    /// Creates one.
    ///
    /// # Panics
    ///
    /// Without root, or without iproute2.
    #[must_use]
    pub fn new() -> Self {
        remove_leftovers();
        static MADE: AtomicU8 = AtomicU8::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let [.., low] = process::id().to_be_bytes();
        let network = low.wrapping_add(number);
        let name = format!("{PREFIX}{}-{number}", process::id());
        let device = format!("rl{}.{number}", process::id());
        let hardware = [1, 2].map(|end| format!("02:00:00:00:{network:02x}:{end:02x}"));
        let namespace = Self { name, device, network, hardware };
        let Self { name, device, hardware: [here, there], .. } = &namespace;
        let ends = [namespace.here(), namespace.address()].map(|address| format!("{address}/30"));
        ip(&["netns", "add", name]);
        ip(&[
            "link", "add", device, "address", here, "type", "veth", "peer", "name", "there", "address",
            there, "netns", name,
        ]);
        ip(&["addr", "add", &ends[0], "dev", device]);
        ip(&["link", "set", device, "up"]);
        ip(&["-n", name, "addr", "add", &ends[1], "dev", "there"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        ip(&["-n", name, "link", "set", "there", "up"]);
        namespace.heal();
        namespace
    }

    /// The address of a server in the namespace.
    #[must_use]
    pub fn address(&self) -> String {
        format!("198.18.{}.2", self.network)
    }

    /// Blocks both directions, without any error. Each side gets a hardware address that does not exist for
    /// the other one, so its kernel sends and retransmits, and the other kernel drops the packets.
    pub fn cut(&self) {
        self.neighbours(NOBODY, NOBODY);
    }

    /// Lets packets pass again.
    pub fn heal(&self) {
        let [here, there] = &self.hardware;
        self.neighbours(here, there);
    }

    /// The words before a command that runs in the namespace.
    pub(crate) fn inside(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    fn here(&self) -> String {
        format!("198.18.{}.1", self.network)
    }

    /// Sets the hardware address at which each side reaches the other one.
    fn neighbours(&self, here: &str, there: &str) {
        let fixed = ["nud", "permanent"];
        let known = |address: &str, hardware: &str, device: &str| {
            ["neigh", "replace", address, "lladdr", hardware, "dev", device].map(ToOwned::to_owned)
        };
        let ours = known(&self.address(), there, &self.device);
        let theirs = known(&self.here(), here, "there");
        ip(&[&strs(&ours)[..], &fixed].concat());
        ip(&[&["-n", &self.name], &strs(&theirs)[..], &fixed].concat());
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // This removes the interfaces, too.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.name).finish()
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run `ip`: {error}; {HINT}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`ip {}` says {said:?}; {HINT}", words.join(" "));
}

/// Removes the namespaces of processes that were killed.
fn remove_leftovers() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in list.lines().filter_map(|line| line.split(' ').next()) {
        let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

const PREFIX: &str = "redlock-";
/// A locally administered address, like those of the interfaces.
const NOBODY: &str = "02:00:00:00:00:99";
const HINT: &str = "it needs iproute2, which `./tests/run` installs, and root";
