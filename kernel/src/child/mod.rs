//! The child: the process that loads and runs compiled cells, in evcxr's protocol; and the few system calls that
//! the kernel needs to look after it.
//!
//! The evaluator talks with it over the pipes that it was started with. They are moved away first, so that a cell's own
//! text goes to two FIFOs that the kernel reads, byte by byte. The runtime (a dylib with its own copy of std) is
//! reached through a few C functions. Unsafe code is allowed here only.
#![expect(unsafe_code, reason = "file descriptors, signals and dynamic loading")]

pub mod gpu;
mod memory;
mod streams;
pub(crate) mod subshells;

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Ends the evaluator's wait for a cell.
pub(crate) const EXECUTION_COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE";
/// Begins the answer for a cell of the zygote's that cannot be loaded.
pub(crate) const LOAD_FAILED: &str = "ALEPHLAB_LOAD_FAILED ";
/// Entry of a cell that the zygote compiled. evcxr's have names of their own, and another type.
pub(crate) const ENTRY: &str = "alephlab_cell_entry";
/// What cells and the runtime share, beside the runtime.
pub(crate) const CELL_LIB: &str = "libalephlab_cell.so";
/// Room in each FIFO: a cell that prints much is not stopped at each 64 KiB.
pub(crate) const FIFO_BYTES: usize = 1024 * 1024;

/// Command line of the child.
#[derive(Debug, Clone)]
pub struct ChildArgs {
    /// The kernel's process id.
    pub kernel: u32,
    /// The kernel's link socket.
    pub link: PathBuf,
    /// FIFO for stdout.
    pub stdout: PathBuf,
    /// FIFO for stderr.
    pub stderr: PathBuf,
    /// The toolchain's libstd, loaded first.
    pub libstd: PathBuf,
    /// The runtime.
    pub runtime_lib: PathBuf,
}

/// How candle's own threads, on which its plain `add` and the like run, live beside rayon's. They are as many as this process
/// has processors; left alone candle counts those of the machine. And they spin less: for a millisecond after each operation
/// they would take processors from the runtime's, and a training step of a transformer takes a third longer (docs/benchmarks.md,
/// "CPU ops"). Whoever set one of these variables has it as set.
///
/// # Safety
/// Nobody else reads or writes the environment meanwhile.
unsafe fn share_processors_with_candle() {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .to_string();
    if let (None, Ok(threads)) = (std::env::var_os("RAYON_NUM_THREADS"), CString::new(threads)) {
        // SAFETY: the caller's.
        unsafe { libc::setenv(c"CANDLE_NUM_THREADS".as_ptr(), threads.as_ptr(), 0) };
    }
    // SAFETY: the caller's.
    unsafe { libc::setenv(c"CANDLE_BARRIER_POOL_SPIN_LIMIT".as_ptr(), c"200".as_ptr(), 0) };
}

/// Runs cells until the evaluator closes the pipe.
///
/// # Errors
/// [`Error::Child`] with what failed, before the first cell. A cell of evcxr's that cannot be loaded ends the child
/// too: evcxr has compiled it and would wait for ever.
pub fn run(args: &ChildArgs) -> Result<()> {
    end_with_kernel(args.kernel)?;
    let commands = duplicate(0)?;
    let mut answers = duplicate(1)?;
    for (path, fd) in [(Path::new("/dev/null"), 0), (&args.stdout, 1), (&args.stderr, 2)] {
        redirect(path, fd)?;
    }
    // SAFETY: this process has one thread yet, so nobody reads the environment.
    unsafe {
        // candle would take a backtrace for each of its errors.
        libc::setenv(c"RUST_BACKTRACE".as_ptr(), c"0".as_ptr(), 1);
        libc::unsetenv(c"EVCXR_IS_RUNTIME".as_ptr());
        share_processors_with_candle();
    }
    memory::keep();
    open(&args.libstd, libc::RTLD_GLOBAL)?;
    // By its path and first: the runtime needs it by name, and under that name a library path in the environment (cargo
    // sets one) may lead to another build of it.
    open(&args.runtime_lib.with_file_name(CELL_LIB), libc::RTLD_GLOBAL)?;
    let runtime = Runtime::load(&args.runtime_lib)?;
    runtime.start(&args.link)?;
    subshells::listen(&args.link, runtime)?;
    let mut store = std::ptr::null_mut();
    for line in BufReader::new(commands).lines() {
        let line = line.map_err(|error| failed("read a command", &error.to_string()))?;
        let (path, function) = parse(&line).ok_or_else(|| failed("understand the command", &line))?;
        if function == ENTRY {
            runtime.run_lean_cell(path, &mut answers)?;
        } else {
            store = runtime.run_cell(path, function, store, &mut answers)?;
        }
        memory::give_back();
    }
    // The pipe of a killed kernel may close before its signal comes.
    end_group();
    Ok(())
}

/// Has the operating system end this process when the kernel ends, also by SIGKILL, and with it the programs that
/// cells started. The signal comes when the thread that started us ends: the evaluator's, which lives as long as the
/// kernel and also starts every later child.
fn end_with_kernel(kernel: u32) -> Result<()> {
    extern "C" fn on_kernel_gone(_signal: c_int) {
        end_group();
    }
    // SAFETY: plain system call.
    let signal = if unsafe { libc::getpgrp() == libc::getpid() } {
        let handler: extern "C" fn(c_int) = on_kernel_gone;
        // One that no library asks for. Its handler makes system calls only, which is async-signal-safe.
        let signal = libc::SIGRTMAX();
        // SAFETY: as above.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(os_failed("wait for the kernel's end"));
        }
        signal
    } else {
        // Started by hand: the group is somebody else's.
        libc::SIGKILL
    };
    // SAFETY: plain system call.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } != 0 {
        return Err(os_failed("wait for the kernel's end"));
    }
    // It may have ended before.
    if std::os::unix::process::parent_id() == kernel {
        Ok(())
    } else {
        Err(failed("serve", "the kernel is gone"))
    }
}

/// Kills the group that this process leads, itself too. Async-signal-safe.
fn end_group() {
    // SAFETY: plain system calls; only a group that is our own is killed.
    unsafe {
        if libc::getpgrp() == libc::getpid() {
            libc::kill(0, libc::SIGKILL);
        }
    }
}

/// `LOAD_AND_RUN path function`; the path may hold spaces.
fn parse(line: &str) -> Option<(&Path, &str)> {
    let (path, function) = line.strip_prefix("LOAD_AND_RUN ")?.rsplit_once(' ')?;
    Some((Path::new(path), function))
}

type LeadText = extern "C" fn(c_int);
type StartFn = unsafe extern "C" fn(*const c_char, LeadText) -> c_int;
type SubshellStartFn = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
type CellStartFn = unsafe extern "C" fn();
type CellEndFn = unsafe extern "C" fn() -> *const c_char;
type ExecuteFn = unsafe extern "C" fn(*mut c_void);
type CellFn = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

#[derive(Clone, Copy)]
struct Runtime {
    start: StartFn,
    subshell_start: SubshellStartFn,
    cell_start: CellStartFn,
    execute: ExecuteFn,
    cell_end: CellEndFn,
}

impl Runtime {
    fn load(path: &Path) -> Result<Self> {
        let library = open(path, libc::RTLD_GLOBAL)?;
        let start = symbol(library, c"alephlab_child_start")?;
        let subshell_start = symbol(library, c"alephlab_subshell_start")?;
        let cell_start = symbol(library, c"alephlab_cell_start")?;
        let execute = symbol(library, c"alephlab_cell_execute")?;
        let cell_end = symbol(library, c"alephlab_cell_end")?;
        // SAFETY: these are the runtime's functions of those names, whose types are fixed in `runtime/src/child.rs`;
        // the stamp check made sure that kernel and runtime are of one build.
        unsafe {
            Ok(Self {
                start: std::mem::transmute::<*mut c_void, StartFn>(start),
                subshell_start: std::mem::transmute::<*mut c_void, SubshellStartFn>(subshell_start),
                cell_start: std::mem::transmute::<*mut c_void, CellStartFn>(cell_start),
                execute: std::mem::transmute::<*mut c_void, ExecuteFn>(execute),
                cell_end: std::mem::transmute::<*mut c_void, CellEndFn>(cell_end),
            })
        }
    }

    fn start(&self, link: &Path) -> Result<()> {
        let link = c_path(link)?;
        // SAFETY: `link` is a NUL-terminated string; called once, on the thread that runs the cells.
        match unsafe { (self.start)(link.as_ptr(), streams::lead_text) } {
            0 => Ok(()),
            step => Err(failed("start the runtime", &format!("step {step}"))),
        }
    }

    /// Makes this thread a subshell's.
    fn start_subshell(&self, link: &Path, streams: c_int) -> Result<()> {
        let link = c_path(link)?;
        // SAFETY: `link` is a NUL-terminated string; called once on this thread, after `start`.
        match unsafe { (self.subshell_start)(link.as_ptr(), streams) } {
            0 => Ok(()),
            step => Err(failed("start a subshell", &format!("step {step}"))),
        }
    }

    /// Runs a cell of the zygote's. One that cannot be loaded is answered with the reason: variables live on.
    fn run_lean_cell(&self, path: &Path, answers: &mut impl Write) -> Result<()> {
        let entry = CString::new(ENTRY).map_err(|_| failed("find the cell", ENTRY))?;
        let entry = match open(path, libc::RTLD_LOCAL).and_then(|library| symbol(library, &entry)) {
            Ok(entry) => entry,
            Err(error) => {
                let reason = error.to_string().replace('\n', " ");
                return answer(answers, &format!("{LOAD_FAILED}{reason}\n"));
            }
        };
        // SAFETY: takes no argument; then the entry of a cell that was compiled against this very runtime; then
        // again without an argument.
        unsafe {
            (self.cell_start)();
            (self.execute)(entry);
            (self.cell_end)();
        }
        answer(answers, "")
    }

    fn run_cell(
        &self,
        path: &Path,
        function: &str,
        store: *mut c_void,
        answers: &mut File,
    ) -> Result<*mut c_void> {
        // SAFETY: takes no argument.
        unsafe { (self.cell_start)() };
        // Never closed: variables of a cell point into its library.
        let library = open(path, libc::RTLD_LOCAL)?;
        let name = CString::new(function).map_err(|_| failed("find the cell", function))?;
        let cell = symbol(library, &name)?;
        // SAFETY: evcxr generated this function with this type; `store` is null or what the last cell returned.
        let store = unsafe { std::mem::transmute::<*mut c_void, CellFn>(cell)(store) };
        // SAFETY: returns a NUL-terminated string that stays valid until the next call.
        let control = unsafe { CStr::from_ptr((self.cell_end)()) }.to_string_lossy();
        let separator = if control.is_empty() { "" } else { "\n" };
        answer(answers, &format!("{control}{separator}"))?;
        Ok(store)
    }
}

fn answer(answers: &mut impl Write, lines: &str) -> Result<()> {
    let written = answers.write_all(format!("{lines}{EXECUTION_COMPLETE}\n").as_bytes());
    written.map_err(|error| failed("answer the evaluator", &error.to_string()))
}

fn open(path: &Path, scope: c_int) -> Result<*mut c_void> {
    let name = c_path(path)?;
    // SAFETY: a NUL-terminated path; the initialisers of a cell's library are the cell's own code.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | scope) };
    if library.is_null() {
        Err(failed("load a library", &dl_error()))
    } else {
        Ok(library)
    }
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void> {
    // SAFETY: `library` comes from `dlopen` and is never closed.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    if symbol.is_null() {
        Err(failed("find a function", &dl_error()))
    } else {
        Ok(symbol)
    }
}

fn dl_error() -> String {
    // SAFETY: null or a NUL-terminated string that stays valid until the next dl call of this thread.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: checked for null above.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

fn duplicate(fd: RawFd) -> Result<File> {
    // SAFETY: plain system call. Close-on-exec: a program that a cell starts must not hold the evaluator's pipes open.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(os_failed("keep the evaluator's pipe"));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(copy) })
}

fn redirect(path: &Path, fd: RawFd) -> Result<()> {
    let file = if fd == 0 {
        File::open(path).map_err(|error| failed("open a stream", &error.to_string()))?
    } else {
        open_fifo(path)?
    };
    // SAFETY: plain system call on two valid descriptors.
    if unsafe { libc::dup2(file.as_raw_fd(), fd) } < 0 {
        return Err(os_failed("redirect a stream"));
    }
    Ok(())
}

/// Opens a FIFO for writing.
fn open_fifo(path: &Path) -> Result<File> {
    let file = File::options().write(true).open(path);
    let file = file.map_err(|error| failed("open a stream", &error.to_string()))?;
    let bytes = c_int::try_from(FIFO_BYTES).unwrap_or(c_int::MAX);
    // SAFETY: plain system call; a refusal leaves the usual size.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    Ok(file)
}

fn c_path(path: &Path) -> Result<CString> {
    c_string(path.as_os_str()).ok_or_else(|| failed("use a path", "it holds a NUL byte"))
}

fn c_string(text: &OsStr) -> Option<CString> {
    CString::new(text.as_bytes()).ok()
}

fn os_failed(action: &str) -> Error {
    failed(action, &std::io::Error::last_os_error().to_string())
}

fn failed(action: &str, message: &str) -> Error {
    Error::Child {
        message: format!("cannot {action}: {message}"),
    }
}

/// Makes a FIFO that only its owner may use.
pub(crate) fn make_fifo(path: &Path) -> std::io::Result<()> {
    let name = c_string(path.as_os_str()).ok_or(std::io::ErrorKind::InvalidInput)?;
    // SAFETY: a NUL-terminated path.
    if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Sends SIGINT to one process.
pub(crate) fn interrupt(pid: u32) {
    send(pid, libc::SIGINT, false);
}

/// Kills one process.
pub(crate) fn kill(pid: u32) {
    send(pid, libc::SIGKILL, false);
}

/// Kills a process and everything in the group that it leads.
pub(crate) fn kill_group(pid: u32) {
    send(pid, libc::SIGKILL, true);
    send(pid, libc::SIGKILL, false);
}

fn send(pid: u32, signal: c_int, group: bool) {
    // 0 and 1 would mean our own group and init.
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: plain system call; a process that is gone already is no error for us.
        unsafe { libc::kill(if group { -pid } else { pid }, signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_is_understood() {
        let (path, function) = parse("LOAD_AND_RUN /a b/libcode_1.so run_user_code_0").unwrap();
        assert_eq!(
            (path, function),
            (Path::new("/a b/libcode_1.so"), "run_user_code_0")
        );
        assert!(parse("HELLO").is_none());
    }
}
