//! A matrix as a heat map: a square for each number, darker where it is larger.

use std::fmt::Write as _;

use candle_core::{DType, Tensor};

use super::short;
use super::style::{DARK, FONT, escaped};
use crate::display::{Bundle, Rich};
use crate::{Error, Result};

/// Rows and columns: more cannot be told apart.
const SIDE_MAX: usize = 200;
/// Sides up to which each number is written into its square.
const WRITTEN_MAX: usize = 24;
/// Width of the squares together that is aimed at, in CSS pixels.
const WIDTH: usize = 460;
const SQUARE_MIN: usize = 4;
const SQUARE_MAX: usize = 54;
/// Longest label in characters.
const LABEL_MAX: usize = 60;
/// Width of ten letters of 12 pixels, about.
const TEN_LETTERS: usize = 64;

const INK: &str = "#1C1A16";
const QUIET: &str = "#6B6559";
const SURFACE: &str = "#FFFFFF";
const RIGHT: &str = "#1B4FBF";
const WRONG: &str = "#B83A2E";

/// A matrix drawn as coloured squares. Shown as the last expression of a cell or with `display`.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixPlot {
    /// Row by row.
    values: Vec<f64>,
    width: usize,
    title: String,
    rows: Labels,
    columns: Labels,
    range: Option<(f64, f64)>,
    /// What lies off the diagonal has another colour, and a scale of its own.
    marks_off_diagonal: bool,
}

/// Names along one side, and what they are names of.
#[derive(Debug, Clone, Default, PartialEq)]
struct Labels {
    what: String,
    names: Vec<String>,
}

/// A heat map of a matrix, from its least number (paper) to its greatest (blue).
///
/// # Errors
/// [`Error::Plot`] when the tensor is no matrix or has more than 200 rows or columns, [`Error::Tensor`] from candle.
pub fn plot_matrix(matrix: &Tensor) -> Result<MatrixPlot> {
    let values = match *matrix.dims() {
        [1..=SIDE_MAX, 1..=SIDE_MAX] => matrix.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?,
        ref other => {
            return Err(Error::Plot {
                reason: format!(
                    "a heat map is of a matrix with at most {SIDE_MAX} rows and columns, not of {other:?}"
                ),
            });
        }
    };
    Ok(MatrixPlot {
        values,
        width: matrix.dim(1)?,
        title: String::new(),
        rows: Labels::default(),
        columns: Labels::default(),
        range: None,
        marks_off_diagonal: false,
    })
}

impl MatrixPlot {
    /// What stands over it.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Names of the rows, from the top; numbers from 0 without them.
    #[must_use]
    pub fn rows<N: ToString>(mut self, names: &[N]) -> Self {
        self.rows.names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Names of the columns, from the left; numbers from 0 without them.
    #[must_use]
    pub fn columns<N: ToString>(mut self, names: &[N]) -> Self {
        self.columns.names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// What the rows are, such as `it is a`.
    #[must_use]
    pub fn y_label(mut self, label: impl Into<String>) -> Self {
        self.rows.what = label.into();
        self
    }

    /// What the columns are.
    #[must_use]
    pub fn x_label(mut self, label: impl Into<String>) -> Self {
        self.columns.what = label.into();
        self
    }

    /// The numbers that are drawn as paper and as full colour; what lies outside is drawn as the nearer one.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Draws what lies off the diagonal in red: mistakes.
    pub(crate) fn mark_off_diagonal(mut self) -> Self {
        self.marks_off_diagonal = true;
        self
    }

    /// The heat map as SVG.
    pub fn svg(&self) -> String {
        let (rows, columns) = (self.height(), self.width);
        let side = (WIDTH / rows.max(columns)).clamp(SQUARE_MIN, SQUARE_MAX);
        // The names of rows stand left of them, those of columns above, aslant where they are longer than a square.
        let longest = |labels: &Labels, count| {
            (0..count)
                .map(|at| labels.name(at).chars().count())
                .max()
                .unwrap_or(0)
        };
        let text_width = |letters: usize| (letters * TEN_LETTERS).div_ceil(10);
        let beside = if self.rows.what.is_empty() { 16 } else { 36 };
        let left = beside + text_width(longest(&self.rows, rows)) + 8;
        let column_text = text_width(longest(&self.columns, columns));
        let is_aslant = column_text + 2 > side;
        let names_height = if is_aslant { column_text * 3 / 4 + 12 } else { 18 };
        let above = 14
            + if self.title.is_empty() { 0 } else { 28 }
            + if self.columns.what.is_empty() { 0 } else { 20 };
        let top = above + names_height;
        let overhang = if is_aslant { column_text * 3 / 4 } else { 0 };
        let (width, height) = (left + columns * side + 16 + overhang, top + rows * side + 14);
        let mut svg = format!(
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             xmlns=\"http://www.w3.org/2000/svg\" role=\"img\">\n<title>{}</title>{DARK}\n<rect width=\"{width}\" \
             height=\"{height}\" fill=\"{SURFACE}\"/>\n<g font-family=\"{FONT}\" font-size=\"12\">\n",
            escaped(&self.text())
        );
        if !self.title.is_empty() {
            let _ = writeln!(
                svg,
                "<text x=\"16\" y=\"26\" font-size=\"15\" fill=\"{INK}\">{}</text>",
                escaped(&self.title)
            );
        }
        self.write_sides(&mut svg, [left, top, side], is_aslant);
        self.write_squares(&mut svg, [left, top, side]);
        svg.push_str("</g>\n</svg>\n");
        svg
    }

    /// The matrix in words: all of it where it is small, else its size and range.
    pub fn text(&self) -> String {
        let (rows, columns) = (self.height(), self.width);
        let title = if self.title.is_empty() {
            "matrix"
        } else {
            &self.title
        };
        let mut text = format!("{title}: {rows} x {columns}");
        if rows > WRITTEN_MAX || columns > WRITTEN_MAX {
            let (low, high) = self.bounds();
            let _ = write!(text, ", from {} to {}", short(low), short(high));
            return text;
        }
        for (at, row) in self.texts().chunks_exact(columns).enumerate() {
            let cells: Vec<String> = row.iter().map(|text| format!("{text:>5}")).collect();
            let _ = write!(text, "\n{} {}", cells.join(" "), self.rows.name(at));
        }
        text
    }

    fn height(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    fn bounds(&self) -> (f64, f64) {
        self.range.unwrap_or_else(|| {
            let finite = || self.values.iter().copied().filter(|value| value.is_finite());
            let least = finite().fold(f64::INFINITY, f64::min);
            (least, finite().fold(f64::NEG_INFINITY, f64::max))
        })
    }

    /// Names of rows and columns, and what they are.
    fn write_sides(&self, svg: &mut String, [left, top, side]: [usize; 3], is_aslant: bool) {
        let (rows, columns) = (self.height(), self.width);
        for row in 0..rows {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" dominant-baseline=\"central\" fill=\"{INK}\">{}</text>",
                left - 7,
                top + row * side + side / 2,
                escaped(&self.rows.name(row))
            );
        }
        for column in 0..columns {
            let (x, y) = (left + column * side + side / 2, top - 7);
            let turn = if is_aslant {
                format!("transform=\"rotate(-45 {x} {y})\"")
            } else {
                "text-anchor=\"middle\"".to_owned()
            };
            let name = escaped(&self.columns.name(column));
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" {turn} fill=\"{INK}\">{name}</text>"
            );
        }
        let middle = left + columns * side / 2;
        if !self.columns.what.is_empty() {
            let y = if self.title.is_empty() { 20 } else { 48 };
            let what = escaped(&self.columns.what);
            let _ = writeln!(
                svg,
                "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\" fill=\"{QUIET}\">{what}</text>"
            );
        }
        if !self.rows.what.is_empty() {
            let y = top + rows * side / 2;
            let what = escaped(&self.rows.what);
            let _ = writeln!(
                svg,
                "<text x=\"20\" y=\"{y}\" text-anchor=\"middle\" transform=\"rotate(-90 20 {y})\" fill=\"{QUIET}\">{what}</text>"
            );
        }
    }

    /// The squares and their numbers.
    fn write_squares(&self, svg: &mut String, [left, top, side]: [usize; 3]) {
        let columns = self.width;
        let is_written = columns <= WRITTEN_MAX && self.height() <= WRITTEN_MAX;
        let texts = if is_written { self.texts() } else { vec![] };
        let longest = texts.iter().map(String::len).max().unwrap_or(1);
        let size = ((side as f64 - 4.0) / (longest as f64 * 0.56)).clamp(6.0, 13.0);
        let scales = [self.bounds(), self.bounds_off_diagonal()];
        for at in 0..self.values.len() {
            let corner = [left + at % columns * side, top + at / columns * side];
            let share = self.write_square(svg, corner, side, (at, scales));
            // The noughts of a confusion matrix are what one need not read.
            if let Some(text) = texts.get(at)
                && self.values[at].is_finite()
                && !(self.marks_off_diagonal && self.values[at] == 0.0)
            {
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{}\" font-size=\"{size:.1}\" text-anchor=\"middle\" dominant-baseline=\"central\" \
                     fill=\"{}\">{text}</text>",
                    corner[0] + side / 2,
                    corner[1] + side / 2,
                    if share > 0.5 { SURFACE } else { INK }
                );
            }
        }
    }

    /// Writes the square of a number, and answers how dark it is, from 0 to 1.
    fn write_square(
        &self,
        svg: &mut String,
        [x, y]: [usize; 2],
        side: usize,
        (at, scales): (usize, [(f64, f64); 2]),
    ) -> f64 {
        let value = self.values[at];
        let is_wrong = self.marks_off_diagonal && at / self.width != at % self.width;
        let (low, high) = scales[usize::from(is_wrong)];
        let share = if high > low {
            ((value - low) / (high - low)).clamp(0.0, 1.0)
        } else {
            0.0
        };
        // One mistake among hundreds has to be seen.
        let share = if is_wrong && value > 0.0 {
            0.2 + 0.5 * share
        } else {
            share
        };
        let inside = side - usize::from(side > 8);
        let colour = if is_wrong { WRONG } else { RIGHT };
        if share.is_finite() {
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{inside}\" height=\"{inside}\" fill=\"{colour}\" fill-opacity=\"{:.3}\"/>",
                0.04 + 0.96 * share
            );
        }
        share
    }

    /// All numbers as they are written.
    fn texts(&self) -> Vec<String> {
        let all_whole = self.values.iter().all(|value| value.fract() == 0.0);
        self.values
            .iter()
            .map(|value| written(*value, all_whole))
            .collect()
    }

    /// From nothing to the most of what is off the diagonal.
    fn bounds_off_diagonal(&self) -> (f64, f64) {
        let off = self
            .values
            .iter()
            .enumerate()
            .filter(|(at, _)| at / self.width != at % self.width);
        (0.0, off.map(|(_, value)| *value).fold(1.0, f64::max))
    }
}

impl Labels {
    fn name(&self, at: usize) -> String {
        match self.names.get(at) {
            Some(name) if name.chars().count() > LABEL_MAX => {
                name.chars().take(LABEL_MAX - 1).chain(['…']).collect()
            }
            Some(name) => name.clone(),
            None => at.to_string(),
        }
    }
}

impl Rich for MatrixPlot {
    fn bundle(&self) -> Bundle {
        Bundle::new().text(self.text()).svg(self.svg())
    }
}

/// A number in a square: whole ones as they are where all are, else with two places.
fn written(value: f64, all_whole: bool) -> String {
    if !value.is_finite() {
        "-".to_owned()
    } else if value.abs() >= 100.0 && !(all_whole && value.abs() < 1e5) {
        short(value)
    } else {
        let text = format!("{value:.*}", if all_whole { 0 } else { 2 });
        // What is rounded to nothing has no sign.
        let is_nothing = text.trim_start_matches(['-', '0', '.']).is_empty();
        if is_nothing { text.replace('-', "") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::style::elements;
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor {
        let count = u32::try_from(rows * columns).unwrap();
        let values = Tensor::arange(0, count, &Device::Cpu).unwrap();
        values.reshape((rows, columns)).unwrap()
    }

    #[test]
    fn draws_a_square_and_a_number_for_each_value() {
        let plot = plot_matrix(&matrix(2, 3)).unwrap();
        let plot = plot
            .title("A & B")
            .rows(&["one", "two"])
            .columns(&["a", "b", "a longer name"])
            .x_label("x")
            .y_label("y");
        let svg = plot.svg();
        let all = elements(&svg);
        assert_eq!(all.iter().filter(|name| *name == "rect").count(), 1 + 6);
        // Title, five names, two words for the sides, six numbers.
        assert_eq!(all.iter().filter(|name| *name == "text").count(), 1 + 5 + 2 + 6);
        assert!(svg.contains("A &amp; B") && svg.contains("rotate(-45"), "{svg}");
        assert!(svg.contains("fill-opacity=\"1.000\"") && svg.contains("fill-opacity=\"0.040\""));
        assert!(
            plot.text().starts_with("A & B: 2 x 3\n    0     1     2 one"),
            "{}",
            plot.text()
        );
    }

    #[test]
    fn large_ones_have_no_numbers_and_odd_ones_are_survived() {
        let large = plot_matrix(&matrix(30, 40)).unwrap();
        assert!(
            large.text().ends_with("30 x 40, from 0 to 1199"),
            "{}",
            large.text()
        );
        let names = elements(&large.svg());
        assert_eq!(names.iter().filter(|name| *name == "text").count(), 30 + 40);
        let odd = Tensor::new(&[[f64::NAN, 1.0], [f64::INFINITY, 1.0]], &Device::Cpu).unwrap();
        assert!(!plot_matrix(&odd).unwrap().svg().contains("NaN\""));
        for wrong in [matrix(1, 201), matrix(4, 2).reshape(8).unwrap()] {
            assert!(
                plot_matrix(&wrong)
                    .unwrap_err()
                    .to_string()
                    .contains("a heat map is of a matrix")
            );
        }
    }

    #[test]
    fn numbers_are_written_with_as_many_places_as_each_other() {
        let near = Tensor::new(&[[1_f64, 0.25], [-0.001, -0.5]], &Device::Cpu).unwrap();
        let text = plot_matrix(&near).unwrap().text();
        assert_eq!(text, "matrix: 2 x 2\n 1.00  0.25 0\n 0.00 -0.50 1");
        assert_eq!(
            [
                written(1234.0, true),
                written(-0.2, true),
                written(1234.5, false),
                written(f64::NAN, false)
            ],
            ["1234", "0", "1234", "-"]
        );
    }

    #[test]
    fn numbers_outside_the_range_are_drawn_as_its_ends() {
        let svg = plot_matrix(&matrix(1, 4)).unwrap().range(1.0, 2.0).svg();
        assert_eq!(svg.matches("fill-opacity=\"1.000\"").count(), 2);
        assert_eq!(svg.matches("fill-opacity=\"0.040\"").count(), 2);
    }
}
