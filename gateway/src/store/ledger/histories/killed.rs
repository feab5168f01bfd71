//! The histories in processes that end in the middle of a call, as `kill -9` ends a gateway: nothing is closed or rolled back, the
//! thread or the server that carries a statement out is cut with it.
//!
//! This program starts itself again with [`FOLDER`] and goes on where the last one ended. What was written stays, since it is the
//! process that ends and not the machine: so files are not waited for here.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{STEPS, World};

/// Histories of a sample, and all.
const SAMPLE: u64 = 100;
const ALL: u64 = 100_000;
/// Histories that share a database.
const SHARING: u64 = 250;
/// Steps that a process does, about: so that each second history is cut by an end.
const LIFE: u64 = 2 * STEPS as u64;
/// Tells a process that it is one of those that end: where its database is.
const FOLDER: &str = "ALEPHLAB_TEST_HISTORIES";
/// With which histories.
const RANGE: &str = "ALEPHLAB_TEST_HISTORIES_RANGE";

/// How far the histories of a folder are, in a file that outlives who writes it.
pub(super) struct Progress {
    file: File,
    ends: File,
    /// Steps that earlier processes began, of which the last may be half done.
    before: u64,
    now: u64,
    /// At which step this process ends.
    last: u64,
    seed: u64,
}

impl Progress {
    fn open(folder: &Path, begin: u64) -> Self {
        let path = folder.join("progress");
        let number = std::fs::read(&path).unwrap_or_default();
        let before = number.try_into().map_or(0, u64::from_le_bytes);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        let seed = (begin << 32) + before;
        Self {
            file,
            ends: File::options()
                .append(true)
                .create(true)
                .open(folder.join("ends"))
                .unwrap(),
            before,
            now: 0,
            last: before + StdRng::seed_from_u64(!seed).random_range(1..2 * LIFE),
            seed,
        }
    }

    /// Of what is random in this process alone.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Begins a step; false where an earlier process has done it.
    pub(super) fn begin(&mut self) -> bool {
        self.now += 1;
        if self.is_here() {
            self.file.write_all_at(&self.now.to_le_bytes(), 0).unwrap();
        }
        self.is_here()
    }

    /// Whether the present step is this process's.
    pub(super) fn is_here(&self) -> bool {
        self.now >= self.before
    }

    /// Ends this process, if it has done enough, in the middle of a step.
    pub(super) fn may_end(&mut self, step: &str, at: u32) {
        if self.now >= self.last {
            writeln!(self.ends, "{step} {at}").unwrap();
            std::process::abort();
        }
    }
}

/// What a process does that another one started: nothing but histories until it ends.
fn child(folder: &Path) {
    let range = std::env::var(RANGE).unwrap();
    let (begin, end) = range.split_once("..").unwrap();
    let (begin, end): (u64, u64) = (begin.parse().unwrap(), end.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let progress = Progress::open(folder, begin);
        World::new(folder, progress).await.run(begin..end).await;
    });
}

/// Has these histories run by processes, one after the other; in the middle of which steps they ended.
fn run(histories: std::ops::Range<u64>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut ends = 0;
    loop {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", NAME]);
        command.env(FOLDER, folder.path());
        command.env(RANGE, format!("{}..{}", histories.start, histories.end));
        let done = command.output().unwrap();
        if done.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&done.stderr);
        // A test that fails ends otherwise.
        assert_eq!(
            done.status.signal(),
            Some(6),
            "{histories:?}, after {ends} ends: {said}"
        );
        ends += 1;
    }
    let found = std::fs::read_to_string(folder.path().join("ends")).unwrap();
    let found: Vec<_> = found.lines().map(str::to_owned).collect();
    assert_eq!(found.len(), ends, "{histories:?}");
    found
}

/// The test below, as the program that has it knows it.
const NAME: &str = "store::ledger::histories::killed::histories_whose_process_ends_in_the_middle_of_any_step_lose_and_double_nothing";

#[test]
fn histories_whose_process_ends_in_the_middle_of_any_step_lose_and_double_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(Path::new(&folder));
    }
    let is_long = std::env::var_os("ALEPHLAB_TEST_LONG").is_some();
    let (all, sharing) = if is_long {
        (ALL, SHARING)
    } else {
        (SAMPLE, SAMPLE / 2)
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
    let turn = AtomicU64::new(0);
    let worker = || {
        let mut ends = Vec::new();
        loop {
            let begin = turn.fetch_add(sharing, Ordering::Relaxed);
            if begin >= all {
                return ends;
            }
            ends.extend(run(begin..all.min(begin + sharing)));
        }
    };
    let ends: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let mut steps = std::collections::BTreeMap::<&str, std::collections::BTreeMap<&str, u64>>::new();
    for (step, at) in ends.iter().filter_map(|end| end.split_once(' ')) {
        *steps.entry(step).or_default().entry(at).or_default() += 1;
    }
    for (step, at) in &steps {
        let times: u64 = at.values().sum();
        println!("{step}: {times} processes ended, at {} places", at.len());
    }
    println!("{} processes ended in {all} histories", ends.len());
    if is_long {
        assert_eq!(steps.len(), 14, "in every kind of step: {steps:?}");
    } else {
        assert!(ends.len() > 10, "few ended: {steps:?}");
    }
}
