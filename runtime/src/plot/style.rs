//! What all drawn charts have in common: the interface's colours, light and dark, its font, and the frame around a
//! drawing. Called by the charts beside it.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::short;
use crate::{Error, Result};

pub(super) const SURFACE: RGBColor = RGBColor(0xff, 0xff, 0xff);
pub(super) const INK: RGBColor = RGBColor(0x1c, 0x1a, 0x16);
pub(super) const QUIET: RGBColor = RGBColor(0x6b, 0x65, 0x59);
pub(super) const DIVIDER: RGBColor = RGBColor(0xe3, 0xdf, 0xd6);
pub(super) const SERIES: [RGBColor; 6] = [
    RGBColor(0x1b, 0x4f, 0xbf),
    RGBColor(0x0e, 0x80, 0x74),
    RGBColor(0xc7, 0x7a, 0x12),
    RGBColor(0xa3, 0x36, 0x7d),
    RGBColor(0x5b, 0x6b, 0x0f),
    RGBColor(0xb8, 0x3a, 0x2e),
];
pub(super) const FONT: &str = "Instrument Sans, system-ui, sans-serif";

/// The dark half of the interface's colours; drawings hold only the light ones.
pub(super) const DARK: &str = "<style>@media (prefers-color-scheme: dark) {\
    [fill=\"#FFFFFF\"] { fill: #1b1a18 } [fill=\"#1C1A16\"] { fill: #f2efe8 } [fill=\"#6B6559\"] { fill: #9b958a } \
    [stroke=\"#E3DFD6\"] { stroke: #302d29 } [stroke=\"#1B4FBF\"] { stroke: #7ea5ff } \
    [stroke=\"#0E8074\"] { stroke: #4cc4b4 } [stroke=\"#C77A12\"] { stroke: #e6ac4e } \
    [stroke=\"#A3367D\"] { stroke: #e48cc4 } [stroke=\"#5B6B0F\"] { stroke: #b6c65a } \
    [stroke=\"#B83A2E\"] { stroke: #f08a7f } [fill=\"#A3367D\"] { fill: #e48cc4 } [fill=\"#5B6B0F\"] { fill: #b6c65a } \
    [fill=\"#B83A2E\"] { fill: #f08a7f } \
    [fill=\"#1B4FBF\"] { fill: #7ea5ff } [fill=\"#0E8074\"] { fill: #4cc4b4 } [fill=\"#C77A12\"] { fill: #e6ac4e } \
    }</style>";

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(super) type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A drawing of this size in CSS pixels as SVG; `text` is what it says to whoever does not see it.
pub(super) fn svg(size: (u32, u32), text: &str, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let failed = |reason: &dyn std::fmt::Display| Error::Plot {
        reason: reason.to_string(),
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&SURFACE).map_err(|reason| failed(&reason))?;
        draw(&root).map_err(|reason| failed(&reason))?;
        root.present().map_err(|reason| failed(&reason))?;
    }
    let head = svg
        .find('>')
        .ok_or_else(|| failed(&"the drawing has no beginning"))?;
    svg.insert_str(head + 1, &format!("\n<title>{}</title>{DARK}", escaped(text)));
    svg.insert_str(head, " role=\"img\"");
    Ok(svg)
}

/// The interface's font. plotters writes sizes that are smaller by 1.24, so that a line of text is that high.
pub(super) fn font(pixels: u32) -> FontDesc<'static> {
    (FONT, f64::from(pixels) * 1.24).into_font()
}

/// The title at the left, and the names of what is drawn right-aligned in the same row.
pub(super) fn head(area: &Area<'_>, title: &str, names: &[&str]) -> Drawn {
    area.draw(&Text::new(title.to_owned(), (16, 14), font(15).color(&INK)))?;
    let mut right = width_of(area) - 20;
    for (number, name) in names
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, name)| !name.is_empty())
    {
        let style = font(13).color(&QUIET).pos(Pos::new(HPos::Right, VPos::Top));
        area.draw(&Text::new((*name).to_owned(), (right, 15), style))?;
        // The width of the font is not known here; a little more than half its height a letter is a good guess.
        let letters = i32::try_from(name.chars().count()).unwrap_or(80).min(80);
        let dot = right - letters * 15 / 2 - 9;
        area.draw(&Circle::new((dot, 22), 4, SERIES[number % SERIES.len()].filled()))?;
        right = dot - 18;
    }
    Ok(())
}

/// The axes of a chart: its frame, in which points and lines are drawn then.
pub(super) struct Axes<'a> {
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    /// About how many numbers stand at the vertical axis.
    pub(super) y_labels: usize,
    /// Whether lines go up from the horizontal axis.
    pub(super) x_mesh: bool,
    /// A number at the horizontal axis.
    pub(super) x_text: &'a dyn Fn(&f64) -> String,
}

pub(super) type Chart<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the frame below the head of a chart; ranges are those of both axes.
pub(super) fn frame<'a, 'b>(
    root: &'b Area<'a>,
    [xs, ys]: [(f64, f64); 2],
    axes: &Axes<'_>,
) -> std::result::Result<Chart<'a, 'b>, DrawingAreaErrorKind<std::io::Error>> {
    let (left, area) = if axes.y_label.is_empty() { (0, 58) } else { (8, 74) };
    let mut chart = ChartBuilder::on(root)
        .margin_top(46)
        .margin_right(20)
        .margin_left(left)
        .margin_bottom(if axes.x_label.is_empty() { 8 } else { 26 })
        .x_label_area_size(26)
        .y_label_area_size(area)
        .build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?;
    let y_text = |y: &f64| short(*y);
    let mut mesh = chart.configure_mesh();
    if !axes.x_mesh {
        mesh.disable_x_mesh();
    }
    if !axes.y_label.is_empty() {
        mesh.y_desc(axes.y_label);
    }
    mesh.axis_style(DIVIDER)
        .bold_line_style(DIVIDER)
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .y_labels(axes.y_labels)
        .x_label_formatter(axes.x_text)
        .y_label_formatter(&y_text)
        .axis_desc_style(font(12).color(&QUIET))
        .label_style(font(12).color(&QUIET))
        .draw()?;
    under(root, axes.x_label)?;
    Ok(chart)
}

/// What an empty chart says.
pub(super) fn nothing(area: &Area<'_>) -> Drawn {
    let (_, height) = area.dim_in_pixel();
    let middle = (width_of(area) / 2, i32::try_from(height / 2).unwrap_or(0));
    let style = font(14).color(&QUIET).pos(Pos::new(HPos::Center, VPos::Center));
    area.draw(&Text::new("no values yet", middle, style))
}

/// What stands under the horizontal axis.
fn under(area: &Area<'_>, label: &str) -> Drawn {
    let (_, height) = area.dim_in_pixel();
    let bottom = i32::try_from(height).unwrap_or(0) - 8;
    let style = font(12).color(&QUIET).pos(Pos::new(HPos::Center, VPos::Bottom));
    area.draw(&Text::new(
        label.to_owned(),
        (width_of(area) / 2 + 20, bottom),
        style,
    ))
}

fn width_of(area: &Area<'_>) -> i32 {
    i32::try_from(area.dim_in_pixel().0).unwrap_or(0)
}

/// Text that may stand inside SVG.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Names of the elements of an XML text; panics where tags do not close each other.
#[cfg(test)]
pub(super) fn elements(xml: &str) -> Vec<String> {
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
