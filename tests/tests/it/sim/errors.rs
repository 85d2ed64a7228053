//! What an error reveals, and what it does not.

use std::io;

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, Extend, LockBackend, LockParts,
    MemoryBackend, Release, ReleaseReply, Replace, Token, async_trait,
};
use redlock_tests::harness::{Harness, answers, attempts, ms, s};

/// A node that repeats the request in each of its errors, as some proxies do.
#[derive(Debug)]
enum Echo {
    /// In its message.
    Message,
    /// In the error that caused its own.
    Source,
    /// In a panic.
    Panic,
    /// In a message that ends in the middle of the token.
    Cut,
}

impl Echo {
    fn fail<T>(&self, verb: &str, tokens: &[&Token]) -> Result<T, BackendError> {
        let tokens: Vec<_> = tokens.iter().map(|token| token.as_str()).collect();
        let text = format!("DENIED 'EVAL' '{verb}' '{}' '60000'", tokens.join("' '"));
        let error = |text| BackendError::new(BackendErrorKind::Rejected, text);
        Err(match self {
            Self::Message => error(text),
            Self::Source => error("not allowed".to_owned()).with_source(io::Error::other(text)),
            Self::Panic => panic!("{text}"),
            Self::Cut => error(text[..text.len() - 12].to_owned()),
        })
    }
}

#[async_trait]
impl LockBackend for Echo {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.fail("acquire", &[request.token])
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.fail("extend", &[request.token])
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.fail("release", &[request.token])
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        self.fail("replace", &[request.old, request.new])
    }
}

/// The longest run of hex digits in any printed form of an error.
fn longest_run(error: &Error) -> usize {
    let shown = format!("{error} {error:?} {error:#?}");
    shown.split(|digit: char| !digit.is_ascii_hexdigit()).map(str::len).max().unwrap()
}

#[test]
fn a_token_that_a_node_repeats_is_cut_to_its_first_digits() {
    for echo in [|| Echo::Message, || Echo::Source, || Echo::Panic, || Echo::Cut] {
        let harness = Harness::new(1);
        harness.run(async {
            let redlock = harness.redlock_over(|_| echo());
            let error = redlock.try_lock("x", s(10)).await.unwrap_err();
            assert!(longest_run(&error) <= Token::PREFIX_LEN + 1, "{:?}: {error:?}", echo());
            let token: Token = "00112233445566778899aabbccddeeff".parse().unwrap();
            let error = redlock.from_parts(&LockParts::new("x", token, s(10))).await.unwrap_err();
            assert!(longest_run(&error) <= Token::PREFIX_LEN + 1, "{:?}: {error:?}", echo());
            assert!(error.to_string().contains("00112233…"), "{error}");
        });
    }
}

#[test]
fn a_report_counts_the_rounds_of_the_call_that_failed() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let mut lock = redlock.lock("x", s(10)).await.unwrap();
        let contended = harness.redlock().lock("x", s(10)).retry_count(2).await.unwrap_err();
        assert_eq!(attempts(&contended), 3, "a lock, with its retries");
        let queued = redlock.lock("x", s(10)).retry_count(2).await.unwrap_err();
        assert_eq!(attempts(&queued), 1, "a lock that its own process holds: only the last attempt");

        harness.nodes.iter().for_each(MemoryBackend::shut_down);
        assert_eq!(attempts(&lock.extend(s(10)).await.unwrap_err()), 1, "an extension");
        assert_eq!(attempts(&redlock.try_lock("y", s(10)).await.unwrap_err()), 1, "a single attempt");
        let parts = LockParts::new("x", lock.token().clone(), s(10));
        assert_eq!(attempts(&redlock.from_parts(&parts).await.unwrap_err()), 1, "a hand-over");
        assert_eq!(attempts(&lock.unlock().await.unwrap_err()), 1, "an unlock");

        harness.nodes.iter().for_each(MemoryBackend::start);
        let mut lock = redlock.lock("z", s(1)).await.unwrap();
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(2_000)));
        assert_eq!(attempts(&lock.extend(s(1)).await.unwrap_err()), 1, "an extension that came too late");
        harness.sleep(1_000).await;
        let lapsed = lock.extend(s(1)).await.unwrap_err();
        assert!(matches!(lapsed, Error::Lost(_)), "{lapsed}");
        assert_eq!((attempts(&lapsed), answers(&lapsed).as_str()), (0, ""), "the lock had lapsed before");

        harness.nodes.iter().for_each(|node| node.delay_replies(ms(0)));
        let lost = redlock.using("u", s(1), |_| async {
            harness.nodes.iter().for_each(MemoryBackend::shut_down);
            std::future::pending::<()>().await;
        });
        let lost = lost.await.unwrap_err();
        assert!(matches!(lost, Error::Lost(_)), "{lost}");
        assert_eq!(attempts(&lost), 0, "others have tried to extend");
    });
}
