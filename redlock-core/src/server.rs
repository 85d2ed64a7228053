//! What a server reveals about itself, and what of it endangers locks.

// Tests: below; tests/tests/it/servers/server_info.rs.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the server behind a node reveals about itself, for
/// [`LockBackend::server`](crate::LockBackend::server).
///
/// A field is `None` where the server does not reveal it, or the backend cannot read it. A backend starts
/// from the default, in which all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// An identity that no other server has, and that is the same for all addresses and connections that lead
    /// to the server. With it, one server behind two nodes has one vote in a round.
    pub id: Option<Arc<str>>,
    /// The program and its version, such as `redis 7.0.15`.
    pub version: Option<String>,
    /// Whether it is a replica of another server.
    pub role: Option<ServerRole>,
    /// Whether this primary was a replica before, as far as it remembers: Redis and Valkey forget it when they
    /// have had no replica for an hour (`repl-backlog-ttl`).
    pub was_promoted: Option<bool>,
    /// Which keys it removes when its memory is full. `noeviction` means none.
    pub eviction_policy: Option<String>,
    /// Whether it logs each change to disk, in an append-only file. Snapshots lack the latest locks.
    pub is_persistent: Option<bool>,
    /// Its time of day.
    pub clock: Option<ServerClock>,
}

/// Whether a server is the replica of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerRole {
    /// It is no replica.
    Primary,
    /// It takes its keys from another server.
    Replica,
}

/// A server's time of day, read between two instants of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerClock {
    /// The time since the Unix epoch.
    pub since_epoch: Duration,
    /// Before the request was sent.
    pub asked: Instant,
    /// When the reply came.
    pub answered: Instant,
}

impl ServerClock {
    /// A time since the Unix epoch, read between these instants.
    #[must_use]
    pub fn new(since_epoch: Duration, asked: Instant, answered: Instant) -> Self {
        Self { since_epoch, asked, answered }
    }
}

/// Something about a server that may cost locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerRisk {
    /// It removes keys when its memory is full, locks too.
    Evicts {
        /// Its policy.
        policy: String,
    },
    /// It is a replica.
    IsReplica,
    /// It was promoted from a replica, and may lack the latest locks of the former primary.
    WasPromoted,
    /// It logs nothing to disk, so a restart forgets its locks. With
    /// [`RedlockBuilder::max_ttl`](crate::RedlockBuilder::max_ttl) that is no risk.
    ForgetsAtRestart,
}

impl ServerInfo {
    /// What of it may cost locks. What is not revealed is no risk.
    pub fn risks(&self) -> impl Iterator<Item = ServerRisk> {
        let policy = self.eviction_policy.as_ref().filter(|policy| *policy != NO_EVICTION);
        let evicts = policy.map(|policy| ServerRisk::Evicts { policy: policy.clone() });
        let is_replica = self.role == Some(ServerRole::Replica);
        let was_promoted = self.was_promoted == Some(true);
        let forgets = self.is_persistent == Some(false);
        let others = [
            (is_replica, ServerRisk::IsReplica),
            (was_promoted, ServerRisk::WasPromoted),
            (forgets, ServerRisk::ForgetsAtRestart),
        ];
        evicts.into_iter().chain(others.into_iter().filter_map(|(is, risk)| is.then_some(risk)))
    }
}

impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

impl fmt::Display for ServerRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicts { policy } => write!(
                f,
                "its eviction policy {policy} may remove locks: it should be {NO_EVICTION} \
                 (maxmemory-policy)"
            ),
            Self::IsReplica => f.write_str("it is a replica, which is no independent node"),
            Self::WasPromoted => {
                f.write_str("it was promoted from a replica, and may lack locks of the former primary")
            }
            Self::ForgetsAtRestart => f.write_str(
                "it has no append-only file, so a restart forgets its locks: set `appendonly`, or `max_ttl`",
            ),
        }
    }
}

const NO_EVICTION: &str = "noeviction";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_the_risks_that_it_reveals() {
        let risks = |info: &ServerInfo| info.risks().collect::<Vec<_>>();
        let unknown = ServerInfo::default();
        assert_eq!(risks(&unknown), []);
        let good = ServerInfo {
            role: Some(ServerRole::Primary),
            was_promoted: Some(false),
            eviction_policy: Some("noeviction".to_owned()),
            is_persistent: Some(true),
            ..ServerInfo::default()
        };
        assert_eq!(risks(&good), []);
        let evicts = ServerInfo { eviction_policy: Some("volatile-ttl".to_owned()), ..good.clone() };
        assert_eq!(risks(&evicts), [ServerRisk::Evicts { policy: "volatile-ttl".to_owned() }]);
        let replica = ServerInfo { role: Some(ServerRole::Replica), ..good.clone() };
        assert_eq!(risks(&replica), [ServerRisk::IsReplica]);
        let promoted = ServerInfo { was_promoted: Some(true), is_persistent: Some(false), ..good };
        assert_eq!(risks(&promoted), [ServerRisk::WasPromoted, ServerRisk::ForgetsAtRestart]);
    }
}
