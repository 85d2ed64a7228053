//! Properties of what the redlock crates take from outside. Each takes any bytes and panics when it does not
//! hold.

mod command;
mod names;
mod oracle;
mod parts;
mod replies;

pub use self::{
    command::check as command, names::check as names, parts::check as parts, replies::check as replies,
};

// The modules of the `redlock` command that read what people write. It is no library, and they look for each
// other at the root.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../redlock-redis-rs/src/bin/redlock/arguments.rs"]
mod arguments;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../redlock-redis-rs/src/bin/redlock/exit.rs"]
mod exit;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../redlock-redis-rs/src/bin/redlock/help.rs"]
mod help;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../redlock-redis-rs/src/bin/redlock/nodes.rs"]
mod nodes;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../redlock-redis-rs/src/bin/redlock/output.rs"]
mod output;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// What the fuzzer starts from, and what it has found, without a fuzzer.
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
