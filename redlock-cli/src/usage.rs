//! What is wrong with a command line.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// What clap says, without blank lines and `error: `; or something better.
pub(crate) fn explain(error: &clap::Error, definitions: &Command, line: &[OsString]) -> String {
    let better = match error.kind() {
        ErrorKind::MissingSubcommand => {
            Some(format!("no subcommand: try {}", subcommands(definitions).join(", ")))
        }
        ErrorKind::InvalidSubcommand => transposed(error, definitions),
        ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument => without_dashes(definitions, line),
        _ => None,
    };
    if let Some(better) = better {
        let of = if line.get(1).is_some_and(|word| word == "run") { "run " } else { "" };
        return format!("{better}\nFor more information, try 'redlock {of}--help'.");
    }
    let text = error.render().to_string();
    let lines = text.strip_prefix("error: ").unwrap_or(&text).lines().map(str::trim);
    // The second tip would make an argument of the command out of an option with a typing error.
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("tip: to pass "));
    lines.collect::<Vec<_>>().join("\n")
}

fn subcommands(definitions: &Command) -> Vec<&str> {
    definitions.get_subcommands().filter(|known| !known.is_hide_set()).map(Command::get_name).collect()
}

/// clap finds no similarity between short words with the same letters, such as `rnu` and `run`.
fn transposed(error: &clap::Error, definitions: &Command) -> Option<String> {
    let sorted = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let meant = subcommands(definitions).into_iter().find(|known| sorted(known) == sorted(given))?;
    Some(format!("unrecognized subcommand '{given}'\ntip: a similar subcommand exists: '{meant}'"))
}

/// The usual mistake: `redlock run job true`. The corrected line ends with the name of the command, as its
/// arguments may be secrets. So may be anything in a line with an `@`: a password with blanks falls apart
/// into words.
fn without_dashes(definitions: &Command, line: &[OsString]) -> Option<String> {
    let (action, words) = line.get(1..)?.split_first()?;
    if action != "run" || words.iter().any(|word| word == "--") {
        return None;
    }
    let run = definitions.find_subcommand("run")?;
    let mut shown = vec!["redlock".to_owned(), "run".to_owned()];
    let mut has_resource = false;
    let mut rest = words.iter();
    let mut command = None;
    while let Some(word) = rest.next() {
        shown.push(quoted(word));
        match classify(run, word)? {
            Word::Option => {}
            Word::OptionBeforeValue => shown.push(quoted(rest.next()?)),
            Word::Value if has_resource => {
                command = shown.pop();
                break;
            }
            Word::Value => has_resource = true,
        }
    }
    if !has_resource {
        return None;
    }
    let begin = if command.is_some() {
        "there is no `--` before the command, as in: "
    } else {
        "no command: it follows a `--`, as in: "
    };
    if words.iter().any(|word| word.as_encoded_bytes().contains(&b'@')) {
        return Some(format!("{begin}redlock run [OPTIONS] RESOURCE... -- COMMAND"));
    }
    shown.push("--".to_owned());
    shown.push(command.unwrap_or_else(|| "COMMAND".to_owned()));
    if rest.next().is_some() {
        shown.push("...".to_owned());
    }
    Some(begin.to_owned() + &shown.join(" "))
}

enum Word {
    /// With its value, if it has one.
    Option,
    OptionBeforeValue,
    Value,
}

/// `None` for an unknown option.
fn classify(run: &Command, word: &OsStr) -> Option<Word> {
    let takes_value = |option: &Arg| option.get_action().takes_values();
    let word = word.to_string_lossy();
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let option = run.get_arguments().find(|option| option.get_long() == Some(name))?;
        return Some(if takes_value(option) && value.is_none() {
            Word::OptionBeforeValue
        } else {
            Word::Option
        });
    }
    let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
        return Some(Word::Value);
    };
    for (position, letter) in letters.char_indices() {
        let option = run.get_arguments().find(|option| option.get_short() == Some(letter))?;
        if takes_value(option) {
            let is_last = position + letter.len_utf8() == letters.len();
            return Some(if is_last { Word::OptionBeforeValue } else { Word::Option });
        }
    }
    Some(Word::Option)
}

/// As a shell reads it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_=./:,+%".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
