//! The programs of other packages, built as the tests were.

use std::{env, path::PathBuf, process::Command};

/// Runs `cargo` with these arguments, and returns the folder of what it has built.
pub(crate) fn built(arguments: &str) -> PathBuf {
    // target/debug/deps/it-...
    let folder = env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.args(arguments.split(' '));
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    // Build scripts that read these would run again, and everything that depends on them would be rebuilt.
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
            cargo.env_remove(name);
        }
    }
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    folder
}
