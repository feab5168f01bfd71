//! What this machine must have or build before a kernel can start: toolchain, programs, runtime template.
//!
//! Everything is built from the workspace that this program came from. Used by `quickstart`, `up`, `run`, `kernel`
//! and `doctor`.

pub(crate) mod cache;
pub(crate) mod command;
pub(crate) mod prepare;
pub(crate) mod programs;
pub(crate) mod source;
pub(crate) mod template;
pub(crate) mod toolchain;
