//! A real master with a replica, watched by a Sentinel, on loopback.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed test panics with its reason"
)]

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::server::Server;

/// The name of the master.
pub const MASTER: &str = "mymaster";

/// A master, its replica, and a Sentinel that can swap their roles.
#[derive(Debug)]
pub struct Watched {
    /// At first, the first one is the master.
    pub servers: [Server; 2],
    /// The Sentinel.
    pub sentinel: Server,
}

impl Watched {
    /// Starts them, with further options for the servers, and waits until a failover is possible.
    pub fn start(options: &[&str]) -> Self {
        let fast = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let master = Server::start_with(&[&fast[..], options].concat());
        let port = master.port().to_string();
        let follow = ["--replicaof", "127.0.0.1", &port];
        let replica = Server::start_with(&[&fast[..], options, &follow].concat());
        wait_until("the replica follows", || {
            let info: String = replica.command(&["INFO", "replication"]);
            info.contains("master_link_status:up")
        });
        // The Sentinel searches for replicas when it starts, and then only every ten seconds.
        let sentinel = Server::start_sentinel(&format!(
            "sentinel monitor {MASTER} 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds {MASTER} 500\n\
             sentinel failover-timeout {MASTER} 3000\n"
        ));
        let watched = Self { servers: [master, replica], sentinel };
        wait_until("the Sentinel knows both", || {
            let info: String = watched.sentinel.command(&["INFO", "sentinel"]);
            info.contains("status=ok") && info.contains("slaves=1")
        });
        watched
    }

    /// The port of the master, according to the Sentinel.
    pub fn master_port(&self) -> u16 {
        let (_, port): (String, u16) =
            self.sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        port
    }

    /// Promotes the second server while both run.
    pub fn fail_over(&self) {
        // Right after its start, the Sentinel does not know enough about the replica.
        wait_until("a replica that can be promoted", || {
            self.sentinel.try_command::<()>(&["SENTINEL", "FAILOVER", MASTER]).is_ok()
        });
        self.wait_for_failover();
    }

    /// Waits until the Sentinel and the second server agree that it is the master.
    pub fn wait_for_failover(&self) {
        // The Sentinel disconnects all clients from a server that it promotes.
        let promoted = |info: String| info.contains("role:master");
        wait_until("the replica is promoted", || {
            self.servers[1].try_command(&["INFO", "replication"]).is_ok_and(promoted)
                && self.master_port() == self.servers[1].port()
        });
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "{what}: not after {BOUND:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

const BOUND: Duration = Duration::from_secs(30);
