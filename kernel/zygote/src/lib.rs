//! A stock rustc as a fork server: the zygote.
//!
//! The kernel has rustc compile a template crate that loads std and the runtime and then expands [`cells!`]. By then
//! this process has started, parsed its options and read the metadata of every crate. The macro does not return: it
//! takes requests on the Unix socket that is its standard input, and for each request forks. The fork returns from the macro with the cell's text as its
//! expansion, so that rustc goes on as usual, writes its output files into the request's folder, and ends.
//!
//! Request: one line, the folder that holds `cell.rs`. Answer: `pid N`, then what rustc prints, then the end of the
//! stream. The zygote ends when nobody reads its standard output any more, that is with the kernel; a fork ends with it.
//! Relies on rustc expanding macros before it starts threads (docs/adr/0007-zygote.md).
#![expect(unsafe_code, reason = "fork, file descriptors and signals")]

extern crate proc_macro;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proc_macro::TokenStream;

/// Set by the kernel when standard input is a socket that listens.
const ZYGOTE_ENV: &str = "ALEPHLAB_ZYGOTE";
/// A cell that writes `cells!` itself would take over the socket.
static EXPANDED: AtomicBool = AtomicBool::new(false);

const SIGKILL: i32 = 9;
const SIGCHLD: i32 = 17;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const PR_SET_PDEATHSIG: i32 = 1;
const POLLIN: i16 = 1;

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

unsafe extern "C" {
    fn fork() -> i32;
    fn dup2(from: i32, to: i32) -> i32;
    fn signal(number: i32, handler: usize) -> usize;
    fn prctl(option: i32, argument: u64) -> i32;
    fn getppid() -> i32;
    fn getpid() -> i32;
    fn poll(fds: *mut PollFd, count: u64, timeout_ms: i32) -> i32;
    fn _exit(code: i32) -> !;
}

/// Serves compile requests; in each fork it expands to the cell.
#[proc_macro]
pub fn cells(_input: TokenStream) -> TokenStream {
    if EXPANDED.swap(true, Ordering::SeqCst) {
        return error("this macro is for the kernel only");
    }
    match serve() {
        Ok(expansion) => expansion,
        Err(message) => error(&message),
    }
}

fn error(message: &str) -> TokenStream {
    format!("::core::compile_error!({message:?});")
        .parse()
        .unwrap_or_default()
}

/// Returns only in forks, and where there is no socket.
fn serve() -> Result<TokenStream, String> {
    if std::env::var_os(ZYGOTE_ENV).is_none() {
        return Err("this macro is for the kernel only".to_owned());
    }
    // SAFETY: the kernel has put a listening socket there, and rustc reads no standard input.
    let listener = unsafe { UnixListener::from_raw_fd(0) };
    // SAFETY: plain system call. The system forgets forks that have ended; nobody waits for them.
    unsafe { signal(SIGCHLD, SIG_IGN) };
    loop {
        if wait(&listener) == Wake::End {
            // SAFETY: plain system call: rustc has nothing to write yet.
            unsafe { _exit(0) };
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        // SAFETY: plain system calls; rustc has one thread at this point.
        let (parent, child) = unsafe { (getpid(), fork()) };
        if child == 0 {
            // Descriptor 0 stays taken, and nobody is left waiting at a socket that has no server any more.
            if let Ok(nothing) = File::open("/dev/null") {
                // SAFETY: plain system call on valid descriptors.
                unsafe { dup2(nothing.as_raw_fd(), 0) };
            }
            let _kept = std::mem::ManuallyDrop::new(listener);
            return fork_main(stream, parent);
        }
        let mut stream = stream;
        if child < 0 {
            let _ = writeln!(stream, "the compiler could not be forked");
        }
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Request,
    End,
}

/// Waits for a request, or until nobody reads standard output.
fn wait(listener: &UnixListener) -> Wake {
    let watch = |fd, events| PollFd {
        fd,
        events,
        revents: 0,
    };
    // Nothing is asked of the second: its only event is that the pipe is broken.
    let mut fds = [watch(listener.as_raw_fd(), POLLIN), watch(1, 0)];
    // SAFETY: an array of two.
    let ready = unsafe { poll(fds.as_mut_ptr(), 2, -1) };
    if ready > 0 && fds[1].revents != 0 {
        Wake::End
    } else {
        Wake::Request
    }
}

/// The fork: answers with its process id, takes the request's folder, and becomes the compiler of that cell.
fn fork_main(mut stream: UnixStream, parent: i32) -> Result<TokenStream, String> {
    // SAFETY: plain system calls.
    unsafe {
        signal(SIGCHLD, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL as u64);
        if getppid() != parent {
            _exit(1);
        }
    }
    let failed = |error: std::io::Error| format!("the request cannot be read: {error}");
    writeln!(stream, "pid {}", std::process::id()).map_err(failed)?;
    let mut folder = String::new();
    BufReader::new(&stream).read_line(&mut folder).map_err(failed)?;
    let folder = folder.trim_end_matches('\n');
    std::env::set_current_dir(folder).map_err(failed)?;
    let _ = std::io::stdout().flush();
    // SAFETY: plain system calls on valid descriptors.
    unsafe {
        dup2(stream.as_raw_fd(), 1);
        dup2(stream.as_raw_fd(), 2);
    }
    let file = Path::new(folder).join("cell.rs");
    format!("::core::include!({:?});", file.display().to_string())
        .parse()
        .map_err(|_| "the request's folder has no usable name".to_owned())
}
