//! The market's pages: what models cost, buying and selling them, what they bring, and an account's money. Complete without script.
//!
//! Pages sign nothing: what is paid from a balance is signed by the buyer's wallet, on the machine that runs `alephlab keys`. What
//! leaves an account goes to its own address or becomes its own credits, so a form with a session is enough for that.

mod buying;
mod chart;
mod earnings;
mod moves;
mod offer;
mod orders;
mod payment;
mod receipts;
mod selling;
mod wallet;
mod words;

pub(crate) use buying::{pay, show as buy};
pub(crate) use earnings::show as earnings;
pub(crate) use moves::{convert, take_back, withdraw};
pub(super) use offer::{PriceBox, price_box};
pub(crate) use orders::{cancel, refund, show as order};
pub(super) use payment::offered;
pub(crate) use receipts::{list as receipts, one as receipt};
pub(crate) use selling::{ask as sell, prepare as prepare_sale};
pub(crate) use wallet::show as wallet;
pub(super) use words::{aleph, full};
