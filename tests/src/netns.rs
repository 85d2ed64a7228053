//! A network of its own for one server, which the kernel can cut off: what is sent then is dropped without a
//! word.

use std::{
    fmt,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicU8, Ordering},
};

/// A network namespace, and the pair of virtual interfaces that leads there. Gone when it is dropped.
///
/// Needs root, and `ip` of iproute2.
pub struct Island {
    name: String,
    /// The interface on this side.
    device: String,
    /// The two ends' third octet: they are 198.18.x.1 and 198.18.x.2, of the range that is kept for tests.
    network: u8,
    /// The hardware addresses here and there.
    hardware: [String; 2],
}

impl Island {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// Without root, or without iproute2.
    #[must_use]
    pub fn new() -> Self {
        remove_what_others_left();
        static MADE: AtomicU8 = AtomicU8::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let [.., low] = process::id().to_be_bytes();
        let network = low.wrapping_add(number);
        let name = format!("{PREFIX}{}-{number}", process::id());
        let device = format!("rl{}.{number}", process::id());
        let hardware = [1, 2].map(|end| format!("02:00:00:00:{network:02x}:{end:02x}"));
        let island = Self { name, device, network, hardware };
        let Self { name, device, hardware: [here, there], .. } = &island;
        let ends = [island.here(), island.address()].map(|address| format!("{address}/30"));
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
        island.heal();
        island
    }

    /// The address of what runs there.
    #[must_use]
    pub fn address(&self) -> String {
        format!("198.18.{}.2", self.network)
    }

    /// Lets nothing through, in either direction. Nobody is told: each side sends to a hardware address that
    /// nobody has, so its kernel sends, and sends again, and the other's drops it.
    pub fn cut(&self) {
        self.neighbours(NOBODY, NOBODY);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        let [here, there] = &self.hardware;
        self.neighbours(here, there);
    }

    /// The words before a command that is to run there.
    pub(crate) fn inside(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    fn here(&self) -> String {
        format!("198.18.{}.1", self.network)
    }

    /// Where each side takes the other one to be.
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

impl Default for Island {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // The interfaces go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

impl fmt::Debug for Island {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Island").field(&self.name).finish()
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

/// Namespaces of processes that were killed.
fn remove_what_others_left() {
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
/// Locally administered, as ours are.
const NOBODY: &str = "02:00:00:00:00:99";
const HINT: &str = "it needs iproute2, which `./tests/run` installs, and root";
