//! The seam to a client library: what one node is asked, and what it answers.

use std::{any::Any, error::Error as StdError, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    error_text::{panic_text, with_sources},
    inspect::{Inspect, KeyState},
    resources::Resources,
    token::Token,
};

/// One node: a server that grants, extends and releases keys, independent of all other nodes.
///
/// Implement it for a client of your own, with [`async_trait`](macro@async_trait); `redlock-redis-rs` does it
/// for redis-rs, and [`MemoryBackend`](crate::memory::MemoryBackend) for a node that lives in the process.
///
/// # Contract
///
/// 1. **A key is held by a token.** `acquire` puts the token under each resource's key, for `ttl`, where no
///    other token is. `extend` and `release` change a key only while it holds the request's token. A key that
///    holds another token is never touched. Names and tokens are compared byte for byte, whatever is in them.
/// 2. **All or nothing.** `acquire`, `extend` and `replace` of several resources happen on all of their keys
///    or on none, at one instant. `release` removes every key that holds the token, also when others do not.
/// 3. **Idempotent in the token.** An `acquire` that is executed twice (a client library sent it again)
///    answers [`AcquireReply::Granted`] both times, and does not make the key live longer, or shorter, the
///    second time. So does a `replace`, in its new token.
/// 4. **Extend never shortens.** `extend` and `replace` make each key live until `ttl` from now. A key that
///    lives longer already keeps its time: an extension that arrives late must not cut a newer one short.
/// 5. **In order.** Requests for one key take effect in the order in which their futures were first polled,
///    also when an earlier one was dropped or has timed out, for as long as the connection lasts. (It may
///    never take effect at all; one that was never polled does not.) This is what puts a release behind the
///    acquire that it undoes.
/// 6. **One round trip, at most once.** A request is one command, sent at most once. The backend does not
///    retry: a command that may have been sent is not sent again.
/// 7. **Bounded by the timeout.** `timeout` is given to the client library, connecting included: an answer is
///    waited for until then, and what has not been sent by then is not sent later. Dropping the future also
///    ends a request, but not every client stops for it.
/// 8. **Classified errors.** An error says, by [`BackendErrorKind`], what is known about the request.
/// 9. **One identity.** A server has the same [`server_id`](Self::server_id) over every connection behind
///    which it has granted, and no two servers have one. A backend that does not know it says so, always.
///
/// A request that panics counts as [`BackendErrorKind::Indeterminate`], and is not polled again.
///
/// The conformance suite (the module `conformance`, behind the feature of this name) checks it.
#[async_trait]
pub trait LockBackend: fmt::Debug + Send + Sync + 'static {
    /// Puts the token under every resource's key, unless one of them holds another token.
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError>;

    /// Lets every resource's key live for `ttl` from now, if all of them hold the token.
    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError>;

    /// Removes every resource's key that holds the token.
    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError>;

    /// Puts a new token in the place of the old one: under every resource's key, if all of them hold the old
    /// token or the new one. The keys then live for `ttl` from now at least; one that lives longer keeps its
    /// time.
    ///
    /// It is how a lock that was handed over is taken, [`Redlock::from_parts`](crate::Redlock::from_parts):
    /// whoever replaces the token on a majority has the lock for itself, and what is still under way for the
    /// old token touches nothing any more. Idempotent in the new token, all or nothing.
    ///
    /// An optional ability. The default answers that the backend cannot, as [`BackendErrorKind::Rejected`].
    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend cannot take over locks"))
    }

    /// Tells what stands under each resource's key, in their order, and changes nothing. It is for people to
    /// look at: the answer is old when it arrives, so nothing may be decided by it.
    ///
    /// An optional ability. The default answers that the backend cannot, as [`BackendErrorKind::Rejected`].
    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let _ = request;
        Err(BackendError::new(BackendErrorKind::Rejected, "this backend cannot inspect keys"))
    }

    /// What to call this node in errors, for example its address, without credentials. Two nodes of one lock
    /// manager may not have the same name. The default is `None`: then the node goes by its position.
    fn name(&self) -> Option<&str> {
        None
    }

    /// Which server gave the last answer: an identity that no other server has, and that is the same through
    /// whatever addresses and connections it is reached. One server behind two nodes then has one vote in a
    /// round, and not two: a majority of nodes would else be no majority of servers.
    ///
    /// The lock manager looks right behind an answer that grants, so it has to be known by then. A backend
    /// around another one hands it on. The default is `None`, for a backend that does not know it, or a node
    /// that is not one server: the node then has its vote whatever the others lead to.
    fn server_id(&self) -> Option<Arc<str>> {
        None
    }
}

#[async_trait]
impl<B: LockBackend + ?Sized> LockBackend for Arc<B> {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        (**self).acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        (**self).extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        (**self).release(request).await
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        (**self).replace(request).await
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        (**self).inspect(request).await
    }

    fn name(&self) -> Option<&str> {
        (**self).name()
    }

    fn server_id(&self) -> Option<Arc<str>> {
        (**self).server_id()
    }
}

/// A request to put a token under keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Acquire<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value to put under them.
    pub token: &'a Token,
    /// How long the keys live; whole milliseconds, at least 1 ms, at most [`MAX_TTL`](crate::MAX_TTL).
    pub ttl: Duration,
    /// How long the node has for its answer.
    pub timeout: Duration,
}

impl<'a> Acquire<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, ttl: Duration, timeout: Duration) -> Self {
        Self { resources, token, ttl, timeout }
    }
}

/// A request to let keys live longer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Extend<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold.
    pub token: &'a Token,
    /// How long the keys live from now, at least; whole milliseconds, as in [`Acquire::ttl`].
    pub ttl: Duration,
    /// How long the node has for its answer.
    pub timeout: Duration,
}

impl<'a> Extend<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, ttl: Duration, timeout: Duration) -> Self {
        Self { resources, token, ttl, timeout }
    }
}

/// A request to remove keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Release<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold.
    pub token: &'a Token,
    /// How long the node has for its answer.
    pub timeout: Duration,
}

impl<'a> Release<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, timeout: Duration) -> Self {
        Self { resources, token, timeout }
    }
}

/// A request to put a new token in the place of an old one.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Replace<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold, where they do not hold the new one already.
    pub old: &'a Token,
    /// The value to put in its place.
    pub new: &'a Token,
    /// How long the keys live from now, at least; whole milliseconds, as in [`Acquire::ttl`].
    pub ttl: Duration,
    /// How long the node has for its answer.
    pub timeout: Duration,
}

impl<'a> Replace<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(
        resources: &'a Resources,
        old: &'a Token,
        new: &'a Token,
        ttl: Duration,
        timeout: Duration,
    ) -> Self {
        Self { resources, old, new, ttl, timeout }
    }
}

/// What a node answers to [`LockBackend::acquire`], [`LockBackend::extend`] and [`LockBackend::replace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcquireReply {
    /// Every key holds the token, for the ttl.
    Granted,
    /// Nothing was changed: a key holds another token, or, for `extend` and `replace`, none.
    Refused,
}

/// What a node answers to [`LockBackend::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReleaseReply {
    /// Every key held the token, and was removed.
    Removed,
    /// One or more of the keys did not hold the token; those that did were removed.
    NotHeld,
}

/// Why a node did not do what it was asked.
///
/// Its text is one line that a person can act on, without the text of its source.
#[derive(Clone, Debug)]
pub struct BackendError {
    kind: BackendErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl BackendError {
    /// An error in a class, with a message for people.
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the error that caused this one. The message should then add to it, not repeat it.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The error with its text cut where it repeats the token: to its [prefix](Token::prefix), as `Debug` shows it. Some servers, and proxies, answer with what they were asked.
    ///
    /// A lock manager does it with what its nodes answer. It is for who shows an error before that, as a
    /// backend that wraps another may.
    #[must_use]
    pub fn redact(mut self, token: &Token) -> Self {
        if let Some(cut) = token.cut_in(&self.message) {
            self.message = cut;
        }
        if let Some(source) = &self.source {
            let text = with_sources(&**source);
            let cut = token.cut_in(&text);
            // What the text does not show, `Debug` may.
            if cut.is_some() || token.cut_in(&format!("{source:?}")).is_some() {
                self.source = Some(Arc::new(Redacted(cut.unwrap_or(text))));
            }
        }
        self
    }

    /// The node did not answer within `timeout`.
    #[must_use]
    pub fn timed_out(timeout: Duration) -> Self {
        // In whole milliseconds: what is left of a deadline has more digits than anybody wants to read.
        Self::new(BackendErrorKind::Indeterminate, format!("no answer within {} ms", timeout.as_millis()))
    }

    /// The request panicked: what it has done before that is unknown.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::new(BackendErrorKind::Indeterminate, format!("the request panicked: {}", panic_text(panic)))
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> BackendErrorKind {
        self.kind
    }

    /// The message, without the class.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl StdError for BackendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What is left of an error that had a token in it: its text, with those of its sources.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Redacted(String);

/// What is known about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// The outcome is unknown: connection refused, reset or timed out, or an answer that cannot be read, is
    /// of no known meaning, or is none that such a server gives. Counts as a "no" for the vote, and as "maybe
    /// held" for the clean-up, and the request is retried.
    Indeterminate,
    /// The node answered that it cannot do it now, and wrote nothing: it is loading its data, a read-only
    /// replica, out of memory, busy. It may heal, so the request is retried.
    Transient,
    /// The node will not do it until somebody changes its configuration or the request: no or wrong
    /// credentials, no permission, keys of different slots, a key of another type, or an unknown command.
    /// When so many nodes reject that no quorum is left, the request fails at once.
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
    fn an_error_keeps_its_message_class_and_source_apart() {
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
    fn a_timeout_is_told_in_whole_milliseconds() {
        let error = BackendError::timed_out(Duration::from_nanos(49_829_658));
        assert_eq!(error.to_string(), "indeterminate: no answer within 49 ms");
    }
}
