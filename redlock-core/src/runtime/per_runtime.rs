// Tests: tests/tests/it/runtimes/tokio.rs.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "tokio")]
use super::tokio::Own;

/// A value that lives on a runtime, such as a connection with its task, for authors of a
/// [`LockBackend`](crate::LockBackend): one for each of tokio's current-thread runtimes (with the feature
/// `tokio`), and one for all other runtimes.
///
/// A value on a current-thread runtime stands still while nobody drives that runtime, and other callers would
/// wait for it. A multi-thread runtime has threads of its own, and so has smol's executor, so a value there
/// serves all callers. Its user has to notice when a value ends with its multi-thread runtime, and replace
/// it. A value on a current-thread runtime is dropped with the runtime.
pub struct PerRuntime<T> {
    make: Box<dyn Fn() -> T + Send + Sync>,
    shared: OnceLock<Arc<T>>,
    #[cfg(feature = "tokio")]
    own: Own<T>,
}

impl<T: Send + Sync + 'static> PerRuntime<T> {
    /// Each value comes from `make`, at its first use. `make` must not use this itself.
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            shared: OnceLock::new(),
            #[cfg(feature = "tokio")]
            own: Own::of_current_thread(),
        }
    }

    /// As [`PerRuntime::new`], but each of tokio's multi-thread runtimes has a value of its own, too: all of
    /// its threads may be blocked.
    pub(crate) fn for_each(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self {
            #[cfg(feature = "tokio")]
            own: Own::of_all(),
            ..Self::new(make)
        }
    }

    /// The value of the runtime that the caller is in.
    pub fn get(&self) -> Arc<T> {
        #[cfg(feature = "tokio")]
        if let Some(value) = self.own.get(&self.make) {
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
