//! A node that is a folder: on a disk of its own, or on a mount from another machine. Copy it to write a
//! backend of your own.
//!
//! It has two limits. Keys expire by the wall clock, so machines that share the folders need clocks that do
//! not jump, and that differ by much less than the shortest TTL. And the locks and renames of the file system
//! have to work between these machines, as those of local file systems and of NFS 4 do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, Release, ReleaseReply,
    Resources, Token, async_trait,
};
use tokio::{sync::oneshot, time::timeout};

/// From each resource to its token, and to the time when it expires, in milliseconds of the wall clock.
type Keys = BTreeMap<String, (String, u64)>;

#[derive(Debug)]
pub(crate) struct LockFolder {
    name: String,
    queue: mpsc::Sender<Request>,
}

type Request = Box<dyn FnOnce(&Path) + Send>;

impl LockFolder {
    /// Touches no file: a folder that is missing is no error here.
    pub(crate) fn open(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let name = folder.display().to_string();
        let (queue, requests) = mpsc::channel::<Request>();
        // One thread for each node runs the requests in order (clause 5). It ends with its backend.
        thread::spawn(move || requests.iter().for_each(|request| request(&folder)));
        Self { name, queue }
    }

    /// Queues a change of the keys at the first poll, before it awaits anything, so requests keep their
    /// order.
    async fn ask<T: Send + 'static>(
        &self,
        (names, token, within): (&Resources, &Token, Duration),
        change: impl FnOnce(&mut Keys, &[String], &str, u64) -> T + Send + 'static,
    ) -> Result<T, BackendError> {
        let (names, token, deadline) = (names.clone(), token.clone(), Instant::now() + within);
        let (sender, answer) = oneshot::channel();
        let request = move |folder: &Path| {
            let change = |keys: &mut Keys, now| change(keys, names.as_slice(), token.as_str(), now);
            let _ = sender.send(run(folder, deadline, change));
        };
        let _ = self.queue.send(Box::new(request));
        match timeout(within, answer).await {
            Ok(Ok(Ok(Some(reply)))) => Ok(reply),
            Ok(Ok(Err(error))) => {
                Err(BackendError::new(class(&error), "cannot use the folder").with_source(error))
            }
            _ => Err(BackendError::timed_out(within)),
        }
    }
}

#[async_trait]
impl LockBackend for LockFolder {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let ttl = request.ttl.as_millis() as u64;
        let change = move |keys: &mut Keys, names: &[String], token: &str, now: u64| {
            if names.iter().any(|name| keys.get(name).is_some_and(|(holder, _)| holder != token)) {
                return AcquireReply::Refused;
            }
            for name in names {
                // A key that has our token already keeps its end (clause 3).
                keys.entry(name.clone()).or_insert_with(|| (token.to_owned(), now + ttl));
            }
            AcquireReply::Granted
        };
        self.ask((request.resources, request.token, request.timeout), change).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let ttl = request.ttl.as_millis() as u64;
        let change = move |keys: &mut Keys, names: &[String], token: &str, now: u64| {
            if names.iter().any(|name| keys.get(name).is_none_or(|(holder, _)| holder != token)) {
                return AcquireReply::Refused;
            }
            for name in names {
                // Never shorter (clause 4).
                keys.entry(name.clone()).and_modify(|(_, end)| *end = (now + ttl).max(*end));
            }
            AcquireReply::Granted
        };
        self.ask((request.resources, request.token, request.timeout), change).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let change = |keys: &mut Keys, names: &[String], token: &str, _| {
            let before = keys.len();
            keys.retain(|name, (holder, _)| holder != token || !names.contains(name));
            if before - keys.len() == names.len() { ReleaseReply::Removed } else { ReleaseReply::NotHeld }
        };
        self.ask((request.resources, request.token, request.timeout), change).await
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// Changes the keys of a folder, while it excludes all other processes (clause 2). Returns `None` when the
/// deadline has passed (clause 7).
fn run<T>(
    folder: &Path,
    deadline: Instant,
    change: impl FnOnce(&mut Keys, u64) -> T,
) -> io::Result<Option<T>> {
    let (file, new) = (folder.join("keys"), folder.join("keys.new"));
    // The lock ends when the file is closed. From Rust 1.89 on, `File` itself has it.
    let lock = File::options().create(true).append(true).open(folder.join("lock"))?;
    fs4::FileExt::lock(&lock)?;
    if Instant::now() >= deadline {
        return Ok(None);
    }
    let mut keys: Keys = match fs::read(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Keys::new(),
        text => serde_json::from_slice(&text?)?,
    };
    let before = keys.clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_millis() as u64;
    keys.retain(|_, (_, end)| *end > now);
    let reply = change(&mut keys, now);
    if keys != before {
        // The file is renamed once it is complete and on disk: after a crash it has the old keys or the new
        // ones.
        fs::write(&new, serde_json::to_vec(&keys)?)?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, &file)?;
        #[cfg(unix)]
        File::open(folder)?.sync_all()?;
    }
    Ok(Some(reply))
}

/// Whether a person has to fix it, or whether the outcome is unknown (clause 8).
fn class(error: &io::Error) -> BackendErrorKind {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::InvalidData => BackendErrorKind::Rejected,
        _ => BackendErrorKind::Indeterminate,
    }
}
