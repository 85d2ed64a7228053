//! Requests about notes.

// Tests: conformance/tests.rs.

use super::{Holder, Seen};
use crate::{
    backend::Annotate,
    conformance::verdict::Violation,
    inspect::{Inspect, KeyState},
    resources::Resources,
};

impl<'k> Holder<'k> {
    pub(in super::super) async fn annotate(
        &self,
        names: impl Into<Resources> + Send,
        note: Option<&str>,
    ) -> Seen<'k, ()> {
        let resources = names.into();
        if note.is_some() {
            self.case.log().noted.push((resources.clone(), self.token.clone()));
        }
        let request = Annotate::new(&resources, &self.token, note, self.timeout);
        let verb = note.map_or_else(|| "removes its note of".to_owned(), |note| format!("notes {note:?} at"));
        self.ask(&verb, &resources, self.backend.annotate(request)).await
    }

    pub(in super::super) async fn inspect_notes(
        &self,
        names: impl Into<Resources> + Send,
    ) -> Seen<'k, Vec<KeyState>> {
        let resources = names.into();
        let request = Inspect::new(&resources, self.timeout).with_notes();
        self.ask("inspects, with notes,", &resources, self.backend.inspect(request)).await
    }

    /// Checks which notes the keys have.
    pub(in super::super) async fn must_note(
        &self,
        names: impl Into<Resources> + Send,
        expected: &[Option<&str>],
    ) -> Result<(), Violation> {
        let seen = self.inspect_notes(names).await;
        let notes = |states: &Vec<KeyState>| states.iter().map(note_of).eq(expected.iter().copied());
        if seen.ended()?.is_ok_and(notes) {
            Ok(())
        } else {
            Err(self.case.violation(format!("the notes {expected:?}"), seen.outcome()))
        }
    }
}

fn note_of(state: &KeyState) -> Option<&str> {
    match state {
        KeyState::Held { note, .. } => note.as_deref(),
        KeyState::Free => None,
    }
}
