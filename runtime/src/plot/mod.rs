//! Pictures for a notebook: lines over a shared axis ([`plot`]), points in a plane ([`plot_points`]), a matrix as a heat map
//! ([`plot_matrix`]) and a grid of small images ([`plot_images`]).
//!
//! All are plain values that draw themselves when shown: an SVG or PNG with a text beside it for clients that
//! show no pictures. Not here: interaction, other kinds of charts. Called by notebooks and [`crate::train`].

mod glyphs;
mod images;
mod lines;
mod matrix;
mod points;
mod style;

pub use images::{ImageGrid, plot_images};
pub use lines::{LinePlot, plot};
pub(crate) use lines::{beside, short};
pub use matrix::{MatrixPlot, plot_matrix};
pub use points::{PointPlot, plot_points};
