//! Running a notebook on a kernel of a gateway: the file, the channels, the cells.
//!
//! It speaks the Jupyter protocol as a client and knows nothing of datasets or keys. Used by `run` and `quickstart`.

pub(crate) mod channels;
pub(crate) mod execute;
pub(crate) mod notebook;
pub(crate) mod session;
#[cfg(test)]
mod tests;
