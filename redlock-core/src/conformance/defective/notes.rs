//! What each defect does to notes.

// Tests: conformance/tests.rs.

use std::time::Duration;

use super::{super::defects::Defect, Defective};
use crate::{Annotate, BackendError, KeyState, MAX_TTL, Resources, Token, backend::LockBackend};

impl Defective {
    pub(super) async fn annotated(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let Annotate { resources: names, token, note, timeout, .. } = request;
        let Some(text) = note else { return self.note_removed(request).await };
        let own: Vec<_> = names.iter().filter(|name| self.holds(name, token)).map(str::to_owned).collect();
        let set_ttl = |ttl: Duration| own.iter().for_each(|name| self.node.set(name, token.as_str(), ttl));
        match self.defect {
            Defect::AnnotateDoesNothing => return Ok(()),
            Defect::AnnotateKeepsTheFirst if names.iter().any(|name| self.node.note(name).is_some()) => {
                return Ok(());
            }
            Defect::NoteIsCut => {
                let cut: String = text.chars().take(64).collect();
                return self.node.annotate(Annotate { note: Some(&cut), ..request }).await;
            }
            Defect::NoteIgnoresTheToken => {
                for name in names.iter() {
                    let Some(Ok(holder)) = self.node.get(name).map(|value| value.parse::<Token>()) else {
                        continue;
                    };
                    let one = Resources::from(name);
                    self.node.annotate(Annotate::new(&one, &holder, note, timeout)).await?;
                }
                return Ok(());
            }
            Defect::NoteOfTheFirstOnly => {
                let first = names.iter().take(1).collect();
                return self.node.annotate(Annotate { resources: &first, ..request }).await;
            }
            Defect::NoteOfSeveralIsAllOrNothing if own.len() < names.iter().len() => return Ok(()),
            Defect::NoteExtendsTheKey => set_ttl(MAX_TTL),
            Defect::NoteShortensTheKey => set_ttl(Duration::from_millis(10)),
            Defect::NoteTakesTheKey => own.iter().for_each(|name| self.node.set(name, text, MAX_TTL)),
            Defect::NoteKeepsItsExpiry
                if own.iter().any(|name| self.notes.lock().unwrap().contains_key(name)) =>
            {
                return Ok(());
            }
            Defect::AnnotateSentTwice => self.node.annotate(request).await?,
            _ => {}
        }
        for name in names.iter() {
            if self.defect == Defect::NoteOfAFreeKey || self.holds(name, token) {
                self.notes.lock().unwrap().insert(name.to_owned(), (token.clone(), text.to_owned()));
            }
        }
        self.node.annotate(request).await
    }

    async fn note_removed(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let Annotate { resources: names, token, timeout, .. } = request;
        match self.defect {
            Defect::NoteIsNotRemoved => return Ok(()),
            Defect::NoteIsRemovedFromHeldKeysOnly => {
                let held = names.iter().filter(|name| self.holds(name, token)).collect();
                return self.node.annotate(Annotate { resources: &held, ..request }).await;
            }
            Defect::NoteIsRemovedByOthers => {
                for name in names.iter() {
                    let Some(Ok(holder)) = self.node.get(name).map(|value| value.parse::<Token>()) else {
                        continue;
                    };
                    let one = Resources::from(name);
                    self.node.annotate(Annotate::new(&one, &holder, None, timeout)).await?;
                }
            }
            _ => {}
        }
        for name in names.iter() {
            self.notes.lock().unwrap().remove(name);
        }
        self.node.annotate(request).await
    }

    /// The states with notes that should not be there.
    pub(super) fn with_wrong_notes(&self, names: &Resources, states: Vec<KeyState>) -> Vec<KeyState> {
        let notes = self.notes.lock().unwrap();
        let wrong = |(name, state): (&str, KeyState)| match (notes.get(name), self.defect) {
            (Some((_, text)), Defect::NoteOfAnotherIsShown) => state.with_note(text.as_bytes()),
            (Some((token, text)), Defect::NoteOfAFreeKey | Defect::NoteOutlivesItsKey)
                if self.holds(name, token) =>
            {
                state.with_note(text.as_bytes())
            }
            _ => state,
        };
        names.iter().zip(states).map(wrong).collect()
    }
}
