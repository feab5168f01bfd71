//! GPUs, as NVIDIA's `nvidia-smi` tells of them: it comes with the driver, whose own library (NVML) a static program cannot load.
//!
//! Two of it run for as long as the host is measured, one for the GPUs and one for processes on them, and say every few seconds
//! what there is, a row for each. One that was started for each measurement would wake a GPU each time that nothing else keeps
//! awake, which takes it seconds. Nobody says where a measurement ends, and of no processes nothing is said: so a row holds
//! until it comes again, or should have. Called by [`crate::load`] alone.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::load::GpuLoad;
use futures_util::StreamExt as _;
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::hold::Hold;
use crate::isolation::found;
use crate::launch::held;

const PROGRAM: &str = "nvidia-smi";
/// The name comes last: it alone could have a comma in it.
const GPUS: &str = "--query-gpu=index,utilization.gpu,memory.used,memory.total,temperature.gpu,name";
const PROCESSES: &str = "--query-compute-apps=pid,used_gpu_memory,gpu_uuid";
/// Rows alone, numbers without `%` and `MiB`.
const FORMAT: &str = "--format=csv,noheader,nounits";
/// Seconds between two rows of the same thing.
const EVERY: u64 = 3;
/// How long a row holds: a slow driver may miss two.
const FRESH: Duration = Duration::from_secs(10);
/// Before it is asked again after it ended: drivers are loaded and replaced while their host runs.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes of a row, which has some hundred.
const ROW_MAX: usize = 4096;

/// What was said last.
#[derive(Default)]
pub(crate) struct Gpus {
    /// By number, which is NVML's.
    gpus: Rows<u32, GpuLoad>,
    /// Bytes of a process on a GPU.
    processes: Rows<(u32, String), u64>,
}

impl Gpus {
    /// Listens for as long as it is polled; returns where there is nobody to ask. `launcher` is this program, for its `hold`.
    pub(crate) async fn keep_asking(&self, launcher: Option<&Path>) {
        let Some(program) = found(PROGRAM) else {
            tracing::debug!("no GPU is measured: there is no {PROGRAM}");
            return;
        };
        let gpus = ask(&program, launcher, GPUS, |row| {
            self.gpus.put(gpu(row));
        });
        let processes = ask(&program, launcher, PROCESSES, |row| {
            self.processes.put(process(row));
        });
        tokio::join!(gpus, processes);
    }

    /// The GPUs, and the bytes that each process has of any.
    pub(crate) fn now(&self) -> (Vec<GpuLoad>, HashMap<u32, u64>) {
        let now = Instant::now();
        let mut of_processes: HashMap<u32, u64> = HashMap::new();
        for ((pid, _), bytes) in self.processes.fresh(now) {
            *of_processes.entry(pid).or_default() += bytes;
        }
        let gpus = self.gpus.fresh(now).into_iter().map(|(_, gpu)| gpu);
        (gpus.collect(), of_processes)
    }
}

/// Rows by what they tell of, with when they came.
struct Rows<K, V>(Mutex<BTreeMap<K, (Instant, V)>>);

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone, V: Clone> Rows<K, V> {
    fn put(&self, row: Option<(K, V)>) {
        if let Some((key, value)) = row {
            let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            rows.insert(key, (Instant::now(), value));
        }
    }

    /// Those that hold at that time; the others go.
    fn fresh(&self, now: Instant) -> Vec<(K, V)> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|_, (came, _)| now.saturating_duration_since(*came) < FRESH);
        let rows = rows.iter();
        rows.map(|(key, (_, value))| (key.clone(), value.clone()))
            .collect()
    }
}

/// Asks one question again and again.
async fn ask(program: &Path, launcher: Option<&Path>, question: &str, mut take: impl FnMut(&str)) {
    loop {
        if let Err(error) = listen(program, launcher, question, &mut take).await {
            tracing::debug!(%error, question, "GPUs are not measured for now");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes rows until the program ends, or says what is none.
async fn listen(
    program: &Path,
    launcher: Option<&Path>,
    question: &str,
    take: &mut impl FnMut(&str),
) -> std::io::Result<()> {
    let every = format!("--loop={EVERY}");
    let mut argv = vec![OsString::from(program)];
    argv.extend([question, FORMAT, &every].map(OsString::from));
    let mut command = held(launcher, Hold::of_agent(), argv);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(stdout) = child.stdout.take() {
        let mut rows = FramedRead::new(stdout, LinesCodec::new_with_max_length(ROW_MAX));
        while let Some(Ok(row)) = rows.next().await {
            take(&row);
        }
    }
    // It has ended, or is told to.
    let _ = child.kill().await;
    Ok(())
}

/// A row of [`GPUS`]: its number and what it does. None without its memory, and of what is no row: complaints come on
/// standard output, too.
fn gpu(row: &str) -> Option<(u32, GpuLoad)> {
    let mut fields = row.splitn(6, ',').map(str::trim);
    let mut next = || fields.next();
    let index = number(next()?)?;
    let (busy, used, all) = (number(next()?), number(next()?), number(next()?));
    let (celsius, name) = (number(next()?), next()?);
    let gpu = GpuLoad {
        name: if name.is_empty() { "GPU" } else { name }.to_owned(),
        busy: busy.unwrap_or(0),
        memory_used: mebibytes(used?)?,
        memory: mebibytes(all?)?,
        celsius,
    };
    Some((index, gpu))
}

/// A row of [`PROCESSES`]: process and GPU, and bytes. None where the driver does not know, or not tell, how many.
fn process(row: &str) -> Option<((u32, String), u64)> {
    let mut fields = row.splitn(3, ',').map(str::trim);
    let (pid, used, gpu) = (fields.next()?, fields.next()?, fields.next()?);
    Some(((number(pid)?, gpu.to_owned()), mebibytes(number(used)?)?))
}

/// What it does not know is `[N/A]`, `[Not Supported]`, `[Insufficient Permissions]`, and by version more.
fn number<N: std::str::FromStr>(field: &str) -> Option<N> {
    field.split_whitespace().next()?.parse().ok()
}

fn mebibytes(count: u64) -> Option<u64> {
    count.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_a_row() {
        let (index, said) = gpu("3, 37, 1234, 81559, 41, NVIDIA H100 80GB HBM3").unwrap();
        let h100 = GpuLoad {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            busy: 37,
            memory_used: 1234 << 20,
            memory: 81559 << 20,
            celsius: Some(41),
        };
        assert_eq!((index, &said), (3, &h100));
        // Older ones do not know `nounits` for all.
        let (_, said) = gpu("3, 37 %, 1234 MiB, 81559 MiB, 41, NVIDIA H100 80GB HBM3").unwrap();
        assert_eq!(said, h100);
        assert_eq!(gpu("0, 1, 2, 3, 4, A, B").unwrap().1.name, "A, B");
    }

    #[test]
    fn what_a_gpu_does_not_tell_is_left_out() {
        // One that is divided (MIG) knows how busy its parts are, not itself.
        let (_, divided) = gpu("0, [N/A], 87, 40960, 30, NVIDIA A100-SXM4-40GB").unwrap();
        assert_eq!((divided.busy, divided.celsius), (0, Some(30)));
        let (_, small) = gpu("1, [Not Supported], 300, 2048, [Not Supported], GeForce GT 710").unwrap();
        assert_eq!(
            (small.busy, small.celsius, small.memory_used),
            (0, None, 300 << 20)
        );
        assert!(gpu("0, [N/A], [Insufficient Permissions], [Insufficient Permissions], 47, A100").is_none());
        assert!(gpu("0, 5, [N/A], [N/A], 40, NVIDIA GB10").is_none());
        assert!(gpu("0, 5, 99999999999999999, 99999999999999999, 40, X").is_none());
    }

    #[test]
    fn a_complaint_is_no_row() {
        for said in [
            "",
            "No devices were found",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest \
             NVIDIA driver is installed and running.",
            "Failed to initialize NVML: Driver/library version mismatch",
            "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU",
            "[Insufficient Permissions], [Insufficient Permissions], [Insufficient Permissions]",
        ] {
            assert!(gpu(said).is_none() && process(said).is_none(), "{said}");
        }
    }

    #[test]
    fn a_process_has_memory_on_each_gpu() {
        let gpus = Gpus::default();
        for row in [
            "4242, 1536, GPU-7f5c0b8e",
            "4242, 512, GPU-0c1d2e3f",
            "4242, 600, GPU-0c1d2e3f",
            "17, [N/A], GPU-7f5c0b8e",
            "18, [Not Supported], GPU-7f5c0b8e",
        ] {
            gpus.processes.put(process(row));
        }
        assert_eq!(gpus.now().1, HashMap::from([(4242, 2136 << 20)]));
    }

    #[test]
    fn a_row_that_does_not_come_again_is_forgotten() {
        let rows = Rows::default();
        rows.put(Some((1, "one")));
        let now = Instant::now();
        assert_eq!(rows.fresh(now), [(1, "one")]);
        assert_eq!(rows.fresh(now + FRESH), []);
        assert_eq!(rows.fresh(now), [], "it is gone");
    }
}
