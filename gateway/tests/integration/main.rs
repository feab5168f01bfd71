//! The gateway over real sockets, with a host in memory and a storage in memory.

mod accounts;
mod channels;
mod jupyter;
mod lifecycle;
mod pages;
mod shares;
mod support;
