//! Pictures for a notebook: lines over a shared axis ([`plot`]) and a grid of small images ([`plot_images`]).
//!
//! Both are plain values that draw themselves when shown: an SVG or PNG with a text beside it for clients that
//! show no pictures. Not here: interaction, other kinds of charts. Called by notebooks and [`crate::train`].

mod glyphs;
mod images;
mod lines;

pub use images::{ImageGrid, plot_images};
pub(crate) use lines::short;
pub use lines::{LinePlot, plot};
