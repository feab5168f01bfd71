//! The runtime's side of the link: the C functions that the child calls, and [`call`] for the rest of this
//! library.
//!
//! The child (`alephlab-kernel child`) and this library are linked to different copies of std, so they speak
//! C. Outside a kernel (unit tests, a program that uses this crate) no link exists and [`call`] answers
//! nothing. Unsafe code is allowed here only.
#![expect(unsafe_code, reason = "C ABI to the child, and a signal handler")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;

use alephlab_cell::{Hooks, interrupt};
use alephlab_link::{COMMS_SOCKET, Client, Outcome, ToChild, ToKernel, read_frame, write_frame};

use crate::{display, executor};

static LINK: Mutex<Option<UnixStream>> = Mutex::new(None);
static CELL_THREAD: OnceLock<ThreadId> = OnceLock::new();
/// The socket where clients of comms are heard.
static COMMS: OnceLock<PathBuf> = OnceLock::new();
/// What kind of client sent the cell that runs.
static CLIENT: Mutex<Client> = Mutex::new(Client::Notebook);
/// Whether a cell runs.
static RUNNING: Mutex<bool> = Mutex::new(false);
static RUNNING_CHANGED: Condvar = Condvar::new();
/// The link, while a question waits for its answer: see [`cancel_question`].
static ASKING: Mutex<Option<UnixStream>> = Mutex::new(None);
/// What [`alephlab_cell_end`] returned last: the caller may read it until the next call.
static CONTROL: Mutex<Option<CString>> = Mutex::new(None);

/// How the cell of the zygote's that has just run ended.
static OUTCOME: Mutex<Option<Outcome>> = Mutex::new(None);

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
/// `link_socket` is a NUL-terminated string. Called once, on the thread that will run the cells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alephlab_child_start(link_socket: *const c_char) -> c_int {
    // SAFETY: the caller passes a NUL-terminated string.
    let Ok(path) = unsafe { CStr::from_ptr(link_socket) }.to_str() else {
        return 1;
    };
    let Ok(stream) = UnixStream::connect(path) else {
        return 2;
    };
    *lock(&LINK) = Some(stream);
    COMMS.get_or_init(|| Path::new(path).with_file_name(COMMS_SOCKET));
    let hello = ToKernel::Hello {
        pid: std::process::id(),
        runtime: env!("CARGO_PKG_VERSION").to_owned(),
    };
    if call(&hello) != Some(ToChild::Ack) {
        return 3;
    }
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

/// A cell is about to run: forgets an interrupt that came too late for the one before.
#[unsafe(no_mangle)]
pub extern "C" fn alephlab_cell_start() {
    interrupt::set(false);
    if let Some(ToChild::CellStarted { client }) = call(&ToKernel::CellStart) {
        *lock(&CLIENT) = client;
    }
    set_running(true);
}

/// Runs a cell that the zygote compiled; its end tells the kernel how it ended. Between [`alephlab_cell_start`] and
/// [`alephlab_cell_end`].
///
/// # Safety
/// `entry` is the entry function of a cell that was compiled against this very runtime.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alephlab_cell_execute(entry: extern "C-unwind" fn() -> alephlab_cell::Done) {
    let outcome = match alephlab_cell::execute(|| {
        let _ = entry();
    }) {
        alephlab_cell::Outcome::Finished => Outcome::Finished,
        alephlab_cell::Outcome::Failed { message, location } => Outcome::Failed { message, location },
        alephlab_cell::Outcome::Panicked => Outcome::Panicked,
        alephlab_cell::Outcome::Interrupted => Outcome::Interrupted,
    };
    *lock(&OUTCOME) = Some(outcome);
}

/// The cell's code has returned: flushes its text, waits until the kernel has published all of it, and returns
/// the control lines for evcxr joined by line feeds. Valid until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn alephlab_cell_end() -> *const c_char {
    set_running(false);
    // Asked by a thread of the cell that goes on: the link would stay with it until the person answers.
    cancel_question();
    if let Some(outcome) = lock(&OUTCOME).take() {
        let _ = call(&ToKernel::Returned { outcome });
    }
    let control = match call(&ToKernel::CellEnd) {
        Some(ToChild::CellEnded { control }) => control.join("\n"),
        _ => String::new(),
    };
    let mut kept = lock(&CONTROL);
    kept.insert(CString::new(control).unwrap_or_default()).as_ptr()
}

/// Sends one frame and waits for its answer. Nothing when this process was not started by a kernel.
///
/// Text written before is flushed first, so that the kernel publishes it before what the frame shows.
pub(crate) fn call(frame: &ToKernel) -> Option<ToChild> {
    let mut link = lock(&LINK);
    let stream = link.as_mut()?;
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    match write_frame(stream, frame) {
        Ok(()) => {}
        // Refused before a byte was written: the link is still in step.
        Err(alephlab_link::Error::TooLarge { .. }) => return None,
        Err(_) => leave(),
    }
    let is_question = matches!(frame, ToKernel::Input { .. });
    if is_question {
        *lock(&ASKING) = stream.try_clone().ok();
        // After the line above: either this sees that the cell has ended, or its end sees the question.
        if !*lock(&RUNNING) {
            cancel_question();
        }
    }
    let answer = read_frame(stream);
    if is_question {
        *lock(&ASKING) = None;
    }
    answer.map_or_else(|_| leave(), Some)
}

/// Has the kernel answer a question that waits. Written while another thread owns the link, and yet never into
/// the middle of its frame: [`ASKING`] is set only while that thread waits for the answer.
fn cancel_question() {
    if let Some(stream) = lock(&ASKING).as_mut() {
        let _ = stream.write_all(&CANCEL);
    }
}

fn set_running(running: bool) {
    *lock(&RUNNING) = running;
    RUNNING_CHANGED.notify_all();
}

/// Shows what a cell prints without a line feed, a progress line for example. Ends with the process.
fn flush_while_running() {
    loop {
        let idle = RUNNING_CHANGED.wait_while(lock(&RUNNING), |running| !*running);
        let idle = idle.unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(RUNNING_CHANGED.wait_timeout_while(idle, FLUSH_EVERY, |running| *running));
        // Holds no lock but that of stdout itself, and so cannot be in the way of [`call`]. At a cell's end it may
        // flush once more than needed.
        let _ = std::io::stdout().flush();
    }
}

/// Connects to where clients of comms are heard. Nothing outside a kernel.
pub(crate) fn hear_comms() -> Option<UnixStream> {
    UnixStream::connect(COMMS.get()?).ok()
}

/// Whether the running cell was sent from a terminal, where the last line can be written over and nothing else.
pub(crate) fn in_terminal() -> bool {
    *lock(&CLIENT) == Client::Terminal
}

/// Whether a kernel listens to this process.
pub(crate) fn has_kernel() -> bool {
    lock(&LINK).is_some()
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
    CELL_THREAD.get() == Some(&std::thread::current().id())
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
