//! Notes of holders, which other clients write and people read.

use arbitrary::{Arbitrary, Unstructured};
use redlock_core::{Error, KeyState, Note, Runtime, redis::key_state};
use redlock_tests::harness::{Harness, s};

pub fn check(data: &[u8]) {
    let Ok(scene) = Scene::arbitrary_take_rest(Unstructured::new(data)) else { return };
    match scene {
        Scene::Stored { value, ttl, stored } => self::stored(value.as_deref(), ttl, stored.as_ref()),
        Scene::Written { text, node_down } => written(&text, node_down),
    }
}

#[derive(Arbitrary, Debug)]
enum Scene {
    /// What anyone has stored at a key, and at the key beside it.
    Stored { value: Option<Vec<u8>>, ttl: i64, stored: Option<Stored> },
    /// The note of a lock, which another client is shown.
    Written { text: String, node_down: u8 },
}

#[derive(Arbitrary, Debug)]
enum Stored {
    Bytes(Vec<u8>),
    /// With the mark of a note of this holder, or of the one before it.
    Note(Vec<u8>, bool),
}

impl Stored {
    fn bytes(&self, value: &[u8]) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Note(text, same) => {
                let mut holder = value[..value.len().min(PREFIX)].to_vec();
                if let (Some(first), false) = (holder.first_mut(), same) {
                    *first = first.wrapping_add(1);
                }
                [b"note ", &holder[..], b" ", text].concat()
            }
        }
    }
}

fn stored(value: Option<&[u8]>, ttl: i64, stored: Option<&Stored>) {
    let beside = stored.map(|stored| stored.bytes(value.unwrap_or_default()));
    let state = key_state(value, ttl, beside.as_deref());
    let Some(value) = value else {
        assert_eq!(state, KeyState::Free);
        return;
    };
    let KeyState::Held { holder, remaining, note, .. } = state else { panic!("{state:?}") };
    assert!(holder.is_ascii() && !holder.contains(char::is_control), "{holder:?}");
    assert_eq!(remaining.map(|left| i64::try_from(left.as_millis())), (ttl >= 0).then_some(Ok(ttl)));
    // A note is the holder's own.
    let own = value.len() >= PREFIX
        && beside
            .as_ref()
            .is_some_and(|beside| beside.starts_with(&[b"note ", &value[..PREFIX], b" "].concat()));
    assert_eq!(note.is_some(), own, "{note:?}");
    if let Some(Stored::Note(_, same)) = stored {
        assert!(note.is_none() || *same, "{note:?} is another holder's");
    }
    note.iter().for_each(|note| one_visible_line(note));
}

fn written(text: &str, node_down: u8) {
    let note = Note::new(text);
    let kept = note.as_str();
    assert!(text.starts_with(kept) && kept.len() <= Note::MAX_LEN, "{kept:?}");
    assert!(kept == text || kept.len() + 4 > Note::MAX_LEN, "{kept:?} is cut too short");
    one_visible_line(&note.to_string());
    one_visible_line(&Note::of_process(text).to_string());

    let harness = Harness::new(3);
    harness.sim.run(async {
        let lock = harness.redlock().lock("x", s(10)).note(text).await.expect("every node replies");
        if let Some(node) = harness.nodes.get(usize::from(node_down)) {
            node.stop();
        }
        let refused = harness.redlock().try_lock("x", s(10)).note("another").await;
        let Err(error @ Error::Contended(_)) = refused else { panic!("{refused:?}") };
        let holder = error.report().and_then(|report| report.holder.as_ref()).expect("the holder's note");
        assert_eq!(holder.note, note.to_string());
        assert_eq!(holder.prefix, lock.token().prefix());
        one_visible_line(&error.to_string());
        if let Some(node) = harness.nodes.get(usize::from(node_down)) {
            node.start();
        }
        lock.unlock().await.expect("every node replies");
        harness.runtime.sleep(s(60)).await;
        harness.assert_free("x");
        for node in &harness.nodes {
            assert_eq!(node.note("x"), None);
        }
    });
    harness.assert_at_rest();
}

/// Nothing in it moves the cursor, or changes the order of the text around it.
fn one_visible_line(text: &str) {
    let is_hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    assert!(!text.contains(is_hidden), "{text:?}");
}

/// Of a value, what a note says of its holder.
const PREFIX: usize = redlock_core::Token::PREFIX_LEN;
