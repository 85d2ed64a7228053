//! The server behind a connection, so that one server behind two nodes has one vote.

// Tests: below; tests/tests/it/servers/one_server.rs.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};

use crate::backend::{BackendError, BackendErrorKind};

/// The server behind the present connection of a backend, for
/// [`LockBackend::server_id`](crate::LockBackend::server_id). The backend asks once for each connection,
/// beside the first request, which takes no longer for it.
#[derive(Debug, Default)]
pub struct ServerId {
    known: Mutex<Known>,
    asking: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// The number of the connection of the last question.
    connection: Option<u64>,
    id: Option<Arc<str>>,
}

impl ServerId {
    /// A server that is still unknown.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The server that replied last, if it reveals its identity.
    #[must_use]
    pub fn get(&self) -> Option<Arc<str>> {
        self.known().id.clone()
    }

    /// The identity in a reply to [`Command::server_id`](super::Command::server_id); `None` if that is no
    /// `run_id`, such as the zeros of some services.
    #[must_use]
    pub fn of_answer(text: &[u8]) -> Option<Arc<str>> {
        let text = std::str::from_utf8(text).ok()?;
        let first = text.chars().next()?;
        let is_id = text.len() == DIGITS && text.chars().all(|digit| digit.is_ascii_hexdigit());
        (is_id && text.chars().any(|digit| digit != first)).then(|| text.into())
    }

    /// How long after its start a request with this timeout may wait for the identity. It is less than the
    /// timeout, at which the request would end and lose its grant.
    #[must_use]
    pub fn patience(timeout: Duration) -> Duration {
        timeout - timeout / 8
    }

    /// Runs a request that may grant, and asks for the server's identity when the connection is new: behind
    /// the request, which is polled first, or after its reply when that came over a connection that was made
    /// meanwhile.
    ///
    /// `connection` is the number of connections that have been made. `ask` runs
    /// [`Command::server_id`](super::Command::server_id), and ends within the [`patience`](Self::patience)
    /// that the request has for it. A server that does not reveal it keeps its vote, and is not asked again
    /// over this connection.
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
        A: Future<Output = Result<Option<Arc<str>>, BackendError>> + Send,
    {
        let asking = async {
            if self.is_known(connection()) {
                return None;
            }
            // One of many first requests asks.
            let _turn = Turn::take(&self.asking)?;
            self.ask(&connection, ask()).await.err()
        };
        let answer = match select(pin!(request), pin!(asking)).await {
            Either::Left((Err(error), _)) => return Err(error),
            Either::Left((Ok(answer), asking)) => {
                if asking.await.is_some_and(|error| error.kind() != BackendErrorKind::Transient) {
                    // It replies to requests, but not to this one.
                    self.learn(connection(), None);
                }
                answer
            }
            // The question failed before the request had its reply: while it was connecting, for example.
            Either::Right((_, request)) => request.await?,
        };
        if !self.is_known(connection()) {
            let _ = self.ask(&connection, ask()).await;
        }
        Ok(answer)
    }

    async fn ask(
        &self,
        connection: impl Fn() -> u64 + Send,
        answer: impl Future<Output = Result<Option<Arc<str>>, BackendError>> + Send,
    ) -> Result<(), BackendError> {
        let id = answer.await?;
        self.learn(connection(), id);
        Ok(())
    }

    fn is_known(&self, connection: u64) -> bool {
        self.known().connection == Some(connection)
    }

    fn learn(&self, connection: u64, id: Option<Arc<str>>) {
        *self.known() = Known { connection: Some(connection), id };
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

const DIGITS: usize = 40;

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::atomic::{AtomicU32, AtomicU64},
    };

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn only_a_run_id_is_an_identity() {
        assert_eq!(ServerId::of_answer(ID.as_bytes()).as_deref(), Some(ID));
        for text in
            ["", "0", &ID[1..], &format!("{ID}0"), &"0".repeat(40), &"f".repeat(40), &ID.replace('0', "x")]
        {
            assert_eq!(ServerId::of_answer(text.as_bytes()), None, "{text}");
        }
        assert_eq!(ServerId::of_answer(&[0xff; 40]), None);
    }

    fn failed<T>(kind: BackendErrorKind) -> Result<T, BackendError> {
        Err(BackendError::new(kind, "x"))
    }

    /// Requests over connection number `connection`, and the questions beside them.
    struct Line {
        id: ServerId,
        connection: AtomicU64,
        asked: AtomicU32,
        answer: Mutex<Result<Option<&'static str>, BackendErrorKind>>,
    }

    impl Line {
        fn new() -> Self {
            let answer = Mutex::new(Ok(Some(ID)));
            Self { id: ServerId::new(), connection: 1.into(), asked: 0.into(), answer }
        }

        fn answer_with(&self, answer: Result<Option<&'static str>, BackendErrorKind>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn connect_again(&self) {
            self.connection.fetch_add(1, Ordering::Relaxed);
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
                ready(self.answer.lock().unwrap().map(|id| id.map(Into::into)).or_else(failed))
            };
            let connection = || self.connection.load(Ordering::Relaxed);
            let answer = self.id.along_with(connection, ask, request).await;
            (answer.is_ok(), self.asked.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn each_connection_is_asked_once() {
        let line = Line::new();
        assert_eq!(line.id.get(), None);
        assert_eq!(line.request(Ok(1)).await, (true, 1));
        assert_eq!(line.id.get().as_deref(), Some(ID));
        assert_eq!(line.request(Ok(1)).await, (true, 1));
        line.connect_again();
        line.answer_with(Ok(None));
        assert_eq!(line.request(Ok(1)).await, (true, 2));
        assert_eq!(line.id.get(), None);
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

        for kind in [Indeterminate, Rejected] {
            let line = Line::new();
            line.answer_with(Err(kind));
            assert_eq!(line.request(Ok(1)).await, (true, 1), "{kind}");
            assert_eq!(line.request(Ok(1)).await, (true, 1), "{kind}: it is not asked again");
        }
        // A server that is loading replies later.
        let line = Line::new();
        line.answer_with(Err(Transient));
        assert!(line.request(Ok(1)).await.0);
        line.answer_with(Ok(Some(ID)));
        assert!(line.request(Ok(1)).await.0);
        assert_eq!(line.id.get().as_deref(), Some(ID));
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
        assert_eq!(line.id.get().as_deref(), Some(ID));
    }

    #[tokio::test]
    async fn a_request_that_fails_does_not_wait_for_the_answer() {
        let id = ServerId::new();
        let request = ready(failed::<u8>(BackendErrorKind::Transient));
        let answer = id.along_with(|| 1, std::future::pending, request).await;
        assert!(answer.is_err());
        assert!(!id.is_known(1));
        assert!(Turn::take(&id.asking).is_some(), "the turn is free again");
    }
}
