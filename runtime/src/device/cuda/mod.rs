//! GPUs that this process has opened. Nothing is asked of CUDA before the first is.

mod driver;
mod faults;
mod probe;
mod staging;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use candle_core::cuda_backend::kernels;
use candle_core::{CudaDevice, Device};
use cudarc::driver::DriverError;

use super::report::{Facts, Seen, State};
use super::{Absence, Gpu, Precision, memory};
use crate::interrupt::check_interrupt;
use crate::{Error, Result};

pub(super) use faults::is_out_of_memory;
pub(crate) use staging::{Staged, stage};

/// How long a wait for a GPU goes on without sleeping: most are shorter.
const AWAKE: Duration = Duration::from_micros(100);
/// Longest sleep between two looks. An interrupt is noticed so late at most.
const SLEEP_MAX: Duration = Duration::from_millis(1);
/// Candle's kernel that shows whether the driver can read our PTX.
const TRIED: &str = "fill_f32";

struct Opened {
    cuda: CudaDevice,
    seen: Seen,
    /// What ended it.
    lost: OnceLock<Loss>,
}

struct Loss {
    what: String,
    /// How many were lost before it.
    number: usize,
}

/// GPUs that were lost.
static LOST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// [`LOST`] when the cell of this thread began.
    static LOST_BEFORE: Cell<usize> = const { Cell::new(0) };
}

/// By number. A GPU that could not be opened is tried again when it is asked for again.
static OPENED: Mutex<BTreeMap<usize, Arc<Opened>>> = Mutex::new(BTreeMap::new());

fn opened() -> MutexGuard<'static, BTreeMap<usize, Arc<Opened>>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those that are open and not lost, without the lock: waiting for one may unwind. A lost one answers every call with the
/// error that ended it, which was told then.
fn living() -> Vec<(usize, Arc<Opened>)> {
    opened()
        .iter()
        .filter(|(_, one)| one.lost.get().is_none())
        .map(|(ordinal, one)| (*ordinal, Arc::clone(one)))
        .collect()
}

/// The device of a number, the same one each time.
pub(super) fn open(ordinal: usize) -> std::result::Result<Device, Absence> {
    let mut all = opened();
    if let Some(one) = all.get(&ordinal) {
        return match one.lost.get() {
            Some(loss) => Err(loss.absence(ordinal)),
            None => Ok(Device::Cuda(one.cuda.clone())),
        };
    }
    let seen = probe::look(ordinal)?;
    let cuda = start(ordinal, &seen)?;
    let device = Device::Cuda(cuda.clone());
    let lost = OnceLock::new();
    all.insert(ordinal, Arc::new(Opened { cuda, seen, lost }));
    Ok(device)
}

/// Makes the device: a stream of its own, no events for each tensor (there is one stream), freed memory kept.
fn start(ordinal: usize, seen: &Seen) -> std::result::Result<CudaDevice, Absence> {
    let failed = |error: candle_core::Error| absence(seen, &error);
    let cuda = CudaDevice::new_with_stream(ordinal).map_err(failed)?;
    driver::stop_tracking(&cuda);
    // Not every GPU has pools; then memory is asked for each time.
    let _ = driver::keep_freed(&cuda);
    // Products with quantised weights by PTX: the other way is not in this build.
    candle_core::quantized::cuda::set_force_dmmv(true);
    cuda.get_or_load_func(TRIED, &kernels::FILL).map_err(failed)?;
    Ok(cuda)
}

/// Why a device could not be made.
fn absence(seen: &Seen, error: &candle_core::Error) -> Absence {
    let name = seen.name.clone();
    match faults::driver_error(error) {
        // It is new enough: that was asked before.
        Some(error) if faults::is_refused(error) => Absence::KernelsRefused {
            what: faults::words(error),
        },
        Some(error) if faults::no_memory(error) => Absence::NoMemory {
            name,
            free: "nothing".to_owned(),
            total: memory::amount(seen.total),
        },
        Some(error) => Absence::Fails {
            name,
            what: faults::words(error),
        },
        None => Absence::Fails {
            name,
            what: first_line(error),
        },
    }
}

/// candle's text may go on with a backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What there is to say of a GPU. Opens it.
pub(super) fn look(ordinal: usize) -> Gpu {
    if let Err(absence) = open(ordinal) {
        return match absence {
            // A driver's answers need no open device.
            Absence::NoDriver { .. } | Absence::DriverFails { .. } => Gpu::absent(absence),
            absence => Gpu {
                state: State::Absent(absence),
                driver: driver::version().ok(),
            },
        };
    }
    let Some(one) = opened().get(&ordinal).map(Arc::clone) else {
        return Gpu::absent(Absence::NotHere);
    };
    let (held, kept) = driver::pool(&one.cuda).unwrap_or_default();
    Gpu {
        driver: Some(one.seen.driver),
        state: State::Usable(Facts {
            ordinal,
            seen: one.seen.clone(),
            free: driver::memory(&one.cuda).ok().map(|(free, _)| free),
            held,
            kept: kept.saturating_sub(held),
            tf32: candle_core::cuda_backend::gemm_reduced_precision_f32(),
            compiler: kernels::BUILT.map(|built| built.compiler),
            cublas: alephlab_cuda_stubs::CUBLAS.found().ok(),
        }),
    }
}

/// Free memory and all of it, in bytes, of the GPU that has the least free of those that are open.
pub(super) fn free_memory() -> Option<(u64, u64)> {
    let all = living();
    all.iter()
        .filter_map(|(_, one)| driver::memory(&one.cuda).ok())
        .min()
}

/// Gives memory that no tensor uses back.
pub(super) fn trim() -> std::result::Result<(), Absence> {
    for (_, one) in living() {
        driver::trim(&one.cuda).map_err(|error| Absence::Fails {
            name: one.seen.name.clone(),
            what: faults::words(error),
        })?;
    }
    Ok(())
}

pub(super) fn set_precision(precision: Precision) {
    candle_core::cuda_backend::set_gemm_reduced_precision_f32(precision == Precision::High);
}

/// Waits for every open GPU, also when one fails: what another has to say belongs to this cell as well. The first error.
pub(super) fn synchronize() -> Result<()> {
    let mut first = Ok(());
    for (ordinal, one) in living() {
        let waited = one.wait().map_err(|error| one.failed(ordinal, error));
        first = first.and(waited);
    }
    // Taken in any case: it is no other cell's.
    let noted = kernels::take_unsupported().map_or(Ok(()), |name| Err(unsupported_error(name)));
    first.and(noted)
}

/// A cell begins on this thread.
pub(super) fn begin() {
    LOST_BEFORE.set(LOST.load(Ordering::Relaxed));
}

/// What this thread called that is not there, without waiting for anything.
pub(super) fn noted() -> Option<String> {
    kernels::take_unsupported().map(|name| unsupported_error(name).to_string())
}

/// This thread runs a subshell's cells: what they call is not told to those of the main shell, nor the other way round.
pub(super) fn beside() {
    kernels::note_apart();
}

/// Waits at the end of a cell. What failed there, with what to do.
pub(super) fn settle() -> Option<String> {
    let error = synchronize()
        .err()
        .or_else(|| lost_meanwhile().map(Error::from))?;
    let hint = error.hint().map(|hint| format!("\nhint: {hint}"));
    Some(format!("{error}{}", hint.unwrap_or_default()))
}

/// A GPU that was lost while the cell ran: another shell's wait may have been told, and this cell may have used it too.
fn lost_meanwhile() -> Option<Absence> {
    let opened = opened();
    opened.iter().find_map(|(ordinal, one)| {
        let loss = one.lost.get()?;
        (loss.number >= LOST_BEFORE.get()).then(|| loss.absence(*ordinal))
    })
}

fn unsupported_error(name: &str) -> Error {
    Error::GpuFailed {
        what: format!(
            "`{name}` is not among this build's GPU kernels, and what this cell calculated by it is wrong"
        ),
    }
}

impl Loss {
    fn absence(&self, ordinal: usize) -> Absence {
        Absence::Lost {
            ordinal,
            what: self.what.clone(),
        }
    }
}

impl Opened {
    /// Asks, and sleeps in between: a wait inside the driver could not be interrupted. Unwinds when the person stops the cell.
    ///
    /// Waits for what is on the stream now: a cell of another shell may go on to put more there.
    fn wait(&self) -> std::result::Result<(), DriverError> {
        let reached = self.cuda.cuda_stream().record_event(None)?;
        let started = Instant::now();
        let mut sleep = Duration::from_micros(20);
        while !reached.try_is_complete()? {
            check_interrupt();
            if started.elapsed() < AWAKE {
                std::thread::yield_now();
            } else {
                // Nobody wakes us: the driver has to be asked.
                std::thread::park_timeout(sleep);
                sleep = (sleep * 2).min(SLEEP_MAX);
            }
        }
        Ok(())
    }

    /// The error of a wait. Of those that end the use of a GPU it is noted that they did.
    fn failed(&self, ordinal: usize, error: DriverError) -> Error {
        let what = faults::words(error);
        if faults::is_sticky(error) {
            let number = || LOST.fetch_add(1, Ordering::Relaxed);
            let loss = self.lost.get_or_init(|| Loss {
                what,
                number: number(),
            });
            loss.absence(ordinal).into()
        } else {
            Error::GpuFailed { what }
        }
    }
}
