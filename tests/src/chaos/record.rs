//! The records that the locks guard: a number for each resource, in a file that any process can replace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Creates a record with the number 0.
pub(super) fn make(folder: &Path, resource: usize) -> io::Result<()> {
    fs::write(path(folder, resource), "0")
}

pub(super) fn read(folder: &Path, resource: usize) -> io::Result<u64> {
    fs::read_to_string(path(folder, resource))?.parse().map_err(io::Error::other)
}

/// Replaces it atomically: no process ever reads half a number.
pub(super) fn write(folder: &Path, resource: usize, worker: usize, number: u64) -> io::Result<()> {
    let draft = folder.join(format!("draft-{worker}"));
    fs::write(&draft, number.to_string())?;
    fs::rename(draft, path(folder, resource))
}

fn path(folder: &Path, resource: usize) -> PathBuf {
    folder.join(format!("record-{resource}"))
}
