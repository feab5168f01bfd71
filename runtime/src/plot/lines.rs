//! Line charts as SVG, in the colours of the interface, light and dark.

use std::fmt::Write as _;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::display::{Bundle, Rich};
use crate::{Error, Result};

/// Size of the picture in CSS pixels.
const SIZE: (u32, u32) = (640, 320);
/// Points drawn of one line: more cannot be seen at this width, and every redraw sends them all.
const POINTS_MAX: usize = 640;

const SURFACE: RGBColor = RGBColor(0xff, 0xff, 0xff);
const INK: RGBColor = RGBColor(0x1c, 0x1a, 0x16);
const QUIET: RGBColor = RGBColor(0x6b, 0x65, 0x59);
const DIVIDER: RGBColor = RGBColor(0xe3, 0xdf, 0xd6);
const SERIES: [RGBColor; 6] = [
    RGBColor(0x1b, 0x4f, 0xbf),
    RGBColor(0x0e, 0x80, 0x74),
    RGBColor(0xc7, 0x7a, 0x12),
    RGBColor(0xa3, 0x36, 0x7d),
    RGBColor(0x5b, 0x6b, 0x0f),
    RGBColor(0xb8, 0x3a, 0x2e),
];
const FONT: &str = "Instrument Sans, system-ui, sans-serif";

/// The dark half of the interface's colours; plotters writes only the light ones.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) {\
    [fill=\"#FFFFFF\"] { fill: #1b1a18 } [fill=\"#1C1A16\"] { fill: #f2efe8 } [fill=\"#6B6559\"] { fill: #9b958a } \
    [stroke=\"#E3DFD6\"] { stroke: #302d29 } [stroke=\"#1B4FBF\"] { stroke: #7ea5ff } \
    [stroke=\"#0E8074\"] { stroke: #4cc4b4 } [stroke=\"#C77A12\"] { stroke: #e6ac4e } \
    [stroke=\"#A3367D\"] { stroke: #e48cc4 } [stroke=\"#5B6B0F\"] { stroke: #b6c65a } \
    [stroke=\"#B83A2E\"] { stroke: #f08a7f } [fill=\"#A3367D\"] { fill: #e48cc4 } [fill=\"#5B6B0F\"] { fill: #b6c65a } \
    [fill=\"#B83A2E\"] { fill: #f08a7f } \
    [fill=\"#1B4FBF\"] { fill: #7ea5ff } [fill=\"#0E8074\"] { fill: #4cc4b4 } [fill=\"#C77A12\"] { fill: #e6ac4e } \
    }</style>";

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
    /// [`Error::Plot`] when it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw(&root).map_err(|reason| Error::Plot {
                reason: reason.to_string(),
            })?;
            root.present().map_err(|reason| Error::Plot {
                reason: reason.to_string(),
            })?;
        }
        let Some(head) = svg.find('>') else {
            return Err(Error::Plot {
                reason: "the drawing has no beginning".to_owned(),
            });
        };
        svg.insert_str(
            head + 1,
            &format!("\n<title>{}</title>{DARK}", escaped(&self.text())),
        );
        svg.insert_str(head, " role=\"img\"");
        Ok(svg)
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
        root.fill(&SURFACE)?;
        let label = |pixels: u32, colour: &RGBColor| font(pixels).color(colour);
        root.draw(&Text::new(self.title.clone(), (16, 14), label(15, &INK)))?;
        self.draw_names(root)?;
        let points: Vec<Vec<(f64, f64)>> = self.lines.iter().map(|line| points(&line.values)).collect();
        let Some(((x_low, x_high), (y_low, y_high))) = bounds(&points) else {
            let style = label(14, &QUIET).pos(Pos::new(HPos::Center, VPos::Center));
            return root.draw(&Text::new("no values yet", (320, 160), style));
        };
        let mut chart = ChartBuilder::on(root)
            .margin_top(46)
            .margin_right(20)
            .margin_bottom(if self.x_label.is_empty() { 8 } else { 26 })
            .x_label_area_size(26)
            .y_label_area_size(58)
            .build_cartesian_2d(x_low..x_high, y_low..y_high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(DIVIDER)
            .bold_line_style(DIVIDER)
            .light_line_style(TRANSPARENT)
            .x_labels(8)
            .y_labels(5)
            .x_label_formatter(&|x| {
                if x.fract() == 0.0 {
                    format!("{x}")
                } else {
                    String::new()
                }
            })
            .y_label_formatter(&|y| short(*y))
            .label_style(label(12, &QUIET))
            .draw()?;
        for (number, points) in points.into_iter().enumerate() {
            let colour = SERIES[number % SERIES.len()];
            if let [point] = points[..] {
                chart.draw_series([Circle::new(point, 3, colour.filled())])?;
            }
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        let under = label(12, &QUIET).pos(Pos::new(HPos::Center, VPos::Bottom));
        root.draw(&Text::new(self.x_label.clone(), (340, 312), under))
    }

    /// The names of the lines, right-aligned in the row of the title.
    fn draw_names(&self, root: &Area<'_>) -> Drawn {
        let mut right = 620;
        for (number, line) in self
            .lines
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, line)| !line.name.is_empty())
        {
            let style = font(13).color(&QUIET).pos(Pos::new(HPos::Right, VPos::Top));
            root.draw(&Text::new(line.name.clone(), (right, 15), style))?;
            // The width of the font is not known here; half its height a letter is a good guess.
            let letters = i32::try_from(line.name.chars().count()).unwrap_or(80).min(80);
            let dot = right - letters * 13 / 2 - 9;
            root.draw(&Circle::new((dot, 22), 4, SERIES[number % SERIES.len()].filled()))?;
            right = dot - 18;
        }
        Ok(())
    }
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

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// The interface's font. plotters writes sizes that are smaller by 1.24, so that a line of text is that high.
fn font(pixels: u32) -> FontDesc<'static> {
    (FONT, f64::from(pixels) * 1.24).into_font()
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
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

    /// Names of the elements of an XML text; panics where tags do not close each other.
    fn elements(xml: &str) -> Vec<String> {
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        for tag in xml.split('<').skip(1) {
            let (inside, _) = tag.split_once('>').expect("a tag that does not end");
            let name = inside
                .split([' ', '\n', '/'])
                .find(|part| !part.is_empty())
                .unwrap()
                .to_owned();
            if inside.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else {
                seen.push(name.clone());
                if !inside.ends_with('/') {
                    open.push(name);
                }
            }
        }
        assert!(open.is_empty(), "{open:?}");
        seen
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
