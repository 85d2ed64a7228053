//! A real Redis Cluster of masters on loopback.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed test panics with its reason"
)]

use std::{
    iter, thread,
    time::{Duration, Instant},
};

use redis::RedisResult;

use crate::{
    proxy::Proxy,
    server::{ReservedPort, Server},
};

/// Servers that share the slots: the first has the lowest ones.
#[derive(Debug)]
pub struct Cluster {
    /// The masters.
    pub servers: Vec<Server>,
    /// The ports of the cluster bus.
    _ports: Vec<ReservedPort>,
}

impl Cluster {
    /// Starts a cluster of masters, with further options for each, and waits until it is ready.
    pub fn start(masters: usize, options: &[&str]) -> Self {
        let ports: Vec<_> = (0..masters).map(|_| ReservedPort::new()).collect();
        let start = |port: &ReservedPort| {
            let port = port.number().to_string();
            let mut all =
                vec!["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", "1000"];
            all.extend(options);
            Server::start_with(&all)
        };
        let servers: Vec<_> = ports.iter().map(start).collect();
        for (index, server) in servers.iter().enumerate() {
            let (first, end) = (index * SLOTS / masters, (index + 1) * SLOTS / masters);
            let (first, last) = (first.to_string(), (end - 1).to_string());
            server.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            server.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (server, port) in servers.iter().zip(&ports) {
            let (to, bus) = (server.port().to_string(), port.number().to_string());
            servers[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &to, &bus]);
        }
        let cluster = Self { servers, _ports: ports };
        cluster.wait_until("the cluster is whole", |server| {
            server.try_command(&["CLUSTER", "INFO"]).is_ok_and(|info: String| {
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && info.contains(&format!("cluster_known_nodes:{masters}\r\n"))
            })
        });
        cluster
    }

    /// Starts a cluster in which clients reach each server through a proxy.
    pub fn start_behind_proxies(masters: usize, options: &[&str]) -> (Self, Vec<Proxy>) {
        let cluster = Self::start(masters, options);
        let proxies: Vec<_> = cluster.servers.iter().map(Proxy::to).collect();
        for (server, proxy) in cluster.servers.iter().zip(&proxies) {
            server.command::<()>(&["CONFIG", "SET", "cluster-announce-port", &proxy.port().to_string()]);
        }
        cluster.wait_until("every server knows the others' proxies", |server| {
            server.try_command(&["CLUSTER", "NODES"]).is_ok_and(|nodes: String| {
                proxies.iter().all(|proxy| nodes.contains(&format!(":{}@", proxy.port())))
            })
        });
        (cluster, proxies)
    }

    /// The URLs of all servers.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// The position of the server that has a key's slot.
    pub fn owner(&self, key: &str) -> usize {
        self.servers
            .iter()
            .position(|server| server.try_command::<Option<String>>(&["GET", key]).is_ok())
            .expect("an owner of the slot")
    }

    /// The value of a key, from whichever server runs.
    pub fn get(&self, key: &str) -> Option<String> {
        let ask = |server: &Server| -> RedisResult<Option<String>> { server.try_command(&["GET", key]) };
        self.servers.iter().find_map(|server| ask(server).ok().flatten())
    }

    /// Moves the slot of a free key to another server.
    pub fn move_slot(&self, key: &str, to: usize) {
        let slot: u16 = self.servers[0].command(&["CLUSTER", "KEYSLOT", key]);
        let id: String = self.servers[to].command(&["CLUSTER", "MYID"]);
        // The new owner first, as the Cluster specification says.
        let others = (0..self.servers.len()).filter(|other| *other != to);
        for index in iter::once(to).chain(others) {
            let slot = slot.to_string();
            self.servers[index].command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Server) -> bool) {
        let start = Instant::now();
        while !self.servers.iter().all(&condition) {
            assert!(start.elapsed() < BOUND, "{what}: not after {BOUND:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

const SLOTS: usize = 16_384;
const BOUND: Duration = Duration::from_secs(30);
