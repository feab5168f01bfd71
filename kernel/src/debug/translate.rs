//! The adapter's answers in a client's terms: frames of cells, their variables. Pure.

use std::path::Path;

use serde_json::{Value, json};

use super::cells::{Cells, Place};

/// Variables that begin so are the compiler's.
const HIDDEN: &str = "__";

/// Frames of cells only: what lies between and below is ours and std's, without source that a person could read.
pub(super) fn frames(body: &mut Value, cells: &Cells) {
    let frames = body["stackFrames"].as_array().cloned().unwrap_or_default();
    let of_cells: Vec<Value> = frames.iter().filter_map(|frame| of_cell(frame, cells)).collect();
    let count = of_cells.len();
    body["stackFrames"] = Value::Array(of_cells);
    body["totalFrames"] = json!(count);
}

/// How many frames are cells', and the place of the newest frame when it is one.
pub(super) fn position(body: &Value, cells: &Cells) -> (usize, Option<Place>) {
    let frames = body["stackFrames"].as_array().map_or(&[][..], Vec::as_slice);
    let place = |frame: &Value| {
        let file = frame["source"]["path"].as_str()?;
        cells.place(Path::new(file), frame["line"].as_u64()?).cloned()
    };
    let of_cells = frames.iter().filter(|frame| place(frame).is_some()).count();
    (of_cells, frames.first().and_then(place))
}

fn of_cell(frame: &Value, cells: &Cells) -> Option<Value> {
    let file = frame["source"]["path"].as_str()?;
    let place = cells.place(Path::new(file), frame["line"].as_u64()?)?;
    let mut frame = frame.clone();
    frame["source"] = json!({ "path": place.path, "name": place.path });
    frame["line"] = json!(place.line);
    // Columns of the generated file are shifted by what was inserted.
    frame["column"] = json!(1);
    frame["name"] = json!(name(frame["name"].as_str().unwrap_or_default()));
    Some(frame)
}

/// `it_5f…::Point::norm(&self)` without the crate, and a cell's own code as such.
fn name(full: &str) -> String {
    let path = full.split('(').next().unwrap_or(full);
    if path.contains(crate::child::ENTRY) || path.starts_with("cell::") {
        return "cell".to_owned();
    }
    path.split_once("::").map_or(path, |(_, rest)| rest).to_owned()
}

/// What a function has: registers and the process's statics are thousands of lines that nobody asked for.
pub(super) fn scopes(body: &mut Value) {
    if let Some(scopes) = body["scopes"].as_array_mut() {
        scopes.retain(|scope| scope["name"] == "Locals");
    }
}

/// Without what the compiler made.
pub(super) fn variables(body: &mut Value) {
    if let Some(variables) = body["variables"].as_array_mut() {
        variables.retain(|one| {
            let name = one["name"].as_str().unwrap_or_default();
            !name.starts_with(HIDDEN)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_named_by_what_the_person_wrote() {
        assert_eq!(name("cell::alephlab_cell_entry::{closure#0}()"), "cell");
        assert_eq!(name("it_5f::Point::norm(it_5f::Point*)"), "Point::norm");
    }
}
