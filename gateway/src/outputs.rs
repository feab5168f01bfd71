//! Collects what a cell puts out, in the form in which a notebook stores it.
//!
//! Streams of one name that follow each other are one output; `clear_output` and `update_display_data` do to the
//! stored outputs what they do on a screen. Nothing here talks to a kernel.

mod text;

use std::collections::HashMap;
use std::hash::Hash;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use text::{Said, Text};

/// A notebook that grows above this is of no use to anyone: later output of the cell is dropped, and that is said.
const CELL_OUTPUT_BYTES_MAX: usize = 64 << 20;

/// What an output takes beside its texts: itself, and what the allocator puts around them. Thousands of one letter each are
/// mostly that.
const ITEM: usize = std::mem::size_of::<Item>() + 4 * std::mem::size_of::<usize>();

/// Outputs of cells, by what names a cell.
#[derive(Default)]
pub struct Outputs<K> {
    cells: HashMap<K, CellOutputs>,
}

#[derive(Default)]
struct CellOutputs {
    items: Vec<Item>,
    clear_next: bool,
    bytes: usize,
    full: bool,
}

enum Item {
    Stream {
        name: String,
        text: Text,
    },
    Display {
        display_id: Option<String>,
        output: Map<String, Value>,
    },
    Error(Map<String, Value>),
}

/// Text as nbformat stores it: a list of lines that keep their ends.
pub fn split_lines(text: &str) -> Value {
    Value::Array(text.split_inclusive('\n').map(Value::from).collect())
}

/// Text that a file may hold as one string or as a list of lines.
pub fn joined_lines(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => String::new(),
    }
}

impl<K: Eq + Hash> Outputs<K> {
    /// None yet.
    pub fn new() -> Self {
        Self {
            cells: HashMap::new(),
        }
    }

    /// Bytes of all that is kept, roughly.
    pub fn bytes(&self) -> usize {
        self.cells
            .values()
            .map(|cell| cell.bytes.min(CELL_OUTPUT_BYTES_MAX))
            .sum()
    }

    /// Forgets a cell.
    pub fn forget<Q: Eq + Hash + ?Sized>(&mut self, cell: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cells.remove(cell);
    }

    /// The same as [`Outputs::take`] for content as it came, in a message of `whole` bytes. Text of streams is not looked into
    /// before it is asked for.
    pub(crate) fn take_raw(&mut self, cell: K, msg_type: &str, content: &Bytes, whole: usize) {
        if msg_type == "stream"
            && let Some(said) = Said::new(content, whole)
        {
            self.cells.entry(cell).or_default().stream(&said.name, said.text);
            return;
        }
        self.take(
            cell,
            msg_type,
            &serde_json::from_slice(content).unwrap_or_default(),
        );
    }

    /// Takes one IOPub message of a cell; other types are not outputs.
    pub fn take(&mut self, cell: K, msg_type: &str, content: &Value) {
        match msg_type {
            "update_display_data" => self.update(content),
            "clear_output" => self.cells.entry(cell).or_default().clear(content["wait"] == true),
            _ => self.cells.entry(cell).or_default().take(msg_type, content),
        }
    }

    /// Everything that cells have put out, as a notebook stores it. Updates reach back, so ask again at the end.
    pub fn stored<Q: Eq + Hash + ?Sized>(&self, cell: &Q) -> Vec<Value>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cells
            .get(cell)
            .map(|outputs| outputs.items.iter().map(Item::stored).collect())
            .unwrap_or_default()
    }

    fn update(&mut self, content: &Value) {
        let Some(id) = content["transient"]["display_id"].as_str() else {
            return;
        };
        for cell in self.cells.values_mut() {
            let mut grown = false;
            for item in &mut cell.items {
                let before = match item {
                    Item::Display {
                        display_id: Some(found),
                        ..
                    } if found == id => item.bytes(),
                    _ => continue,
                };
                if let Item::Display { output, .. } = item {
                    output.insert("data".to_owned(), content["data"].clone());
                    output.insert("metadata".to_owned(), object(&content["metadata"]));
                }
                cell.bytes = cell.bytes.saturating_sub(before) + item.bytes();
                grown = true;
            }
            if grown {
                cell.trim();
            }
        }
    }
}

impl CellOutputs {
    fn clear(&mut self, wait: bool) {
        self.clear_next = wait;
        if !wait {
            self.empty();
        }
    }

    fn empty(&mut self) {
        self.items.clear();
        (self.bytes, self.full) = (0, false);
    }

    /// After an update, which may have made what is there longer: what is too long then goes.
    fn trim(&mut self) {
        while self.bytes > CELL_OUTPUT_BYTES_MAX {
            let Some(last) = self.items.pop() else { return };
            self.bytes = self.bytes.saturating_sub(last.bytes());
            self.full = true;
        }
    }

    fn take(&mut self, msg_type: &str, content: &Value) {
        if msg_type == "stream" {
            let [name, text] = ["name", "text"].map(|key| content[key].as_str().unwrap_or_default());
            self.stream(name, Text::from(text));
        } else if let Some(item) = Item::from_message(msg_type, content)
            && self.has_room(item.bytes())
        {
            self.items.push(item);
        }
    }

    fn stream(&mut self, name: &str, more: Text) {
        self.clear_when_due();
        if let Some(Item::Stream { name: last, text }) = self.items.last()
            && last == name
        {
            let grows_by = text.grows_by(&more);
            if self.has_room(grows_by)
                && let Some(Item::Stream { text, .. }) = self.items.last_mut()
            {
                text.append(more);
            }
            return;
        }
        let item = Item::Stream {
            name: name.to_owned(),
            text: more,
        };
        if self.has_room(item.bytes()) {
            self.items.push(item);
        }
    }

    /// Something new comes.
    fn clear_when_due(&mut self) {
        if std::mem::take(&mut self.clear_next) {
            self.empty();
        }
    }

    /// Something of so many bytes comes: clears what was to be cleared then, and says once where it is too much.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.clear_when_due();
        if self.full {
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > CELL_OUTPUT_BYTES_MAX {
            self.full = true;
            let limit = CELL_OUTPUT_BYTES_MAX >> 20;
            let text =
                format!("[alephlab: this cell put out more than {limit} MiB; the rest is not stored]\n");
            self.items.push(Item::Stream {
                name: "stderr".to_owned(),
                text: Text::from(text.as_str()),
            });
        }
        !self.full
    }
}

impl Item {
    fn bytes(&self) -> usize {
        let values = |output: &Map<String, Value>| -> usize {
            output.values().map(|value| value.to_string().len()).sum()
        };
        let kept = match self {
            Self::Stream { name, text } => name.len() + text.bytes(),
            Self::Display { display_id, output } => {
                display_id.as_ref().map_or(0, String::len) + values(output)
            }
            Self::Error(output) => values(output),
        };
        ITEM + kept
    }

    fn from_message(msg_type: &str, content: &Value) -> Option<Self> {
        let text = |key: &str| content[key].as_str().unwrap_or_default().to_owned();
        match msg_type {
            "display_data" | "execute_result" => {
                let mut output = Map::new();
                output.insert("output_type".to_owned(), msg_type.into());
                if msg_type == "execute_result" {
                    output.insert("execution_count".to_owned(), content["execution_count"].clone());
                }
                output.insert("data".to_owned(), object(&content["data"]));
                output.insert("metadata".to_owned(), object(&content["metadata"]));
                let display_id = content["transient"]["display_id"].as_str().map(str::to_owned);
                Some(Self::Display { display_id, output })
            }
            "error" => {
                let mut output = Map::new();
                output.insert("output_type".to_owned(), "error".into());
                output.insert("ename".to_owned(), text("ename").into());
                output.insert("evalue".to_owned(), text("evalue").into());
                let lines = content["traceback"].as_array().cloned().unwrap_or_default();
                output.insert("traceback".to_owned(), Value::Array(lines));
                Some(Self::Error(output))
            }
            _ => None,
        }
    }

    fn stored(&self) -> Value {
        match self {
            Self::Stream { name, text } => {
                json!({"output_type": "stream", "name": name, "text": split_lines(&text.whole())})
            }
            Self::Display { output, .. } => {
                let mut output = output.clone();
                if let Some(Value::Object(bundle)) = output.get_mut("data") {
                    split_bundle(bundle);
                }
                Value::Object(output)
            }
            Self::Error(output) => Value::Object(output.clone()),
        }
    }
}

/// Texts of a MIME bundle become lists of lines, as nbformat writes them; JSON and base64 stay as they are.
fn split_bundle(bundle: &mut Map<String, Value>) {
    for (mime, value) in bundle.iter_mut() {
        if let (true, Value::String(text)) = (is_text(mime), &*value) {
            *value = split_lines(text);
        }
    }
}

/// Whether nbformat stores texts of this type as lists of lines.
fn is_text(mime: &str) -> bool {
    mime.starts_with("text/") || mime == "application/javascript" || mime == "image/svg+xml"
}

/// A notebook as clients want it: every text is one string.
pub(crate) fn join_notebook(notebook: &mut Value) {
    each_text(notebook, &|text| {
        if text
            .as_array()
            .is_some_and(|lines| lines.iter().all(Value::is_string))
        {
            *text = joined_lines(text).into();
        }
    });
}

/// A notebook as nbformat stores it: texts are lists of lines.
pub(crate) fn split_notebook(notebook: &mut Value) {
    each_text(notebook, &|text| {
        if let Value::String(whole) = text {
            *text = split_lines(whole);
        }
    });
}

/// Sources, streams, and texts in bundles of MIME types. A cell's word that its outputs may be trusted is nobody's here: they
/// are shown without their scripts until its reader runs it.
fn each_text(notebook: &mut Value, change: &dyn Fn(&mut Value)) {
    let cells = notebook.get_mut("cells").and_then(Value::as_array_mut);
    for cell in cells.into_iter().flatten() {
        if let Some(metadata) = cell.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("trusted");
        }
        if let Some(source) = cell.get_mut("source") {
            change(source);
        }
        let outputs = cell.get_mut("outputs").and_then(Value::as_array_mut);
        for output in outputs.into_iter().flatten() {
            if let Some(text) = output.get_mut("text") {
                change(text);
            }
            let bundle = output.get_mut("data").and_then(Value::as_object_mut);
            // A list of strings under another type is that type's own.
            for (_, value) in bundle.into_iter().flatten().filter(|(mime, _)| is_text(mime)) {
                change(value);
            }
        }
    }
}

fn object(value: &Value) -> Value {
    if value.is_object() {
        value.clone()
    } else {
        json!({})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notebooks_are_joined_for_clients_and_split_for_files() {
        let stored = json!({ "cells": [
            { "source": ["a\n", "b"], "outputs": [
                { "output_type": "stream", "text": ["1\n", "2\n"] },
                { "output_type": "display_data", "data": {
                    "text/plain": ["x\n", "y"], "application/json": ["not\n", "lines"], "image/png": "QUJD\n",
                } },
            ] },
            { "source": [], "metadata": { "tags": [] } },
        ] });
        let mut notebook = stored.clone();
        notebook["cells"][1]["metadata"]["trusted"] = true.into();
        join_notebook(&mut notebook);
        assert_eq!(
            notebook["cells"][1]["metadata"],
            json!({ "tags": [] }),
            "what a file says of itself is not trusted"
        );
        assert_eq!(notebook["cells"][0]["source"], "a\nb");
        assert_eq!(notebook["cells"][1]["source"], "");
        let outputs = &notebook["cells"][0]["outputs"];
        assert_eq!(
            (&outputs[0]["text"], &outputs[1]["data"]["text/plain"]),
            (&json!("1\n2\n"), &json!("x\ny"))
        );
        assert_eq!(outputs[1]["data"]["application/json"], json!(["not\n", "lines"]));
        split_notebook(&mut notebook);
        assert_eq!(notebook, stored);
        for odd in [
            json!([]),
            json!(1),
            json!({ "cells": 1 }),
            json!({ "cells": [1, { "outputs": [1], "metadata": 2 }] }),
        ] {
            let mut same = odd.clone();
            join_notebook(&mut same);
            assert_eq!(same, odd);
        }
    }

    fn stream(name: &str, text: &str) -> Value {
        json!({"name": name, "text": text})
    }

    #[test]
    fn streams_of_one_name_are_merged_in_order() {
        let mut outputs = Outputs::new();
        for (name, text) in [
            ("stdout", "a"),
            ("stdout", "b\nc"),
            ("stderr", "e"),
            ("stdout", "d"),
        ] {
            outputs.take(0, "stream", &stream(name, text));
        }
        assert_eq!(
            outputs.stored(&0),
            [
                json!({"output_type": "stream", "name": "stdout", "text": ["ab\n", "c"]}),
                json!({"output_type": "stream", "name": "stderr", "text": ["e"]}),
                json!({"output_type": "stream", "name": "stdout", "text": ["d"]}),
            ]
        );
    }

    #[test]
    fn an_update_reaches_the_display_of_an_earlier_cell() {
        let mut outputs = Outputs::new();
        let display =
            json!({"data": {"text/plain": "0 %"}, "metadata": {}, "transient": {"display_id": "p"}});
        outputs.take(0, "display_data", &display);
        let update = json!({"data": {"text/plain": "100 %\nx"}, "transient": {"display_id": "p"}});
        outputs.take(1, "update_display_data", &update);
        assert_eq!(
            outputs.stored(&0)[0]["data"]["text/plain"],
            json!(["100 %\n", "x"])
        );
        assert!(outputs.stored(&0)[0].get("transient").is_none());
        assert!(outputs.stored(&1).is_empty());
    }

    #[test]
    fn clear_output_waits_when_asked() {
        let mut outputs = Outputs::new();
        outputs.take(0, "stream", &stream("stdout", "1"));
        outputs.take(0, "clear_output", &json!({"wait": true}));
        assert_eq!(outputs.stored(&0).len(), 1);
        outputs.take(0, "stream", &stream("stdout", "2"));
        assert_eq!(outputs.stored(&0)[0]["text"], json!(["2"]));
        outputs.take(0, "clear_output", &json!({"wait": false}));
        assert!(outputs.stored(&0).is_empty());
    }

    #[test]
    fn images_and_json_stay_whole() {
        let mut outputs = Outputs::new();
        let data =
            json!({"image/png": "AAAA", "application/json": {"a": 1}, "image/svg+xml": "<svg>\n</svg>"});
        outputs.take(0, "execute_result", &json!({"execution_count": 4, "data": data}));
        let stored = &outputs.stored(&0)[0];
        assert_eq!(stored["data"]["image/png"], "AAAA");
        assert_eq!(stored["data"]["image/svg+xml"], json!(["<svg>\n", "</svg>"]));
        assert_eq!(
            (&stored["execution_count"], &stored["metadata"]),
            (&json!(4), &json!({}))
        );
    }

    #[test]
    fn short_outputs_count_for_what_they_take() {
        let mut outputs = Outputs::new();
        for number in 0..1000 {
            let name = if number % 2 == 0 { "stdout" } else { "stderr" };
            outputs.take(0, "stream", &stream(name, "x"));
        }
        assert!(outputs.bytes() >= 1000 * std::mem::size_of::<Item>());
        // Appended to, it is one output.
        let before = outputs.bytes();
        outputs.take(0, "stream", &stream("stderr", "x"));
        assert!(outputs.bytes() < before + ITEM);
    }

    #[test]
    fn the_name_of_a_display_counts() {
        let bytes = |id: &str| {
            let mut outputs = Outputs::new();
            let display = json!({"data": {"text/plain": "1"}, "transient": {"display_id": id}});
            outputs.take(0, "display_data", &display);
            outputs.bytes()
        };
        assert_eq!(bytes(&"p".repeat(10_000)) - bytes("p"), 9_999);
    }

    #[test]
    fn endless_output_is_cut_and_said() {
        let mut outputs = Outputs::new();
        let chunk = "x".repeat(CELL_OUTPUT_BYTES_MAX / 2);
        for _ in 0..4 {
            outputs.take(0, "stream", &stream("stdout", &chunk));
        }
        let stored = outputs.stored(&0);
        assert_eq!(stored.len(), 2);
        assert!(stored[1]["text"][0].as_str().unwrap().contains("MiB"));
    }
}
