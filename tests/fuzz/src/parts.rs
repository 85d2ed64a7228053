//! Tokens and the parts of a lock, as another process sends them.

use std::{ops::RangeInclusive, time::Duration};

use redlock_core::{Error, LockParts, MAX_TTL, Runtime, Token, UnlockOutcome};
use redlock_tests::harness::Harness;

use crate::oracle::{Flaw, assert_not_too_long};

/// Four bytes decide which nodes hold the lock, and for how long; the rest is the message that hands it over.
pub fn check(data: &[u8]) {
    let Some((setting, handed)) = data.split_first_chunk::<4>() else { return };
    if let Ok(text) = std::str::from_utf8(handed) {
        token(text);
    }
    if let Ok(token) = serde_json::from_slice::<Token>(handed) {
        let json = serde_json::to_string(&token).expect("a token");
        assert_eq!(json, format!("\"{}\"", token.as_str()));
        self::token(token.as_str());
    }
    if let Ok(parts) = serde_json::from_slice::<LockParts>(handed) {
        let json = serde_json::to_string(&parts).expect("parts");
        assert_eq!(serde_json::from_str::<LockParts>(&json).expect("the same parts"), parts);
        take_over(*setting, &parts);
    }
    if let Ok(parts) = postcard::from_bytes::<LockParts>(handed) {
        let bytes = postcard::to_stdvec(&parts).expect("parts");
        assert_eq!(postcard::from_bytes::<LockParts>(&bytes).expect("the same parts"), parts);
        take_over(*setting, &parts);
    }
}

fn token(text: &str) {
    let hex = text.chars().all(|letter| letter.is_ascii_hexdigit());
    let parsed = text.parse::<Token>();
    assert_eq!(parsed.is_ok(), hex && DIGITS.contains(&text.len()), "{text:?}");
    let Ok(token) = parsed else { return };
    assert_eq!(token.as_str(), text);
    assert_eq!(token.as_str().parse(), Ok(token.clone()));
    // At most a quarter of the digits of the shortest token.
    let shown = format!("{token:?}");
    assert!(!shown.contains(&text[..9]) && shown.len() < 20, "{shown}");
    let json = serde_json::to_vec(&token).expect("a token");
    assert_eq!(serde_json::from_slice::<Token>(&json).ok(), Some(token));
}

/// Takes over a lock that some of the nodes hold.
fn take_over([nodes, holders, life, drift]: [u8; 4], parts: &LockParts) {
    // How long the giver could continue, or had to, is not checked here.
    let mut parts = parts.clone();
    (parts.max_hold, parts.min_hold) = (None, None);
    parts.longest_ttl = parts.longest_ttl.min(MAX_TTL);
    let parts = &parts;
    let harness = Harness::seeded(u64::from(nodes), usize::from(nodes % 5) + 1);
    let drift = f64::from(drift) / 256.0;
    let redlock = harness.builder().drift_factor(drift).build().expect("a manager");
    let life = Duration::from_millis(u64::from(life) * 4);
    let is_holder = |node: usize| holders >> node & 1 == 1;
    for (position, node) in harness.nodes.iter().enumerate() {
        for name in parts.resources.iter().filter(|_| is_holder(position)) {
            node.set(name, parts.token.as_str(), life);
        }
    }
    let has_quorum = (0..harness.nodes.len()).filter(|node| is_holder(*node)).count() >= harness.quorum();
    let flaw = Flaw::of(&parts.resources, parts.ttl, drift);
    harness.sim.run(async {
        match redlock.from_parts(parts).await {
            Ok(lock) => {
                assert_eq!(flaw, Flaw::Nothing);
                assert!(
                    has_quorum && !life.is_zero(),
                    "taken over from {holders:b} of {} nodes",
                    harness.nodes.len()
                );
                let longest = parts.longest_ttl.max(parts.ttl);
                assert_not_too_long(lock.remaining(), longest, drift);
                assert_eq!(lock.resources().as_slice(), parts.resources);
                assert_ne!(lock.token(), &parts.token);
                let again = redlock.from_parts(parts).await;
                assert!(matches!(again, Err(Error::Lost(_))), "taken over twice: {again:?}");
                let outlives = |node: &&redlock_core::MemoryBackend| {
                    parts.resources.iter().all(|name| node.ttl(name) > Some(lock.remaining()))
                };
                assert!(
                    harness.nodes.iter().filter(outlives).count() >= harness.quorum(),
                    "keys expire before the lock"
                );

                // Once more, from the new owner.
                let handed = lock.into_parts();
                assert_eq!(handed.resources, parts.resources);
                assert_eq!(handed.ttl.as_millis(), parts.ttl.as_millis());
                let lock = redlock.from_parts(&handed).await.expect("a lock that is held");
                assert_not_too_long(lock.remaining(), longest, drift);
                assert_eq!(lock.unlock().await.expect("every node replies"), UnlockOutcome::Released);
            }
            Err(Error::InvalidRequest(invalid)) => {
                flaw.assert_reported(&invalid, parts.ttl, drift);
                return;
            }
            Err(Error::Lost(_)) => assert!(!has_quorum || life.is_zero(), "lost, though a quorum holds it"),
            Err(error) => panic!("every node replies, but: {error}"),
        }
        harness.runtime.sleep(SETTLED).await;
        parts.resources.iter().for_each(|name| harness.assert_free(name));
    });
    harness.assert_at_rest();
}

const DIGITS: RangeInclusive<usize> = 32..=128;
/// By then the background work is done.
const SETTLED: Duration = Duration::from_secs(60);
