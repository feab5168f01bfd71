//! An open dataset as a folder: a read-only FUSE file system over a vault reader.
//!
//! Files are fetched when they are read, object by object, and only a bounded amount of plaintext is held. Broker and
//! command mount with it; where there is no FUSE they copy the files out instead. Not here: keys, policies, terms.

mod ahead;
mod error;
mod files;
mod mounted;
mod sharing;
mod stale;
mod tree;

pub use error::{MountError, Result};
pub use files::Failure;
pub use mounted::{Mounted, Options, mount};
pub use sharing::{share, unshare};
pub use stale::{detach_below, detach_dead};
