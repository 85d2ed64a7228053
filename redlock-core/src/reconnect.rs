//! When a connection to a node is replaced, and when a new one may be made. There is no clock and no async:
//! the time is an argument.

// Tests: below; tests/tests/it/connections/reconnecting.rs.

use std::time::{Duration, Instant};

/// The state of one node's connections, for authors of a [`LockBackend`](crate::LockBackend) that connects on
/// demand.
///
/// * A connection is silent when requests over it have had no reply for 2 seconds, and none got one
///   meanwhile. It has to be replaced: nothing else shows that something between the client and the server
///   has lost it.
/// * Connections are made at a bounded rate: at once after one that served for a second, else after a pause
///   that grows from 50 ms to half a second. So a client finds a restarted server soon, and waiting clients
///   do not flood a server that closes each connection.
#[derive(Clone, Debug, Default)]
pub struct Reconnect {
    /// When the last connection was started.
    begun: Option<Instant>,
    /// How long after that the next one may be started.
    pause: Duration,
    /// Since when requests have been given up, and none got a reply.
    silent_since: Option<Instant>,
}

impl Reconnect {
    /// A node without a connection so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a new connection: returns how long to wait before it is started. It counts from then.
    ///
    /// Use the connection once the server has sent something over it, whatever that is. A stopped server
    /// accepts connections, too, as its kernel does that.
    pub fn begin(&mut self, now: Instant) -> Duration {
        let delay = self.delay(now);
        self.begun = Some(now + delay);
        self.pause = (2 * self.pause).clamp(MIN_PAUSE, MAX_PAUSE);
        self.silent_since = None;
        delay
    }

    /// The connection is made: requests that were given up before do not count against it.
    pub fn connected(&mut self) {
        self.silent_since = None;
    }

    /// A request got a reply over the present connection.
    pub fn answered(&mut self, now: Instant) {
        self.silent_since = None;
        // One reply is not enough: a server that closes after each reply would get a connection for each
        // request.
        if self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= STEADY) {
            self.pause = Duration::ZERO;
        }
    }

    /// A request over the present connection was given up without a reply.
    pub fn given_up(&mut self, now: Instant) {
        self.silent_since.get_or_insert(now);
    }

    /// Whether the present connection has to be replaced, as it is silent.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now.saturating_duration_since(since) > MAX_SILENCE)
    }

    /// Whether a connection can be started at once. Only then replace a connection that works but asks for
    /// [another](crate::redis::Connection::Replace), so that no request waits for that.
    #[must_use]
    pub fn may_begin(&self, now: Instant) -> bool {
        self.delay(now).is_zero()
    }

    fn delay(&self, now: Instant) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| (begun + self.pause).saturating_duration_since(now))
    }
}

const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// A connection that still gets replies at this age counts as good.
const STEADY: Duration = Duration::from_secs(1);
const MAX_SILENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Any time will do.
    #[allow(clippy::disallowed_methods, reason = "the start of a test's own time")]
    fn some_time() -> Instant {
        Instant::now()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_request_given_up_while_connecting_does_not_count_against_the_connection() {
        let mut reconnect = Reconnect::new();
        let now = some_time();
        reconnect.begin(now);
        reconnect.given_up(now + ms(100));
        reconnect.connected();
        assert!(!reconnect.is_silent(now + ms(5_000)));
        reconnect.given_up(now + ms(5_000));
        assert!(reconnect.is_silent(now + ms(7_001)));
    }

    #[test]
    fn failed_connects_are_retried_after_growing_but_bounded_pauses() {
        let mut reconnect = Reconnect::new();
        let mut now = some_time();
        let delays: Vec<_> = (0..8)
            .map(|_| {
                let delay = reconnect.begin(now);
                now += delay;
                delay
            })
            .collect();
        assert_eq!(delays, [0, 50, 100, 200, 400, 500, 500, 500].map(ms));
    }

    #[test]
    fn a_reply_alone_does_not_end_the_pauses_but_a_connection_that_served_does() {
        let mut reconnect = Reconnect::new();
        let start = some_time();
        for number in 0..10 {
            reconnect.begin(start + ms(1_000 * number));
            reconnect.answered(start + ms(1_000 * number + 1));
        }
        assert_eq!(reconnect.begin(start + ms(9_002)), ms(498));
        let begun = start + ms(9_500);
        assert!(!reconnect.may_begin(begun + ms(1)));
        reconnect.answered(begun + ms(1_000));
        assert!(reconnect.may_begin(begun + ms(1_000)));
        assert_eq!(reconnect.begin(begun + ms(1_001)), ms(0));
    }

    #[test]
    fn a_connection_is_silent_after_two_seconds_without_a_reply_and_the_next_one_starts_anew() {
        let mut reconnect = Reconnect::new();
        let start = some_time();
        reconnect.begin(start);
        reconnect.answered(start);
        reconnect.given_up(start + ms(10));
        reconnect.given_up(start + ms(1_900));
        reconnect.answered(start + ms(2_000));
        assert!(!reconnect.is_silent(start + ms(5_000)), "an idle one is not silent");
        reconnect.given_up(start + ms(3_000));
        reconnect.given_up(start + ms(4_000));
        assert!(!reconnect.is_silent(start + ms(5_000)));
        assert!(reconnect.is_silent(start + ms(5_001)));
        reconnect.begin(start + ms(5_001));
        assert!(!reconnect.is_silent(start + ms(9_000)));
    }
}
