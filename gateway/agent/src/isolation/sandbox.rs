//! The bubblewrap command of one kernel or terminal: what it sees, and nothing else.
//!
//! Seen are the system's programs, the toolchain and the runtime (read-only), the account's own folder, the private folder
//! with its sockets, what its broker opens, and GPUs. All else of the host is not there at all: the gateway's data, other
//! kernels, homes, other processes. The network is shared, since cells download crates, unless a kernel asks to have none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use alephlab_api::isolation::Confinement;
use alephlab_api::isolation::bubblewrap::{BESIDE_USR, Bwrap, PROGRAMS, add, closed, namespaces, system};

/// Of cargo's folder: crates, which all kernels and the host's user share, and the locks on them.
const CARGO_SHARED: [&str; 4] = ["registry", "git", ".package-cache", ".package-cache-mutate"];
/// Of cargo's folder, read-only. Not the credentials for registries.
const CARGO_SHOWN: [&str; 4] = ["bin", "config", "config.toml", "env"];
/// Of the runtime's folder, what kernels write; each account has its own where a host has several.
const RUNTIME_OWN: [&str; 3] = ["bundles", "compiled", "kernels"];
/// In the runtime's folder, where those of all accounts are.
const ACCOUNTS: &str = "accounts";
/// Bytes for a folder of which only folders below are used.
const FRAME: u64 = 1 << 20;
/// Bytes for small files of programs.
const SMALL: u64 = 16 << 20;

/// What one kernel or terminal sees, beside what all see.
#[derive(Default)]
pub(crate) struct View {
    /// Its account's folder, and the home of its programs. No links are in its path.
    pub(crate) home: PathBuf,
    /// Where it works, with no links in its path either.
    pub(crate) cwd: PathBuf,
    /// It may work outside of its account's folder, and then sees where it works, too.
    pub(crate) anywhere: bool,
    /// Where its sockets are.
    pub(crate) private: Option<PathBuf>,
    /// Where its broker opens datasets.
    pub(crate) opened: Option<PathBuf>,
    /// Programs and files that are read.
    pub(crate) shown: Vec<PathBuf>,
    /// The runtime.
    pub(crate) runtime: Option<PathBuf>,
    /// The account, where the host has several.
    pub(crate) account: Option<String>,
    /// In a terminal: it keeps its session.
    pub(crate) terminal: bool,
    /// It has no network.
    pub(crate) cut_off: bool,
    /// Bytes of memory, if they are fewer than the host gives.
    pub(crate) memory: Option<u64>,
}

/// How a path of the host is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Shown,
    Own,
    /// Empty, in memory, of so many bytes.
    Scratch(u64),
}

/// The whole command but for the program.
pub(super) fn command(bwrap: &Bwrap, confinement: &Confinement, view: &View) -> Vec<OsString> {
    let mut words = namespaces(bwrap);
    if !view.terminal {
        // Away from the terminal that the gateway was started in, into which it could type otherwise.
        words.push("--new-session".into());
    }
    if view.cut_off {
        words.push("--unshare-net".into());
    }
    words.extend(system(confinement.limits.temporary));
    gpus(&mut words);
    // Outer ones first: a folder in another one is what is said of itself.
    for (path, place) in places(confinement, view) {
        mount(&mut words, &path, place);
        if let (Some(runtime), Some(account)) = (&view.runtime, &view.account)
            && is_same(&path, runtime)
        {
            own_caches(&mut words, &path, account);
        }
    }
    words.extend(closed());
    words.extend(["--chdir".into(), view.cwd.clone().into(), "--".into()]);
    words
}

fn mount(words: &mut Vec<OsString>, path: &Path, place: Place) {
    match place {
        Place::Shown => words.extend(["--ro-bind-try".into(), path.into(), path.into()]),
        Place::Own => words.extend(["--bind".into(), path.into(), path.into()]),
        Place::Scratch(bytes) => {
            add(words, &["--size", &bytes.to_string(), "--tmpfs"]);
            words.push(path.into());
        }
    }
}

/// What kernels of an account have compiled, in place of what lies there: it holds texts of their cells, and is run.
fn own_caches(words: &mut Vec<OsString>, runtime: &Path, account: &str) {
    let of_all = runtime.join(ACCOUNTS);
    add(words, &["--size", &FRAME.to_string(), "--tmpfs"]);
    words.push(of_all.into());
    for name in RUNTIME_OWN {
        let own = caches_of(runtime, account).join(name);
        words.extend(["--bind".into(), own.into(), runtime.join(name).into()]);
    }
}

fn caches_of(runtime: &Path, account: &str) -> PathBuf {
    runtime.join(ACCOUNTS).join(account)
}

/// Makes the folders that are to be shown, where that is the agent's part.
pub(super) fn prepare(view: &View) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    if let (Some(runtime), Some(account)) = (&view.runtime, &view.account) {
        for name in RUNTIME_OWN {
            private(&caches_of(runtime, account).join(name))?;
            fs::create_dir_all(runtime.join(name))?;
        }
    }
    let cargo = cargo_home();
    for name in ["registry", "git"] {
        // Without them cargo works in memory, so this may fail.
        let _ = fs::create_dir_all(cargo.join(name));
    }
    for name in [".package-cache", ".package-cache-mutate"] {
        let _ = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(cargo.join(name));
    }
    Ok(())
}

/// Every path that is said something of, by its name: whatever lies in another one comes after it.
fn places(confinement: &Confinement, view: &View) -> BTreeMap<PathBuf, Place> {
    let mut places = BTreeMap::new();
    let mut show = |path: &Path, place| {
        places.insert(path.to_owned(), place);
        // Programs may know it by its other name.
        if let Ok(real) = path.canonicalize()
            && real != path
        {
            places.insert(real, place);
        }
    };
    for path in &confinement.visible {
        show(path, Place::Shown);
    }
    for folder in search_path() {
        let is_too_much = |inner: &PathBuf| inner.starts_with(&folder);
        if !confinement.hidden.iter().any(is_too_much) && !is_too_much(&host_home()) {
            show(&folder, Place::Shown);
        }
    }
    show(&rustup_home(), Place::Shown);
    show(&cargo_home(), Place::Scratch(SMALL));
    for name in CARGO_SHOWN {
        show(&cargo_home().join(name), Place::Shown);
    }
    for name in CARGO_SHARED {
        let path = cargo_home().join(name);
        if path.exists() {
            show(&path, Place::Own);
        }
    }
    for path in &confinement.hidden {
        show(path, Place::Scratch(FRAME));
    }
    if let Some(runtime) = &view.runtime {
        show(
            runtime,
            if view.account.is_some() {
                Place::Shown
            } else {
                Place::Own
            },
        );
    }
    for path in &view.shown {
        show(path, Place::Shown);
    }
    if let Some(opened) = &view.opened {
        show(opened, Place::Shown);
    }
    if let Some(private) = &view.private {
        show(private, Place::Own);
    }
    // Not looked up again: cells could have put a link there since.
    places.insert(view.home.clone(), Place::Own);
    if view.anywhere && !view.cwd.starts_with(&view.home) {
        places.insert(view.cwd.clone(), Place::Own);
    }
    // What covers a part of the system hides what is in it.
    let covers: Vec<_> = places
        .iter()
        .filter(|(_, place)| matches!(place, Place::Scratch(_)))
        .map(|(path, _)| path.clone())
        .collect();
    let is_covered = |path: &Path| covers.iter().any(|cover| path.starts_with(cover));
    let is_runtime = |path: &Path| {
        view.runtime
            .as_ref()
            .is_some_and(|runtime| is_same(path, runtime))
    };
    let is_there = |path: &Path| is_of_system(path) && !is_covered(path) && !is_runtime(path);
    places.retain(|path, place| *place != Place::Shown || !is_there(path));
    places
}

/// Whether a path is this folder, by one of its two names.
fn is_same(path: &Path, folder: &Path) -> bool {
    path == folder || folder.canonicalize().is_ok_and(|real| real == path)
}

fn is_of_system(path: &Path) -> bool {
    PROGRAMS
        .iter()
        .chain(&BESIDE_USR)
        .any(|folder| path.starts_with(folder))
}

/// GPUs of NVIDIA, and what their driver looks at.
fn gpus(words: &mut Vec<OsString>) {
    let mut found = false;
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("nvidia") {
            found = true;
            words.extend(["--dev-bind-try".into(), entry.path().into(), entry.path().into()]);
        }
    }
    for path in ["/sys/bus", "/sys/class", "/sys/devices", "/sys/module"] {
        if found {
            add(words, &["--ro-bind-try", path, path]);
        }
    }
}

/// Folders in which programs are looked for.
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    folders
        .filter(|folder| folder.is_absolute() && folder.is_dir() && folder.parent().is_some())
        .collect()
}

fn host_home() -> PathBuf {
    std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default()
}

fn of_home(variable: &str, usual: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from);
    set.filter(|path| path.is_absolute())
        .unwrap_or_else(|| host_home().join(usual))
}

/// Where rustup's toolchains are.
pub(super) fn rustup_home() -> PathBuf {
    of_home("RUSTUP_HOME", ".rustup")
}

/// Where cargo's crates are.
pub(super) fn cargo_home() -> PathBuf {
    of_home("CARGO_HOME", ".cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            home: "/data/lab/0xab".into(),
            cwd: "/data/lab/0xab/deep".into(),
            private: Some("/tmp/agent/k".into()),
            runtime: Some("/data/runtime".into()),
            account: Some("0xab".to_owned()),
            ..View::default()
        }
    }

    #[test]
    fn what_is_shown_of_a_hidden_folder_comes_after_it() {
        let confinement = Confinement {
            hidden: vec!["/data".into()],
            visible: vec!["/data/tools".into(), "/usr/share".into()],
            ..Confinement::default()
        };
        let places = places(&confinement, &view());
        let all: Vec<_> = places.keys().collect();
        let at = |path: &str| all.iter().position(|place| *place == Path::new(path)).unwrap();
        assert!(at("/data") < at("/data/lab/0xab") && at("/data") < at("/data/tools"));
        assert_eq!(places[Path::new("/data")], Place::Scratch(FRAME));
        assert_eq!(places[Path::new("/data/lab/0xab")], Place::Own);
        assert!(
            !places.contains_key(Path::new("/usr/share")),
            "it is there already"
        );
    }

    #[test]
    fn programs_below_a_hidden_folder_of_the_system_are_shown() {
        let confinement = Confinement {
            hidden: vec!["/opt/data".into()],
            visible: vec!["/opt/data/tools".into(), "/opt/tools".into()],
            ..Confinement::default()
        };
        let places = places(&confinement, &view());
        assert_eq!(places[Path::new("/opt/data/tools")], Place::Shown);
        assert!(
            !places.contains_key(Path::new("/opt/tools")),
            "it is there already"
        );
    }

    #[test]
    fn only_who_may_work_anywhere_sees_a_folder_that_is_not_of_the_account() {
        for anywhere in [false, true] {
            let view = View {
                cwd: "/data/lab/0xcd".into(),
                anywhere,
                ..view()
            };
            let places = places(&Confinement::default(), &view);
            assert_eq!(places.contains_key(Path::new("/data/lab/0xcd")), anywhere);
        }
    }

    #[test]
    fn accounts_of_one_host_share_no_compiled_cells_and_cannot_change_the_runtime() {
        let bwrap = Bwrap {
            program: "/bwrap".into(),
            forbids_namespaces: true,
        };
        let words = command(&bwrap, &Confinement::default(), &view());
        let text: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = text.join(" ");
        assert!(
            line.contains("--ro-bind-try /data/runtime /data/runtime"),
            "{line}"
        );
        assert!(
            line.contains("--bind /data/runtime/accounts/0xab/compiled /data/runtime/compiled"),
            "{line}"
        );
        assert!(line.contains("--tmpfs /data/runtime/accounts"), "{line}");
        assert!(line.ends_with("--chdir /data/lab/0xab/deep --"), "{line}");
    }
}
