//! A lock on three folders, without any server: a backend of your own, checked by the conformance suite.
//!
//! ```text
//! cargo run --example lock_files                           # on temporary folders
//! cargo run --example lock_files -- /mnt/a /mnt/b /mnt/c   # on yours, on three disks or mounts
//! ```
//!
//! Run the second one twice at the same time to see one process wait for the other.

mod backend;
#[cfg(test)]
mod tests;

use std::{env, error::Error, fs, path::PathBuf, time::Duration};

use redlock_core::{Redlock, TokioRuntime, conformance};

use self::backend::LockFolder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let mut folders: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        folders = ["a", "b", "c"].map(|name| temporary.path().join(name)).into();
    }
    folders.iter().try_for_each(fs::create_dir_all)?;

    let runtime = TokioRuntime::current();
    let redlock = Redlock::builder(runtime.clone()).nodes(folders.iter().map(LockFolder::open)).build()?;
    let ttl = Duration::from_secs(10);

    let lock = redlock.lock("report", ttl).retry_forever().await?;
    println!("locked on {} folders for {:?}", folders.len(), lock.remaining());
    for folder in &folders {
        println!("  {}: {}", folder.display(), fs::read_to_string(folder.join("keys")).unwrap_or_default());
    }
    match redlock.try_lock("report", ttl).await {
        Ok(_) => return Err("two clients hold the lock".into()),
        Err(error) => println!("a second time: {error}"),
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("unlocked: {:?}", lock.unlock().await?);

    let checked = LockFolder::open(temporary.path());
    println!("the contract: {}", conformance::check(&checked, &runtime).await?);
    Ok(())
}
