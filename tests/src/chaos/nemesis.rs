//! Injects faults into a run: into real servers, the network in front of them, and the workers.

use std::{
    fmt,
    io::{self, Write},
    net::TcpStream,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::ChaCha8Rng, seq::SliceRandom};

use super::{Fleet, history::now};
use crate::{
    proxy::Then,
    server::{ReservedPort, Server},
};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node is killed (kill -9), and restarts with its data.
    KillNode,
    /// A node is stopped (SIGSTOP) and resumed; the kernel buffers what it is sent meanwhile.
    StopNode,
    /// A node does not reply for a while (CLIENT PAUSE).
    Pause,
    /// Replies are late.
    Delay,
    /// Connections are cut.
    Cut,
    /// Connections are cut, and no new ones are accepted for a while.
    Refuse,
    /// Nothing passes for a while, and then it arrives late.
    Hold,
    /// Replies are lost.
    Eat,
    /// A node is out of memory.
    Memory,
    /// A node is a read-only replica.
    ReadOnly,
    /// A node requires a password.
    Password,
    /// A node runs a script that does not end.
    Busy,
    /// A worker is killed (kill -9) and replaced.
    KillWorker,
    /// A worker is stopped (SIGSTOP) and resumed.
    StopWorker,
    /// All data of all nodes is flushed. Breaks an assumption of the lock.
    Flush,
    /// A majority of the nodes restarts without its data. Breaks an assumption of the lock.
    RestartEmpty,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 16] = [
        Self::KillNode,
        Self::StopNode,
        Self::Pause,
        Self::Delay,
        Self::Cut,
        Self::Refuse,
        Self::Hold,
        Self::Eat,
        Self::Memory,
        Self::ReadOnly,
        Self::Password,
        Self::Busy,
        Self::KillWorker,
        Self::StopWorker,
        Self::Flush,
        Self::RestartEmpty,
    ];

    /// All faults that a lock has to survive.
    #[must_use]
    pub fn survivable() -> Vec<Self> {
        Self::ALL.into_iter().filter(|fault| !fault.breaks()).collect()
    }

    /// Whether it breaks an assumption of the lock, so that two workers may hold one.
    #[must_use]
    pub fn breaks(self) -> bool {
        matches!(self, Self::Flush | Self::RestartEmpty)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillNode => "kill-node",
            Self::StopNode => "stop-node",
            Self::Pause => "pause",
            Self::Delay => "delay",
            Self::Cut => "cut",
            Self::Refuse => "refuse",
            Self::Hold => "hold",
            Self::Eat => "eat",
            Self::Memory => "memory",
            Self::ReadOnly => "read-only",
            Self::Password => "password",
            Self::Busy => "busy",
            Self::KillWorker => "kill-worker",
            Self::StopWorker => "stop-worker",
            Self::Flush => "flush",
            Self::RestartEmpty => "restart-empty",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The faults of a list of names, separated by commas: `all` are those that a lock survives, and `-name`
/// removes one.
#[derive(Clone, Debug)]
pub struct Faults(pub Vec<Fault>);

impl FromStr for Faults {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let known = |name: &str| {
            let names = || Fault::ALL.map(Fault::name).join(", ");
            let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
            found.ok_or_else(|| format!("no fault {name:?}; there are {}", names()))
        };
        let mut faults = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match (name, name.strip_prefix('-')) {
                ("all", _) => faults = Fault::survivable(),
                ("none", _) => faults.clear(),
                (_, Some(name)) => {
                    let taken = known(name)?;
                    faults.retain(|fault| *fault != taken);
                }
                (name, None) => faults.push(known(name)?),
            }
        }
        Ok(Self(faults))
    }
}

/// In a way in which it is read.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Fault::survivable() {
            return f.write_str("all");
        }
        f.write_str("none")?;
        self.0.iter().try_for_each(|fault| write!(f, ",{fault}"))
    }
}

/// A fault that struck.
#[derive(Clone, Debug)]
pub struct Strike {
    /// The fault.
    pub fault: Fault,
    /// Its start, on the clock of the histories.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
    /// The nodes that it struck.
    pub nodes: Vec<usize>,
    /// The worker that it struck.
    pub worker: Option<usize>,
}

/// Injects one fault after the other until the end, and passes each on. The last one is ended properly.
pub(crate) fn inject(
    fleet: &Fleet,
    mut rng: ChaCha8Rng,
    faults: &[Fault],
    end: Instant,
    mut struck: impl FnMut(Strike),
) {
    let mut bag: Vec<Fault> = Vec::new();
    while Instant::now() < end && !faults.is_empty() {
        if bag.is_empty() {
            bag = faults.to_vec();
            bag.shuffle(&mut rng);
        }
        let Some(fault) = bag.pop() else { continue };
        struck(strike(fleet, &mut rng, fault));
        thread::sleep(Duration::from_millis(rng.random_range(0..600)));
    }
}

fn strike(fleet: &Fleet, rng: &mut ChaCha8Rng, fault: Fault) -> Strike {
    let mut strike =
        Strike { fault, from: Duration::ZERO, to: Duration::ZERO, nodes: Vec::new(), worker: None };
    let length = Duration::from_millis(match fault {
        Fault::Busy => rng.random_range(50..400),
        _ if rng.random_bool(0.2) => rng.random_range(1_000..5_000),
        _ => rng.random_range(50..1_000),
    });
    match fault {
        Fault::KillWorker | Fault::StopWorker => {
            let number = rng.random_range(0..fleet.workers.len());
            strike.worker = Some(number);
            let mut worker = fleet.worker(number);
            strike.from = now();
            if fault == Fault::KillWorker {
                worker.kill();
                thread::sleep(length / 10);
                worker.start();
            } else if worker.stop() {
                thread::sleep(length);
                worker.go_on();
            }
        }
        _ => {
            let number = fleet.nodes.len();
            let minority = (number - 1) / 2;
            let struck = match rng.random_range(0..100) {
                _ if fault == Fault::Flush => number,
                _ if fault == Fault::RestartEmpty => number - minority,
                0..60 => 1,
                60..80 => minority,
                _ => number - minority,
            };
            let mut nodes: Vec<usize> = (0..number).collect();
            nodes.shuffle(rng);
            nodes.truncate(struck);
            // In the same order everywhere, so that there is no deadlock.
            nodes.sort_unstable();
            let mut held: Vec<_> = nodes.iter().map(|node| fleet.node(*node)).collect();
            strike.from = now();
            let undo: Vec<_> = held.iter_mut().map(|node| node.begin(fault, length)).collect();
            thread::sleep(length);
            for (node, undo) in held.iter_mut().zip(undo) {
                node.end(fault, undo);
            }
            strike.nodes = nodes;
        }
    }
    strike.to = now();
    strike
}

/// The resources that a fault needs while it lasts.
enum Lasting {
    Nothing,
    Master { _port: ReservedPort },
    Script { _connection: io::Result<TcpStream> },
}

impl super::Node {
    fn begin(&mut self, fault: Fault, length: Duration) -> Lasting {
        let Self { server, proxy } = self;
        match fault {
            Fault::KillNode => server.kill(),
            Fault::StopNode => server.pause(),
            Fault::Pause => {
                server.command::<()>(&["CLIENT", "PAUSE", &length.as_millis().to_string(), "ALL"]);
            }
            Fault::Delay => proxy.delay_replies(length / 4),
            Fault::Cut => proxy.cut(),
            Fault::Refuse => proxy.refuse(),
            Fault::Hold => proxy.hold(),
            Fault::Eat => proxy.eat_replies(OF_REQUESTS, 8, Then::Cut),
            Fault::Memory => server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]),
            Fault::ReadOnly => {
                // A master that never replies: so the data stays.
                let port = ReservedPort::new();
                server.command::<()>(&["REPLICAOF", "127.0.0.1", &port.number().to_string()]);
                return Lasting::Master { _port: port };
            }
            Fault::Password => {
                server.set_password("secret");
                // Open connections stay authenticated.
                proxy.cut();
            }
            Fault::Busy => return Lasting::Script { _connection: endless_script(server) },
            Fault::Flush => server.command::<()>(&["FLUSHALL"]),
            Fault::RestartEmpty => server.restart_empty(),
            Fault::KillWorker | Fault::StopWorker => {}
        }
        Lasting::Nothing
    }

    fn end(&mut self, fault: Fault, lasting: Lasting) {
        let Self { server, proxy } = self;
        match fault {
            Fault::KillNode => server.restart(),
            Fault::StopNode => server.resume(),
            Fault::Delay => proxy.delay_replies(Duration::ZERO),
            Fault::Refuse => proxy.accept(),
            Fault::Hold => proxy.release(),
            Fault::Eat => proxy.eat_replies(OF_REQUESTS, 0, Then::Cut),
            Fault::Memory => server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]),
            Fault::ReadOnly => server.command::<()>(&["REPLICAOF", "NO", "ONE"]),
            Fault::Password => server.set_password(""),
            Fault::Busy => {
                // The script may not have begun yet.
                let killed = (0..100).any(|_| {
                    let killed = server.try_command::<String>(&["SCRIPT", "KILL"]);
                    thread::sleep(Duration::from_millis(10));
                    killed.is_ok()
                });
                assert!(killed, "no script to kill");
            }
            Fault::Pause
            | Fault::Cut
            | Fault::Flush
            | Fault::RestartEmpty
            | Fault::KillWorker
            | Fault::StopWorker => {}
        }
        drop(lasting);
    }
}

/// In each request: the length of its token.
const OF_REQUESTS: &str = "$40\r\n";

/// Makes a node run a script that ends when it is killed.
fn endless_script(server: &Server) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(server.address())?;
    connection.write_all(b"EVAL \"while true do end\" 0\r\n")?;
    Ok(connection)
}
