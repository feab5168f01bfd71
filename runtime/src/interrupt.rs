//! The interrupt flag, as this library uses it. It lives in `alephlab-cell`, where compiled cells look at it too.

pub(crate) use alephlab_cell::interrupt::not_meant;
pub use alephlab_cell::interrupt::{check as check_interrupt, requested};
