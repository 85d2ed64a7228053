//! What the reply to a form of a request means: for the request, and for the form of the next one.

// Tests: below.

use super::Form;
use crate::{
    backend::{AcquireReply, BackendError, BackendErrorKind, ReleaseReply},
    redis::{Reply, command::Removal},
    token::Token,
};

/// What came back for a command.
pub(super) type Received = Result<Reply, BackendError>;

/// A form of an acquire that has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcquireSent {
    /// The script that also tells whether the server has the native form.
    Telling,
    Script,
    Native(Trial),
    /// The native form, for a user who may not run scripts.
    WithoutScripts,
}

/// A form of a release that has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReleaseSent {
    /// The script that also tells which removal the server has.
    Telling,
    Script,
    Native(Removal, Trial),
    /// The script, behind a removal that was denied.
    LastScript,
    /// A removal, behind a script that was denied.
    WithoutScripts(Removal),
}

impl AcquireSent {
    fn name(self) -> &'static str {
        match self {
            Self::Telling | Self::Script => "EVAL",
            Self::Native(_) | Self::WithoutScripts => "SET",
        }
    }
}

impl ReleaseSent {
    fn name(self) -> &'static str {
        match self {
            Self::Telling | Self::Script | Self::LastScript => "EVAL",
            Self::Native(removal, _) | Self::WithoutScripts(removal) => removal.name(),
        }
    }
}

/// Whether a native command is on trial, since none has been answered over a connection of this node.
/// Something between us and the server may not let it pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    On,
    Over,
}

/// What a reply shows about the form of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lesson<N> {
    /// The server has this form.
    Has(Form<N>),
    /// The first native command has been answered.
    Answered(N),
    /// A native command was denied, or one on trial had no answer that can be read.
    Failed,
}

/// The meaning of a reply to an acquire.
#[derive(Debug)]
pub(super) enum Acquired {
    Decided(Result<AcquireReply, BackendError>, Option<Lesson<()>>),
    /// The user may not run scripts, and nothing was executed.
    ScriptsDenied(BackendError),
}

/// The meaning of a reply to a release.
#[derive(Debug)]
pub(super) enum Released {
    Decided(Result<ReleaseReply, BackendError>, Option<Lesson<Removal>>),
    /// It was denied, so this form follows. A release may be sent again: nobody uses its token again.
    Denied(ReleaseSent, BackendError, Option<Lesson<Removal>>),
    /// It was denied, and no form is left.
    DeniedAtLast(BackendError),
}

pub(super) fn acquired(token: &Token, sent: AcquireSent, received: Received) -> Acquired {
    let outcome = match (sent, received) {
        (AcquireSent::Native(_) | AcquireSent::WithoutScripts, Ok(reply)) => held(token, &reply),
        (AcquireSent::Telling, Ok(Reply::Number(number @ (2 | 3)))) => {
            return Acquired::Decided(Reply::Number(number - 2).vote(), Some(Lesson::Has(Form::Native(()))));
        }
        (AcquireSent::Telling | AcquireSent::Script, Ok(reply)) => reply.vote(),
        (_, Err(error)) => Err(error),
    };
    match (sent, outcome) {
        (AcquireSent::Telling, Ok(vote)) => Acquired::Decided(Ok(vote), Some(Lesson::Has(Form::Script))),
        (AcquireSent::Native(Trial::On), Ok(vote)) => Acquired::Decided(Ok(vote), Some(Lesson::Answered(()))),
        (AcquireSent::Telling | AcquireSent::Script, Err(error)) if is_denied(sent.name(), &error) => {
            Acquired::ScriptsDenied(error)
        }
        // It is not sent again in another form: its release may already be behind it, and the key would stay.
        (AcquireSent::Native(_), Err(error)) if is_denied(sent.name(), &error) => {
            Acquired::Decided(Err(not_executed(&error)), Some(Lesson::Failed))
        }
        (AcquireSent::WithoutScripts, Err(error)) if is_denied(sent.name(), &error) => {
            Acquired::Decided(Err(with_hint(&error)), Some(Lesson::Failed))
        }
        (AcquireSent::Native(Trial::On), Err(error)) if is_open(&error) => {
            Acquired::Decided(Err(error), Some(Lesson::Failed))
        }
        (_, outcome) => Acquired::Decided(outcome, None),
    }
}

pub(super) fn released(sent: ReleaseSent, received: Received) -> Released {
    use ReleaseSent::{LastScript, Native, Script, Telling, WithoutScripts};

    let outcome = match (sent, received) {
        (Telling, Ok(Reply::Number(number @ 2..=5))) => {
            let removal = if number < 4 { Removal::Delifeq } else { Removal::Delex };
            return Released::Decided(removed(&Reply::Number(number % 2)), Some(has(removal)));
        }
        (_, Ok(reply)) => removed(&reply),
        (_, Err(error)) => Err(error),
    };
    match (sent, outcome) {
        (Telling, Ok(reply)) => Released::Decided(Ok(reply), Some(Lesson::Has(Form::Script))),
        (Native(removal, Trial::On) | WithoutScripts(removal), Ok(reply)) => {
            Released::Decided(Ok(reply), Some(Lesson::Answered(removal)))
        }
        (sent, Err(error)) if is_denied(sent.name(), &error) => match sent {
            Telling | Script => Released::Denied(WithoutScripts(Removal::Delifeq), error, None),
            WithoutScripts(Removal::Delifeq) => Released::Denied(WithoutScripts(Removal::Delex), error, None),
            Native(..) => Released::Denied(LastScript, error, Some(Lesson::Failed)),
            WithoutScripts(Removal::Delex) | LastScript => Released::DeniedAtLast(error),
        },
        (Native(_, Trial::On), Err(error)) if is_open(&error) => {
            Released::Decided(Err(error), Some(Lesson::Failed))
        }
        (_, outcome) => Released::Decided(outcome, None),
    }
}

/// The vote in what a key held before a native acquire.
fn held(token: &Token, reply: &Reply) -> Result<AcquireReply, BackendError> {
    match reply {
        Reply::Nil => Ok(AcquireReply::Granted),
        Reply::Text(value) if value == token.as_str().as_bytes() => Ok(AcquireReply::Granted),
        Reply::Text(_) => Ok(AcquireReply::Refused),
        Reply::Number(_) | Reply::Other => Err(Reply::unexpected()),
    }
}

pub(super) fn removed(reply: &Reply) -> Result<ReleaseReply, BackendError> {
    match reply {
        Reply::Number(1) => Ok(ReleaseReply::Removed),
        Reply::Number(0) => Ok(ReleaseReply::NotHeld),
        _ => Err(Reply::unexpected()),
    }
}

fn has(removal: Removal) -> Lesson<Removal> {
    Lesson::Has(Form::Native(removal))
}

/// Whether the server refuses a command as such: it does not know it, or not in this form, or the user may
/// not call it. Nothing was executed then. The user may also have no permission for a key, for a command
/// inside of a script, or for one that sets up the connection.
pub(super) fn is_denied(name: &str, error: &BackendError) -> bool {
    let text = error.message().to_ascii_lowercase();
    let no_permission =
        text.starts_with("noperm") && text.contains(&format!("'{}'", name.to_ascii_lowercase()));
    error.kind() == BackendErrorKind::Rejected
        && (no_permission || DENIALS.iter().any(|words| text.contains(words)))
}

fn is_open(error: &BackendError) -> bool {
    error.kind() == BackendErrorKind::Indeterminate
}

/// The error for an acquire of which another form will be served.
pub(super) fn not_executed(error: &BackendError) -> BackendError {
    let message = format!("{} (not executed; the next request has another form)", error.message());
    BackendError::new(BackendErrorKind::Transient, message)
}

/// The error for a request of which every form is denied.
pub(super) fn with_hint(error: &BackendError) -> BackendError {
    BackendError::new(BackendErrorKind::Rejected, format!("{} ({HINT})", error.message()))
}

const HINT: &str = "a lock needs EVAL, or, for one resource, SET and one of DELIFEQ and DELEX";
const DENIALS: [&str; 3] = ["unknown command", "syntax error", "wrong number of arguments"];

#[cfg(test)]
mod tests {
    use super::*;
    use BackendErrorKind::{Indeterminate, Rejected, Transient};

    const TOKEN: &str = "0123456789012345678901234567890123456789";
    const DELIFEQ: Removal = Removal::Delifeq;
    const DELEX: Removal = Removal::Delex;

    fn failed(kind: BackendErrorKind, text: &str) -> Received {
        Err(BackendError::new(kind, text))
    }

    fn denied(name: &str) -> Received {
        let name = name.to_ascii_lowercase();
        failed(Rejected, &format!("NOPERM User x has no permissions to run the '{name}' command"))
    }

    /// Each kind of reply to a command.
    fn replies(to: &str) -> [(&'static str, Received); 13] {
        [
            ("0", Ok(Reply::Number(0))),
            ("1", Ok(Reply::Number(1))),
            ("2", Ok(Reply::Number(2))),
            ("3", Ok(Reply::Number(3))),
            ("6", Ok(Reply::Number(6))),
            ("nil", Ok(Reply::Nil)),
            ("own", Ok(Reply::Text(TOKEN.into()))),
            ("another", Ok(Reply::Text(b"another".to_vec()))),
            ("odd", Ok(Reply::Other)),
            ("denied", denied(to)),
            ("rejected", failed(Rejected, "WRONGTYPE x")),
            ("transient", failed(Transient, "LOADING x")),
            ("unknown", failed(Indeterminate, "upstream failure")),
        ]
    }

    type Seen<N> = (Result<bool, BackendErrorKind>, Option<Lesson<N>>);

    /// The outcome of an acquire, and its lesson. `None` when scripts are denied.
    fn seen(sent: AcquireSent, reply: Received) -> Option<Seen<()>> {
        match acquired(&TOKEN.parse().unwrap(), sent, reply) {
            Acquired::Decided(outcome, lesson) => {
                let granted = outcome.map(|vote| vote == AcquireReply::Granted);
                Some((granted.map_err(|error| error.kind()), lesson))
            }
            Acquired::ScriptsDenied(_) => None,
        }
    }

    /// What a failure means, whichever form was sent.
    fn failure<N>(name: &str, open: Option<Lesson<N>>) -> Seen<N> {
        match name {
            "rejected" => (Err(Rejected), None),
            "transient" => (Err(Transient), None),
            _ => (Err(Indeterminate), open),
        }
    }

    #[test]
    fn a_script_grants_with_a_number_only_and_tells_whether_the_server_has_the_native_form() {
        for (name, reply) in replies("EVAL") {
            let (scripts, native) = (Some(Lesson::Has(Form::Script)), Some(Lesson::Has(Form::Native(()))));
            let plain = match name {
                "0" | "1" => Some((Ok(name == "1"), None)),
                "denied" => None,
                _ => Some(failure(name, None)),
            };
            let telling = match name {
                "0" | "1" => Some((Ok(name == "1"), scripts)),
                "2" | "3" => Some((Ok(name == "3"), native)),
                _ => plain,
            };
            assert_eq!(seen(AcquireSent::Script, reply.clone()), plain, "{name}");
            assert_eq!(seen(AcquireSent::Telling, reply), telling, "{name}");
        }
    }

    #[test]
    fn nil_and_the_own_token_are_native_grants_and_another_value_is_a_refusal() {
        for (name, reply) in replies("SET") {
            for trial in [Trial::On, Trial::Over] {
                let on_trial = |lesson| Some(lesson).filter(|_| trial == Trial::On);
                let expected = match name {
                    "nil" | "own" => (Ok(true), on_trial(Lesson::Answered(()))),
                    "another" => (Ok(false), on_trial(Lesson::Answered(()))),
                    // Not executed, and not repeated either.
                    "denied" => (Err(Transient), Some(Lesson::Failed)),
                    _ => failure(name, on_trial(Lesson::Failed)),
                };
                let seen = seen(AcquireSent::Native(trial), reply.clone());
                assert_eq!(seen, Some(expected), "{name}, {trial:?}");
            }
        }
    }

    #[test]
    fn who_has_no_other_form_is_rejected() {
        for (name, reply) in replies("SET") {
            let expected = match name {
                "nil" | "own" => (Ok(true), None),
                "another" => (Ok(false), None),
                "denied" => (Err(Rejected), Some(Lesson::Failed)),
                _ => failure(name, None),
            };
            assert_eq!(seen(AcquireSent::WithoutScripts, reply), Some(expected), "{name}");
        }
    }

    fn outcome(sent: ReleaseSent, reply: Received) -> Option<Seen<Removal>> {
        match released(sent, reply) {
            Released::Decided(outcome, lesson) => {
                let removed = outcome.map(|reply| reply == ReleaseReply::Removed);
                Some((removed.map_err(|error| error.kind()), lesson))
            }
            Released::Denied(..) | Released::DeniedAtLast(_) => None,
        }
    }

    #[test]
    fn a_script_tells_which_removal_the_server_has() {
        let forms = [Form::Script, Form::Native(DELIFEQ), Form::Native(DELEX)];
        for (number, form) in (0..6).zip(forms.into_iter().flat_map(|form| [form; 2])) {
            let seen = outcome(ReleaseSent::Telling, Ok(Reply::Number(number)));
            assert_eq!(seen, Some((Ok(number % 2 == 1), Some(Lesson::Has(form)))), "{number}");
        }
    }

    #[test]
    fn only_one_and_zero_are_replies_to_a_removal_and_one_on_trial_has_to_be_answered() {
        let sent = [
            (ReleaseSent::Script, None, None),
            (ReleaseSent::LastScript, None, None),
            (ReleaseSent::Native(DELEX, Trial::Over), None, None),
            (ReleaseSent::Native(DELEX, Trial::On), Some(Lesson::Answered(DELEX)), Some(Lesson::Failed)),
            (ReleaseSent::WithoutScripts(DELIFEQ), Some(Lesson::Answered(DELIFEQ)), None),
        ];
        for (sent, answered, open) in sent {
            for (name, reply) in replies(sent.name()) {
                let expected = match name {
                    "0" | "1" => Some((Ok(name == "1"), answered)),
                    "denied" => None,
                    _ => Some(failure(name, open)),
                };
                assert_eq!(outcome(sent, reply), expected, "{name}, {sent:?}");
            }
        }
        for (name, reply) in replies("EVAL").into_iter().skip(4).filter(|(name, _)| *name != "denied") {
            assert_eq!(outcome(ReleaseSent::Telling, reply), Some(failure(name, None)), "{name}");
        }
    }

    /// The forms that follow a first one while the server denies each.
    fn forms(first: ReleaseSent) -> Vec<ReleaseSent> {
        let mut forms = vec![first];
        loop {
            let last = forms[forms.len() - 1];
            match released(last, denied(last.name())) {
                Released::Denied(next, ..) => forms.push(next),
                Released::DeniedAtLast(_) => return forms,
                Released::Decided(..) => panic!("{forms:?}"),
            }
        }
    }

    #[test]
    fn a_release_that_is_denied_is_sent_in_each_other_form_once() {
        let natively = [ReleaseSent::WithoutScripts(DELIFEQ), ReleaseSent::WithoutScripts(DELEX)];
        for script in [ReleaseSent::Telling, ReleaseSent::Script] {
            assert_eq!(forms(script), [script, natively[0], natively[1]]);
        }
        for trial in [Trial::On, Trial::Over] {
            let native = ReleaseSent::Native(DELEX, trial);
            assert_eq!(forms(native), [native, ReleaseSent::LastScript]);
            let Released::Denied(_, _, lesson) = released(native, denied("DELEX")) else {
                panic!("{native:?}")
            };
            assert_eq!(lesson, Some(Lesson::Failed));
        }
    }

    #[test]
    fn only_a_command_that_is_unknown_or_not_allowed_is_denied() {
        for (text, expected) in [
            ("ERR unknown command 'EVAL', with args beginning with: 'a' 'b' ", true),
            ("ERR unknown command", true),
            ("ERR syntax error", true),
            ("ERR wrong number of arguments for 'eval' command", true),
            ("NOPERM this user has no permissions to run the 'eval' command or its subcommand", true),
            ("NOPERM User eval has no permissions to run the 'select' command", false),
            ("ERR The user executing the script can't run this command or subcommand", false),
            ("NOPERM ACL failure in script: User x has no permissions to run the 'get' command", false),
            ("NOPERM No permissions to access a key", false),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", false),
            ("NOAUTH Authentication required.", false),
        ] {
            assert_eq!(is_denied("EVAL", &BackendError::new(Rejected, text)), expected, "{text}");
            assert!(!is_denied("EVAL", &BackendError::new(Indeterminate, text)), "{text}");
        }
    }

    #[test]
    fn the_error_of_a_request_that_is_denied_has_the_servers_words_and_names_every_form() {
        let error = with_hint(&BackendError::new(Rejected, "NOPERM x"));
        assert_eq!(error.kind(), Rejected);
        for word in ["NOPERM x", "EVAL", "SET", "DELIFEQ", "DELEX"] {
            assert!(error.message().contains(word), "{word}: {error}");
        }
    }
}
