//! The requests as commands: one for each request, so that it is one round trip, all or nothing, and
//! idempotent in the token.

// Tests: below; tests/tests/it/servers/conformance.rs.

use std::{fmt, time::Duration};

use super::{
    reply::{Reply, Shape},
    scripts,
    side_key::{SideKey, SideKind},
};
use crate::{
    backend::{Acquire, AcquireFenced, Annotate, Extend, Raise, Release, Replace},
    inspect::Inspect,
    note::Note,
    resources::Resources,
    token::Token,
};

/// A request as one command: its [name](Self::name), and its [arguments](Self::arguments).
///
/// Those of the public constructors are an `EVAL`, which every server has. A [`Dialect`](super::Dialect) uses
/// faster commands where the server has them.
///
/// ```
/// use std::time::Duration;
/// use redlock_core::{Extend, redis::{Argument, Command}};
///
/// let (resources, token) = (["a", "b"].into(), "0".repeat(40).parse()?);
/// let (ttl, timeout) = (Duration::from_secs(10), Duration::from_millis(500));
/// let command = Command::extend(&Extend::new(&resources, &token, ttl, timeout));
/// let arguments: Vec<_> = command.arguments().collect();
/// assert_eq!((command.name(), arguments[1]), ("EVAL", Argument::Number(2)));
/// assert_eq!(arguments[command.first_key()], Argument::Text("a"));
/// assert_eq!(arguments[4..], [Argument::Text(token.as_str()), Argument::Number(10_000)]);
/// # Ok::<(), redlock_core::InvalidToken>(())
/// ```
#[derive(Clone, Copy)]
pub struct Command<'a> {
    name: &'static str,
    script: Option<&'static str>,
    keys: &'a Resources,
    /// Which keys beside them follow the keys.
    beside: Option<SideKind>,
    rest: [Option<Argument<'a>>; MAX_REST],
    shape: Shape,
}

/// An argument of a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "whoever sends it has to know each kind")]
pub enum Argument<'a> {
    /// A script, a key, a token, or a word of the command.
    Text(&'a str),
    /// The key of a counter or a note. It is text, made out of its [parts](SideKey::parts).
    Side(SideKey<'a>),
    /// A number: of keys, of a fencing token, or a TTL in ms.
    Number(u64),
}

/// A command that removes a key if it holds a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// `DELIFEQ`, of Valkey from 9.0.
    Delifeq,
    /// `DELEX` with `IFEQ`, of Redis from 8.4, and Valkey from 9.2.
    Delex,
}

impl Removal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Delifeq => "DELIFEQ",
            Self::Delex => "DELEX",
        }
    }
}

impl<'a> Command<'a> {
    /// Replies 1 when every key holds the token, 0 when one holds another.
    #[must_use]
    pub fn acquire(request: &Acquire<'a>) -> Self {
        let script = of(request.resources, scripts::ACQUIRE_ONE, scripts::ACQUIRE);
        Self::eval(script, request.resources, [Some(text(request.token)), Some(ms(request.ttl)), None])
    }

    /// Replies 1 when every key held the token and now lives at least for the TTL, else 0.
    #[must_use]
    pub fn extend(request: &Extend<'a>) -> Self {
        let script = of(request.resources, scripts::EXTEND_ONE, scripts::EXTEND);
        Self::eval(script, request.resources, [Some(text(request.token)), Some(ms(request.ttl)), None])
    }

    /// Replies 1 when every key held the token and is removed, else 0.
    #[must_use]
    pub fn release(request: &Release<'a>) -> Self {
        let script = of(request.resources, scripts::RELEASE_ONE, scripts::RELEASE);
        Self::eval(script, request.resources, [Some(text(request.token)), None, None])
    }

    /// Replies 1 when every key now holds the new token, at least for the TTL, and 0 when one held neither of
    /// the two.
    #[must_use]
    pub fn replace(request: &Replace<'a>) -> Self {
        let arguments = [Some(text(request.new)), Some(ms(request.ttl)), Some(text(request.old))];
        Self::eval(scripts::REPLACE, request.resources, arguments)
    }

    /// Replies with the highest counter when every key holds the token, and 0 when one holds another: see
    /// [`Reply::fenced`].
    #[must_use]
    pub fn acquire_fenced(request: &AcquireFenced<'a>) -> Self {
        let script = of(request.resources, scripts::ACQUIRE_FENCED_ONE, scripts::ACQUIRE_FENCED);
        let proposal = Argument::Number(request.proposal);
        let arguments = [text(request.token), ms(request.ttl), proposal].map(Some);
        Self::with_counters(script, request.resources, arguments, request.counter_ttl)
    }

    /// Replies with the highest counter when every key holds the token, else 0: see [`Reply::fenced`].
    #[must_use]
    pub fn raise(request: &Raise<'a>) -> Self {
        let script = of(request.resources, scripts::RAISE_ONE, scripts::RAISE);
        let (fence, ttl) = (Argument::Number(request.fence.get()), request.ttl.unwrap_or(Duration::ZERO));
        let arguments = [text(request.token), fence, ms(ttl)].map(Some);
        Self::with_counters(script, request.resources, arguments, request.counter_ttl)
    }

    /// Replies 1. Every key that holds the token has the note, or the token's notes are removed.
    #[must_use]
    pub fn annotate(request: &Annotate<'a>) -> Self {
        let prefix = Argument::Text(request.token.prefix());
        let arguments = [Some(text(request.token)), Some(prefix), request.note.map(word)];
        let eval = Self::eval(scripts::ANNOTATE, request.resources, arguments);
        Self { beside: Some(SideKind::Note), ..eval }
    }

    /// Replies with an array, which has for each key an array of the beginning of its value (or nil), its
    /// TTL in ms and, for a request [with notes](Inspect::with_notes), what is stored at the note's key (or
    /// nil): see [`key_state`](super::key_state).
    #[must_use]
    pub fn inspect(request: &Inspect<'a>) -> Self {
        let length = Argument::Number(Token::PREFIX_LEN as u64);
        let (script, longest, beside) = if request.notes {
            let longest = scripts::NOTE_MARK.len() + Token::PREFIX_LEN + 1 + Note::MAX_LEN;
            (scripts::INSPECT_WITH_NOTES, Some(Argument::Number(longest as u64)), Some(SideKind::Note))
        } else {
            (scripts::INSPECT, None, None)
        };
        let eval = Self::eval(script, request.resources, [Some(length), longest, None]);
        Self { shape: Shape::Any, beside, ..eval }
    }

    /// Replies with what the server reveals about itself, or with nil where that is not allowed: see
    /// [`ServerAnswer::parse`](super::ServerAnswer::parse). It has the keys of the lock request beside it, so a
    /// user who may lock may also run this; it reveals something to those who may call `INFO`.
    #[must_use]
    pub fn server_info(keys: &'a Resources) -> Self {
        Self { shape: Shape::Any, ..Self::eval(scripts::SERVER_INFO, keys, [None, None, None]) }
    }

    /// For one key. As [`Command::acquire`], and finds out whether the server has the native form: it replies 1
    /// or 0 when it has not, and 3 or 2 when it has.
    pub(super) fn acquire_and_tell(request: &Acquire<'a>) -> Self {
        let arguments = [Some(text(request.token)), Some(ms(request.ttl)), None];
        Self { shape: Shape::UpTo(3), ..Self::eval(scripts::ACQUIRE_AND_TELL, request.resources, arguments) }
    }

    /// For one key. Replies with the value that the key had: nil, and it now holds the token; the token, and
    /// it is as it was; or another, which it keeps.
    pub(super) fn acquire_natively(request: &Acquire<'a>) -> Self {
        let rest = [text(request.token), word("NX"), word("GET"), word("PX"), ms(request.ttl)].map(Some);
        Self { name: "SET", rest, shape: Shape::Value, ..Self::without_script(request.resources) }
    }

    /// For one key. As [`Command::release`], and finds out which removals the server has: it replies 1 or 0
    /// when it has none, 3 or 2 when it has `DELIFEQ`, and 5 or 4 when it has `DELEX`.
    pub(super) fn release_and_tell(request: &Release<'a>) -> Self {
        let arguments = [Some(text(request.token)), None, None];
        Self { shape: Shape::UpTo(5), ..Self::eval(scripts::RELEASE_AND_TELL, request.resources, arguments) }
    }

    /// For one key. Replies 1 when it held the token and is removed, else 0.
    pub(super) fn release_natively(request: &Release<'a>, removal: Removal) -> Self {
        Self::remove(removal, request.resources, request.token.as_str())
    }

    /// For one key. As [`Command::release_natively`], with a token that nobody has: whether the server has
    /// the command, and the user may call it.
    pub(super) fn probe(keys: &'a Resources, removal: Removal) -> Self {
        Self::remove(removal, keys, NOBODY)
    }

    fn remove(removal: Removal, keys: &'a Resources, token: &'a str) -> Self {
        let token = Some(Argument::Text(token));
        let rest = match removal {
            Removal::Delifeq => [token, None, None, None, None],
            Removal::Delex => [Some(word("IFEQ")), token, None, None, None],
        };
        Self { name: removal.name(), rest, ..Self::without_script(keys) }
    }

    fn eval(script: &'static str, keys: &'a Resources, arguments: [Option<Argument<'a>>; 3]) -> Self {
        let [first, second, third] = arguments;
        let rest = [first, second, third, None, None];
        Self { name: "EVAL", script: Some(script), rest, ..Self::without_script(keys) }
    }

    fn with_counters(
        script: &'static str,
        keys: &'a Resources,
        arguments: [Option<Argument<'a>>; 3],
        counter_ttl: Option<Duration>,
    ) -> Self {
        let [first, second, third] = arguments;
        let rest = [first, second, third, counter_ttl.map(ms), None];
        let beside = Some(SideKind::Counter);
        Self { rest, beside, shape: Shape::Fenced, ..Self::eval(script, keys, arguments) }
    }

    fn without_script(keys: &'a Resources) -> Self {
        Self { name: "", script: None, keys, beside: None, rest: [None; MAX_REST], shape: Shape::UpTo(1) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The script of an `EVAL`, which is its first argument. A client that takes static text need not copy it.
    #[must_use]
    pub fn script(&self) -> Option<&'static str> {
        self.script
    }

    /// What follows the name, in its order.
    pub fn arguments(&self) -> impl Iterator<Item = Argument<'a>> + use<'a> {
        let count = Argument::Number(self.number_of_keys() as u64);
        let script = self.script.map(|script| [Argument::Text(script), count]);
        let all = self.keys;
        let side_key = move |kind, resource| Argument::Side(SideKey::new(resource, kind));
        let beside =
            self.beside.into_iter().flat_map(move |kind| all.iter().map(move |one| side_key(kind, one)));
        let keys = self.keys.iter().map(Argument::Text).chain(beside);
        script.into_iter().flatten().chain(keys).chain(self.rest.into_iter().flatten())
    }

    /// How many [arguments](Self::arguments) there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first_key() + self.number_of_keys() + self.rest.iter().flatten().count()
    }

    fn number_of_keys(&self) -> usize {
        let resources = self.keys.iter().len();
        if self.beside.is_some() { 2 * resources } else { resources }
    }

    /// Whether there are none, which is never the case.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of the first key among the [arguments](Self::arguments).
    #[must_use]
    pub fn first_key(&self) -> usize {
        if self.script.is_some() { 2 } else { 0 }
    }

    /// Whether this is a reply to the command. Any other reply is
    /// [`Indeterminate`](crate::BackendErrorKind::Indeterminate), and the next replies over the connection
    /// may belong to other requests, so it should be replaced.
    #[must_use]
    pub fn accepts(&self, reply: &Reply) -> bool {
        self.shape.has(reply)
    }
}

/// Without the arguments, as tokens are among them.
impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = f.debug_struct("Command");
        printed.field("name", &self.name).field("script", &self.script).field("keys", &self.keys);
        printed.finish_non_exhaustive()
    }
}

/// Without the text, which may be a token.
impl fmt::Debug for Argument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::Side(key) => f.debug_tuple("Side").field(key).finish(),
            Self::Number(number) => f.debug_tuple("Number").field(number).finish(),
        }
    }
}

/// The script for one key, which is short: the server hashes it, and parses it when it is new.
fn of(keys: &Resources, one: &'static str, several: &'static str) -> &'static str {
    if keys.iter().len() == 1 { one } else { several }
}

fn text(token: &Token) -> Argument<'_> {
    word(token.as_str())
}

fn word(word: &str) -> Argument<'_> {
    Argument::Text(word)
}

fn ms(ttl: Duration) -> Argument<'static> {
    Argument::Number(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

const MAX_REST: usize = 5;
/// No client's value of a key.
const NOBODY: &str = "redlock: whether this command is known and allowed";

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn words(command: Command<'_>) -> Vec<String> {
        let words = command.arguments().map(|argument| match argument {
            Argument::Text(text) => text.to_owned(),
            Argument::Side(key) => key.to_string(),
            Argument::Number(number) => number.to_string(),
        });
        let words: Vec<_> = words.collect();
        assert_eq!(words.len(), command.len());
        assert!(!command.is_empty());
        words
    }

    #[test]
    fn a_command_has_its_arguments_in_the_servers_order() {
        let (resources, token) = ("a".into(), "0123456789".repeat(4).parse().unwrap());
        let acquire = Command::acquire_natively(&Acquire::new(&resources, &token, SECOND, SECOND));
        assert_eq!((acquire.name(), acquire.script(), acquire.first_key()), ("SET", None, 0));
        assert_eq!(words(acquire), ["a", token.as_str(), "NX", "GET", "PX", "1000"]);

        let release = Release::new(&resources, &token, SECOND);
        let removals = [Removal::Delifeq, Removal::Delex];
        let natively = removals.map(|removal| Command::release_natively(&release, removal));
        assert_eq!(natively.map(|command| command.name()), ["DELIFEQ", "DELEX"]);
        assert_eq!(natively.map(words), [vec!["a", token.as_str()], vec!["a", "IFEQ", token.as_str()]]);
        let probes = removals.map(|removal| words(Command::probe(&resources, removal)));
        assert!(probes.iter().flatten().all(|word| word != token.as_str()), "{probes:?}");

        let eval = Command::release_and_tell(&release);
        assert_eq!((eval.name(), eval.first_key()), ("EVAL", 2));
        assert_eq!(eval.script(), words(eval).first().map(String::as_str));
        assert_eq!(words(eval)[1..], ["1", "a", token.as_str()]);
        let eval = Command::acquire_and_tell(&Acquire::new(&resources, &token, SECOND, SECOND));
        assert_eq!(words(eval)[1..], ["1", "a", token.as_str(), "1000"]);
    }

    #[test]
    fn the_counters_follow_the_keys_and_a_lifetime_without_end_is_left_out() {
        let token: Token = "0123456789".repeat(4).parse().unwrap();
        let (one, two, fence) = ("a".into(), ["a", "{b}"].into(), NonZeroU64::new(7).unwrap());
        let fenced = |resources, counter_ttl| {
            let acquire = Acquire::new(resources, &token, SECOND, SECOND);
            Command::acquire_fenced(&AcquireFenced::new(acquire, 5, counter_ttl))
        };
        let (ttl, counters) = ("1000", ["{a}:fence", "{b}.fence"]);
        let forever = fenced(&one, None);
        assert_eq!(forever.first_key(), 2);
        assert_eq!(words(forever)[1..], ["2", "a", counters[0], token.as_str(), ttl, "5"]);
        let limited = words(fenced(&two, Some(3 * SECOND)));
        assert_eq!(
            limited[1..],
            ["4", "a", "{b}", counters[0], counters[1], token.as_str(), ttl, "5", "3000"]
        );

        let raise = Raise::new(&one, &token, fence, Some(SECOND), SECOND);
        assert_eq!(words(Command::raise(&raise))[2..], ["a", counters[0], token.as_str(), "7", "0", "1000"]);
        let raise = Raise::extending(Extend::new(&two, &token, SECOND, SECOND), fence, None);
        assert_eq!(words(Command::raise(&raise))[6..], [token.as_str(), "7", ttl]);
    }

    #[test]
    fn the_notes_keys_follow_the_keys_and_the_text_is_the_last_argument() {
        let token: Token = "0123456789".repeat(4).parse().unwrap();
        let two = ["a", "{b}c"].into();
        let annotate = |note| words(Command::annotate(&Annotate::new(&two, &token, note, SECOND)));
        let keys = ["4", "a", "{b}c", "{a}:note", "{b}c.note"];
        assert_eq!(annotate(Some("who"))[1..6], keys);
        assert_eq!(annotate(Some("who"))[6..], [token.as_str(), "01234567", "who"]);
        assert_eq!(annotate(None)[6..], [token.as_str(), "01234567"]);

        let inspect = Inspect::new(&two, SECOND);
        assert_eq!(words(Command::inspect(&inspect))[1..], ["2", "a", "{b}c", "8"]);
        let with_notes = words(Command::inspect(&inspect.with_notes()));
        assert_eq!(
            (&with_notes[1..6], &with_notes[6..]),
            (&keys.map(String::from)[..], &["8", "270"].map(String::from)[..])
        );
    }

    #[test]
    fn only_the_replies_of_a_command_are_accepted() {
        let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
        let acquire = Acquire::new(&resources, &token, SECOND, SECOND);
        let release = Release::new(&resources, &token, SECOND);
        let replies = [
            Reply::Number(1),
            Reply::Number(0),
            Reply::Number(5),
            Reply::Number(6),
            Reply::Number(-1),
            Reply::Nil,
            Reply::Text(Vec::new()),
            Reply::Other,
        ];
        let accepted = |command: Command<'_>| {
            replies.iter().map(|reply| u8::from(command.accepts(reply))).collect::<Vec<_>>()
        };
        let done = [1, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(accepted(Command::acquire(&acquire)), done);
        assert_eq!(accepted(Command::release(&release)), done);
        assert_eq!(accepted(Command::release_natively(&release, Removal::Delex)), done);
        assert_eq!(accepted(Command::acquire_and_tell(&acquire)), done);
        assert_eq!(accepted(Command::release_and_tell(&release)), [1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(accepted(Command::acquire_natively(&acquire)), [0, 0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(accepted(Command::inspect(&Inspect::new(&resources, SECOND))), [1; 8]);
        assert_eq!(accepted(Command::annotate(&Annotate::new(&resources, &token, None, SECOND))), done);
        let fenced = [1, 1, 1, 1, 0, 0, 0, 0];
        assert_eq!(accepted(Command::acquire_fenced(&AcquireFenced::new(acquire, 0, None))), fenced);
        let raise = Raise::new(&resources, &token, NonZeroU64::MIN, None, SECOND);
        assert_eq!(accepted(Command::raise(&raise)), fenced);
    }

    #[test]
    fn a_printed_command_has_no_token() {
        let (resources, token) = ("a".into(), "0123456789".repeat(4).parse().unwrap());
        let release = Release::new(&resources, &token, SECOND);
        for command in [Command::release(&release), Command::release_natively(&release, Removal::Delifeq)] {
            let printed = format!("{command:?} {:?}", command.arguments().collect::<Vec<_>>());
            assert!(!printed.contains("0123"), "{printed}");
        }
    }
}
