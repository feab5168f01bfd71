//! Control groups: what holds all processes of a kernel together to its limits, where the agent may make them.
//!
//! Version 2 is taken where all that is wanted can be had in one group: in the agent's own, or in the nearest one above it
//! that lets the agent. Of version 1 each hierarchy is taken by itself. The kernel's first process steps in before it is
//! anything else ([`crate::hold`]), so nothing of it is ever outside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alephlab_api::isolation::{LimitedBy, Limits};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{interval, timeout};
use uuid::Uuid;

/// Begins the name of every group of ours; the agent's process id comes next.
const PREFIX: &str = "alephlab-";
/// The file through which a process steps in.
const DOOR: &str = "cgroup.procs";
/// The file of version 2 through which all that is in a group is killed.
const KILL: &str = "cgroup.kill";
/// Microseconds in which processor time is counted.
const PERIOD: u64 = 100_000;
/// How long killed processes get to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked: nobody tells.
const LOOK: Duration = Duration::from_millis(5);

/// One thing that a group can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

/// A file of a group and what is written into it.
type Setting = (&'static str, String);

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    fn is_wanted(self, limits: &Limits) -> bool {
        match self {
            Self::Memory => limits.memory.is_some(),
            Self::Pids => limits.processes.is_some(),
            Self::Cpu => limits.cpu_percent.is_some(),
        }
    }

    /// Files and what is written to them, in this order; those that only some systems have come last and may fail.
    fn files(self, version: LimitedBy, limits: &Limits) -> (Vec<Setting>, Option<Setting>) {
        let number = |value: Option<u64>| value.unwrap_or_default().to_string();
        let quota = u64::from(limits.cpu_percent.unwrap_or_default()) * PERIOD / 100;
        let second = version == LimitedBy::CgroupV2;
        match self {
            // Without swap: what is over the limit would go there.
            Self::Memory if second => (
                vec![("memory.max", number(limits.memory))],
                Some(("memory.swap.max", "0".to_owned())),
            ),
            Self::Memory => (
                vec![("memory.limit_in_bytes", number(limits.memory))],
                Some(("memory.memsw.limit_in_bytes", number(limits.memory))),
            ),
            Self::Pids => (vec![("pids.max", number(limits.processes))], None),
            Self::Cpu if second => (vec![("cpu.max", format!("{quota} {PERIOD}"))], None),
            Self::Cpu => (
                vec![
                    ("cpu.cfs_period_us", PERIOD.to_string()),
                    ("cpu.cfs_quota_us", quota.to_string()),
                ],
                None,
            ),
        }
    }
}

/// Where groups can be made.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) version: LimitedBy,
    /// Folders in which groups are made, with what is limited in each.
    parents: Vec<(PathBuf, Vec<Controller>)>,
    /// So that groups of two agents have two names.
    run: String,
    left: Left,
}

/// Groups whose kernel or terminal is over, and which were not empty yet.
type Left = Arc<Mutex<Vec<PathBuf>>>;

/// The groups of one kernel or terminal. When dropped, what is in them is killed, and they are removed: at once if they are
/// empty, else when the next one is made.
#[derive(Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
    left: Left,
}

impl Groups {
    /// Looks where groups can be made that limit what is wanted.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub(super) fn find(limits: &Limits) -> Result<Self, String> {
        let wanted: Vec<_> = Controller::ALL
            .into_iter()
            .filter(|controller| controller.is_wanted(limits))
            .collect();
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let random = Uuid::new_v4().simple().to_string();
        let run = format!("{PREFIX}{}-{}", std::process::id(), &random[..8]);
        let found = |version, parents| Self {
            version,
            parents,
            run: run.clone(),
            left: Left::default(),
        };
        if wanted.is_empty() {
            return Err("nothing is to be limited by them".to_owned());
        }
        if let Some((top, own)) = hierarchy(&mounts, &own, None) {
            let mut places = own.ancestors().take_while(|place| place.starts_with(&top));
            if let Some(place) = places.find(|place| works(place, LimitedBy::CgroupV2, &wanted, limits)) {
                return Ok(found(LimitedBy::CgroupV2, vec![(place.to_owned(), wanted)]));
            }
        }
        let mut parents = Vec::new();
        for controller in wanted {
            let place = hierarchy(&mounts, &own, Some(controller.name())).map(|(_, own)| own);
            let works = |place: &PathBuf| works(place, LimitedBy::CgroupV1, &[controller], limits);
            if let Some(place) = place.filter(works) {
                parents.push((place, vec![controller]));
            }
        }
        match parents.is_empty() {
            true => Err("the agent may make no control groups".to_owned()),
            false => Ok(found(LimitedBy::CgroupV1, parents)),
        }
    }

    /// Whether it is limited in these groups.
    pub(super) fn limit(&self, controller: Controller) -> bool {
        self.parents
            .iter()
            .any(|(_, limited)| limited.contains(&controller))
    }

    /// Makes groups for a kernel or terminal of that name.
    pub(super) fn make(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        self.sweep_left();
        let mut group = Group {
            folders: Vec::new(),
            left: Arc::clone(&self.left),
        };
        for (parent, controllers) in &self.parents {
            sweep(parent);
            group.folders.push(make(
                parent,
                &format!("{}-{name}", self.run),
                self.version,
                controllers,
                limits,
            )?);
        }
        Ok(group)
    }

    /// Removes what was not empty when it was to go.
    fn sweep_left(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|folder| !is_ended(folder));
    }
}

impl Group {
    /// The files through which a process steps in.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join(DOOR)).collect()
    }

    /// Kills what is still in them, and removes them once it is gone.
    pub(crate) async fn remove(mut self) {
        let gone = async {
            let mut look = interval(LOOK);
            loop {
                look.tick().await;
                self.folders.retain(|folder| !is_ended(folder));
                if self.folders.is_empty() {
                    return;
                }
            }
        };
        let _ = timeout(GONE_WITHIN, gone).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut folders = std::mem::take(&mut self.folders);
        folders.retain(|folder| !is_ended(folder));
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.append(&mut folders);
    }
}

/// Removes a group; kills what is in one that is not empty, which then takes a moment to be gone.
fn is_ended(folder: &Path) -> bool {
    let is_removed = is_removed(folder);
    if !is_removed {
        kill_all(folder);
    }
    is_removed
}

/// Kills all processes of a group: with one word where the system knows it, else one by one. What is started meanwhile is
/// there the next time.
fn kill_all(folder: &Path) {
    if write(&folder.join(KILL), "1").is_ok() {
        return;
    }
    let inside = fs::read_to_string(folder.join(DOOR)).unwrap_or_default();
    let processes = inside.lines().filter_map(|line| line.parse::<i32>().ok());
    for process in processes.filter_map(Pid::from_raw) {
        // Fails for one that is gone, which is what is wanted.
        let _ = kill_process(process, Signal::KILL);
    }
}

fn is_removed(folder: &Path) -> bool {
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// A hierarchy's uppermost folder here, and that of this process's own group: of version 2, or of a controller of version 1.
fn hierarchy(mounts: &str, own: &str, controller: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    let (root, top) = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = right.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let fits = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        let mut places = left.split(' ').skip(3);
        fits.then(|| Some((places.next()?, PathBuf::from(places.next()?))))?
    })?;
    let own = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let fits = match controller {
            None => names.is_empty(),
            Some(name) => names.split(',').any(|one| one == name),
        };
        fits.then_some(path)
    })?;
    // In a container the mount may begin further down; what is above is not seen then.
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    Some((top.clone(), top.join(below)))
}

/// Whether a group can be made there, limits what it should, and can be stepped into.
fn works(parent: &Path, version: LimitedBy, controllers: &[Controller], limits: &Limits) -> bool {
    let name = format!("{PREFIX}{}-try", std::process::id());
    let Ok(folder) = make(parent, &name, version, controllers, limits) else {
        return false;
    };
    let mut step = Command::new("/bin/sh");
    step.args(["-c", r#"echo 0 >"$0""#])
        .arg(folder.join(DOOR))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let steps_in = step.status().is_ok_and(|status| status.success());
    is_removed(&folder);
    steps_in
}

fn make(
    parent: &Path,
    name: &str,
    version: LimitedBy,
    controllers: &[Controller],
    limits: &Limits,
) -> io::Result<PathBuf> {
    let folder = parent.join(name);
    fs::create_dir(&folder)?;
    for controller in controllers {
        let (needed, wished) = controller.files(version, limits);
        for (file, value) in needed {
            if let Err(error) = write(&folder.join(file), &value) {
                is_removed(&folder);
                return Err(error);
            }
        }
        if let Some((file, value)) = wished {
            let _ = write(&folder.join(file), &value);
        }
    }
    Ok(folder)
}

/// Writes to a file that the system made: where there is none, there is nothing to limit.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

/// Removes groups of agents that no longer run. What runs in one is left: its agent may be one of another container, whose
/// process has no number here.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            // The system refuses it for one in which something runs; between making one and stepping in nothing is awaited.
            let _ = is_abandoned(&entry.path()) && is_removed(&entry.path());
        }
    }
}

/// Whether its agent is gone. One's own are removed by who made them.
fn is_abandoned(folder: &Path) -> bool {
    let name = folder
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let pid = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
36 31 0:33 /docker/a /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "4:memory:/user/1\n3:cpu,cpuacct:/docker/a/b\n0::/app.slice/x.scope\n";

    #[test]
    fn a_process_finds_its_own_group_in_each_hierarchy() {
        let own = |controller| hierarchy(MOUNTS, OWN, controller).map(|(_, own)| own);
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(own(Some("memory")), at("/sys/fs/cgroup/memory/user/1"));
        assert_eq!(own(Some("cpu")), at("/sys/fs/cgroup/cpu/b"));
        assert_eq!(own(Some("pids")), None);
        assert_eq!(own(None), at("/sys/fs/cgroup/unified/app.slice/x.scope"));
    }

    #[test]
    fn what_is_in_a_group_is_killed_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
        // As the system has them, which counts a process of elsewhere as 0.
        let inside = format!("0\n{}\n", process.id());
        fs::write(folder.path().join(DOOR), inside).unwrap();
        assert!(!is_ended(folder.path()));
        let status = process.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        let kill = folder.path().join(KILL);
        fs::write(&kill, "").unwrap();
        kill_all(folder.path());
        assert_eq!(fs::read_to_string(kill).unwrap(), "1");
    }

    #[test]
    fn a_group_that_was_not_empty_is_removed_when_the_next_one_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let groups = Groups {
            version: LimitedBy::CgroupV1,
            parents: vec![(parent.path().to_owned(), Vec::new())],
            run: format!("{PREFIX}{}-x", std::process::id()),
            left: Left::default(),
        };
        let first = groups.make("a", &Limits::default()).unwrap();
        let door = first.doors().remove(0);
        fs::write(&door, "").unwrap();
        drop(first);
        assert!(door.exists());
        fs::remove_file(&door).unwrap();
        let second = groups.make("b", &Limits::default()).unwrap();
        let count = || fs::read_dir(parent.path()).unwrap().count();
        assert_eq!(count(), 1, "the second one alone");
        drop(second);
        assert_eq!(count(), 0);
    }

    #[test]
    fn what_is_written_is_what_the_system_reads() {
        let limits = Limits {
            memory: Some(1 << 30),
            cpu_percent: Some(150),
            ..Limits::default()
        };
        let files = |controller: Controller, version| controller.files(version, &limits).0;
        assert_eq!(
            files(Controller::Cpu, LimitedBy::CgroupV2),
            [("cpu.max", "150000 100000".to_owned())]
        );
        assert_eq!(
            files(Controller::Memory, LimitedBy::CgroupV1),
            [("memory.limit_in_bytes", "1073741824".to_owned())]
        );
        assert_eq!(
            files(Controller::Pids, LimitedBy::CgroupV2),
            [("pids.max", "1024".to_owned())]
        );
    }
}
