//! How a tensor is shown: type, shape and device, minimum, mean and maximum, and its values when they are few.

use std::fmt::Write;

use candle_core::{DType, Device, Tensor, Var};

use super::{Bundle, Rich};

/// Largest tensor whose minimum, mean and maximum are worked out just to show it, in elements.
const MAX_SUMMARY_ELEMENTS: usize = 4_000_000;
/// Largest table of values, in rows and in columns.
const MAX_TABLE_SIDE: usize = 12;

impl Rich for Tensor {
    fn bundle(&self) -> Bundle {
        let head = head(self);
        let summary = summary(self);
        let mut text = head.clone();
        if let Some(summary) = &summary {
            let _ = write!(text, " · {summary}");
        }
        let _ = write!(text, "\n{self}");
        let mut html = format!("<div class=\"alephlab-tensor\"><strong>{head}</strong>");
        if let Some(summary) = &summary {
            let _ = write!(html, " <span style=\"opacity:.7\">{summary}</span>");
        }
        html.push_str(&table(self).unwrap_or_default());
        html.push_str("</div>");
        Bundle::new().text(text).html(html)
    }
}

impl Rich for Var {
    fn bundle(&self) -> Bundle {
        self.as_tensor().bundle()
    }
}

fn head(tensor: &Tensor) -> String {
    let shape: Vec<String> = tensor.dims().iter().map(ToString::to_string).collect();
    let shape = if shape.is_empty() {
        "scalar".to_owned()
    } else {
        shape.join("×")
    };
    let device = match tensor.device() {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    };
    format!("Tensor {:?} {shape} on {device}", tensor.dtype())
}

fn summary(tensor: &Tensor) -> Option<String> {
    let count = tensor.elem_count();
    if count == 0 || count > MAX_SUMMARY_ELEMENTS {
        return None;
    }
    let values = values(tensor)?;
    let (mut low, mut high, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    for value in &values {
        low = low.min(*value);
        high = high.max(*value);
        sum += value;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a few million elements are exact in f64"
    )]
    let mean = sum / count as f64;
    Some(format!(
        "min {}, mean {}, max {}",
        number(low),
        number(mean),
        number(high)
    ))
}

fn table(tensor: &Tensor) -> Option<String> {
    let (rows, columns) = match tensor.dims() {
        [columns] => (1, *columns),
        [rows, columns] => (*rows, *columns),
        _ => return None,
    };
    if rows * columns == 0 || rows > MAX_TABLE_SIDE || columns > MAX_TABLE_SIDE {
        return None;
    }
    let values = values(tensor)?;
    let mut html = "<table style=\"text-align:right\">".to_owned();
    for row in values.chunks(columns) {
        html.push_str("<tr>");
        for value in row {
            let _ = write!(html, "<td>{}</td>", number(*value));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    Some(html)
}

/// All values, row by row; nothing for a type that has no conversion here.
fn values(tensor: &Tensor) -> Option<Vec<f64>> {
    tensor
        .to_dtype(DType::F64)
        .ok()?
        .flatten_all()
        .ok()?
        .to_vec1()
        .ok()
}

/// Six digits at most: enough to compare, few enough to read.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-4..1e6).contains(&size) {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.3e}")
    }
}
