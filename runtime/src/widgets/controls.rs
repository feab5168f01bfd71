//! The controls themselves. Each handle is a view of one model; clones show and change the same.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::model::{Model, State};
use crate::display::{Bundle, Rich};

/// Clicks that have happened, in a button's state.
const CLICKS: &str = "_clicks";

/// A slider of numbers.
#[derive(Debug, Clone)]
pub struct Slider {
    model: Arc<Model>,
}

/// A slider of whole numbers.
#[derive(Debug, Clone)]
pub struct IntSlider {
    model: Arc<Model>,
}

/// A button.
#[derive(Debug, Clone)]
pub struct Button {
    model: Arc<Model>,
}

/// A field for a line of text.
#[derive(Debug, Clone)]
pub struct TextField {
    model: Arc<Model>,
}

/// A bar that the code moves. For a loop [`crate::progress()`] is easier.
#[derive(Debug, Clone)]
pub struct ProgressBar {
    model: Arc<Model>,
}

/// A slider of numbers in `range`, in a hundred steps, at its start.
pub fn slider(label: impl Into<String>, range: RangeInclusive<f64>) -> Slider {
    let (min, max) = ordered(*range.start(), *range.end());
    let step = (max - min) / 100.0;
    let state = object(
        json!({ "description": label.into(), "min": min, "max": max, "step": step, "value": min,
        "continuous_update": true, "orientation": "horizontal", "readout": true, "readout_format": ".4~g",
        "disabled": false }),
    );
    Slider {
        model: Model::open("FloatSliderModel", "SliderStyleModel", state),
    }
}

/// A slider of whole numbers in `range`, at its start.
pub fn int_slider(label: impl Into<String>, range: RangeInclusive<i64>) -> IntSlider {
    let (min, max) = ordered(*range.start(), *range.end());
    let state = object(
        json!({ "description": label.into(), "min": min, "max": max, "step": 1, "value": min,
        "continuous_update": true, "orientation": "horizontal", "readout": true, "readout_format": "d",
        "disabled": false }),
    );
    IntSlider {
        model: Model::open("IntSliderModel", "SliderStyleModel", state),
    }
}

/// A button with a label.
pub fn button(label: impl Into<String>) -> Button {
    let state = object(
        json!({ "description": label.into(), "button_style": "", "icon": "", "tooltip": null,
        "disabled": false, CLICKS: 0 }),
    );
    let model = Model::open("ButtonModel", "ButtonStyleModel", state);
    let counted = Arc::downgrade(&model);
    model.on_message(move |said| {
        if let (Some(model), true) = (counted.upgrade(), is_click(said)) {
            model.note(|state| {
                let clicks = state.get(CLICKS).and_then(Value::as_u64).unwrap_or_default();
                state.insert(CLICKS.to_owned(), json!(clicks + 1));
            });
        }
    });
    Button { model }
}

/// A field for a line of text, with what it holds at first.
pub fn text_field(label: impl Into<String>, text: impl Into<String>) -> TextField {
    let state = object(
        json!({ "description": label.into(), "value": text.into(), "placeholder": "",
        "continuous_update": true, "disabled": false }),
    );
    TextField {
        model: Model::open("TextModel", "TextStyleModel", state),
    }
}

/// A bar from 0 to `max`, at 0.
pub fn progress_bar(label: impl Into<String>, max: f64) -> ProgressBar {
    let state = object(
        json!({ "description": label.into(), "min": 0.0, "max": max, "value": 0.0,
        "bar_style": "", "orientation": "horizontal" }),
    );
    ProgressBar {
        model: Model::open("FloatProgressModel", "ProgressStyleModel", state),
    }
}

impl Slider {
    /// Where it stands.
    pub fn value(&self) -> f64 {
        self.model.get("value").as_f64().unwrap_or_default()
    }

    /// Moves it, in all clients. A value outside the range becomes its nearest end.
    pub fn set(&self, value: f64) {
        let number = |name| self.model.get(name).as_f64().unwrap_or(value);
        self.model
            .set("value", json!(value.max(number("min")).min(number("max"))));
    }

    /// Distance between two values.
    #[must_use]
    pub fn step(self, step: f64) -> Self {
        self.model.set("step", json!(step));
        self
    }

    /// Calls `callback` with the value whenever a person moves it, also while a cell runs.
    pub fn on_change(&self, callback: impl Fn(f64) + Send + Sync + 'static) {
        self.model
            .on_change(move |value| callback(value.as_f64().unwrap_or_default()));
    }
}

impl IntSlider {
    /// Where it stands.
    pub fn value(&self) -> i64 {
        whole(&self.model.get("value"))
    }

    /// Moves it, in all clients. A value outside the range becomes its nearest end.
    pub fn set(&self, value: i64) {
        let (min, max) = (whole(&self.model.get("min")), whole(&self.model.get("max")));
        self.model.set("value", json!(value.max(min).min(max)));
    }

    /// Calls `callback` with the value whenever a person moves it, also while a cell runs.
    pub fn on_change(&self, callback: impl Fn(i64) + Send + Sync + 'static) {
        self.model.on_change(move |value| callback(whole(value)));
    }
}

impl Button {
    /// How often it was clicked.
    pub fn clicks(&self) -> u64 {
        self.model.get(CLICKS).as_u64().unwrap_or_default()
    }

    /// Waits for the next click. An interrupt ends the wait and the cell.
    pub fn wait(&self) {
        let before = self.clicks();
        self.model
            .wait_until(|state| state.get(CLICKS).and_then(Value::as_u64) > Some(before));
    }

    /// Calls `callback` at each click, also while a cell runs.
    pub fn on_click(&self, callback: impl Fn() + Send + Sync + 'static) {
        self.model.on_message(move |said| {
            if is_click(said) {
                callback();
            }
        });
    }

    /// Whether it can be clicked.
    pub fn set_enabled(&self, enabled: bool) {
        self.model.set("disabled", json!(!enabled));
    }
}

impl TextField {
    /// What it holds.
    pub fn value(&self) -> String {
        self.model.get("value").as_str().unwrap_or_default().to_owned()
    }

    /// Changes what it holds, in all clients.
    pub fn set(&self, text: impl Into<String>) {
        self.model.set("value", json!(text.into()));
    }

    /// Calls `callback` with the text whenever a person changes it, also while a cell runs.
    pub fn on_change(&self, callback: impl Fn(&str) + Send + Sync + 'static) {
        self.model
            .on_change(move |value| callback(value.as_str().unwrap_or_default()));
    }
}

impl ProgressBar {
    /// Where it stands.
    pub fn value(&self) -> f64 {
        self.model.get("value").as_f64().unwrap_or_default()
    }

    /// Moves it.
    pub fn set(&self, value: f64) {
        self.model.set("value", json!(value));
    }
}

impl Rich for Slider {
    fn bundle(&self) -> Bundle {
        described(&self.model, "slider", &self.value().to_string())
    }
}

impl Rich for IntSlider {
    fn bundle(&self) -> Bundle {
        described(&self.model, "slider", &self.value().to_string())
    }
}

impl Rich for Button {
    fn bundle(&self) -> Bundle {
        described(&self.model, "button", &format!("{} clicks", self.clicks()))
    }
}

impl Rich for TextField {
    fn bundle(&self) -> Bundle {
        described(&self.model, "text field", &format!("{:?}", self.value()))
    }
}

impl Rich for ProgressBar {
    fn bundle(&self) -> Bundle {
        let max = self.model.get("max").as_f64().unwrap_or_default();
        described(&self.model, "progress", &format!("{} of {max}", self.value()))
    }
}

/// The view, with label and value for clients that draw no widgets.
pub(super) fn described(model: &Model, kind: &str, value: &str) -> Bundle {
    let label = model.get("description");
    match label.as_str() {
        Some(label) if !label.is_empty() => model.bundle(&format!("{label}: {value} ({kind})")),
        _ => model.bundle(&format!("{kind}: {value}")),
    }
}

fn is_click(said: &Value) -> bool {
    said["event"] == "click"
}

/// A whole number; clients may send `3.0`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float that stands for a whole number"
)]
fn whole(value: &Value) -> i64 {
    let float = || value.as_f64().map(|float| float.round() as i64);
    value.as_i64().or_else(float).unwrap_or_default()
}

fn ordered<T: PartialOrd>(start: T, end: T) -> (T, T) {
    if start <= end { (start, end) } else { (end, start) }
}

pub(super) fn object(value: Value) -> State {
    match value {
        Value::Object(state) => state,
        _ => State::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_the_range_becomes_its_nearest_end() {
        let rate = slider("learning rate", 0.0..=1.0);
        rate.set(7.0);
        assert!((rate.value() - 1.0).abs() < f64::EPSILON);
        let layers = int_slider("layers", RangeInclusive::new(4, 1));
        assert_eq!(layers.value(), 1);
        layers.set(-3);
        assert_eq!(layers.value(), 1);
    }

    #[test]
    fn clients_that_draw_no_widgets_read_label_and_value() {
        let field = text_field("name", "Ada");
        assert_eq!(field.bundle().as_text(), Some("name: \"Ada\" (text field)"));
        let bar = progress_bar("", 4.0);
        bar.set(1.0);
        assert_eq!(bar.bundle().as_text(), Some("progress: 1 of 4"));
    }
}
