//! How values are shown: `display(&x)`, the value of a cell's last expression, and updates in place.
//!
//! A [`Bundle`] is one output in several formats; the client picks the best it can draw. Types with more than
//! text implement [`Rich`] and stand in [`RICH`]. Everything goes to the kernel as frames of the link; outside
//! a kernel the plain text is printed. Called by cells through the prelude. Unsafe code is allowed here.

#![expect(
    unsafe_code,
    reason = "values reach this module as an address and the identity of their type"
)]

mod bundle;
mod media;
mod tensor;
mod text_table;

use std::any::{Any, TypeId};
use std::fmt::Debug;
use std::sync::{PoisonError, RwLock};

pub use alephlab_cell::EvcxrDisplay;
pub use alephlab_derive::Rich;
use alephlab_link::{ToChild, ToKernel};

pub use bundle::Bundle;
pub use media::{Audio, Image};
pub use text_table::as_table;

use crate::live::{facts_html, facts_text};
use crate::{Error, Result, child};

/// Longest text of a field in a table, in characters.
const FIELD_CHARS_MAX: usize = 200;

/// A type with more to show than its `Debug` text.
pub trait Rich {
    /// What to show now.
    fn bundle(&self) -> Bundle;
}

/// The rich types. A list, because a blanket impl for every `Debug` type leaves no room for others (Rust has
/// no specialisation), and the value's type is known when the cell runs.
static RICH: [RichType; 28] = [
    RichType::of::<candle_core::Tensor>(),
    RichType::of::<candle_core::Var>(),
    RichType::of::<Bundle>(),
    RichType::of::<Audio>(),
    RichType::of::<Image>(),
    RichType::of::<crate::Dataset>(),
    RichType::of::<crate::dataset::Mounts>(),
    RichType::of::<crate::device::Gpu>(),
    RichType::of::<crate::dataset::UploadedDataset>(),
    RichType::of::<crate::Model>(),
    RichType::of::<crate::model::Forward>(),
    RichType::of::<crate::Saved>(),
    RichType::of::<crate::Secret>(),
    RichType::of::<crate::Table>(),
    RichType::of::<crate::plot::ImageGrid>(),
    RichType::of::<crate::plot::LinePlot>(),
    RichType::of::<crate::plot::MatrixPlot>(),
    RichType::of::<crate::plot::PointPlot>(),
    RichType::of::<crate::train::Confusion>(),
    RichType::of::<crate::nn::Generated>(),
    RichType::of::<crate::train::History>(),
    RichType::of::<crate::train::Runs>(),
    RichType::of::<crate::widgets::Slider>(),
    RichType::of::<crate::widgets::IntSlider>(),
    RichType::of::<crate::widgets::Button>(),
    RichType::of::<crate::widgets::FileUpload>(),
    RichType::of::<crate::widgets::TextField>(),
    RichType::of::<crate::widgets::ProgressBar>(),
];

#[derive(Clone, Copy)]
struct RichType {
    is: fn(TypeId) -> bool,
    bundle: unsafe fn(*const ()) -> Bundle,
}

impl RichType {
    const fn of<T: Rich + 'static>() -> Self {
        Self {
            is: |identity| identity == TypeId::of::<T>(),
            // SAFETY: the caller passes the address of a `T`.
            bundle: |address| unsafe { &*address.cast::<T>() }.bundle(),
        }
    }
}

/// Types of cells that implement [`Rich`]. Small: found by looking at each.
static OF_CELLS: RwLock<Vec<RichType>> = RwLock::new(Vec::new());

/// Has values of a type shown by its own [`Rich`]. `#[derive(Rich)]` calls it when the type's code is loaded; an
/// `impl Rich` written by hand needs it once, `register::<Type>()`.
pub fn register<T: Rich + 'static>() {
    let mut all = OF_CELLS.write().unwrap_or_else(PoisonError::into_inner);
    if !all.iter().any(|one| (one.is)(TypeId::of::<T>())) {
        all.push(RichType::of::<T>());
    }
}

/// What shows values of this type, when anything does.
fn rich_type(identity: TypeId) -> Option<RichType> {
    let of_cells = OF_CELLS.read().unwrap_or_else(PoisonError::into_inner);
    let all = RICH.iter().chain(of_cells.iter());
    all.copied().find(|rich| (rich.is)(identity))
}

/// A table of names and values, each as its `Debug` text: what `#[derive(Rich)]` shows.
pub fn fields(title: &str, fields: &[(&str, &dyn Debug)]) -> Bundle {
    let facts: Vec<(&str, String)> = fields
        .iter()
        .map(|(name, value)| (*name, shortened(&format!("{value:?}"))))
        .collect();
    Bundle::new()
        .text(facts_text(title, &facts))
        .html(facts_html(title, &facts))
}

/// A field's text, cut where it is longer than anybody reads in a table.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(FIELD_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Shows the value of a cell's last expression: its type without lifetimes, its address, its `Debug`.
pub(crate) fn show_erased(identity: TypeId, address: *const (), value: &dyn Debug) {
    let bundle = match rich_type(identity) {
        // SAFETY: the value at `address` has the type `identity`, and no rich type has a lifetime.
        Some(rich) => unsafe { (rich.bundle)(address) },
        None => text_table::with_table(format!("{value:?}")),
    };
    show_result(bundle);
}

/// Values of a cell's last expression that are shown without looking for their `Debug`, as those of
/// [`alephlab_cell::Shown`] are: the compiler would look at every `Debug` of the runtime.
pub trait ShowKnown {
    /// Shows the value as the result of the cell.
    fn evcxr_display(&self);
}

impl ShowKnown for alephlab_cell::Shown<'_, candle_core::Tensor> {
    fn evcxr_display(&self) {
        show_result(self.0.0.bundle());
    }
}

impl ShowKnown for alephlab_cell::Shown<'_, candle_core::Var> {
    fn evcxr_display(&self) {
        show_result(self.0.0.bundle());
    }
}

/// Shows a value now, in the middle of a cell.
pub fn display<T: Debug + 'static>(value: &T) {
    show(bundle_of(value), None);
}

/// Shows a value under a name, so that [`update_display`] can replace it later, also from another cell.
pub fn display_as<T: Debug + 'static>(id: &str, value: &T) {
    show(bundle_of(value), Some(id));
}

/// Replaces what was shown under `id`.
pub fn update_display<T: Debug + 'static>(id: &str, value: &T) {
    update(bundle_of(value), id);
}

/// Shows HTML.
pub fn display_html(html: impl Into<String>) {
    show(Bundle::new().html(html), None);
}

/// Shows Markdown.
pub fn display_markdown(markdown: impl Into<String>) {
    show(Bundle::new().markdown(markdown), None);
}

/// Shows an SVG image.
pub fn display_svg(svg: impl Into<String>) {
    show(Bundle::new().svg(svg), None);
}

/// Shows a PNG image, given as the bytes of its file.
pub fn display_png(png: &[u8]) {
    show(Bundle::new().png(png), None);
}

/// Shows LaTeX, given with its dollar signs or environment.
pub fn display_latex(latex: impl Into<String>) {
    let latex = latex.into();
    show(Bundle::new().text(latex.clone()).latex(latex), None);
}

/// Shows JSON as a tree: text, or a `serde_json::Value`.
///
/// # Errors
/// [`Error::Data`] when the text is no JSON.
#[expect(clippy::needless_pass_by_value, reason = "called with a value or a literal")]
pub fn display_json(json: impl ToString) -> Result<()> {
    let (text, value) = parsed(&json)?;
    show(Bundle::new().text(text).json(value), None);
    Ok(())
}

/// Shows a plot, given as a Vega-Lite specification (version 5): text, or a `serde_json::Value`.
///
/// # Errors
/// [`Error::Data`] when the text is no JSON.
#[expect(clippy::needless_pass_by_value, reason = "called with a value or a literal")]
pub fn display_vega_lite(specification: impl ToString) -> Result<()> {
    let (text, value) = parsed(&specification)?;
    let text = format!("Vega-Lite plot: {text}");
    show(Bundle::new().text(text).vega_lite(value), None);
    Ok(())
}

fn parsed(json: &impl ToString) -> Result<(String, serde_json::Value)> {
    let text = json.to_string();
    let value = serde_json::from_str(&text).map_err(|error| Error::Data {
        reason: format!("this text is no JSON: {error}"),
    })?;
    Ok((text, value))
}

/// Removes this cell's output so far; with `wait`, only when the next output comes (no flicker).
pub fn clear_output(wait: bool) {
    let _ = child::call(&ToKernel::ClearOutput { wait });
}

/// Shows a longer text apart from the outputs, in the client's pager.
pub fn page(text: impl Into<Bundle>) {
    let (data, _) = text.into().into_parts();
    let _ = child::call(&ToKernel::Page { data });
}

/// Puts text into a new cell below this one, for the person to look at and run. In a console it is the next input.
pub fn set_next_input(text: impl Into<String>) {
    let _ = child::call(&ToKernel::SetNextInput {
        text: text.into(),
        replace: false,
    });
}

/// Shows a bundle, under a name when it is to be updated.
pub fn show(bundle: impl Into<Bundle>, id: Option<&str>) {
    let display_id = id.map(str::to_owned);
    send(bundle.into(), |data, metadata| ToKernel::Display {
        data,
        metadata,
        display_id,
    });
}

/// Replaces what was shown under a name.
pub fn update(bundle: impl Into<Bundle>, id: &str) {
    let display_id = id.to_owned();
    send(bundle.into(), |data, metadata| ToKernel::UpdateDisplay {
        data,
        metadata,
        display_id,
    });
}

/// Makes a bundle the result of the cell. For a type's own `evcxr_display`.
pub fn show_result(bundle: impl Into<Bundle>) {
    send(bundle.into(), |data, metadata| ToKernel::Result {
        data,
        metadata,
    });
}

/// Asks the person for a line of text and waits for it.
///
/// # Errors
/// [`Error::NoInput`] where the client cannot ask (a headless run), or nobody listens.
pub fn input(prompt: impl Into<String>) -> Result<String> {
    ask(prompt.into(), false)
}

/// As [`input`], for something that must not be shown while it is typed.
///
/// # Errors
/// As [`input`].
pub fn input_password(prompt: impl Into<String>) -> Result<String> {
    ask(prompt.into(), true)
}

fn ask(prompt: String, password: bool) -> Result<String> {
    let answer = child::call(&ToKernel::Input { prompt, password });
    // An interrupt also ends the wait, and then it is the interrupt that the person wants to see.
    crate::check_interrupt();
    match answer {
        Some(ToChild::Input { value: Some(line) }) => Ok(line),
        _ => Err(Error::NoInput),
    }
}

fn bundle_of<T: Debug + 'static>(value: &T) -> Bundle {
    match rich_type(value.type_id()) {
        // SAFETY: `value` is a `T`, whose identity was found.
        Some(rich) => unsafe { (rich.bundle)(std::ptr::from_ref(value).cast()) },
        None => text_table::with_table(format!("{value:?}")),
    }
}

fn send(
    bundle: Bundle,
    frame: impl FnOnce(alephlab_link::MimeBundle, alephlab_link::MimeBundle) -> ToKernel,
) {
    crate::check_interrupt();
    if child::has_kernel() {
        let (data, metadata) = bundle.into_parts();
        let _ = child::call(&frame(data, metadata));
    } else if let Some(text) = bundle.as_text() {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn numbers_and_strings_are_shown_as_evcxr_shows_them() {
        assert_eq!(bundle_of(&42).as_text(), Some("42"));
        assert_eq!(bundle_of(&"a\"b".to_owned()).as_text(), Some(r#""a\"b""#));
        assert_eq!(bundle_of(&vec![1.5, 2.0]).as_text(), Some("[1.5, 2.0]"));
    }

    #[test]
    fn a_tensor_is_shown_with_its_numbers_as_text_and_html() {
        let tensor = Tensor::new(&[[1.0_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let bundle = bundle_of(&tensor);
        let text = bundle.as_text().unwrap();
        assert!(text.contains("F32 2×2 on cpu"), "{text}");
        assert!(text.contains("min 1, mean 2.5, max 4"), "{text}");
        let (data, _) = bundle.into_parts();
        assert!(data["text/html"].as_str().unwrap().contains("<table"));
    }

    #[test]
    fn input_without_a_kernel_is_an_error_with_a_hint() {
        let error = input("name? ").unwrap_err();
        assert_eq!(error.code(), "no_input");
        assert!(error.hint().is_some());
    }
}
