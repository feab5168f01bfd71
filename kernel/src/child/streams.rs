//! Leads the text of a subshell's thread to streams of its own.
//!
//! All threads of a process have one stdout. `write` of this program, which comes before libc's for every library that
//! the child loads, looks which thread calls it. Text that a program writes, or C's own `printf`, goes past it.
#![expect(unsafe_code, reason = "takes the place of a function of libc")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use libc::{c_long, iovec, size_t, ssize_t};

thread_local! {
    /// Where this thread's stdout and stderr go, where not to the process's own.
    static LED_TO: Cell<Option<(RawFd, RawFd)>> = const { Cell::new(None) };
}

/// Streams by number, from 1.
static STREAMS: Mutex<Vec<(RawFd, RawFd)>> = Mutex::new(Vec::new());

/// Keeps a pair of streams; its number, from 1.
pub(super) fn keep(stdout: OwnedFd, stderr: OwnedFd) -> c_int {
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    streams.push((stdout.into_raw_fd(), stderr.into_raw_fd()));
    c_int::try_from(streams.len()).unwrap_or(c_int::MAX)
}

/// Leads this thread's text to the streams of a number; 0 for the process's own.
pub(super) extern "C" fn lead_text(number: c_int) {
    let streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    LED_TO.set(index.and_then(|index| streams.get(index).copied()));
}

fn led(fd: c_int) -> c_int {
    // A thread that ends may have lost it already.
    match (fd, LED_TO.try_with(Cell::get)) {
        (libc::STDOUT_FILENO, Ok(Some((stdout, _)))) => stdout,
        (libc::STDERR_FILENO, Ok(Some((_, stderr)))) => stderr,
        _ => fd,
    }
}

/// `write(2)`.
///
/// # Safety
/// As the system call's.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: the caller's.
    result(unsafe { libc::syscall(libc::SYS_write, led(fd), buffer, count) })
}

/// `writev(2)`.
///
/// # Safety
/// As the system call's.
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's.
    result(unsafe { libc::syscall(libc::SYS_writev, led(fd), parts, count) })
}

/// Never larger than what was to be written, so it fits.
fn result(written: c_long) -> ssize_t {
    ssize_t::try_from(written).unwrap_or(-1)
}
