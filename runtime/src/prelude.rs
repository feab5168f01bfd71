//! What every cell has: the kernel writes `use alephlab::prelude::*;` before the first one.
//!
//! No `Result` and no `Error` here: they would hide std's in every cell.

pub use candle_core::{self, D, DType, Device, IndexOp, Module, ModuleT, Tensor, Var};
pub use candle_nn::{self, VarBuilder, VarMap};

pub use alephlab_api::Card;

pub use crate::data::{
    Files, Loader, Parquet, Sample, Samples, Texts, TokenBatch, Tokenizer, Windows, normalise, random_crop,
    random_flip, random_rotation, random_shift, read_npy, read_npz, read_parquet, read_tokenizer,
};
pub use crate::dataset::{
    Batches, Dataset, Images, Mounts, Upload, UploadedDataset, mount, mounts, read_images, upload,
};
pub use crate::device::{
    Gpu, Precision, device, empty_cache, gpu, matmul_precision, synchronize, with_memory,
};

pub use crate::display::{
    Audio, Bundle, EvcxrDisplay, Image, Rich, as_table, clear_output, display, display_as, display_html,
    display_json, display_latex, display_markdown, display_png, display_svg, display_vega_lite, input,
    input_password, page, set_next_input, update_display,
};
pub use crate::interrupt::check_interrupt;
pub use crate::model::{Model, Saved, forward_pass, load, publish, pull, report, save};
// As a module: its layers are named like candle-nn's.
pub use crate::nn::{self, Parameters, generate};
// As a module, too: fused functions of tensors.
pub use crate::ops;
pub use crate::plot::{LinePlot, MatrixPlot, PointPlot, plot, plot_images, plot_matrix, plot_points};
pub use crate::progress::{Bar, progress};
pub use crate::secret::{Secret, secret};
pub use crate::table::{Preparation, Split, Table, read_csv};
// Not those of our names that candle-nn has as well (`AdamW`, `Dropout`, `Optimizer`): `use candle_nn::*` would make
// both unusable. They are in `alephlab::train`.
pub use crate::train::{
    Confusion, EarlyStopping, Examples, Flow, History, Metric, Runs, Schedule, Trainer, accuracy, compare,
    confusion, losses, predict, runs, seeded_vars,
};
pub use crate::widgets::{
    Button, FileUpload, IntSlider, ProgressBar, Slider, TextField, UploadedFile, button, file_upload,
    int_slider, progress_bar, slider, text_field,
};

/// Not for cells. evcxr's generated code prints the error that `?` returned with `eprintln!("{}", error)` and
/// then a control line; the kernel defines an `eprintln!` that sends just that one here, so that the text
/// becomes the error's message and not also a line on stderr.
#[doc(hidden)]
pub fn alephlab_error_text(text: String) {
    crate::child::error_text(text);
}
