//! The source of the random bits of tokens and delays.

use std::convert::Infallible;

use rand::{TryRng, rngs::SysRng};

/// A source of random bytes, as a generator of `rand`. It keeps `rand` out of the public API.
pub(crate) struct Entropy(Box<Fill>);

/// Fills a slice with random bytes.
type Fill = dyn FnMut(&mut [u8]) + Send;

impl Entropy {
    pub(crate) fn new(fill: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        Self(Box::new(fill))
    }

    /// The operating system's, once it has shown that it works: from then on it does not fail.
    ///
    /// # Errors
    ///
    /// The error of the system.
    pub(crate) fn of_system() -> Result<Self, String> {
        let fill = |bytes: &mut [u8]| SysRng.try_fill_bytes(bytes);
        fill(&mut [0]).map_err(|error| error.to_string())?;
        Ok(Self::new(move |bytes| {
            fill(bytes).unwrap_or_else(|error| panic!("the operating system has no random bytes: {error}"));
        }))
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        (self.0)(bytes);
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

impl TryRng for Entropy {
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
        let mut entropy = Entropy::new(move |bytes| {
            for byte in bytes {
                next += 1;
                *byte = next;
            }
        });
        assert_eq!(entropy.try_next_u32(), Ok(0x0403_0201));
        assert_eq!(entropy.try_next_u64(), Ok(0x0c0b_0a09_0807_0605));
        let mut bytes = [0; 3];
        entropy.fill(&mut bytes);
        assert_eq!(bytes, [13, 14, 15]);
        assert!(Entropy::new(|bytes| bytes.fill(0xff)).random_range(0..=9_u8) == 9);
    }

    #[test]
    fn two_sources_of_the_system_differ() {
        let draw = || Entropy::of_system().unwrap().bytes::<16>();
        assert_ne!(draw(), draw());
    }
}
