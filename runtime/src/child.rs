//! The runtime's side of the link: the C functions that the child calls, and [`call`] for the rest of this
//! library.
//!
//! The child (`alephlab-kernel child`) and this library are linked to different copies of std, so they speak
//! C. Outside a kernel (unit tests, a program that uses this crate) no link exists and [`call`] answers
//! nothing. Each subshell (JEP 91) has a thread and a link of its own, so that the kernel knows whose a frame is; what
//! other threads say is the main shell's. Unsafe code is allowed here only.
#![expect(unsafe_code, reason = "C ABI to the child, and a signal handler")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;

use alephlab_cell::{Hooks, interrupt};
use alephlab_link::{COMMS_SOCKET, Client, Outcome, ToChild, ToKernel, read_frame, write_frame};

use crate::{device, display, executor};

/// What belongs to one shell.
struct Shell {
    link: Mutex<Option<UnixStream>>,
    /// The link, while a question waits for its answer: see [`cancel_question`].
    asking: Mutex<Option<UnixStream>>,
    /// What kind of client sent the cell that runs.
    client: Mutex<Client>,
    /// Whether a cell runs.
    running: AtomicBool,
    /// Interrupts before its cell began.
    begun_at: AtomicU32,
    /// How the cell of the zygote's that has just run ended.
    outcome: Mutex<Option<Outcome>>,
    /// What [`alephlab_cell_end`] returned last: the caller may read it until the next call.
    control: Mutex<Option<CString>>,
    /// Where its thread's text goes, as the child knows it; 0 for the process's own streams.
    streams: c_int,
}

impl Shell {
    const fn new(streams: c_int) -> Self {
        Self {
            link: Mutex::new(None),
            asking: Mutex::new(None),
            client: Mutex::new(Client::Notebook),
            running: AtomicBool::new(false),
            begun_at: AtomicU32::new(0),
            outcome: Mutex::new(None),
            control: Mutex::new(None),
            streams,
        }
    }
}

static MAIN: Shell = Shell::new(0);

thread_local! {
    /// The subshell whose cells this thread runs.
    static SUBSHELL: Cell<Option<&'static Shell>> = const { Cell::new(None) };
}

/// The shell that this thread speaks for.
fn shell() -> &'static Shell {
    SUBSHELL.get().unwrap_or(&MAIN)
}

static CELL_THREAD: OnceLock<ThreadId> = OnceLock::new();
/// The socket where clients of comms are heard.
static COMMS: OnceLock<PathBuf> = OnceLock::new();
/// Shells whose cells run.
static RUNNING: Mutex<Vec<&'static Shell>> = Mutex::new(Vec::new());
static RUNNING_CHANGED: Condvar = Condvar::new();
/// Leads this thread's text to the streams of a number. The child's.
static LEAD_TEXT: OnceLock<LeadText> = OnceLock::new();

type LeadText = extern "C" fn(c_int);

/// Exit code of a child whose kernel is gone.
const KERNEL_GONE: i32 = 70;
/// How long text without a line feed may stay in libstd's buffer while a cell runs.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// A frame of no bytes: "the cell has ended, answer the question that waits with nothing". Never answered.
const CANCEL: [u8; 4] = [0; 4];

/// Connects to the kernel, installs the panic hook and the SIGINT handler. 0 when all is well, otherwise a
/// number that names the step: 1 bad path, 2 no connection, 3 refused greeting, 4 no handler, 5 no thread.
///
/// # Safety
/// `link_socket` is a NUL-terminated string, `lead_text` lives as long as the process. Called once, on the thread that
/// will run the cells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alephlab_child_start(link_socket: *const c_char, lead_text: LeadText) -> c_int {
    LEAD_TEXT.get_or_init(|| lead_text);
    // SAFETY: the caller passes a NUL-terminated string.
    let path = match unsafe { connect(link_socket) } {
        Ok(path) => path,
        Err(step) => return step,
    };
    COMMS.get_or_init(|| path.with_file_name(COMMS_SOCKET));
    CELL_THREAD.get_or_init(|| std::thread::current().id());
    alephlab_cell::set_hooks(Hooks {
        show: display::show_erased,
        interrupted: report_interrupt,
        block_on: executor::block_on,
    });
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| on_panic(info, &default)));
    if !install_sigint() {
        return 4;
    }
    let flusher = std::thread::Builder::new().name("flusher".into());
    if flusher.spawn(flush_while_running).is_ok() {
        0
    } else {
        5
    }
}

/// Connects a subshell to the kernel. Its text goes to the streams of this number. 0 when all is well, otherwise a number
/// as [`alephlab_child_start`] returns.
///
/// # Safety
/// `link_socket` is a NUL-terminated string. Called once, on the thread that will run the subshell's cells, after
/// [`alephlab_child_start`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alephlab_subshell_start(link_socket: *const c_char, streams: c_int) -> c_int {
    // One for each subshell that a person opens, as long as the process lives.
    SUBSHELL.set(Some(Box::leak(Box::new(Shell::new(streams)))));
    alephlab_cell::beside();
    device::beside();
    lead_text(streams);
    // SAFETY: the caller's.
    unsafe { connect(link_socket) }.err().unwrap_or(0)
}

/// Connects this thread's shell, and says hello. The path, or the number of the step that failed.
///
/// # Safety
/// `link_socket` is a NUL-terminated string.
unsafe fn connect(link_socket: *const c_char) -> Result<PathBuf, c_int> {
    // SAFETY: the caller's.
    let path = unsafe { CStr::from_ptr(link_socket) }.to_str().map_err(|_| 1)?;
    *lock(&shell().link) = Some(UnixStream::connect(path).map_err(|_| 2)?);
    let hello = ToKernel::Hello {
        pid: std::process::id(),
        runtime: env!("CARGO_PKG_VERSION").to_owned(),
    };
    match call(&hello) {
        Some(ToChild::Ack) => Ok(PathBuf::from(path)),
        _ => Err(3),
    }
}

/// A cell is about to run: forgets an interrupt that came too late for the one before.
#[unsafe(no_mangle)]
pub extern "C" fn alephlab_cell_start() {
    set_running(true);
    device::begin();
    if let Some(ToChild::CellStarted { client }) = call(&ToKernel::CellStart) {
        *lock(&shell().client) = client;
    }
}

/// Runs a cell that the zygote compiled; its end tells the kernel how it ended. Between [`alephlab_cell_start`] and
/// [`alephlab_cell_end`].
///
/// # Safety
/// `entry` is the entry function of a cell that was compiled against this very runtime.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alephlab_cell_execute(entry: extern "C-unwind" fn() -> alephlab_cell::Done) {
    let mut fault = None;
    let outcome = alephlab_cell::execute(|| {
        let _ = entry();
        // What it left to a GPU belongs to it: an error there would otherwise come up in another cell.
        fault = device::settle();
    });
    match outcome {
        alephlab_cell::Outcome::Panicked => settle_and_tell(),
        // Its variables live, and nobody waits for what it left; the next cell is not to be told of it.
        alephlab_cell::Outcome::Interrupted => tell(device::noted()),
        alephlab_cell::Outcome::Finished | alephlab_cell::Outcome::Failed { .. } => {}
    }
    let outcome = match (outcome, fault) {
        (alephlab_cell::Outcome::Finished, None) => Outcome::Finished,
        (alephlab_cell::Outcome::Finished, Some(message)) => Outcome::Failed {
            message,
            location: String::new(),
        },
        (alephlab_cell::Outcome::Failed { message, location }, fault) => Outcome::Failed {
            message: with_fault(message, fault),
            location,
        },
        (alephlab_cell::Outcome::Panicked, _) => Outcome::Panicked,
        (alephlab_cell::Outcome::Interrupted, _) => Outcome::Interrupted,
    };
    *lock(&shell().outcome) = Some(outcome);
}

/// Waits for GPUs behind a cell whose own error is told already, or by evcxr.
fn settle_and_tell() {
    let mut fault = None;
    // An interrupt unwinds, and may not do so further than here.
    let _ = alephlab_cell::execute(|| fault = device::settle());
    tell(fault.or_else(device::noted));
}

fn tell(fault: Option<String>) {
    if let Some(fault) = fault {
        let _ = writeln!(std::io::stderr(), "{fault}");
    }
}

/// The error of a cell, and what became of the GPU that it used: what of it the error does not say itself.
fn with_fault(message: String, fault: Option<String>) -> String {
    let fault = fault.unwrap_or_default();
    let more: Vec<&str> = fault.lines().filter(|line| !message.contains(line)).collect();
    if more.is_empty() {
        message
    } else {
        format!("{message}\n{}", more.join("\n"))
    }
}

/// What there is to say of this machine's GPU, as one JSON object. Valid as long as the process lives.
#[unsafe(no_mangle)]
pub extern "C" fn alephlab_gpu_report() -> *const c_char {
    static REPORT: OnceLock<CString> = OnceLock::new();
    let report = || CString::new(device::gpu().to_json().to_string()).unwrap_or_default();
    REPORT.get_or_init(report).as_ptr()
}

/// The cell's code has returned: flushes its text, waits until the kernel has published all of it, and returns
/// the control lines for evcxr joined by line feeds. Valid until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn alephlab_cell_end() -> *const c_char {
    if lock(&shell().outcome).is_none() {
        settle_and_tell();
    }
    set_running(false);
    // Asked by a thread of the cell that goes on: the link would stay with it until the person answers.
    cancel_question();
    if let Some(outcome) = lock(&shell().outcome).take() {
        let _ = call(&ToKernel::Returned { outcome });
    }
    let control = match call(&ToKernel::CellEnd) {
        Some(ToChild::CellEnded { control }) => control.join("\n"),
        _ => String::new(),
    };
    let mut kept = lock(&shell().control);
    kept.insert(CString::new(control).unwrap_or_default()).as_ptr()
}

/// Sends one frame and waits for its answer. Nothing when this process was not started by a kernel.
///
/// Text written before is flushed first, so that the kernel publishes it before what the frame shows.
pub(crate) fn call(frame: &ToKernel) -> Option<ToChild> {
    let shell = shell();
    let mut link = lock(&shell.link);
    let stream = link.as_mut()?;
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    match write_frame(stream, frame) {
        Ok(()) => {}
        // Refused before a byte was written: the link is still in step.
        Err(alephlab_link::Error::TooLarge { .. }) => return None,
        Err(_) => return cut_off(),
    }
    let is_question = matches!(frame, ToKernel::Input { .. });
    if is_question {
        *lock(&shell.asking) = stream.try_clone().ok();
        // After the line above: either this sees that the cell has ended, or its end sees the question.
        if !shell.running.load(Ordering::SeqCst) {
            cancel_question();
        }
    }
    let answer = read_frame(stream);
    if is_question {
        *lock(&shell.asking) = None;
    }
    answer.map_or_else(|_| cut_off(), Some)
}

/// Nobody answers any more. The kernel may have closed a subshell, whose thread ends when its cell does.
fn cut_off() -> Option<ToChild> {
    match SUBSHELL.get() {
        Some(_) => None,
        None => leave(),
    }
}

/// Has the kernel answer a question that waits. Written while another thread owns the link, and yet never into
/// the middle of its frame: `asking` is set only while that thread waits for the answer.
fn cancel_question() {
    if let Some(stream) = lock(&shell().asking).as_mut() {
        let _ = stream.write_all(&CANCEL);
    }
}

fn set_running(running: bool) {
    let shell = shell();
    shell.running.store(running, Ordering::SeqCst);
    let mut all = lock(&RUNNING);
    all.retain(|one| !std::ptr::eq(*one, shell));
    if running {
        // Before the kernel hears that the cell runs: from then on an interrupt means it.
        interrupt::begin(all.is_empty());
        shell.begun_at.store(interrupt::count(), Ordering::SeqCst);
        all.push(shell);
    } else if !all.is_empty()
        && all
            .iter()
            .all(|one| one.begun_at.load(Ordering::SeqCst) == interrupt::count())
    {
        // Whoever it meant has ended.
        interrupt::begin(true);
    }
    RUNNING_CHANGED.notify_all();
}

/// Shows what a cell prints without a line feed, a progress line for example. Ends with the process.
fn flush_while_running() {
    loop {
        let idle = RUNNING_CHANGED.wait_while(lock(&RUNNING), |running| running.is_empty());
        let idle = idle.unwrap_or_else(std::sync::PoisonError::into_inner);
        let after = RUNNING_CHANGED.wait_timeout_while(idle, FLUSH_EVERY, |running| !running.is_empty());
        let running = after.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        // The buffer is the process's: whose text it holds is not known where several run.
        let of_main = running.is_empty() || running.iter().any(|shell| shell.streams == 0);
        let streams = running
            .last()
            .filter(|_| !of_main)
            .map_or(0, |shell| shell.streams);
        drop(running);
        lead_text(streams);
        // Holds no lock but that of stdout itself, and so cannot be in the way of [`call`]. At a cell's end it may
        // flush once more than needed.
        let _ = std::io::stdout().flush();
    }
}

fn lead_text(streams: c_int) {
    if let Some(lead) = LEAD_TEXT.get() {
        lead(streams);
    }
}

/// Connects to where clients of comms are heard. Nothing outside a kernel.
pub(crate) fn hear_comms() -> Option<UnixStream> {
    UnixStream::connect(COMMS.get()?).ok()
}

/// Whether the running cell was sent from a terminal, where the last line can be written over and nothing else.
pub(crate) fn in_terminal() -> bool {
    *lock(&shell().client) == Client::Terminal
}

/// Whether a kernel listens to this process.
pub(crate) fn has_kernel() -> bool {
    COMMS.get().is_some()
}

/// Tells the kernel that the cell thread is about to unwind because the person asked for it.
fn report_interrupt() {
    if on_cell_thread() {
        let frame = ToKernel::Panic {
            message: "interrupted".into(),
            location: String::new(),
            interrupted: true,
        };
        let _ = call(&frame);
    }
}

/// Used by the `eprintln!` that the kernel puts before evcxr's generated code, see `prelude.rs`.
pub(crate) fn error_text(text: String) {
    if !has_kernel() {
        let _ = writeln!(std::io::stderr(), "{text}");
        return;
    }
    let _ = call(&ToKernel::ErrorText { text });
}

fn on_panic(info: &PanicHookInfo<'_>, default: &(dyn Fn(&PanicHookInfo<'_>) + Sync + Send)) {
    if !on_cell_thread() {
        // Another thread's panic is not the cell's: print it as std does.
        default(info);
        return;
    }
    let location = info
        .location()
        .map(|at| format!("{}:{}:{}", at.file(), at.line(), at.column()));
    let message = info
        .payload_as_str()
        .unwrap_or("a panic without a message")
        .to_owned();
    let frame = ToKernel::Panic {
        message,
        location: location.unwrap_or_default(),
        interrupted: false,
    };
    let _ = call(&frame);
}

fn on_cell_thread() -> bool {
    SUBSHELL.get().is_some() || CELL_THREAD.get() == Some(&std::thread::current().id())
}

/// The kernel is gone, so nobody will ever see what this cell and the programs that it started do.
#[expect(clippy::exit, reason = "a child without its kernel has nothing to return to")]
fn leave() -> ! {
    // SAFETY: plain system calls; only a group that is our own is killed.
    unsafe {
        if libc::getpgrp() == libc::getpid() {
            libc::kill(0, libc::SIGKILL);
        }
    }
    std::process::exit(KERNEL_GONE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

extern "C" fn on_sigint(_signal: c_int) {
    interrupt::set(true);
}

fn install_sigint() -> bool {
    let handler: extern "C" fn(c_int) = on_sigint;
    // SAFETY: an all-zero `sigaction` is a valid value (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // No SA_RESTART: a blocking system call returns, so that whoever made it can look at the flag.
    // SAFETY: `action` is initialised and its handler only stores to an atomic, which is async-signal-safe.
    unsafe { libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once() {
        let fault = || Some("GPU 0 is lost\nhint: restart".to_owned());
        assert_eq!(
            with_fault("no".into(), fault()),
            "no\nGPU 0 is lost\nhint: restart"
        );
        assert_eq!(
            with_fault("gpu: GPU 0 is lost".into(), fault()),
            "gpu: GPU 0 is lost\nhint: restart"
        );
        let whole = with_fault("no".into(), fault());
        assert_eq!(with_fault(whole.clone(), fault()), whole);
        assert_eq!(with_fault("no".into(), None), "no");
    }
}
