//! The source of the random bits of tokens and delays.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use rand::{TryRng, rngs::SysRng};

/// A source of random bytes that many tasks share. It keeps `rand` out of the public API.
pub(crate) enum Entropy {
    /// The operating system's, without a lock: a thread that draws would make all others wait for its system
    /// call.
    System,
    Own(Mutex<Box<Fill>>),
}

/// Fills a slice with random bytes.
type Fill = dyn FnMut(&mut [u8]) + Send;

impl Entropy {
    pub(crate) fn new(fill: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        Self::Own(Mutex::new(Box::new(fill)))
    }

    /// The operating system's, once it has shown that it works: from then on it does not fail.
    ///
    /// # Errors
    ///
    /// The error of the system.
    pub(crate) fn of_system() -> Result<Self, String> {
        SysRng.try_fill_bytes(&mut [0]).map_err(|error| error.to_string())?;
        Ok(Self::System)
    }

    /// What is drawn in one call comes from the source in one piece.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Draw<'_>) -> T) -> T {
        match self {
            Self::System => draw(&mut Draw::System),
            Self::Own(fill) => {
                draw(&mut Draw::Own(&mut **fill.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }
}

/// A generator of `rand` over the source.
pub(crate) enum Draw<'a> {
    System,
    Own(&'a mut Fill),
}

impl Draw<'_> {
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        match self {
            Self::System => SysRng
                .try_fill_bytes(bytes)
                .unwrap_or_else(|error| panic!("the operating system has no random bytes: {error}")),
            Self::Own(fill) => fill(bytes),
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

impl TryRng for Draw<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn all_that_is_drawn_comes_from_the_source() {
        let mut next = 0;
        let entropy = Entropy::new(move |bytes| {
            for byte in bytes {
                next += 1;
                *byte = next;
            }
        });
        entropy.draw(|draw| {
            assert_eq!(draw.try_next_u32(), Ok(0x0403_0201));
            assert_eq!(draw.try_next_u64(), Ok(0x0c0b_0a09_0807_0605));
            let mut bytes = [0; 3];
            draw.fill(&mut bytes);
            assert_eq!(bytes, [13, 14, 15]);
        });
        let entropy = Entropy::new(|bytes| bytes.fill(0xff));
        assert!(entropy.draw(|draw| draw.random_range(0..=9_u8)) == 9);
    }

    #[test]
    fn two_draws_from_the_system_differ() {
        let entropy = Entropy::of_system().unwrap();
        let draw = || entropy.draw(|draw| draw.bytes::<16>());
        assert_ne!(draw(), draw());
    }
}
