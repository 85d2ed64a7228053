use std::{fs::File, path::Path, process::Command, sync::Mutex};

use redlock_core::{
    async_trait,
    conformance::{FaultOutcome, NodeControl, Suite},
};
use tempfile::TempDir;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_keeps_the_contract_also_when_it_is_locked_by_others_or_gone() {
    let folder = Folder { folder: tempfile::tempdir().unwrap(), held: Mutex::default() };
    let runtime = TokioRuntime::current();
    let [backend, second] = [(); 2].map(|()| LockFolder::open(folder.folder.path().join("node")));
    folder.create();
    // Each request writes a file through to the disk, and others may keep that busy.
    let patience = Duration::from_secs(60);
    let suite = Suite::new(&backend, &runtime).node(&folder).second(&second).timeout(patience);
    let passed = suite.check().await.unwrap();
    let skipped = passed.skipped();
    // What a folder cannot do, how many checks that leaves out, and what else keeps one of those from a result.
    let abilities = [
        ("cannot inspect keys", 1),
        ("counts its commands", 2),
        ("cannot take over locks", 5),
        ("cannot watch keys", 8),
        ("has no fencing tokens", 14),
        ("has no notes", 7),
        ("how long its server has been running", 2),
    ];
    for (check, reason) in skipped {
        let known = abilities.iter().any(|(ability, _)| reason.contains(ability));
        assert!(known || reason.contains("too busy"), "{check}: {reason}");
    }
    assert_eq!(skipped.len(), abilities.iter().map(|(_, checks)| checks).sum::<usize>(), "{skipped:?}");
    assert_eq!(fs::read_to_string(folder.node().join("keys")).unwrap(), "{}", "nothing is left behind");
}

#[test]
fn two_processes_exclude_each_other() {
    if let Some(folders) = env::var_os(FOLDERS) {
        return one_of_two_processes(folders.as_ref());
    }
    let folders = tempfile::tempdir().unwrap();
    let processes = [(); 2].map(|()| {
        let mut process = Command::new(env::current_exe().unwrap());
        process.args(["--exact", "tests::two_processes_exclude_each_other"]).env(FOLDERS, folders.path());
        process.spawn().unwrap()
    });
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let counted = fs::read_to_string(folders.path().join("counter")).unwrap();
    assert_eq!(counted, (2 * ROUNDS).to_string(), "no increment is lost");
}

/// Counts in a file, which is only right as long as no other process does so at the same time.
#[tokio::main(flavor = "current_thread")]
async fn one_of_two_processes(folders: &Path) {
    // One node: with several, an error would only show where a quorum of them makes it at once.
    let redlock = Redlock::builder(TokioRuntime::current())
        .node(LockFolder::open(folders))
        .node_timeout(Duration::from_secs(10))
        .retry_forever()
        .retry_delay(Duration::from_millis(2))
        .retry_jitter(Duration::from_millis(1))
        .build()
        .unwrap();
    for _ in 0..ROUNDS {
        let lock = redlock.lock("counter", Duration::from_secs(60)).await.unwrap();
        let counted = fs::read_to_string(folders.join("counter")).map_or(0, |text| text.parse().unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
        fs::write(folders.join("counter"), (counted + 1).to_string()).unwrap();
        lock.unlock().await.unwrap();
    }
}

#[test]
fn the_three_verbs_are_short() {
    let source = include_str!("backend.rs");
    let start = source.find("impl LockBackend").unwrap();
    let verbs = &source[start..][..source[start..].find("\n}\n").unwrap()];
    assert!(verbs.lines().count() < 60, "{}", verbs.lines().count());
}

/// A folder that others can lock, and that can be moved away.
#[derive(Debug)]
struct Folder {
    folder: TempDir,
    held: Mutex<Option<File>>,
}

impl Folder {
    fn node(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn away(&self) -> PathBuf {
        self.folder.path().join("away")
    }

    fn create(&self) {
        fs::create_dir(self.node()).unwrap();
    }
}

#[async_trait]
impl NodeControl for Folder {
    async fn stop(&self) -> FaultOutcome {
        let lock = lock_file(&self.node());
        fs4::FileExt::lock(&lock).unwrap();
        *self.held.lock().unwrap() = Some(lock);
        FaultOutcome::Done
    }

    async fn resume(&self) {
        *self.held.lock().unwrap() = None;
    }

    async fn shut_down(&self) -> FaultOutcome {
        fs::rename(self.node(), self.away()).unwrap();
        FaultOutcome::Done
    }

    async fn start(&self) {
        fs::rename(self.away(), self.node()).unwrap();
    }
}

fn lock_file(folder: &Path) -> File {
    File::options().create(true).append(true).open(folder.join("lock")).unwrap()
}

const FOLDERS: &str = "REDLOCK_LOCK_FILES_TEST";
const ROUNDS: u64 = 50;
