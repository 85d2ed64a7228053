//! Values on runtimes, one for each.

// Tests: below; tests/tests/it/runtimes/tokio.rs.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{
    runtime::{Handle, Id},
    task::AbortHandle,
};

use super::has_threads;

/// Values by their runtime; each is dropped with its runtime.
pub(in crate::runtime) struct Own<T> {
    values: Arc<Values<T>>,
    /// Whether a multi-thread runtime has one, too.
    all: bool,
}

/// A process has few runtimes, and every request looks for its own: to compare a few takes less than a hash.
type Values<T> = Mutex<Vec<Entry<T>>>;

struct Entry<T> {
    runtime: Id,
    value: Arc<T>,
    /// The task that notices the end of the runtime, once it has started. It ends with the entry.
    watch: Option<AbortHandle>,
}

impl<T: Send + Sync + 'static> Own<T> {
    pub(in crate::runtime) fn of_current_thread() -> Self {
        Self { values: Arc::default(), all: false }
    }

    pub(in crate::runtime) fn of_all() -> Self {
        Self { values: Arc::default(), all: true }
    }

    /// The value of the caller's runtime, when that has one of its own.
    pub(in crate::runtime) fn get(&self, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let here = Handle::try_current().ok().filter(|here| self.all || !has_threads(here))?;
        let id = here.id();
        let value = {
            let mut values = lock(&self.values);
            if let Some(entry) = values.iter().find(|entry| entry.runtime == id) {
                return Some(entry.value.clone());
            }
            let value = Arc::new(make());
            values.push(Entry { runtime: id, value: value.clone(), watch: None });
            value
        };
        let leaving = Leaving { values: Arc::downgrade(&self.values), id };
        // A runtime that is being shut down drops the task on the spot, and that takes the lock.
        let watch = here.spawn(async move {
            let _leaving = leaving;
            pending::<()>().await;
        });
        if let Some(entry) = lock(&self.values).iter_mut().find(|entry| entry.runtime == id) {
            entry.watch = Some(watch.abort_handle());
        }
        Some(value)
    }
}

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// Removes the value of a runtime when it is dropped, at the end of the runtime.
struct Leaving<T> {
    values: Weak<Values<T>>,
    id: Id,
}

impl<T> Drop for Leaving<T> {
    fn drop(&mut self) {
        if let Some(values) = self.values.upgrade() {
            let gone = {
                let mut values = lock(&values);
                let position = values.iter().position(|entry| entry.runtime == self.id);
                position.map(|position| values.swap_remove(position))
            };
            // Outside of the lock, as its destructor may be anyone's.
            drop(gone);
        }
    }
}

fn lock<T>(values: &Values<T>) -> MutexGuard<'_, Vec<Entry<T>>> {
    values.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::runtime::{Builder, Runtime};

    use crate::PerRuntime;

    fn number(runtime: &Runtime, values: &PerRuntime<usize>) -> usize {
        let _inside = runtime.enter();
        *values.get()
    }

    #[test]
    fn each_current_thread_runtime_has_its_own_and_takes_it_away() {
        let driven = || Builder::new_current_thread().build().unwrap();
        let (first, second) = (driven(), driven());
        let threads = || Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let values = PerRuntime::new(move || counted.fetch_add(1, Ordering::Relaxed));
        assert_eq!(
            [&first, &second, &first, &threads(), &threads()].map(|runtime| number(runtime, &values)),
            [0, 1, 0, 2, 2]
        );
        assert_eq!(*values.get(), 2, "outside of every runtime");
        let held = {
            let _inside = first.enter();
            values.get()
        };
        drop(first);
        assert_eq!(Arc::strong_count(&held), 1, "it goes away with its runtime");
        assert_eq!(number(&second, &values), 1);

        assert_eq!(second.metrics().num_alive_tasks(), 1);
        drop(values);
        second.block_on(async { tokio::task::yield_now().await });
        assert_eq!(second.metrics().num_alive_tasks(), 0, "a task is left");
    }

    #[test]
    fn each_multi_thread_runtime_may_have_its_own_too() {
        let threads = || Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (first, second) = (threads(), threads());
        let made = AtomicUsize::new(0);
        let values = PerRuntime::for_each(move || made.fetch_add(1, Ordering::Relaxed));
        assert_eq!([&first, &second, &first].map(|runtime| number(runtime, &values)), [0, 1, 0]);
        let held = {
            let _inside = first.enter();
            values.get()
        };
        drop(first);
        assert_eq!(Arc::strong_count(&held), 1, "it goes away with its runtime");
    }
}
