//! Controls in the notebook: sliders, buttons, text fields, file choosers and progress bars, as Jupyter widgets.
//!
//! Each is a model of the Jupyter widget protocol (version 2.1): its state lives here and in every client, and travels
//! over a comm. What the person does arrives while a cell runs too, on a thread of its own, which also calls what
//! `on_change` and `on_click` were given. Needs ipywidgets' extension in the client; without one the text says what the
//! control is.

mod binary;
mod controls;
mod model;
mod upload;

pub use controls::{Button, IntSlider, ProgressBar, Slider, TextField};
pub use controls::{button, int_slider, progress_bar, slider, text_field};
pub use upload::{FileUpload, UploadedFile, file_upload};
