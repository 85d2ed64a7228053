//! The question about the server behind a connection: so that one server behind two nodes has one vote,
//! and one that has just restarted none.

// Tests: below; tests/tests/it/servers/one_server.rs, servers/server_info.rs.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use super::info::ServerAnswer;
use crate::{
    backend::{BackendError, BackendErrorKind},
    server::ServerInfo,
};

/// What the server behind the present connection of a backend reveals about itself, for
/// [`LockBackend::server`](crate::LockBackend::server) and
/// [`LockBackend::uptime`](crate::LockBackend::uptime). The backend asks once for each connection, beside
/// the first request, which takes no longer for it.
///
/// A connection has a number: how many have been made so far. 0 is none.
#[derive(Debug)]
pub struct ServerProbe {
    known: Mutex<Known>,
    /// The last connection that need not be asked any more; to be read by each request.
    settled: AtomicU64,
    asking: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// The connection of the last question.
    connection: u64,
    /// How often it was not answered.
    unanswered: u32,
    facts: Facts,
}

#[derive(Debug, Default)]
enum Facts {
    #[default]
    Unknown,
    /// The server does not reveal any.
    Hidden,
    Revealed(ServerAnswer),
}

impl ServerProbe {
    /// A server that is still unknown.
    #[must_use]
    pub fn new() -> Self {
        Self { known: Mutex::default(), settled: AtomicU64::new(NONE), asking: AtomicBool::new(false) }
    }

    /// What the server behind this connection has revealed.
    #[must_use]
    pub fn server(&self, connection: u64) -> Option<Arc<ServerInfo>> {
        match &*self.known() {
            Known { connection: asked, facts: Facts::Revealed(answer), .. } if *asked == connection => {
                Some(answer.info.clone())
            }
            _ => None,
        }
    }

    /// How long the server behind this connection has been running at least.
    ///
    /// # Errors
    ///
    /// [`Rejected`](BackendErrorKind::Rejected) if it does not reveal that, and
    /// [`Transient`](BackendErrorKind::Transient) while it has not been asked.
    pub fn uptime(&self, connection: u64, now: Instant) -> Result<Duration, BackendError> {
        let known = self.known();
        let facts = if known.connection == connection { &known.facts } else { &Facts::Unknown };
        let uptime = match facts {
            Facts::Unknown => {
                let message = "it is not known yet how long its server has been running";
                return Err(BackendError::new(BackendErrorKind::Transient, message));
            }
            Facts::Hidden => None,
            Facts::Revealed(answer) => answer.uptime(now),
        };
        uptime.ok_or_else(|| {
            let message =
                "its server does not reveal how long it has been running: allow its user to call INFO";
            BackendError::new(BackendErrorKind::Rejected, message)
        })
    }

    /// How long after its start a request with this timeout may wait for the answer. It is less than the
    /// timeout, at which the request would end and lose its grant.
    #[must_use]
    pub fn patience(timeout: Duration) -> Duration {
        timeout - timeout / 8
    }

    /// Runs a request that may grant, and asks the server about itself when the connection is new: behind
    /// the request, which is polled first, or after its reply when that came over a connection that was made
    /// meanwhile.
    ///
    /// `connection` is the number of connections that have been made. `ask` runs
    /// [`Command::server_info`](super::Command::server_info), and ends within the
    /// [`patience`](Self::patience) that the request has for it; `None` is a reply that reveals nothing. A
    /// server that rejects the question, or does not answer it three times, is not asked again over this
    /// connection.
    ///
    /// # Errors
    ///
    /// Those of the request, but not those of `ask`.
    pub async fn along_with<T, A>(
        &self,
        connection: impl Fn() -> u64 + Send + Sync,
        ask: impl Fn() -> A + Send + Sync,
        request: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError>
    where
        T: Send,
        A: Future<Output = Result<Option<ServerAnswer>, BackendError>> + Send,
    {
        // A question is in a box: hardly any request asks one, but each would have room for it.
        let mut request = pin!(request);
        let (answer, failed) = if self.is_settled(connection()) {
            (request.await?, None)
        } else {
            let asking = Box::pin(async {
                // One of many first requests asks.
                let _turn = Turn::take(&self.asking)?;
                self.ask(&connection, ask()).await.err()
            });
            match select(request.as_mut(), asking).await {
                Either::Left((Err(error), _)) => return Err(error),
                Either::Left((Ok(answer), asking)) => (answer, asking.await),
                // The question failed before the request had its reply: while it was connecting, for example.
                Either::Right((_, request)) => (request.await?, None),
            }
        };
        let failed = match failed {
            None if !self.is_settled(connection()) => Box::pin(self.ask(&connection, ask())).await.err(),
            failed => failed,
        };
        if let Some((connection, kind)) = failed {
            self.fail(connection, kind);
        }
        Ok(answer)
    }

    /// # Errors
    ///
    /// The kind of the error, and the connection.
    async fn ask(
        &self,
        connection: impl Fn() -> u64 + Send,
        answer: impl Future<Output = Result<Option<ServerAnswer>, BackendError>> + Send,
    ) -> Result<(), (u64, BackendErrorKind)> {
        let before = connection();
        let answer = answer.await.map_err(|error| (before, error.kind()))?;
        let number = connection();
        // Over which of two connections the answer came is not known: the server may have restarted in between.
        if number == before || (before, number) == (0, 1) {
            self.settle(number, answer.map_or(Facts::Hidden, Facts::Revealed));
        }
        Ok(())
    }

    fn is_settled(&self, connection: u64) -> bool {
        self.settled.load(Ordering::Acquire) == connection
    }

    fn settle(&self, connection: u64, facts: Facts) {
        let mut known = self.known();
        // A later connection may have been asked first.
        if connection >= known.connection {
            *known = Known { connection, unanswered: 0, facts };
            self.settled.store(connection, Ordering::Release);
        }
    }

    /// A question failed whose request was answered.
    fn fail(&self, connection: u64, kind: BackendErrorKind) {
        let is_hopeless = match kind {
            // It may answer later.
            BackendErrorKind::Transient => false,
            BackendErrorKind::Rejected => true,
            BackendErrorKind::Indeterminate => {
                let mut known = self.known();
                if known.connection < connection {
                    *known = Known { connection, ..Known::default() };
                }
                known.unanswered += 1;
                known.unanswered >= MAX_UNANSWERED
            }
        };
        if is_hopeless {
            self.settle(connection, Facts::Hidden);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ServerProbe {
    fn default() -> Self {
        Self::new()
    }
}

/// The right to ask, which ends when it is dropped.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(asking: &'a AtomicBool) -> Option<Self> {
        (!asking.swap(true, Ordering::AcqRel)).then_some(Self(asking))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The number of no connection.
const NONE: u64 = u64::MAX;
/// How often a connection is asked that does not answer.
const MAX_UNANSWERED: u32 = 3;

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::atomic::{AtomicU32, AtomicU64},
    };

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn failed<T>(kind: BackendErrorKind) -> Result<T, BackendError> {
        Err(BackendError::new(kind, "x"))
    }

    #[allow(clippy::disallowed_methods)]
    fn now() -> Instant {
        Instant::now()
    }

    /// The reply of a server with this id, which has been running for 11 to 12 s.
    fn answer_of(id: &str) -> ServerAnswer {
        let now = now();
        ServerAnswer::parse(format!("run_id:{id}\nuptime_in_seconds:11").as_bytes(), now, now)
    }

    /// Requests over connection number `connection`, and the questions beside them.
    struct Line {
        probe: ServerProbe,
        connection: AtomicU64,
        asked: AtomicU32,
        answer: Mutex<Result<Option<&'static str>, BackendErrorKind>>,
    }

    impl Line {
        fn new() -> Self {
            let answer = Mutex::new(Ok(Some(ID)));
            Self { probe: ServerProbe::new(), connection: 1.into(), asked: 0.into(), answer }
        }

        fn answer_with(&self, answer: Result<Option<&'static str>, BackendErrorKind>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn connect_again(&self) {
            self.connection.fetch_add(1, Ordering::Relaxed);
        }

        fn number(&self) -> u64 {
            self.connection.load(Ordering::Relaxed)
        }

        fn id(&self) -> Option<Arc<str>> {
            self.probe.server(self.number())?.id.clone()
        }

        /// In whole seconds, or the kind of the error.
        fn uptime(&self) -> Result<u64, BackendErrorKind> {
            let uptime = self.probe.uptime(self.number(), now());
            uptime.map(|uptime| uptime.as_secs()).map_err(|error| error.kind())
        }

        async fn request(&self, answer: Result<u8, BackendErrorKind>) -> (bool, u32) {
            self.request_that(async { answer.or_else(failed) }).await
        }

        /// Whether it got a reply, and how often the server has been asked so far.
        async fn request_that(
            &self,
            request: impl Future<Output = Result<u8, BackendError>> + Send,
        ) -> (bool, u32) {
            let ask = || {
                self.asked.fetch_add(1, Ordering::Relaxed);
                ready(self.answer.lock().unwrap().map(|id| id.map(answer_of)).or_else(failed))
            };
            let connection = || self.number();
            let answer = self.probe.along_with(connection, ask, request).await;
            (answer.is_ok(), self.asked.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn each_connection_is_asked_once() {
        let line = Line::new();
        assert_eq!(line.id(), None);
        assert_eq!(line.request(Ok(1)).await, (true, 1));
        assert_eq!(line.id().as_deref(), Some(ID));
        assert_eq!(line.request(Ok(1)).await, (true, 1));
        line.connect_again();
        line.answer_with(Ok(None));
        assert_eq!(line.request(Ok(1)).await, (true, 2));
        assert_eq!(line.id(), None);
        assert_eq!(line.request(Ok(1)).await, (true, 2));
    }

    #[tokio::test]
    async fn a_request_that_made_the_connection_asks_behind_its_answer() {
        let line = Line::new();
        assert_eq!(line.request(Ok(1)).await, (true, 1));
        let reconnecting = async {
            line.connect_again();
            Ok(1)
        };
        assert_eq!(line.request_that(reconnecting).await, (true, 2));
        assert_eq!(line.request(Ok(1)).await, (true, 2));
    }

    #[tokio::test]
    async fn a_question_that_fails_does_not_fail_a_request() {
        use BackendErrorKind::{Indeterminate, Rejected, Transient};

        for (kind, questions) in [(Rejected, 1), (Indeterminate, 3)] {
            let line = Line::new();
            line.answer_with(Err(kind));
            for request in 1..10 {
                assert_eq!(line.request(Ok(1)).await, (true, questions.min(request)), "{kind}");
            }
            assert_eq!(line.uptime(), Err(Rejected), "{kind}: it is not asked again");
            line.answer_with(Ok(Some(ID)));
            line.connect_again();
            assert!(line.request(Ok(1)).await.0);
            assert_eq!(line.uptime(), Ok(10), "{kind}");
        }
        // A server that is loading replies later.
        let line = Line::new();
        line.answer_with(Err(Transient));
        for _ in 0..10 {
            assert!(line.request(Ok(1)).await.0);
            assert_eq!(line.uptime(), Err(Transient));
        }
        line.answer_with(Ok(Some(ID)));
        assert!(line.request(Ok(1)).await.0);
        assert_eq!(line.id().as_deref(), Some(ID));
    }

    #[tokio::test]
    async fn a_question_that_failed_while_connecting_is_repeated() {
        let line = Line::new();
        line.answer_with(Err(BackendErrorKind::Indeterminate));
        let slow = async {
            tokio::task::yield_now().await;
            line.answer_with(Ok(Some(ID)));
            Ok(1)
        };
        assert_eq!(line.request_that(slow).await, (true, 2));
        assert_eq!(line.id().as_deref(), Some(ID));
    }

    #[tokio::test]
    async fn a_request_that_fails_does_not_wait_for_the_answer() {
        let probe = ServerProbe::new();
        let request = ready(failed::<u8>(BackendErrorKind::Transient));
        let answer = probe.along_with(|| 1, std::future::pending, request).await;
        assert!(answer.is_err());
        assert!(!probe.is_settled(1));
        assert!(Turn::take(&probe.asking).is_some(), "the turn is free again");
    }

    /// The server behind a new connection may be another one, or have restarted.
    #[tokio::test]
    async fn nothing_is_known_over_a_connection_that_has_not_been_asked() {
        let line = Line::new();
        assert!(line.request(Ok(1)).await.0);
        assert_eq!((line.id().as_deref(), line.uptime()), (Some(ID), Ok(10)));
        line.connect_again();
        assert_eq!((line.id(), line.uptime()), (None, Err(BackendErrorKind::Transient)));
        line.answer_with(Err(BackendErrorKind::Indeterminate));
        assert!(line.request(Ok(1)).await.0);
        assert_eq!((line.id(), line.uptime()), (None, Err(BackendErrorKind::Transient)));
    }

    /// The answer may be that of the server before its restart.
    #[tokio::test]
    async fn an_answer_beside_which_a_new_connection_was_made_counts_for_neither_connection() {
        let probe = ServerProbe::new();
        let (number, asked) = (AtomicU64::new(1), AtomicU32::new(0));
        let connection = || number.load(Ordering::Relaxed);
        let ask = || {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            if first {
                number.store(2, Ordering::Relaxed);
            }
            ready(Ok(first.then(|| answer_of(ID))))
        };
        // The question is begun before, and answered after.
        let begun = || async { ask().await };
        assert!(probe.along_with(connection, begun, async { Ok(()) }).await.is_ok());
        assert_eq!(asked.into_inner(), 2);
        assert!(probe.server(1).is_none() && probe.server(2).is_none());
        assert_eq!(probe.uptime(2, now()).unwrap_err().kind(), BackendErrorKind::Rejected);
    }

    #[test]
    fn a_late_answer_of_an_old_connection_changes_nothing() {
        let probe = ServerProbe::new();
        probe.settle(2, Facts::Hidden);
        probe.settle(1, Facts::Revealed(answer_of(ID)));
        assert!(probe.is_settled(2));
        assert!(probe.server(1).is_none());
    }

    #[tokio::test]
    async fn a_server_without_a_known_uptime_is_not_asked_again() {
        let line = Line::new();
        line.answer_with(Ok(None));
        assert!(line.request(Ok(1)).await.0);
        assert_eq!(line.request(Ok(1)).await, (true, 1));
        assert_eq!(line.uptime(), Err(BackendErrorKind::Rejected));
    }
}
