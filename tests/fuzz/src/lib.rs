//! Properties of the input that the redlock crates receive from outside. Each accepts any bytes, and panics
//! when the property does not hold.

#[cfg(not(fuzzing))]
compile_error!("run cargo in tests/fuzz: its .cargo/config.toml sets `--cfg fuzzing`");

mod command;
mod dialect;
mod info;
mod names;
mod notes;
mod oracle;
mod parts;
mod replies;
mod watching;

pub use self::{
    command::check as command, dialect::check as dialect, info::check as info, names::check as names,
    notes::check as notes, parts::check as parts, replies::check as replies, watching::check as watching,
};

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Checks the inputs that the fuzzer starts from, and those that it has found, without a fuzzer.
    fn every_seed(target: &str, check: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let mut seeds = 0;
        for entry in fs::read_dir(&corpus).expect("the corpus") {
            let path = entry.expect("a seed").path();
            println!("{}", path.display());
            check(&fs::read(&path).expect("a seed"));
            seeds += 1;
        }
        assert!(seeds > 3, "{seeds} seeds of {target}");
    }

    #[test]
    fn parts() {
        every_seed("parts", super::parts);
    }

    #[test]
    fn names() {
        every_seed("names", super::names);
    }

    #[test]
    fn command() {
        every_seed("command", super::command);
    }

    #[test]
    fn replies() {
        every_seed("replies", super::replies);
    }

    #[test]
    fn watching() {
        every_seed("watching", super::watching);
    }

    #[test]
    fn info() {
        every_seed("info", super::info);
    }

    #[test]
    fn dialect() {
        every_seed("dialect", super::dialect);
    }

    #[test]
    fn notes() {
        every_seed("notes", super::notes);
    }
}
