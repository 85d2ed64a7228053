//! A value that refuses late writes, for the unit tests of services.

// Tests: below.

use std::{
    num::NonZeroU64,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A value that compares fencing tokens, and refuses those that are lower than one it has seen. A unit test
/// of a service puts it in the place of the database that does the same.
///
/// A read also counts: from then on, the holders before are refused. So nothing is written in between when
/// somebody reads the value and writes back what follows from it.
///
/// ```
/// use std::num::NonZeroU64;
/// use redlock_core::FencedRegister;
///
/// let [first, second] = [33, 34].map(|fence| NonZeroU64::new(fence).unwrap());
/// let balance = FencedRegister::new(100);
/// assert_eq!(balance.read(first), Ok(100));
/// // The first holder pauses, its lock ends, and the next one comes.
/// assert_eq!(balance.read(second), Ok(100));
/// let late = balance.write(first, 110).unwrap_err();
/// assert_eq!(late.to_string(), "the fencing token 33 is stale: 34 has been seen");
/// assert_eq!(balance.write(second, 150), Ok(()));
/// assert_eq!(balance.get(), 150);
/// ```
#[derive(Debug, Default)]
pub struct FencedRegister<T> {
    state: Mutex<State<T>>,
}

impl<T> FencedRegister<T> {
    /// A register with this value, which has seen no token.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { state: Mutex::new(State { value, highest: None }) }
    }

    /// Replaces the value. One holder may write as often as it likes, with its one token.
    ///
    /// # Errors
    ///
    /// [`StaleFence`] when a higher token has been seen: the value stays.
    pub fn write(&self, fence: NonZeroU64, value: T) -> Result<(), StaleFence> {
        self.admit(fence)?.value = value;
        Ok(())
    }

    /// The value. From now on, lower tokens are refused.
    ///
    /// # Errors
    ///
    /// [`StaleFence`] when a higher token has been seen: what follows from the value may not be written.
    pub fn read(&self, fence: NonZeroU64) -> Result<T, StaleFence>
    where
        T: Clone,
    {
        Ok(self.admit(fence)?.value.clone())
    }

    /// The value, for whoever holds no lock and writes nothing: the assertions of a test.
    #[must_use]
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.state().value.clone()
    }

    /// The highest token that it has seen.
    #[must_use]
    pub fn highest(&self) -> Option<NonZeroU64> {
        self.state().highest
    }

    fn admit(&self, fence: NonZeroU64) -> Result<MutexGuard<'_, State<T>>, StaleFence> {
        let mut state = self.state();
        match state.highest {
            Some(highest) if fence < highest => Err(StaleFence { fence, highest }),
            _ => {
                state.highest = Some(fence);
                Ok(state)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // A `Clone` that panics leaves the state as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request with a fencing token of an earlier holder: somebody else has got the lock since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fencing token {fence} is stale: {highest} has been seen")]
#[non_exhaustive]
pub struct StaleFence {
    /// The token of the request.
    pub fence: NonZeroU64,
    /// The highest token that the register has seen.
    pub highest: NonZeroU64,
}

#[derive(Debug, Default)]
struct State<T> {
    value: T,
    highest: Option<NonZeroU64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).unwrap()
    }

    #[test]
    fn a_lower_token_is_refused_and_changes_nothing() {
        let register = FencedRegister::new("a");
        assert_eq!(register.highest(), None);
        assert_eq!(register.write(token(5), "b"), Ok(()));
        let stale = StaleFence { fence: token(4), highest: token(5) };
        assert_eq!(register.write(token(4), "c"), Err(stale));
        assert_eq!(register.read(token(4)), Err(stale));
        assert_eq!((register.get(), register.highest()), ("b", Some(token(5))));
    }

    #[test]
    fn a_holder_may_write_again_and_the_next_ones_may_skip_numbers() {
        let register = FencedRegister::new(0);
        for (number, value) in [(5, 1), (5, 2), (9, 3), (9, 4), (1_000, 5)] {
            assert_eq!(register.write(token(number), value), Ok(()));
            assert_eq!(register.get(), value);
        }
    }

    #[test]
    fn a_read_refuses_the_holders_before() {
        let register = FencedRegister::new(100);
        assert_eq!(register.read(token(1)), Ok(100));
        assert_eq!(register.read(token(2)), Ok(100));
        assert_eq!(
            register.write(token(1), 110),
            Err(StaleFence { fence: token(1), highest: token(2) }),
            "the second holder would overwrite it"
        );
        assert_eq!(register.write(token(2), 150), Ok(()));
    }

    #[test]
    fn a_look_without_a_token_refuses_nobody() {
        let register = FencedRegister::<u32>::default();
        assert_eq!((register.get(), register.highest()), (0, None));
        assert_eq!(register.write(token(1), 1), Ok(()));
    }
}
