//! What a compiled cell calls: variables that outlive it, the end of its body, the value it shows, the interrupt
//! flag.
//!
//! Generated code is the only caller of most of this, so names are short and generic functions are thin shells
//! around one that is not: each instance is compiled again in every cell. The runtime says with [`Hooks`] what
//! happens to values and errors; without them they are printed. Knows no frames, no tensors, no Jupyter.

mod body;
pub mod interrupt;
mod shown;
mod variables;

use std::any::TypeId;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;

pub use body::{Done, Failure, Outcome, block_on, execute, run};
pub use interrupt::check;
pub use shown::{EvcxrDisplay, Rare, Shown};
pub use variables::{Stored, beside, look, put, restore, sent, take};

/// What the runtime does for cells.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Shows the value of the last expression: its type, its address, and a way to print it.
    pub show: fn(TypeId, *const (), &dyn Debug),
    /// The cell thread is about to unwind because the person asked for it.
    pub interrupted: fn(),
    /// Runs a future to its end on the runtime's own executor.
    pub block_on: fn(Pin<&mut dyn Future<Output = ()>>),
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Sets the hooks. Only the first call counts.
pub fn set_hooks(hooks: Hooks) {
    let _ = HOOKS.set(hooks);
}

fn hooks() -> Option<&'static Hooks> {
    HOOKS.get()
}
