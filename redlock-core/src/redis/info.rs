//! What a server replies to the question about itself.

// Tests: below; tests/tests/it/servers/server_info.rs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    note::foreign,
    server::{ServerClock, ServerInfo, ServerRole},
};

/// A reply to [`Command::server_info`](super::Command::server_info).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAnswer {
    pub(super) info: Arc<ServerInfo>,
    pub(super) uptime: Option<Duration>,
    pub(super) answered: Instant,
}

impl ServerAnswer {
    /// Reads the reply to a question that was sent after `asked`, and whose reply came before `answered`.
    #[must_use]
    pub fn parse(reply: &[u8], asked: Instant, answered: Instant) -> Self {
        let text = String::from_utf8_lossy(reply);
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.find_map(|(field, value)| (field == name).then(|| value.trim()))
        };
        let role = field("role").map(role);
        // These are shown to people.
        let shown = |name: &str| field(name).map(|value| foreign(value.as_bytes()));
        let version = |program: &str, name: &str| shown(name).map(|number| format!("{program} {number}"));
        let clock = field("server_time_usec").and_then(|micros| micros.parse().ok());
        let info = ServerInfo {
            id: field("run_id").filter(|id| is_run_id(id)).map(Arc::from),
            version: version("valkey", "valkey_version").or_else(|| version("redis", "redis_version")),
            role,
            // A replica remembers the id of its own primary.
            was_promoted: field("master_replid2")
                .map(|id| role == Some(ServerRole::Primary) && id.chars().any(|digit| digit != '0')),
            eviction_policy: shown("maxmemory_policy"),
            is_persistent: field("aof_enabled").map(|enabled| enabled != "0"),
            clock: clock.map(|micros| ServerClock::new(Duration::from_micros(micros), asked, answered)),
        };
        let uptime = field("uptime_in_seconds").and_then(uptime);
        Self { info: Arc::new(info), uptime, answered }
    }

    /// How long the server has been running at least, at `now`.
    pub(super) fn uptime(&self, now: Instant) -> Option<Duration> {
        self.uptime.map(|uptime| uptime.saturating_add(now.saturating_duration_since(self.answered)))
    }
}

/// Whether it is a `run_id`, and not the zeros of some services.
fn is_run_id(text: &str) -> bool {
    let mut digits = text.chars();
    let first = digits.next();
    text.len() == DIGITS
        && text.chars().all(|digit| digit.is_ascii_hexdigit())
        && digits.any(|digit| Some(digit) != first)
}

/// Servers that are both, such as an active replica, may lose writes like a replica.
fn role(text: &str) -> ServerRole {
    if matches!(text, "master" | "primary") { ServerRole::Primary } else { ServerRole::Replica }
}

/// At least so long: the server subtracts two times of day, each without its part of a second. The time of
/// day may have been set back since its start.
fn uptime(seconds: &str) -> Option<Duration> {
    let seconds: i64 = seconds.parse().ok()?;
    Some(Duration::from_secs(u64::try_from(seconds.saturating_sub(1)).unwrap_or(0)))
}

const DIGITS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[allow(clippy::disallowed_methods)]
    fn now() -> Instant {
        Instant::now()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn parse(reply: &str) -> ServerAnswer {
        let now = now();
        ServerAnswer::parse(reply.as_bytes(), now, now)
    }

    #[test]
    fn a_reply_is_read_field_by_field() {
        let (asked, answered) = (now(), now() + s(1));
        let reply = format!(
            "\nrun_id:{ID}\nuptime_in_seconds:61\nredis_version:7.0.15\nserver_time_usec:1700000000000001\n\
             role:master\nmaster_replid2:{}\r\nmaxmemory_policy:volatile-lru\naof_enabled:0",
            "0".repeat(40)
        );
        let answer = ServerAnswer::parse(reply.as_bytes(), asked, answered);
        let since_epoch = Duration::from_micros(1_700_000_000_000_001);
        let expected = ServerInfo {
            id: Some(ID.into()),
            version: Some("redis 7.0.15".to_owned()),
            role: Some(ServerRole::Primary),
            was_promoted: Some(false),
            eviction_policy: Some("volatile-lru".to_owned()),
            is_persistent: Some(false),
            clock: Some(ServerClock::new(since_epoch, asked, answered)),
        };
        assert_eq!(*answer.info, expected);
        assert_eq!(answer.uptime(answered), Some(s(60)));
    }

    #[test]
    fn what_is_missing_or_unreadable_is_unknown() {
        for reply in ["", "no field", "run_id:0\nuptime_in_seconds:soon\nserver_time_usec:-1"] {
            let answer = parse(reply);
            assert_eq!((&*answer.info, answer.uptime(now())), (&ServerInfo::default(), None), "{reply}");
        }
        let answer = ServerAnswer::parse(&[0xff; 40], now(), now());
        assert_eq!(*answer.info, ServerInfo::default());
    }

    /// It may be anything that listens on the port.
    #[test]
    fn what_a_server_calls_itself_moves_no_cursor_and_is_cut() {
        let long = "7".repeat(1000);
        let answer = parse(&format!("redis_version:7\u{1b}[2J\rx\nmaxmemory_policy:\u{202e}{long}"));
        assert_eq!(answer.info.version.as_deref(), Some("redis 7\\u{1b}[2J\\rx"));
        let policy = answer.info.eviction_policy.clone().unwrap();
        assert!(policy.starts_with("\\u{202e}777") && policy.len() < 1000, "{policy}");
    }

    #[test]
    fn only_a_run_id_is_an_identity() {
        assert!(is_run_id(ID));
        for text in
            ["", "0", &ID[1..], &format!("{ID}0"), &"0".repeat(40), &"f".repeat(40), &ID.replace('0', "x")]
        {
            assert!(!is_run_id(text), "{text}");
        }
    }

    #[test]
    fn an_uptime_is_never_too_long() {
        assert_eq!(uptime(&i64::MIN.to_string()), Some(s(0)), "one second less does not wrap");
        for (seconds, least) in [("-5", 0), ("0", 0), ("1", 0), ("2", 1), ("100", 99)] {
            assert_eq!(uptime(seconds), Some(s(least)), "{seconds}");
        }
        let answer = parse("uptime_in_seconds:11");
        assert_eq!(answer.uptime(answer.answered + s(5)), Some(s(15)));
        let longest = parse(&format!("uptime_in_seconds:{}", i64::MAX));
        assert!(longest.uptime(longest.answered + s(5)) >= Some(s(u64::MAX / 2 - 1)));
    }

    #[test]
    fn the_program_and_the_role_are_recognized() {
        let valkey = parse("redis_version:7.2.4\nvalkey_version:9.1.2\nrole:slave\nmaster_replid2:12ab");
        assert_eq!(valkey.info.version.as_deref(), Some("valkey 9.1.2"));
        assert_eq!(valkey.info.role, Some(ServerRole::Replica));
        assert_eq!(valkey.info.was_promoted, Some(false), "it still is a replica");
        assert_eq!(parse("role:active-replica").info.role, Some(ServerRole::Replica));
        let promoted = parse("role:master\nmaster_replid2:12ab");
        assert_eq!(promoted.info.was_promoted, Some(true));
        assert_eq!(parse("aof_enabled:1").info.is_persistent, Some(true));
    }
}
