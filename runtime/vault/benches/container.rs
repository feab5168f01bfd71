//! Sealing and opening a large file, beside age and rclone crypt: CPU seconds, which a loaded machine changes least, and
//! the time that it took.
//!
//! `cargo bench -p alephlab-vault --bench container -- [MIB]`: a file of MIB (1024) on tmpfs. *Seal* is read, SHA-256 of the
//! file, encryption, SHA-256 of each object, its leaves, write; *open* is read, SHA-256 and tags of each object, SHA-256 of
//! the file. age (Debian's `age`) encrypts to an X25519 recipient and decrypts to nowhere; `rclone copyto` writes through a
//! crypt remote and `rclone cat` reads to nowhere. `taskset -c 0` in front shows one processor alone.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use alephlab_vault::storage::FolderStorage;
use alephlab_vault::{
    EpochSecret, Keys, Meta, Reader, SealParams, SignedHead, SourceFile, UnsignedHead, Wallet, dataset_id,
    new_id_random, seal_tree,
};

const ROUNDS: usize = 5;

fn main() {
    let mib = std::env::args()
        .find_map(|text| text.parse().ok())
        .unwrap_or(1024_u64);
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let plain = folder.path().join("plain");
    write_noise(&plain, mib);
    let mut rows: Vec<(&str, Vec<Spent>)> = Vec::new();
    let mut add = |what, spent| match rows.iter_mut().find(|(name, _)| *name == what) {
        Some((_, all)) => all.push(spent),
        None => rows.push((what, vec![spent])),
    };
    let age = Age::find(folder.path());
    let rclone = Rclone::find(folder.path());
    for _ in 0..ROUNDS {
        let sealed = folder.path().join("sealed");
        let mut made = None;
        add("alephlab, seal", timed(|| made = Some(seal(&plain, &sealed))));
        let (head, secret) = made.unwrap();
        add("alephlab, open", timed(|| open(&sealed, &head, secret)));
        std::fs::remove_dir_all(&sealed).unwrap();
        if let Some(age) = &age {
            let out = folder.path().join("plain.age");
            add(
                "age, encrypt",
                timed(|| age.run(&["-r", &age.recipient, "-o"], &out, &plain)),
            );
            add(
                "age, decrypt",
                timed(|| age.run(&["-d", "-i", &age.key, "-o"], Path::new("/dev/null"), &out)),
            );
            std::fs::remove_file(&out).unwrap();
        }
        if let Some(rclone) = &rclone {
            add(
                "rclone, encrypt",
                timed(|| rclone.run(&["copyto", plain.to_str().unwrap(), "bench:plain"])),
            );
            add("rclone, decrypt", timed(|| rclone.run(&["cat", "bench:plain"])));
            rclone.run(&["deletefile", "bench:plain"]);
        }
    }
    let gib = mib as f64 / 1024.0;
    for (what, spent) in &rows {
        let (cpu, wall) = (median(spent, |one| one.cpu), median(spent, |one| one.wall));
        println!(
            "{what:16} {cpu:6.2} CPU-s   {:5.2} GiB per CPU-second   {wall:6.2} s   {:5.2} GiB per second",
            gib / cpu,
            gib / wall
        );
    }
}

/// Seconds.
struct Spent {
    cpu: f64,
    wall: f64,
}

fn median(spent: &[Spent], part: impl Fn(&Spent) -> f64) -> f64 {
    let mut all: Vec<f64> = spent.iter().map(part).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// CPU seconds of this process and of those that it has waited for, and those on the clock.
fn timed(work: impl FnOnce()) -> Spent {
    let (before, started) = (cpu(), std::time::Instant::now());
    work();
    Spent {
        cpu: cpu() - before,
        wall: started.elapsed().as_secs_f64(),
    }
}

fn cpu() -> f64 {
    // Fields 14 to 17 of proc_pid_stat(5), in ticks of 10 ms: user, system, children's user, children's system.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(4);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// What no compression shortens.
fn write_noise(path: &Path, mib: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut piece = vec![0_u8; 1 << 20];
    for number in 0..mib {
        for (word, at) in piece.chunks_exact_mut(32).zip(0_u64..) {
            word.copy_from_slice(&<sha2::Sha256 as sha2::Digest>::digest(
                (number << 32 | at).to_be_bytes(),
            ));
        }
        std::io::Write::write_all(&mut file, &piece).unwrap();
    }
}

fn seal(plain: &Path, to: &Path) -> (SignedHead, EpochSecret) {
    let wallet = Wallet::generate().unwrap();
    let id_random = new_id_random().unwrap();
    let params = SealParams {
        dataset_id: dataset_id(&wallet.owner(), &id_random),
        version: 1,
        epoch: 1,
        obj_log2: alephlab_vault::DEFAULT_OBJ_LOG2,
        meta: Meta::default(),
    };
    let secret = EpochSecret::generate().unwrap();
    let objects = to.join("objects");
    std::fs::create_dir_all(&objects).unwrap();
    let files = [SourceFile::file("plain", plain)];
    let tree = seal_tree(&files, &params, &secret, &mut |object| {
        std::fs::write(objects.join(object.item_hash()), &object.bytes).unwrap();
        Ok(())
    });
    let head = UnsignedHead {
        dataset_id: params.dataset_id,
        owner: wallet.owner(),
        version: 1,
        prev: [0; 32],
        epoch: 1,
        epoch_commitment: secret.commitment(&params.dataset_id, 1),
        root: tree.unwrap().root,
        writers: Vec::new(),
        created: 0,
        not_after: None,
        id_random,
    };
    (head.sign(&wallet).unwrap(), secret)
}

fn open(from: &Path, head: &SignedHead, secret: EpochSecret) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let storage = Arc::new(FolderStorage::new(from).unwrap());
        let reader = Reader::open(storage, head, Keys::Epoch(secret)).await.unwrap();
        reader.verify(&mut |_, _| {}).await.unwrap();
    });
}

struct Age {
    key: String,
    recipient: String,
}

impl Age {
    /// A new key, where age is installed.
    fn find(folder: &Path) -> Option<Self> {
        let key = folder.join("age.key").display().to_string();
        let made = Command::new("age-keygen")
            .args(["-o", &key])
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            println!("age is not installed: nothing to compare with");
            return None;
        }
        let text = std::fs::read_to_string(&key).unwrap();
        let recipient = text
            .lines()
            .find_map(|line| line.strip_prefix("# public key: "))
            .unwrap()
            .to_owned();
        Some(Self { key, recipient })
    }

    fn run(&self, arguments: &[&str], to: &Path, from: &Path) {
        let status = Command::new("age")
            .args(arguments)
            .arg(to)
            .arg(from)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// rclone with a crypt remote called `bench` over a folder.
struct Rclone {
    settings: Vec<(String, String)>,
}

impl Rclone {
    /// With a password, where rclone is installed.
    fn find(folder: &Path) -> Option<Self> {
        let Ok(made) = Command::new("rclone").args(["obscure", "a password"]).output() else {
            println!("rclone is not installed: nothing to compare with");
            return None;
        };
        let remote = folder.join("rclone");
        std::fs::create_dir_all(&remote).unwrap();
        let password = String::from_utf8(made.stdout).unwrap();
        let set = |name: &str, value: &str| (format!("RCLONE_CONFIG_BENCH_{name}"), value.to_owned());
        Some(Self {
            settings: vec![
                set("TYPE", "crypt"),
                set("REMOTE", remote.to_str().unwrap()),
                set("PASSWORD", password.trim()),
                // Nobody's own settings.
                (
                    "RCLONE_CONFIG".to_owned(),
                    folder.join("rclone.conf").display().to_string(),
                ),
            ],
        })
    }

    fn run(&self, arguments: &[&str]) {
        let status = Command::new("rclone")
            .args(arguments)
            .envs(self.settings.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }
}
