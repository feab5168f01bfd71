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

/// Without what the compiler made, and with types as Rust writes them.
pub(super) fn variables(body: &mut Value) {
    let Some(variables) = body["variables"].as_array_mut() else {
        return;
    };
    variables.retain(|one| !one["name"].as_str().unwrap_or_default().starts_with(HIDDEN));
    for one in variables {
        if one["variablesReference"] == 0 {
            // JupyterLab's tree shows the type of a value where it has one, and the value only otherwise.
            one.as_object_mut().map(|one| one.remove("type"));
        } else if let Some(kind) = one["type"].as_str() {
            let kind = rust_type(kind);
            let size = one["value"].as_str().filter(|value| value.starts_with("size="));
            one["type"] = json!(size.map_or(kind.clone(), |size| format!("{kind} {size}")));
        }
    }
}

/// `alloc::vec::Vec<double, alloc::alloc::Global>` as `Vec<f64>`: lldb names numbers as C does.
fn rust_type(kind: &str) -> String {
    const NUMBERS: [(&str, &str); 12] = [
        ("unsigned long long", "u64"),
        ("unsigned long", "u64"),
        ("unsigned short", "u16"),
        ("unsigned char", "u8"),
        ("unsigned int", "u32"),
        ("signed char", "i8"),
        ("long long", "i64"),
        ("double", "f64"),
        ("float", "f32"),
        ("short", "i16"),
        ("long", "i64"),
        ("int", "i32"),
    ];
    let mut out = String::new();
    let mut word = String::new();
    for c in kind.chars().chain(['\0']) {
        if c.is_alphanumeric() || c == '_' || c == ':' || c == ' ' && !word.ends_with(',') {
            word.push(c);
            continue;
        }
        let bare = word.trim();
        let last = bare.rsplit("::").next().unwrap_or(bare);
        let number = NUMBERS.iter().find(|(name, _)| *name == bare);
        out.push_str(number.map_or(last, |(_, rust)| rust));
        word.clear();
        match c {
            '\0' => {}
            ',' => out.push_str(", "),
            _ => out.push(c),
        }
    }
    out.replace(", Global", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_in_rust() {
        assert_eq!(
            rust_type("alloc::vec::Vec<double, alloc::alloc::Global>"),
            "Vec<f64>"
        );
        assert_eq!(
            rust_type("core::option::Option<(unsigned char, int)>"),
            "Option<(u8, i32)>"
        );
        assert_eq!(rust_type("it_5f::Point"), "Point");
    }

    #[test]
    fn values_without_parts_have_no_type_so_that_their_value_is_shown() {
        let mut body = json!({ "variables": [
            { "name": "x", "type": "int", "value": "3", "variablesReference": 0 },
            { "name": "v", "type": "alloc::vec::Vec<int>", "value": "size=2", "variablesReference": 7 },
            { "name": "__self", "type": "int", "value": "3", "variablesReference": 0 },
        ] });
        variables(&mut body);
        assert_eq!(
            body["variables"],
            json!([
                { "name": "x", "value": "3", "variablesReference": 0 },
                { "name": "v", "type": "Vec<i32> size=2", "value": "size=2", "variablesReference": 7 },
            ])
        );
    }

    #[test]
    fn a_frame_is_named_by_what_the_person_wrote() {
        assert_eq!(name("cell::alephlab_cell_entry::{closure#0}()"), "cell");
        assert_eq!(name("it_5f::Point::norm(it_5f::Point*)"), "Point::norm");
    }
}
