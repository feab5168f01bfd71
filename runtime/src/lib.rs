//! Alephlab's runtime: what cells call. `use alephlab::prelude::*;` stands before the first cell.
//!
//! Verbs are free functions, nouns are types; everything blocks, returns [`Result`] and looks at the interrupt
//! flag where it can last. candle's types are re-exported, not wrapped. Built once as a dylib, so that candle's
//! statics (tensor ids!) exist once for all cells of a kernel.
//!
//! Not here: Jupyter (frames of `alephlab-link` go out, the kernel turns them into messages) and keys (the
//! broker holds them).

mod broker;
pub mod child;
pub mod data;
pub mod dataset;
pub mod device;
pub mod display;
mod error;
pub mod executor;
mod files;
pub mod interrupt;
mod live;
pub mod model;
pub mod nn;
pub mod plot;
pub mod prelude;
pub mod progress;
pub mod secret;
pub mod table;
pub mod train;
pub mod widgets;

pub use alephlab_api::Card;
pub use alephlab_ops as ops;

pub use candle_core;
pub use candle_nn;
pub use data::{Loader, read_npy, read_npz, read_parquet, read_tokenizer};
pub use dataset::{Dataset, mount, mounts, read_images};
pub use device::{
    Precision, cuda_device, device, empty_cache, gpu, matmul_precision, show_gpu, show_held, synchronize,
    with_memory,
};
pub use error::{Error, Result};
pub use interrupt::check_interrupt;
pub use model::{Model, Saved, forward_pass, load, publish, pull, report, save};
pub use nn::generate;
pub use plot::{plot, plot_images, plot_matrix, plot_points};
pub use progress::progress;
pub use secret::{Secret, secret};
pub use table::{Preparation, Table, read_csv};
pub use tokenizers;
