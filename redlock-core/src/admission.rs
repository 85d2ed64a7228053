//! Whether a node that grants has a vote: not while its server may have forgotten locks, and, on request, not
//! on a server that endangers them.

// Tests: below; tests/tests/it/sim/restart_guard.rs, servers/restart_guard.rs.

use std::time::Duration;

use crate::{
    backend::{BackendError, BackendErrorKind},
    server::{ServerInfo, ServerRisk},
};

/// The conditions for a vote in a round that acquires. An extension or a take-over needs none of them: it
/// finds its keys on the node, so they have not been forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Admission {
    /// The longest TTL of any lock. With it, a server has to run for as long before it votes.
    pub(crate) max_ttl: Option<Duration>,
    /// Whether a node votes although its backend cannot tell how long its server has been running.
    pub(crate) unknown_uptime_votes: bool,
    /// Whether a server with a risk has no vote.
    pub(crate) safe_servers_only: bool,
}

impl Admission {
    /// Whether there are any conditions.
    pub(crate) fn is_needed(&self) -> bool {
        self.max_ttl.is_some() || self.safe_servers_only
    }

    /// What of the server may cost locks of this manager.
    pub(crate) fn risks(&self, server: &ServerInfo) -> impl Iterator<Item = ServerRisk> {
        let is_guarded = self.max_ttl.is_some();
        server.risks().filter(move |risk| !is_guarded || *risk != ServerRisk::ForgetsAtRestart)
    }

    /// Whether a node has a vote. `uptime` is read only if it matters.
    ///
    /// # Errors
    ///
    /// Why it has none: transient if time helps, else rejected.
    pub(crate) fn check(
        &self,
        uptime: impl FnOnce() -> Result<Duration, BackendError>,
        server: Option<&ServerInfo>,
    ) -> Result<(), BackendError> {
        if let Some(max_ttl) = self.max_ttl {
            self.check_uptime(uptime(), max_ttl)?;
        }
        if self.safe_servers_only {
            self.check_server(server)?;
        }
        Ok(())
    }

    /// Every lock that a server forgot when it restarted began before, and lives for `max_ttl` at most.
    fn check_uptime(
        &self,
        uptime: Result<Duration, BackendError>,
        max_ttl: Duration,
    ) -> Result<(), BackendError> {
        match uptime {
            Ok(uptime) if uptime >= max_ttl => Ok(()),
            Ok(uptime) => {
                let message = format!(
                    "its server has been running for {}, and may have forgotten locks from before: it votes \
                     after {}",
                    readable(uptime),
                    readable(max_ttl)
                );
                Err(BackendError::new(BackendErrorKind::Transient, message))
            }
            Err(error) if error.kind() == BackendErrorKind::Rejected => {
                if self.unknown_uptime_votes {
                    return Ok(());
                }
                let message = format!("{}, or build with `unknown_uptime_votes()`", error.message());
                Err(BackendError::new(BackendErrorKind::Rejected, message))
            }
            Err(error) => Err(error),
        }
    }

    fn check_server(&self, server: Option<&ServerInfo>) -> Result<(), BackendError> {
        let rejected = |message| Err(BackendError::new(BackendErrorKind::Rejected, message));
        let Some(server) = server.filter(|server| server.role.is_some()) else {
            return rejected(
                "it is not known whether its server is safe: it does not reveal its role".into(),
            );
        };
        match self.risks(server).next() {
            Some(risk) => rejected(risk.to_string()),
            None => Ok(()),
        }
    }
}

/// In whole seconds, or ms if it is short.
fn readable(time: Duration) -> String {
    if time < SHORT { format!("{} ms", time.as_millis()) } else { format!("{} s", time.as_secs()) }
}

const SHORT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ServerRole;

    const MAX_TTL: Duration = Duration::from_secs(30);

    fn guarded() -> Admission {
        Admission { max_ttl: Some(MAX_TTL), ..Admission::default() }
    }

    fn strict() -> Admission {
        Admission { safe_servers_only: true, ..Admission::default() }
    }

    fn failed(kind: BackendErrorKind) -> Result<Duration, BackendError> {
        Err(BackendError::new(kind, "ask for it"))
    }

    fn safe() -> ServerInfo {
        ServerInfo {
            role: Some(ServerRole::Primary),
            was_promoted: Some(false),
            eviction_policy: Some("noeviction".to_owned()),
            is_persistent: Some(true),
            ..ServerInfo::default()
        }
    }

    #[test]
    fn without_conditions_nothing_is_asked_and_every_node_votes() {
        let never = || -> Result<Duration, BackendError> { unreachable!("it does not matter") };
        let all = Admission { unknown_uptime_votes: true, ..Admission::default() };
        for admission in [Admission::default(), all] {
            assert!(!admission.is_needed());
            assert!(admission.check(never, None).is_ok());
        }
        assert!(guarded().is_needed() && strict().is_needed());
    }

    #[test]
    fn a_server_votes_once_it_has_run_for_as_long_as_the_longest_lock_lives() {
        let check = |uptime| guarded().check(|| Ok(uptime), None).map_err(|error| error.to_string());
        let says = |ran: &str| {
            Err(format!(
                "transient: its server has been running for {ran}, and may have forgotten locks from before: \
                 it votes after 30 s"
            ))
        };
        assert_eq!(check(Duration::ZERO), says("0 ms"));
        assert_eq!(check(Duration::from_millis(9_999)), says("9999 ms"));
        assert_eq!(check(Duration::from_secs(12)), says("12 s"));
        assert_eq!(check(MAX_TTL - Duration::from_nanos(1)), says("29 s"));
        assert_eq!(check(MAX_TTL), Ok(()));
        assert_eq!(check(Duration::MAX), Ok(()));
    }

    #[test]
    fn an_unknown_uptime_is_rejected_unless_it_was_chosen_to_vote() {
        use BackendErrorKind::{Rejected, Transient};

        let error = guarded().check(|| failed(Rejected), None).unwrap_err();
        assert_eq!(error.to_string(), "rejected: ask for it, or build with `unknown_uptime_votes()`");
        let chosen = Admission { unknown_uptime_votes: true, ..guarded() };
        assert!(chosen.check(|| failed(Rejected), None).is_ok());
        // What will be known soon is waited for, and what is known counts.
        assert!(chosen.check(|| failed(Transient), None).is_err());
        assert!(chosen.check(|| Ok(Duration::ZERO), None).is_err());
    }

    #[test]
    fn a_server_with_a_risk_or_without_a_role_is_rejected_on_request() {
        let check = |server| {
            let checked = strict().check(|| failed(BackendErrorKind::Rejected), server);
            checked.map_err(|error| (error.kind(), error.message().to_owned()))
        };
        let safe = safe();
        assert_eq!(check(Some(&safe)), Ok(()));
        let replica = ServerInfo { role: Some(ServerRole::Replica), ..safe.clone() };
        let (kind, message) = check(Some(&replica)).unwrap_err();
        assert_eq!((kind, message), (BackendErrorKind::Rejected, ServerRisk::IsReplica.to_string()));
        for unknown in [None, Some(&ServerInfo::default())] {
            assert!(check(unknown).unwrap_err().1.contains("not known"), "{unknown:?}");
        }
    }

    #[test]
    fn with_the_guard_a_server_may_forget() {
        let forgets = ServerInfo { is_persistent: Some(false), ..safe() };
        assert!(strict().check(|| Ok(MAX_TTL), Some(&forgets)).is_err());
        let both = Admission { safe_servers_only: true, ..guarded() };
        assert!(both.check(|| Ok(MAX_TTL), Some(&forgets)).is_ok());
        assert!(both.check(|| Ok(Duration::ZERO), Some(&forgets)).is_err());
    }
}
