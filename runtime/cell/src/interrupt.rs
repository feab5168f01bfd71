//! The interrupt flag of this process.
//!
//! The kernel sends SIGINT; the handler (in the runtime) only sets the flag. Every loop and function of a cell looks
//! at it, and every call of the runtime that can last. The flag stays set until the next cell starts: a cell that
//! catches the unwinding in a loop would otherwise go on for ever. It means all cells that run then, those of subshells
//! too.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

thread_local! {
    /// Number of the interrupt that does not mean what this thread does now; 0 for none.
    static SPARED: Cell<u32> = const { Cell::new(0) };
}

/// Counts interrupts.
static COUNT: AtomicU32 = AtomicU32::new(0);
static FLAG: AtomicBool = AtomicBool::new(false);

/// What an interrupted cell unwinds with. Private, so that nobody can mistake it for a panic of their own.
pub(crate) struct Interrupted;

/// Whether the person asked to stop this cell.
#[inline]
pub fn requested() -> bool {
    FLAG.load(Ordering::Relaxed) && !is_spared()
}

/// Runs something that an interrupt which has come already does not mean: the flag of a stopped cell stays set behind
/// it, and a widget's callback that a click calls later is not that cell. One that comes meanwhile stops it.
pub fn not_meant<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(u32);
    impl Drop for Restore {
        fn drop(&mut self) {
            SPARED.set(self.0);
        }
    }
    let spared = if FLAG.load(Ordering::Relaxed) {
        COUNT.load(Ordering::Relaxed)
    } else {
        SPARED.get()
    };
    let _restore = Restore(SPARED.replace(spared));
    work()
}

/// A cell begins on this thread, which an earlier interrupt does not mean. While others run, the flag may be theirs.
pub fn begin(is_alone: bool) {
    if is_alone {
        set(false);
        SPARED.set(0);
    } else if FLAG.load(Ordering::Relaxed) {
        SPARED.set(COUNT.load(Ordering::Relaxed));
    }
}

/// How many interrupts there were.
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

fn is_spared() -> bool {
    let spared = SPARED.get();
    spared != 0 && spared == COUNT.load(Ordering::Relaxed)
}

/// Sets or clears the flag. Async-signal-safe.
#[inline]
pub fn set(requested: bool) {
    if requested {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    FLAG.store(requested, Ordering::Relaxed);
}

/// Ends the cell here when the person asked to stop it: unwinds, runs destructors, keeps variables.
///
/// Does nothing while a panic unwinds already, where a second one would end the process.
#[inline(always)]
pub fn check() {
    if FLAG.load(Ordering::Relaxed) {
        stop();
    }
}

#[cold]
#[inline(never)]
fn stop() {
    if !std::thread::panicking() && !is_spared() {
        if let Some(hooks) = crate::hooks() {
            (hooks.interrupted)();
        }
        // Not `panic!`: the panic hook must not run for this.
        std::panic::resume_unwind(Box::new(Interrupted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_unwinds_only_when_requested_and_leaves_the_flag_set() {
        let _one = crate::body::ONE_CELL.lock();
        check();
        set(true);
        let stopped = std::panic::catch_unwind(check);
        assert!(stopped.unwrap_err().is::<Interrupted>());
        assert!(requested());
        set(false);
    }

    #[test]
    fn what_an_interrupt_does_not_mean_goes_on_and_what_follows_does_not() {
        let _one = crate::body::ONE_CELL.lock();
        set(true);
        not_meant(|| {
            check();
            assert!(!requested());
        });
        assert!(requested());
        assert!(std::panic::catch_unwind(check).is_err());
        // A cell that begins while another is being stopped.
        begin(false);
        check();
        assert!(!requested());
        set(true);
        assert!(std::panic::catch_unwind(check).is_err());
        begin(true);
        assert!(!requested());
        let stopped = std::panic::catch_unwind(|| {
            not_meant(|| {
                set(true);
                check();
            });
        });
        assert!(stopped.is_err());
        // Also when an earlier one was spared.
        let stopped = std::panic::catch_unwind(|| {
            not_meant(|| {
                check();
                set(false);
                set(true);
                check();
            });
        });
        assert!(stopped.is_err());
        set(false);
    }
}
