//! Points in a plane, in groups of one colour, as SVG.

use std::fmt::Write as _;

use plotters::prelude::*;

use super::short;
use super::style::{Area, Axes, Drawn, SERIES, frame, head, nothing, svg};
use crate::display::{Bundle, Rich};
use crate::{Error, Result};

/// Size of the picture in CSS pixels.
const SIZE: (u32, u32) = (640, 380);
/// Points of one group: more cannot be told from each other, and a picture of them is slow to show.
const POINTS_MAX: usize = 5_000;

/// Points in a plane. Shown as the last expression of a cell or with `display`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointPlot {
    title: String,
    x_label: String,
    y_label: String,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq)]
struct Group {
    name: String,
    points: Vec<(f64, f64)>,
    /// Of how many.
    count: usize,
}

/// A chart of points: `plot_points(&xs, &ys)?`, or of several groups, `PointPlot::default().group("owls", &xs, &ys)?`.
///
/// # Errors
/// [`Error::Plot`] when there are more of one than of the other.
pub fn plot_points(xs: &[f64], ys: &[f64]) -> Result<PointPlot> {
    PointPlot::default().group("", xs, ys)
}

impl PointPlot {
    /// What stands over the chart.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// What the horizontal axis is.
    #[must_use]
    pub fn x_label(mut self, label: impl Into<String>) -> Self {
        self.x_label = label.into();
        self
    }

    /// What the vertical axis is.
    #[must_use]
    pub fn y_label(mut self, label: impl Into<String>) -> Self {
        self.y_label = label.into();
        self
    }

    /// Adds points of one colour. The first six groups have colours of their own. Points of which a value is missing are
    /// left out; of many thousands some are drawn.
    ///
    /// # Errors
    /// [`Error::Plot`] when there are more of one than of the other.
    pub fn group(mut self, name: impl Into<String>, xs: &[f64], ys: &[f64]) -> Result<Self> {
        if xs.len() != ys.len() {
            return Err(Error::Plot {
                reason: format!(
                    "points have two values each, and here are {} and {}",
                    xs.len(),
                    ys.len()
                ),
            });
        }
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        let points: Vec<(f64, f64)> = xs
            .iter()
            .copied()
            .zip(ys.iter().copied())
            .filter(finite)
            .collect();
        let step = points.len().div_ceil(POINTS_MAX).max(1);
        self.groups.push(Group {
            name: name.into(),
            count: points.len(),
            points: points.into_iter().step_by(step).collect(),
        });
        Ok(self)
    }

    /// The chart as SVG.
    ///
    /// # Errors
    /// [`Error::Plot`] when it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        svg(SIZE, &self.text(), |area| self.draw(area))
    }

    /// The chart in words: of each group the number of points and where they lie.
    pub fn text(&self) -> String {
        let mut text = self.title.clone();
        for group in &self.groups {
            let line = if text.is_empty() { "" } else { "\n" };
            let name = if group.name.is_empty() {
                "points"
            } else {
                &group.name
            };
            let _ = write!(text, "{line}{name}: {}", group.count);
            if let Some(((left, right), (low, high))) = bounds(&group.points) {
                let [left, right, low, high] = [left, right, low, high].map(short);
                let _ = write!(text, ", from {left} to {right} and from {low} to {high}");
            }
        }
        text
    }

    fn draw(&self, root: &Area<'_>) -> Drawn {
        let names: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        head(root, &self.title, &names)?;
        let all: Vec<(f64, f64)> = self
            .groups
            .iter()
            .flat_map(|group| group.points.clone())
            .collect();
        let Some((xs, ys)) = bounds(&all) else {
            return nothing(root);
        };
        let axes = Axes {
            x_label: &self.x_label,
            y_label: &self.y_label,
            y_labels: 6,
            x_mesh: true,
            x_text: &|x| short(*x),
        };
        let mut chart = frame(root, [aired(xs), aired(ys)], &axes)?;
        for (number, group) in self.groups.iter().enumerate() {
            let colour = SERIES[number % SERIES.len()].mix(0.7);
            let points = group.points.iter();
            chart.draw_series(points.map(|&point| Circle::new(point, 4, colour.filled())))?;
        }
        Ok(())
    }
}

impl Rich for PointPlot {
    fn bundle(&self) -> Bundle {
        let bundle = Bundle::new().text(self.text());
        match self.svg() {
            Ok(svg) => bundle.svg(svg),
            Err(_) => bundle,
        }
    }
}

type Range = (f64, f64);

/// Least and greatest of both values; none when there is no point.
fn bounds(points: &[(f64, f64)]) -> Option<(Range, Range)> {
    let mut all = points.iter().copied();
    let (x, y) = all.next()?;
    Some(all.fold(((x, x), (y, y)), |(xs, ys), (x, y)| {
        ((xs.0.min(x), xs.1.max(x)), (ys.0.min(y), ys.1.max(y)))
    }))
}

/// A little more to both sides.
fn aired((low, high): Range) -> Range {
    let air = if high > low {
        (high - low) * 0.05
    } else {
        low.abs().max(1.0) * 0.1
    };
    (low - air, high + air)
}

#[cfg(test)]
mod tests {
    use super::super::style::elements;
    use super::*;

    #[test]
    fn draws_a_circle_for_each_point_that_is_whole() {
        let plot = PointPlot::default()
            .title("Birds")
            .x_label("mass")
            .y_label("length")
            .group("owls", &[1.0, 2.0, f64::NAN], &[3.0, 4.0, 5.0])
            .unwrap()
            .group("elks", &[9.0], &[1.0])
            .unwrap();
        let svg = plot.svg().unwrap();
        // Two names have a dot each.
        assert_eq!(
            elements(&svg).iter().filter(|name| *name == "circle").count(),
            3 + 2
        );
        assert!(svg.contains("length") && svg.contains("mass"));
        assert_eq!(
            plot.text(),
            "Birds\nowls: 2, from 1 to 2 and from 3 to 4\nelks: 1, from 9 to 9 and from 1 to 1"
        );
    }

    #[test]
    fn survives_no_points_equal_points_and_many() {
        for points in [vec![], vec![1.0; 3], vec![f64::NAN], vec![0.0]] {
            elements(&plot_points(&points, &points).unwrap().svg().unwrap());
        }
        let many: Vec<f64> = (0..20_000).map(f64::from).collect();
        let plot = plot_points(&many, &many).unwrap();
        assert!(plot.groups[0].points.len() <= POINTS_MAX);
        assert!(plot.text().starts_with("points: 20000"), "{}", plot.text());
        assert!(plot_points(&many, &many[1..]).is_err());
    }
}
