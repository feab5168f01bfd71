//! Line charts as SVG, in the colours of the interface, light and dark.

use std::fmt::Write as _;

use plotters::prelude::*;

use super::style::{Area, Axes, Drawn, SERIES, frame, head, nothing, svg};
use crate::Result;
use crate::display::{Bundle, Rich};

/// Size of the picture in CSS pixels.
const SIZE: (u32, u32) = (640, 320);
/// Size of each of several beside each other.
const SIZE_BESIDE: (u32, u32) = (420, 290);
/// Points drawn of one line: more cannot be seen at this width, and every redraw sends them all.
const POINTS_MAX: usize = 640;

/// Lines over a shared axis. Shown as the last expression of a cell or with `display`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinePlot {
    title: String,
    x_label: String,
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: String,
    values: Vec<f64>,
}

/// A chart of `values`, the first of them at 1.
pub fn plot(values: &[f64]) -> LinePlot {
    LinePlot::default().line("", values)
}

impl LinePlot {
    /// What stands over the chart.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// What stands under the horizontal axis, such as `epoch`.
    #[must_use]
    pub fn x_label(mut self, label: impl Into<String>) -> Self {
        self.x_label = label.into();
        self
    }

    /// Adds a line. The first six have colours of their own.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, values: &[f64]) -> Self {
        self.lines.push(Line {
            name: name.into(),
            values: values.to_vec(),
        });
        self
    }

    /// The chart as SVG. Values that are no numbers are left out.
    ///
    /// # Errors
    /// [`crate::Error::Plot`] when it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        svg(SIZE, &self.text(), |area| self.draw(area))
    }

    /// The chart in words, with one small line of blocks for each line.
    pub fn text(&self) -> String {
        let mut text = if self.title.is_empty() {
            String::new()
        } else {
            format!("{}\n", self.title)
        };
        let width = self
            .lines
            .iter()
            .map(|line| line.name.chars().count())
            .max()
            .unwrap_or(0);
        for Line { name, values } in &self.lines {
            let numbers: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
            let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
                let _ = writeln!(text, "{name:width$} no values yet");
                continue;
            };
            let (first, last) = (short(*first), short(*last));
            let _ = writeln!(text, "{name:width$} {} {first} to {last}", sparkline(&numbers));
        }
        text.trim_end().to_owned()
    }

    fn draw(&self, root: &Area<'_>) -> Drawn {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        head(root, &self.title, &names)?;
        let points: Vec<Vec<(f64, f64)>> = self.lines.iter().map(|line| points(&line.values)).collect();
        let Some((xs, ys)) = bounds(&points) else {
            return nothing(root);
        };
        let whole = |x: &f64| {
            if x.fract() == 0.0 {
                x.to_string()
            } else {
                String::new()
            }
        };
        let axes = Axes {
            x_label: &self.x_label,
            y_label: "",
            y_labels: 5,
            x_mesh: false,
            x_text: &whole,
        };
        let mut chart = frame(root, [xs, ys], &axes)?;
        for (number, points) in points.into_iter().enumerate() {
            let colour = SERIES[number % SERIES.len()];
            if let [point] = points[..] {
                chart.draw_series([Circle::new(point, 3, colour.filled())])?;
            }
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        Ok(())
    }
}

/// Charts beside each other as one picture.
pub(crate) fn beside(plots: &[LinePlot]) -> Bundle {
    let text = plots.iter().map(LinePlot::text).collect::<Vec<_>>().join("\n");
    match svg_beside(plots, &text) {
        Ok(svg) => Bundle::new().text(text).svg(svg),
        Err(_) => Bundle::new().text(text),
    }
}

fn svg_beside(plots: &[LinePlot], text: &str) -> Result<String> {
    let (width, height) = SIZE_BESIDE;
    let count = u32::try_from(plots.len()).unwrap_or(1).max(1);
    svg((width * count, height), text, |area| {
        let areas = area.split_evenly((1, plots.len().max(1)));
        plots
            .iter()
            .zip(&areas)
            .try_for_each(|(plot, area)| plot.draw(area))
    })
}

impl Rich for LinePlot {
    fn bundle(&self) -> Bundle {
        let bundle = Bundle::new().text(self.text());
        // A chart that cannot be drawn is no reason to stop a training; the text says the same.
        match self.svg() {
            Ok(svg) => bundle.svg(svg),
            Err(_) => bundle,
        }
    }
}

/// Position and value of what is drawn: finite values only, thinned out to [`POINTS_MAX`] with the last kept.
fn points(values: &[f64]) -> Vec<(f64, f64)> {
    // Thinned after: of values that stand at every tenth place, none would be lost.
    let finite: Vec<(usize, f64)> = values
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, value)| value.is_finite())
        .collect();
    let step = finite.len().div_ceil(POINTS_MAX).max(1);
    let kept = finite
        .iter()
        .enumerate()
        .filter(|(number, _)| number % step == 0 || number + 1 == finite.len());
    kept.map(|(_, &(at, value))| ((at + 1) as f64, value)).collect()
}

/// Lowest and highest position and value, with a little air; none when there is no point.
fn bounds(lines: &[Vec<(f64, f64)>]) -> Option<((f64, f64), (f64, f64))> {
    let mut all = lines.iter().flatten().copied();
    let (x, y) = all.next()?;
    let (mut xs, mut ys) = ((x, x), (y, y));
    for (x, y) in all {
        xs = (xs.0.min(x), xs.1.max(x));
        ys = (ys.0.min(y), ys.1.max(y));
    }
    let air = if ys.1 > ys.0 {
        (ys.1 - ys.0) * 0.06
    } else {
        ys.0.abs().max(1.0) * 0.1
    };
    let low = if ys.0 >= 0.0 {
        (ys.0 - air).max(0.0)
    } else {
        ys.0 - air
    };
    Some(((xs.0.min(1.0), xs.1.max(xs.0 + 1.0)), (low, ys.1 + air)))
}

/// A number with about three digits that count.
pub(crate) fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 {
        "0".to_owned()
    } else if !(1e-4..1e6).contains(&magnitude) {
        format!("{value:.2e}")
    } else if magnitude >= 100.0 {
        format!("{value:.0}")
    } else {
        let digits = if magnitude >= 10.0 {
            1
        } else if magnitude >= 1.0 {
            2
        } else if magnitude >= 0.01 {
            3
        } else {
            5
        };
        let text = format!("{value:.digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of 0 to 1 times 7"
)]
fn sparkline(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const WIDTH: usize = 24;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = values.len().min(WIDTH);
    let block = |at: usize| {
        let value = values[at * (values.len() - 1) / (width - 1).max(1)];
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.0
        };
        BLOCKS[((share * (BLOCKS.len() - 1) as f64).round() as usize).min(BLOCKS.len() - 1)]
    };
    (0..width).map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::super::style::elements;
    use super::*;

    fn chart() -> LinePlot {
        let falling: Vec<f64> = (0..30)
            .map(|epoch| 2.3 * (-0.2 * f64::from(epoch)).exp() + 0.02)
            .collect();
        let other: Vec<f64> = falling.iter().map(|value| value * 1.1 + 0.03).collect();
        LinePlot::default()
            .title("Loss")
            .x_label("epoch")
            .line("training", &falling)
            .line("held out", &other)
    }

    #[test]
    fn draws_well_formed_svg_with_a_line_for_each_series() {
        let svg = chart().svg().unwrap();
        let elements = elements(&svg);
        assert_eq!(elements[0], "svg");
        assert!(elements.contains(&"polyline".to_owned()));
        for colour in ["stroke=\"#1B4FBF\"", "stroke=\"#0E8074\""] {
            let lines = svg.split("<polyline").filter(|line| line.contains(colour));
            assert!(lines.count() >= 1, "{colour}");
        }
        assert!(svg.contains("held out") && svg.contains("epoch"));
    }

    #[test]
    fn survives_no_values_one_value_equal_values_and_values_that_are_no_numbers() {
        for values in [
            vec![],
            vec![1.0],
            vec![2.0; 5],
            vec![f64::NAN; 3],
            vec![1.0, f64::INFINITY, -3.0],
            vec![0.0],
        ] {
            elements(&plot(&values).svg().unwrap());
            assert!(!plot(&values).text().contains("NaN"));
        }
        elements(&LinePlot::default().title("<&>").svg().unwrap());
    }

    #[test]
    fn two_charts_stand_beside_each_other() {
        let charts = [chart(), plot(&[0.5, 0.9]).title("Accuracy")];
        let svg = svg_beside(&charts, "both").unwrap();
        elements(&svg);
        assert!(
            svg.contains("Loss") && svg.contains("Accuracy") && svg.contains("width=\"840\""),
            "{svg}"
        );
        assert!(beside(&charts).as_text().unwrap().contains("\nAccuracy\n"));
        elements(&svg_beside(&[], "").unwrap());
    }

    #[test]
    fn keeps_the_last_of_many_points() {
        let values: Vec<f64> = (0..100_000).map(f64::from).collect();
        let points = points(&values);
        assert!(points.len() <= POINTS_MAX + 1);
        assert_eq!(points.last(), Some(&(100_000.0, 99_999.0)));
        let sparse: Vec<f64> = (0..5_000)
            .map(|at| if at % 100 == 99 { 1.0 } else { f64::NAN })
            .collect();
        assert_eq!(super::points(&sparse).len(), 50);
    }

    #[test]
    fn says_the_chart_in_words() {
        let text = chart().text();
        assert!(text.starts_with("Loss\ntraining █"), "{text}");
        assert!(text.contains("2.32 to 0.027"), "{text}");
        assert_eq!(plot(&[]).text().trim(), "no values yet");
        assert_eq!(sparkline(&[0.0, 1.0]), "▁█");
        assert_eq!(
            [0.98333, 12.345, 0.00001, 1234567.0, 100.0].map(short).join(" "),
            "0.983 12.3 1.00e-5 1.23e6 100"
        );
    }
}
