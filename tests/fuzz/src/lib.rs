//! Properties of the input that the redlock crates receive from outside. Each accepts any bytes, and panics
//! when the property does not hold.

#[cfg(not(fuzzing))]
compile_error!("run cargo in tests/fuzz: its .cargo/config.toml sets `--cfg fuzzing`");

mod command;
mod names;
mod oracle;
mod parts;
mod replies;

pub use self::{
    command::check as command, names::check as names, parts::check as parts, replies::check as replies,
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
}
