//! Which commands a server has for a request, learnt from the requests themselves.

// Tests: redis/dialect/tests.rs, redis/dialect/reading.rs; tests/tests/it/servers/acl.rs.

mod reading;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::reading::{AcquireSent, Acquired, Lesson, ReleaseSent, Released, Trial};
use super::{
    command::{Command, Removal},
    reply::Reply,
};
use crate::{
    backend::{Acquire, AcquireReply, BackendError, Release, ReleaseReply},
    resources::Resources,
};

/// The forms in which a node acquires and releases one resource. A native command takes the server less time
/// than a script: `SET` with `NX`, `GET` and `PX` (Redis from 7.0, Valkey), and `DELIFEQ` (Valkey from 9.0)
/// or `DELEX` (Redis from 8.4, Valkey from 9.2). Several resources are always a script.
///
/// A backend keeps one for each node. What it knows holds for one connection, since another may lead to
/// another server: the first acquire and the first release over a connection are scripts that also tell what
/// the server has. Each request is one command.
///
/// An acquire that the server does not know (after a failover to an older one, say) fails as
/// [`Transient`](crate::BackendErrorKind::Transient). It is never sent in another form by itself, as its
/// release may be behind it already. A release is, since nobody uses its token again.
///
/// A user of the server that may not run scripts can acquire and release where there are native commands for
/// both. The first acquire of a node then fails as `Transient`.
#[derive(Debug, Default)]
pub struct Dialect {
    state: Mutex<State>,
    only_scripts: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The number of the connection for which the forms are known.
    connection: u64,
    acquire: Known<()>,
    release: Known<Removal>,
    /// Whether the user may not run scripts, so that none can tell about a new connection.
    without_scripts: bool,
}

/// What is known about the form of a request.
#[derive(Clone, Copy, Debug)]
struct Known<N> {
    form: Form<N>,
    /// Whether a native command has been answered over any connection.
    passes: bool,
    /// Over how many connections one failed before that.
    failures: u8,
}

/// The form of a request, with what there is to know about a native one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form<N> {
    Unknown,
    Script,
    Native(N),
}

impl Dialect {
    /// A node about which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A node that gets scripts only: a Cluster, for example, whose servers may differ.
    #[must_use]
    pub fn scripts() -> Self {
        Self { only_scripts: true, ..Self::default() }
    }

    /// Acquires, in the form that the server has.
    ///
    /// `connection` is the number of connections that have been made, or a constant where that is unknown.
    /// `send` sends a command, at most once, when its future is first polled, and returns the reply; if the
    /// command does not [accept](Command::accepts) it, an error will do.
    ///
    /// # Errors
    ///
    /// Those of `send`; [`Indeterminate`](crate::BackendErrorKind::Indeterminate) for a reply that is none to
    /// the command; and [`Rejected`](crate::BackendErrorKind::Rejected), with the server's words, when the
    /// user may use none of the forms.
    pub async fn acquire<'a, F>(
        &self,
        request: Acquire<'a>,
        connection: impl Fn() -> u64 + Send + Sync,
        send: impl Fn(Command<'a>) -> F + Send + Sync,
    ) -> Result<AcquireReply, BackendError>
    where
        F: Future<Output = Result<Reply, BackendError>> + Send,
    {
        if self.only_scripts || !is_one(request.resources) {
            return send(Command::acquire(&request)).await?.vote();
        }
        let sent = self.state().acquire_over(connection());
        let received = send(match sent {
            AcquireSent::Telling => Command::acquire_and_tell(&request),
            AcquireSent::Script => Command::acquire(&request),
            AcquireSent::Native(_) | AcquireSent::WithoutScripts => Command::acquire_natively(&request),
        });
        match reading::acquired(request.token, sent, received.await) {
            Acquired::Decided(outcome, lesson) => {
                if let Some(lesson) = lesson {
                    self.state().over(connection()).acquire_lesson(lesson);
                }
                outcome
            }
            Acquired::ScriptsDenied(denied) => {
                // Who cannot release shall not acquire.
                let Some(removal) = find_removal(request.resources, &send).await? else {
                    return Err(reading::with_hint(&denied));
                };
                self.state().over(connection()).only_native(removal);
                Err(reading::not_executed(&denied))
            }
        }
    }

    /// Releases, in the form that the server has. The arguments are those of [`Dialect::acquire`].
    ///
    /// # Errors
    ///
    /// Those of [`Dialect::acquire`].
    pub async fn release<'a, F>(
        &self,
        request: Release<'a>,
        connection: impl Fn() -> u64 + Send + Sync,
        send: impl Fn(Command<'a>) -> F + Send + Sync,
    ) -> Result<ReleaseReply, BackendError>
    where
        F: Future<Output = Result<Reply, BackendError>> + Send,
    {
        if self.only_scripts || !is_one(request.resources) {
            return reading::removed(&send(Command::release(&request)).await?);
        }
        let mut sent = self.state().release_over(connection());
        let mut first_denial = None;
        loop {
            let received = send(match sent {
                ReleaseSent::Telling => Command::release_and_tell(&request),
                ReleaseSent::Script | ReleaseSent::LastScript => Command::release(&request),
                ReleaseSent::Native(removal, _) | ReleaseSent::WithoutScripts(removal) => {
                    Command::release_natively(&request, removal)
                }
            });
            let lesson;
            let end = match reading::released(sent, received.await) {
                Released::Decided(outcome, learnt) => {
                    lesson = learnt;
                    Some(outcome)
                }
                Released::Denied(next, error, learnt) => {
                    (sent, lesson) = (next, learnt);
                    first_denial.get_or_insert(error);
                    None
                }
                Released::DeniedAtLast(error) => {
                    return Err(reading::with_hint(first_denial.as_ref().unwrap_or(&error)));
                }
            };
            if let Some(lesson) = lesson {
                self.state().over(connection()).release.learn(lesson);
            }
            if let Some(outcome) = end {
                return outcome;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The forms over a connection. Those of another are forgotten.
    fn over(&mut self, connection: u64) -> &mut Self {
        if self.connection != connection {
            self.connection = connection;
            if !self.without_scripts {
                (self.acquire.form, self.release.form) = (Form::Unknown, Form::Unknown);
            }
        }
        self
    }

    fn acquire_over(&mut self, connection: u64) -> AcquireSent {
        let Self { acquire: known, without_scripts, .. } = self.over(connection);
        match known.form {
            Form::Native(()) if *without_scripts => AcquireSent::WithoutScripts,
            Form::Native(()) => AcquireSent::Native(known.trial()),
            Form::Unknown if known.may_pass() => AcquireSent::Telling,
            Form::Unknown | Form::Script => AcquireSent::Script,
        }
    }

    fn release_over(&mut self, connection: u64) -> ReleaseSent {
        let known = &self.over(connection).release;
        match known.form {
            Form::Native(removal) => ReleaseSent::Native(removal, known.trial()),
            Form::Unknown if known.may_pass() => ReleaseSent::Telling,
            Form::Unknown | Form::Script => ReleaseSent::Script,
        }
    }

    fn acquire_lesson(&mut self, lesson: Lesson<()>) {
        if lesson == Lesson::Failed {
            self.without_scripts = false;
        }
        self.acquire.learn(lesson);
    }

    fn only_native(&mut self, removal: Removal) {
        self.without_scripts = true;
        self.acquire.form = Form::Native(());
        self.release.learn(Lesson::Answered(removal));
    }
}

impl<N> Default for Known<N> {
    fn default() -> Self {
        Self { form: Form::Unknown, passes: false, failures: 0 }
    }
}

impl<N> Known<N> {
    fn trial(&self) -> Trial {
        if self.passes { Trial::Over } else { Trial::On }
    }

    fn may_pass(&self) -> bool {
        self.passes || self.failures < MOST_FAILURES
    }

    fn learn(&mut self, lesson: Lesson<N>) {
        match lesson {
            Lesson::Has(form) => self.form = form,
            Lesson::Answered(native) => (self.form, self.passes) = (Form::Native(native), true),
            Lesson::Failed => {
                // The others over this connection fail together with the first.
                if matches!(self.form, Form::Native(_)) && !self.passes {
                    self.failures = self.failures.saturating_add(1);
                }
                self.form = Form::Script;
            }
        }
    }
}

/// Finds the native removal for a user who may not run scripts.
async fn find_removal<'a, F>(
    keys: &'a Resources,
    send: impl Fn(Command<'a>) -> F + Send + Sync,
) -> Result<Option<Removal>, BackendError>
where
    F: Future<Output = Result<Reply, BackendError>> + Send,
{
    for removal in [Removal::Delifeq, Removal::Delex] {
        match send(Command::probe(keys, removal)).await.and_then(|reply| reading::removed(&reply)) {
            Ok(_) => return Ok(Some(removal)),
            Err(error) if reading::is_denied(removal.name(), &error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_one(resources: &Resources) -> bool {
    resources.iter().len() == 1
}

/// Over how many connections a native command may fail before the first one is answered: something may close
/// each connection that sees one. After that, the node gets scripts.
const MOST_FAILURES: u8 = 2;

#[cfg(test)]
mod tests;
