//! Measures the host and the kernels on it every few seconds, for people to look at.
//!
//! `sysinfo` reads `/proc`; of GPUs tells [`crate::gpus`]. Memory is each process's share (PSS) where the system tells it,
//! because compile servers have most of their pages in common.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_api::agent::FromAgent;
use alephlab_api::load::{GpuLoad, HostLoad, KernelLoad};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::watch;
use uuid::Uuid;

use crate::gpus::Gpus;

/// Between two measurements. Reading `/proc` for some hundred processes takes a few milliseconds.
const EVERY: Duration = Duration::from_secs(3);

/// The host, and kernels that run there.
pub(crate) type Load = (HostLoad, BTreeMap<Uuid, KernelLoad>);

/// First processes of kernels that run, and what was measured last.
pub(crate) struct Loads {
    kernels: Mutex<HashMap<Uuid, u32>>,
    measured: watch::Sender<Option<Load>>,
    gpus: Gpus,
}

/// A kernel is measured as long as this is there.
pub(crate) struct Measured {
    loads: Arc<Loads>,
    kernel: Uuid,
}

impl Loads {
    pub(crate) fn new() -> Self {
        Self {
            kernels: Mutex::default(),
            measured: watch::Sender::new(None),
            gpus: Gpus::default(),
        }
    }

    /// From now on the process with this id, and its descendants, are the kernel's.
    pub(crate) fn measure(self: &Arc<Self>, kernel: Uuid, pid: Option<u32>) -> Measured {
        if let Some(pid) = pid {
            self.kernels().insert(kernel, pid);
        }
        Measured {
            loads: Arc::clone(self),
            kernel,
        }
    }

    fn kernels(&self) -> MutexGuard<'_, HashMap<Uuid, u32>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when there is something new, and what was last measured.
    pub(crate) fn news(&self) -> watch::Receiver<Option<Load>> {
        self.measured.subscribe()
    }

    /// Measures for as long as it is polled; `disk` is where kernels work, `launcher` this program, for its `hold`.
    pub(crate) async fn keep_measuring(&self, disk: PathBuf, launcher: Option<PathBuf>) {
        tokio::join!(
            self.keep_reading(disk),
            self.gpus.keep_asking(launcher.as_deref())
        );
    }

    async fn keep_reading(&self, disk: PathBuf) {
        let mut meter = match Meter::new() {
            Ok(meter) => meter,
            Err(error) => {
                tracing::warn!(%error, "this host cannot be measured");
                return std::future::pending().await;
            }
        };
        let mut every = tokio::time::interval(EVERY);
        loop {
            every.tick().await;
            let (kernels, disk, gpus) = (self.kernels().clone(), disk.clone(), self.gpus.now());
            // Files of `/proc` may take their time; kernels' messages do not wait for them.
            let task = tokio::task::spawn_blocking(move || {
                let measured = meter.measure(&kernels, &disk, gpus);
                (meter, measured)
            });
            match task.await {
                Ok((same, measured)) => {
                    meter = same;
                    self.measured.send_replace(Some(measured));
                }
                Err(error) => {
                    tracing::warn!(%error, "this host is not measured any more");
                    return std::future::pending().await;
                }
            }
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.loads.kernels().remove(&self.kernel);
    }
}

/// What is told to the gateway.
pub(crate) fn told((host, kernels): &Load) -> FromAgent {
    FromAgent::Load {
        host: host.clone(),
        kernels: kernels.clone(),
    }
}

struct Meter {
    system: System,
}

impl Meter {
    fn new() -> Result<Self, sysinfo::Error> {
        Ok(Self {
            system: System::new()?,
        })
    }

    fn measure(
        &mut self,
        kernels: &HashMap<Uuid, u32>,
        disk: &Path,
        (gpus, gpu_memory): (Vec<GpuLoad>, HashMap<u32, u64>),
    ) -> Load {
        self.system.refresh_memory();
        self.system.refresh_cpu_usage();
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        let all = ProcessesToUpdate::All;
        self.system.refresh_processes_specifics(all, true, what);
        let (disk_free, disk) = disk_of(disk);
        let cores = self.system.cpus().len();
        let host = HostLoad {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            cores_busy: self.system.cpus().iter().map(|cpu| cpu.usage() / 100.0).sum(),
            memory_used: self.system.used_memory(),
            memory: self.system.total_memory(),
            disk_free,
            disk,
            gpus,
        };
        let children = children(&self.system);
        let loads = kernels.iter().map(|(kernel, pid)| {
            let load = self.kernel(Pid::from_u32(*pid), &children, &gpu_memory);
            (*kernel, load)
        });
        (host, loads.collect())
    }

    /// The process and its descendants.
    fn kernel(
        &self,
        first: Pid,
        children: &HashMap<Pid, Vec<Pid>>,
        gpu_memory: &HashMap<u32, u64>,
    ) -> KernelLoad {
        let (mut load, mut open) = (KernelLoad::default(), vec![first]);
        while let Some(pid) = open.pop() {
            open.extend(children.get(&pid).into_iter().flatten());
            let Some(process) = self.system.process(pid) else {
                continue;
            };
            load.cores_busy += process.cpu_usage() / 100.0;
            load.memory += share_of_memory(pid).unwrap_or_else(|| process.memory());
            if let Some(bytes) = gpu_memory.get(&pid.as_u32()) {
                *load.gpu_memory.get_or_insert(0) += bytes;
            }
        }
        load
    }
}

fn children(system: &System) -> HashMap<Pid, Vec<Pid>> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, process) in system.processes() {
        // A thread has the memory of its process, which is counted.
        if process.thread_kind().is_none()
            && let Some(parent) = process.parent()
        {
            children.entry(parent).or_default().push(*pid);
        }
    }
    children
}

/// `Pss` of `smaps_rollup` (`proc(5)`); none of a process that lets nobody look.
fn share_of_memory(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Free bytes and all bytes of the disk that holds this folder; nothing of one that is not there yet.
fn disk_of(folder: &Path) -> (u64, u64) {
    match rustix::fs::statvfs(folder) {
        Ok(disk) => (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize),
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_what_it_starts_are_one_kernel() {
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                "head -c 50000000 /dev/zero | tail -c 1 & read -r line; wait",
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let kernels = HashMap::from([(Uuid::nil(), child.id()), (Uuid::max(), u32::MAX)]);
        let (host, loads) = Meter::new()
            .unwrap()
            .measure(&kernels, Path::new("/"), Default::default());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(host.cores > 0 && host.memory > host.memory_used && host.memory_used > 0);
        assert!(host.disk > host.disk_free && host.disk_free > 0, "{host:?}");
        assert!(loads[&Uuid::nil()].memory > 100_000, "{loads:?}");
        assert_eq!(
            loads[&Uuid::max()],
            KernelLoad::default(),
            "there is no such process"
        );
    }

    #[test]
    fn busy_processors_are_counted_between_two_measurements() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let kernels = HashMap::from([(Uuid::nil(), child.id())]);
        let (mut meter, started) = (Meter::new().unwrap(), std::time::Instant::now());
        let busy = loop {
            let (host, loads) = meter.measure(&kernels, Path::new("/"), Default::default());
            let busy = loads[&Uuid::nil()].cores_busy;
            if busy > 0.0 && host.cores_busy > 0.0 {
                break busy;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "it spins");
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(busy < 8.0, "one thread: {busy}");
    }

    #[tokio::test]
    async fn a_kernel_that_is_gone_is_measured_no_more() {
        let loads = Arc::new(Loads::new());
        let kernel = Uuid::new_v4();
        let measured = loads.measure(kernel, Some(std::process::id()));
        let mut news = loads.news();
        let same = Arc::clone(&loads);
        let measuring = tokio::spawn(async move { same.keep_measuring("/".into(), None).await });
        news.changed().await.unwrap();
        let (_, kernels) = news.borrow_and_update().clone().unwrap();
        assert!(kernels[&kernel].memory > 0);
        drop(measured);
        news.changed().await.unwrap();
        let (_, kernels) = news.borrow_and_update().clone().unwrap();
        assert!(kernels.is_empty());
        measuring.abort();
    }
}
