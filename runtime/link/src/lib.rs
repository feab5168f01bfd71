//! Frames between a cell and the kernel, and the handover file that tells a cell where its broker is.
//!
//! A *frame* is one JSON value on a Unix stream socket, with its length in front (see [`write_frame`]).
//! The runtime inside the child sends [`ToKernel`], the kernel answers each with exactly one [`ToChild`];
//! the sender waits for the answer, so that text written before a frame is published before it.
//!
//! Not here: sockets (each side opens its own), Jupyter (only the kernel knows it), keys and tokens.
//! Called by `alephlab` (the runtime) and `alephlab-kernel`; the agent and the command write the handover.

mod comm;
mod error;
mod frame;
mod handover;

pub use comm::{CommEvent, CommKind, HeardEvent, ToldEvent};
pub use error::{Error, Result};
pub use frame::{
    COMMS_SOCKET, Client, MAX_FRAME_BYTES, MimeBundle, Outcome, ToChild, ToKernel, read_frame, write_frame,
};
pub use handover::{HANDOVER_ENV, Handover};
