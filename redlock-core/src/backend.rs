//! The interface to a client library: one node, the requests to it, and its replies.

// Tests: below for its errors; conformance/tests.rs for the contract.

use std::{any::Any, error::Error as StdError, fmt, num::NonZeroU64, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    error_text::{panic_text, with_sources},
    inspect::{Inspect, KeyState},
    server::ServerInfo,
    token::Token,
    watch::Watch,
};

mod requests;

pub use self::requests::{Acquire, AcquireFenced, Annotate, Extend, Raise, Release, Replace};

/// One node: a server that grants, extends and releases keys, independent of all other nodes.
///
/// Implement it for a client of your own, with [`async_trait`](macro@async_trait). `redlock-redis-rs`
/// implements it for redis-rs, and [`MemoryBackend`](crate::memory::MemoryBackend) is an in-process node.
///
/// # Contract
///
/// 1. **A key is held by a token.** `acquire` stores the token at each resource's key, for `ttl`, where no
///    other token is. `extend` and `release` change a key only while it holds the request's token, and never
///    a key with another token. Names and tokens are compared byte for byte, whatever they contain.
/// 2. **All or nothing.** `acquire`, `extend` and `replace` of several resources change all of their keys or
///    none, at one instant. `release` removes every key that holds the token, even if others do not.
/// 3. **Idempotent in the token.** A client library may send an `acquire` twice. The node then replies
///    [`AcquireReply::Granted`] both times, and the second time makes the key live neither longer nor
///    shorter. The same holds for a `replace`, in its new token.
/// 4. **Extend never shortens.** `extend` and `replace` make each key live until `ttl` from now. A key that
///    already lives longer keeps its expiry: a late extension must not shorten a newer one.
/// 5. **In order.** Requests for one key take effect in the order in which their futures were first polled,
///    for as long as the connection lasts, even if an earlier one was dropped or timed out. (A request may
///    never take effect; one that was never polled does not.) So a release comes behind the acquire whose
///    keys it removes. The connections of a pool do not keep this order; one connection, or one queue, does.
/// 6. **One round trip, at most once.** A request is one command, sent at most once. The backend does not
///    retry: it never sends a command again that may have been executed. (A `release` that the server refuses
///    as a command that it does not know may follow in another form. An `acquire` may not, as its own release
///    may be behind it.)
/// 7. **Bounded by the timeout.** The client library gets the `timeout`, which includes connecting. It waits
///    for a reply until then, and sends nothing later. Dropping the future also ends a request, but not every
///    client stops for it. Where `caller_enforces_timeout` is set, the caller drops the future at the
///    timeout: a backend whose requests end when they are dropped needs no timer of its own then.
/// 8. **Classified errors.** The [`BackendErrorKind`] of an error states what is known about the request.
/// 9. **One identity.** After a grant, a server has the same [`id`](ServerInfo::id) over every connection,
///    and no two servers share one. A backend that does not know it always returns `None`.
/// 10. **A watch waits, and misses nothing.** A [`watch`](Self::watch) completes when its keys are free, or
///     have become free since its first poll and stay so, whoever removed them and whether they expired. It
///     does not complete again and again while they are held, unless it is [eager](Watch::eager), and they
///     change.
/// 11. **Counters only grow.** A node that [can fence](Self::can_fence) has a counter for each resource, from
///     1 to 2^53 - 1, which outlives the key. `acquire_fenced` and `raise` change it as they say, at one
///     instant with the keys, and nothing else does.
/// 12. **An uptime is never too long.** After a grant, the server that granted has been running for at least
///     [`uptime`](Self::uptime). Whatever may forget keys begins a new one.
/// 13. **A note changes no lock.** On a node that [can annotate](Self::can_annotate), `annotate` and a note
///     change no key, and no other request depends on them. `inspect` shows a note only while the token
///     that has written it holds the key. When the key expires, so does the note.
///
/// A request that panics counts as [`BackendErrorKind::Indeterminate`], and is not polled again.
///
/// The conformance suite (the module `conformance`, behind the feature of this name) checks the contract.
#[async_trait]
pub trait LockBackend: fmt::Debug + Send + Sync + 'static {
    /// Stores the token at every resource's key, unless one of them holds another token.
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError>;

    /// Lets every resource's key live for `ttl` from now, if all of them hold the token.
    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError>;

    /// Removes every resource's key that holds the token.
    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError>;

    /// Replaces the old token with a new one at every resource's key, if all of them hold one of the two. The
    /// keys then live for at least `ttl` from now; one that lives longer keeps its expiry.
    ///
    /// [`Redlock::from_parts`](crate::Redlock::from_parts) takes over a lock with it. The client that
    /// replaces the token on a majority has the lock alone, and requests under way for the old token have no
    /// effect any more. Idempotent in the new token, all or nothing.
    ///
    /// This ability is optional. The default returns [`BackendErrorKind::Rejected`].
    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend cannot take over locks"))
    }

    /// Whether the node has counters for fencing tokens: [`acquire_fenced`](Self::acquire_fenced) and
    /// [`raise`](Self::raise). The default is `false`.
    fn can_fence(&self) -> bool {
        false
    }

    /// As [`acquire`](Self::acquire), and counts the grant. When a key was free, every resource's counter
    /// becomes `max(highest + 1, proposal)`, where `highest` is the highest of them (0 for one that is not
    /// there). When all keys already hold the token, the counters stay. The reply is the highest counter.
    ///
    /// The node limits the proposal to its own wall clock and one second more, in microseconds since 1970, so
    /// that one client whose clock is ahead does not use up the numbers. No number ever exceeds 2^53 - 1: a
    /// grant that would need a higher one is [`BackendErrorKind::Rejected`], and changes nothing.
    ///
    /// This ability is optional. The default returns [`BackendErrorKind::Rejected`].
    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend has no fencing tokens"))
    }

    /// Sets every resource's counter that is lower than `fence` to it, if all of their keys hold the token;
    /// with a TTL, it extends them, too, as [`extend`](Self::extend) does. A counter that is higher stays.
    /// The reply is the highest counter: when that is `fence`, all of them are.
    ///
    /// This ability is optional. The default returns [`BackendErrorKind::Rejected`].
    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend has no fencing tokens"))
    }

    /// Whether the node can store a note beside a key: [`annotate`](Self::annotate), and
    /// [`inspect`](Self::inspect) with the notes. The default is `false`.
    fn can_annotate(&self) -> bool {
        false
    }

    /// Stores the note beside every resource's key that holds the token, in place of an earlier one, until
    /// the key expires. Without a text, it removes the notes of the token, whatever the keys hold by now.
    ///
    /// It is for people, so the lock manager sends it in the background, once, and ignores its result. A
    /// note may be lost at any time.
    ///
    /// This ability is optional. The default returns [`BackendErrorKind::Rejected`].
    async fn annotate(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend has no notes"))
    }

    /// Returns what is stored at each resource's key, in their order, and changes nothing; with
    /// [`notes`](Inspect::notes), also the note of its holder. It is for people to look at: the reply is
    /// old when it arrives, so base no decision on it.
    ///
    /// This ability is optional. The default returns [`BackendErrorKind::Rejected`].
    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend cannot inspect keys"))
    }

    /// Waits until all of the keys may be free at one time: at once if they are, else until they have been
    /// released, have expired or have been removed, by anybody. A client whose acquire was refused waits with
    /// it for a good time to try again.
    ///
    /// It changes nothing, and no other request waits for it. It may complete too early, or after somebody
    /// else has the keys again. When the connection is lost, so that it may miss something, it ends with an
    /// error, as it does at its timeout. Dropping the future ends it, too.
    ///
    /// This ability is optional. The default returns [`BackendErrorKind::Rejected`], and so does a backend
    /// whose server does not let it watch; then a client tries again after its delay.
    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend cannot watch keys"))
    }

    /// The error of a request that its caller has dropped at the timeout. The default is
    /// [`BackendError::timed_out`]. A backend that knows more can add it, for example why it has no
    /// connection.
    fn timed_out(&self, timeout: Duration) -> BackendError {
        BackendError::timed_out(timeout)
    }

    /// The node's name in errors, for example its address, without credentials. Two nodes of one lock manager
    /// may not have the same name. The default is `None`: errors then show the node's position.
    fn name(&self) -> Option<&str> {
        None
    }

    /// What the server of the last reply reveals about itself. With its [`id`](ServerInfo::id), one server
    /// behind two nodes has one vote in a round. Otherwise a majority of nodes could be a minority of servers.
    ///
    /// The lock manager reads it right after a reply that grants, so it has to be known by then. A backend
    /// that wraps another one forwards it. The default is `None`, for a backend that does not know it, or a
    /// node that is not one server: the node then always has a vote of its own.
    fn server(&self) -> Option<Arc<ServerInfo>> {
        None
    }

    /// How long the server of the last reply has been running at least, by now. One that restarted may have
    /// forgotten locks, so with [`RedlockBuilder::max_ttl`](crate::RedlockBuilder::max_ttl) it has no vote at
    /// first.
    ///
    /// The lock manager reads it right after a reply that grants, if it was built with `max_ttl`. A backend
    /// that wraps another one forwards it. A node that never forgets a key until its TTL ends may return
    /// [`Duration::MAX`].
    ///
    /// # Errors
    ///
    /// [`Transient`](BackendErrorKind::Transient) if it is not known yet.
    /// [`Rejected`](BackendErrorKind::Rejected), with what to do about it, if it will never be known; that is
    /// the default.
    fn uptime(&self) -> Result<Duration, BackendError> {
        let message = "this backend cannot tell how long its server has been running: use another one";
        Err(BackendError::new(BackendErrorKind::Rejected, message))
    }
}

/// Methods that pass a request on as `async_trait` writes them, also in the names of lifetimes, but without a
/// box around the other's.
macro_rules! forwarded {
    ($($method:ident: $Request:ident => $Reply:ty;)*) => {$(
        fn $method<'life0, 'life1, 'async_trait>(
            &'life0 self,
            request: $Request<'life1>,
        ) -> Pin<Box<dyn Future<Output = Result<$Reply, BackendError>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            (**self).$method(request)
        }
    )*};
}

impl<B: LockBackend + ?Sized> LockBackend for Arc<B> {
    forwarded! {
        acquire: Acquire => AcquireReply;
        extend: Extend => AcquireReply;
        release: Release => ReleaseReply;
        replace: Replace => AcquireReply;
        acquire_fenced: AcquireFenced => FencedReply;
        raise: Raise => FencedReply;
        annotate: Annotate => ();
        inspect: Inspect => Vec<KeyState>;
        watch: Watch => ();
    }

    fn can_fence(&self) -> bool {
        (**self).can_fence()
    }

    fn can_annotate(&self) -> bool {
        (**self).can_annotate()
    }

    fn timed_out(&self, timeout: Duration) -> BackendError {
        (**self).timed_out(timeout)
    }

    fn name(&self) -> Option<&str> {
        (**self).name()
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        (**self).server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        (**self).uptime()
    }
}

/// The reply of a node to [`LockBackend::acquire`], [`LockBackend::extend`] and [`LockBackend::replace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcquireReply {
    /// Every key holds the token, for the TTL.
    Granted,
    /// Nothing was changed: a key holds another token, or, for `extend` and `replace`, none.
    Refused,
}

/// The reply of a node to [`LockBackend::acquire_fenced`] and [`LockBackend::raise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FencedReply {
    /// Every key holds the token.
    Granted {
        /// The highest counter of the resources.
        counter: NonZeroU64,
    },
    /// Nothing was changed: a key holds another token, or, for `raise`, none.
    Refused,
}

/// The reply of a node to [`LockBackend::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReleaseReply {
    /// Every key held the token, and was removed.
    Removed,
    /// One or more of the keys did not hold the token; those that did were removed.
    NotHeld,
}

/// Why a node did not serve a request.
///
/// Its text is one line that a person can act on. It does not repeat the text of the source.
#[derive(Clone)]
pub struct BackendError {
    kind: BackendErrorKind,
    // Apart: each reply that a lock keeps has room for an error, and hardly one has any.
    cause: Box<Cause>,
}

#[derive(Clone)]
struct Cause {
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl BackendError {
    /// An error of a kind, with a message for people.
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, cause: Box::new(Cause { message: message.into(), source: None }) }
    }

    /// Adds the error that caused this one. The message should then add to it, not repeat it.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.cause.source = Some(Arc::new(source));
        self
    }

    /// The error with its text cut where it repeats the token: to its [prefix](Token::prefix), as `Debug`
    /// shows it. Some servers and proxies repeat the request in their error.
    ///
    /// A lock manager does this with the errors of its nodes. Call it in code that shows an error before
    /// that, such as a backend that wraps another.
    #[must_use]
    pub fn redact(mut self, token: &Token) -> Self {
        if let Some(cut) = token.cut_in(&self.cause.message) {
            self.cause.message = cut;
        }
        if let Some(source) = &self.cause.source {
            let text = with_sources(&**source);
            let cut = token.cut_in(&text);
            // `Debug` may show more than the text.
            if cut.is_some() || token.cut_in(&format!("{source:?}")).is_some() {
                self.cause.source = Some(Arc::new(Redacted(cut.unwrap_or(text))));
            }
        }
        self
    }

    /// The node did not reply within `timeout`.
    #[must_use]
    pub fn timed_out(timeout: Duration) -> Self {
        // In whole milliseconds: the rest until a deadline has too many digits to read.
        Self::new(BackendErrorKind::Indeterminate, format!("no answer within {} ms", timeout.as_millis()))
    }

    /// The request panicked, and may have taken effect before.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::new(BackendErrorKind::Indeterminate, format!("the request panicked: {}", panic_text(panic)))
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> BackendErrorKind {
        self.kind
    }

    /// The message, without the kind.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.cause.message
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.cause.message)
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendError")
            .field("kind", &self.kind)
            .field("message", &self.cause.message)
            .field("source", &self.cause.source)
            .finish()
    }
}

impl StdError for BackendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source.as_deref().map(|source| source as _)
    }
}

/// The rest of an error that had a token in it: its text, with those of its sources.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Redacted(String);

/// What is known about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// The outcome is unknown: the connection was refused or reset or timed out, or the reply cannot be read
    /// or has no known meaning. It counts as a "no" for the vote, and as "maybe held" for the clean-up. The
    /// request is retried.
    Indeterminate,
    /// The node replied that it cannot serve the request now, and wrote nothing: it is loading its data, a
    /// read-only replica, out of memory, or busy. It may heal, so the request is retried.
    Transient,
    /// The node refuses until its configuration or the request changes: missing or wrong credentials, no
    /// permission, keys of different slots, a key of another type, or an unknown command. When so many nodes
    /// reject that no quorum is left, the request fails at once.
    Rejected,
}

impl fmt::Display for BackendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Indeterminate => "indeterminate",
            Self::Transient => "transient",
            Self::Rejected => "rejected",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_message_kind_and_source_separate() {
        let cause = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error = BackendError::new(BackendErrorKind::Transient, "cannot write").with_source(cause);
        assert_eq!(error.message(), "cannot write");
        assert_eq!(error.to_string(), "transient: cannot write");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("broken pipe"));
    }

    #[test]
    fn a_source_is_replaced_only_when_it_has_the_token_in_it() {
        let token: Token = "00112233445566778899aabbccddeeff".parse().unwrap();
        let error = |text: String| {
            BackendError::new(BackendErrorKind::Rejected, "no").with_source(std::io::Error::other(text))
        };
        let kept = error("no 00112233".to_owned()).redact(&token);
        assert!(kept.source().unwrap().is::<std::io::Error>());
        let cut = error(format!("no {}", token.as_str())).redact(&token);
        assert_eq!(cut.source().unwrap().to_string(), "no 00112233…");
        assert!(!format!("{cut:?}").contains("0011223344"), "{cut:?}");
    }

    #[test]
    fn a_timeout_is_printed_in_whole_milliseconds() {
        let error = BackendError::timed_out(Duration::from_nanos(49_829_658));
        assert_eq!(error.to_string(), "indeterminate: no answer within 49 ms");
    }
}
