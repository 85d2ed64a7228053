use std::{
    fmt,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "tokio")]
use super::tokio::Driven;

/// Something that lives on a runtime, say a connection with its task, for the author of a
/// [`LockBackend`](crate::LockBackend): one for each of tokio's current-thread runtimes (with the feature
/// `tokio`), and one for all else.
///
/// What lives on a current-thread runtime stands still when nobody drives that, and would let the others wait
/// for it. A multi-thread runtime, as smol's executor, has threads of its own, so what lives there serves
/// everybody. What has ended with a multi-thread runtime has to be noticed, and replaced, by its user; what
/// is on a current-thread runtime is dropped with that.
pub struct PerRuntime<T> {
    make: Box<dyn Fn() -> T + Send + Sync>,
    shared: OnceLock<Arc<T>>,
    #[cfg(feature = "tokio")]
    driven: Driven<T>,
}

impl<T: Send + Sync + 'static> PerRuntime<T> {
    /// Makes each with `make`, when it is first asked for. `make` must not ask for one itself.
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            shared: OnceLock::new(),
            #[cfg(feature = "tokio")]
            driven: Driven::default(),
        }
    }

    /// The one of the runtime that the caller is in.
    pub fn get(&self) -> Arc<T> {
        #[cfg(feature = "tokio")]
        if let Some(value) = self.driven.get(&self.make) {
            return value;
        }
        self.shared.get_or_init(|| Arc::new((self.make)())).clone()
    }
}

impl<T> fmt::Debug for PerRuntime<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRuntime").finish_non_exhaustive()
    }
}
