//! Who rents out hosts: the seam between allocations and the networks that they are rented on.
//!
//! A provider is asked to do things, may be asked again after any failure, and is believed only when what it says can be
//! read from outside: that a host is there when it answers, that a bill has stopped when the network says so.

use alephlab_api::agent::Join;
use alephlab_api::offer::{Offer, Offers};
use futures_util::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use crate::error::Result;

/// What became of asking for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rented {
    /// It is being made ready.
    Accepted,
    /// It cannot be had, and asking again would not help.
    Refused(String),
}

/// What is seen of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Not there yet: what it does, in words.
    Waiting(String),
    /// It can be reached.
    Reachable,
    /// It is gone, and why.
    Gone(String),
}

/// Whether a host that is given back still costs something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bill {
    /// It may: what is missing, in words.
    Runs(String),
    /// The provider's own books say that it does not.
    Stopped,
}

/// Rents hosts out. A call that fails may have had its effect; every call may be repeated.
pub trait HostProvider: Send + Sync + 'static {
    /// Name of the provider, for rows and pages.
    fn name(&self) -> &'static str;

    /// What can be rented now, and what cannot and why. Never fails: what could not be asked is one of the troubles.
    fn offers(&self) -> BoxFuture<'_, Offers>;

    /// Everything that renting this offer for this lease needs, fixed once and for all. Changes nothing outside. It is
    /// stored, and so holds no secret.
    fn draft<'a>(&'a self, lease: Uuid, offer: &'a Offer) -> BoxFuture<'a, Result<Value>>;

    /// Rents the host of a draft, once however often it is called.
    fn rent<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Rented>>;

    /// Looks where the host of a draft is.
    fn look<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Seen>>;

    /// Hands the host its lease, over a way that only the two can use.
    fn hand_over<'a>(&'a self, draft: &'a Value, join: &'a Join) -> BoxFuture<'a, Result<()>>;

    /// Gives the host of a draft back, whatever became of it, and looks whether it still costs something.
    fn end<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Bill>>;
}
