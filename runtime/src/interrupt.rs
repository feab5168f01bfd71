//! The interrupt flag of this process.
//!
//! The kernel sends SIGINT; the handler (in [`crate::child`]) only sets the flag. Every call of this library
//! that can last looks at it, and so can a cell's own loop with [`check_interrupt`]. The flag stays set until
//! the next cell starts: a cell that catches the unwinding in a loop would otherwise go on for ever.

use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) static FLAG: AtomicBool = AtomicBool::new(false);

/// What an interrupted cell unwinds with. Private, so that nobody can mistake it for a panic of their own.
struct Interrupted;

/// Whether the person asked to stop this cell.
#[inline]
pub fn requested() -> bool {
    FLAG.load(Ordering::Relaxed)
}

/// Ends the cell here when the person asked to stop it: unwinds, runs destructors, keeps variables.
///
/// Does nothing while a panic unwinds already, where a second one would end the process.
#[inline]
pub fn check_interrupt() {
    if requested() {
        stop();
    }
}

#[cold]
#[inline(never)]
fn stop() {
    if !std::thread::panicking() {
        crate::child::report_interrupt();
        // Not `panic!`: the panic hook must not run for this.
        std::panic::resume_unwind(Box::new(Interrupted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_unwinds_only_when_requested_and_leaves_the_flag_set() {
        check_interrupt();
        FLAG.store(true, Ordering::Relaxed);
        let stopped = std::panic::catch_unwind(check_interrupt);
        assert!(stopped.unwrap_err().is::<Interrupted>());
        assert!(requested());
        FLAG.store(false, Ordering::Relaxed);
    }
}
