//! The body of a cell: run with panics caught, ended by `?` or by itself.
//!
//! Unsafe code is allowed here: a closure of any type is called through one function that is compiled once.
#![expect(unsafe_code, reason = "`run` is compiled again in every cell")]

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Display;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;

use crate::interrupt::Interrupted;

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Finished,
    /// `?` returned this error.
    Failed {
        /// What it says.
        message: String,
        /// `file:line:column` of the `?`.
        location: String,
    },
    /// It panicked; the panic hook has the message.
    Panicked,
    /// It was stopped by the person.
    Interrupted,
}

/// An error that `?` returned from a cell: anything that can be displayed.
///
/// Implements neither `Display` nor `Error`: it could not be made from every error otherwise.
#[derive(Debug)]
pub struct Failure {
    message: String,
    location: &'static Location<'static>,
}

impl<E: Display> From<E> for Failure {
    #[inline(always)]
    #[track_caller]
    fn from(error: E) -> Self {
        failure(&error, Location::caller())
    }
}

#[inline(never)]
fn failure(error: &dyn Display, location: &'static Location<'static>) -> Failure {
    Failure {
        message: error.to_string(),
        location,
    }
}

thread_local! {
    static OUTCOME: RefCell<Outcome> = const { RefCell::new(Outcome::Finished) };
}

/// Runs the body of a cell. What it did not use up of the variables it captured lives on, also after a panic.
#[inline(always)]
pub fn run<F: FnOnce() -> Result<(), Failure>>(body: F) {
    // SAFETY: `body` is called once at most and never again: it is not dropped after that.
    unsafe fn call<F: FnOnce() -> Result<(), Failure>>(body: *mut ()) -> Result<(), Failure> {
        // SAFETY: `body` points to the `F` below, which is not used otherwise.
        (unsafe { std::ptr::read(body.cast::<F>()) })()
    }
    let mut body = ManuallyDrop::new(body);
    // SAFETY: the pointer lives through the call and fits the function.
    unsafe { run_erased(call::<F>, std::ptr::from_mut(&mut body).cast()) };
}

#[inline(never)]
unsafe fn run_erased(body: unsafe fn(*mut ()) -> Result<(), Failure>, data: *mut ()) {
    // SAFETY: the caller passes a function and its data.
    let ended = catch_unwind(AssertUnwindSafe(|| unsafe { body(data) }));
    let outcome = match ended {
        Ok(Ok(())) => Outcome::Finished,
        Ok(Err(failure)) => Outcome::Failed {
            message: failure.message,
            location: failure.location.to_string(),
        },
        Err(payload) => ended_by(payload),
    };
    OUTCOME.set(outcome);
}

/// What a payload says of the end, and drops it. One whose destructor panics would end the process.
fn ended_by(payload: Box<dyn Any + Send>) -> Outcome {
    let interrupted = payload.is::<Interrupted>();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    if let Err(again) = dropped {
        let _ = ManuallyDrop::new(again);
    }
    if interrupted {
        Outcome::Interrupted
    } else {
        Outcome::Panicked
    }
}

/// What an entry returns. A `return` that a macro makes has no such value, so it is a compile error: it would leave out
/// what the cell stores.
#[derive(Debug)]
#[repr(transparent)]
pub struct Done(pub u8);

/// Runs a whole cell: its entry takes variables, calls [`run`] and gives them back. An entry that takes none and has
/// no `?` is the body itself.
pub fn execute(entry: impl FnOnce()) -> Outcome {
    crate::variables::drop_left();
    OUTCOME.set(Outcome::Finished);
    match catch_unwind(AssertUnwindSafe(entry)) {
        Ok(()) => OUTCOME.replace(Outcome::Finished),
        Err(payload) => ended_by(payload),
    }
}

/// Runs the future of a cell that awaits.
///
/// # Errors
/// What the future returns.
#[inline(always)]
pub fn block_on<F: Future<Output = Result<(), Failure>>>(future: F) -> Result<(), Failure> {
    let mut result = None;
    {
        let mut whole = pin!(async { result = Some(future.await) });
        block_on_erased(whole.as_mut());
    }
    result.unwrap_or(Ok(()))
}

#[inline(never)]
#[expect(clippy::panic, reason = "caught and told as the cell's error")]
fn block_on_erased(future: std::pin::Pin<&mut dyn Future<Output = ()>>) {
    match crate::hooks() {
        Some(hooks) => (hooks.block_on)(future),
        None => panic!("there is no executor outside a kernel"),
    }
}

/// Cells of the tests run one after the other: the flag is the process's.
#[cfg(test)]
pub(crate) static ONE_CELL: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt;

    #[test]
    fn a_body_finishes_fails_panics_or_is_interrupted() {
        let _one = ONE_CELL.lock();
        assert_eq!(execute(|| run(|| Ok(()))), Outcome::Finished);
        let failed = execute(|| {
            run(|| {
                "x".parse::<i32>()?;
                Ok(())
            });
        });
        let Outcome::Failed { message, location } = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(message, "invalid digit found in string");
        assert!(location.contains("body.rs:"), "{location}");
        assert_eq!(execute(|| run(|| panic!("no"))), Outcome::Panicked);
        let interrupted = execute(|| {
            interrupt::set(true);
            run(|| {
                interrupt::check();
                Ok(())
            });
        });
        interrupt::set(false);
        assert_eq!(interrupted, Outcome::Interrupted);
    }

    #[test]
    fn what_a_panicking_body_only_borrowed_lives_on() {
        let mut kept = vec![1];
        let outcome = execute(|| {
            run(|| {
                kept.push(2);
                panic!("no")
            });
        });
        assert_eq!((outcome, kept), (Outcome::Panicked, vec![1, 2]));
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_a_panic_like_any_other() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(execute(|| run(|| std::panic::panic_any(Bad))), Outcome::Panicked);
        assert_eq!(execute(|| std::panic::panic_any(Bad)), Outcome::Panicked);
    }
}
