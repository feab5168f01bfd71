//! A notebook file, nbformat 4: read, given parameters, written back with everything unknown kept.
//!
//! The JSON stays a `Value`, because a struct would lose the fields of other programs. Sources and texts are written
//! as lists of lines, as every Jupyter program writes them.

use std::path::Path;

use alephlab_gateway::{joined_lines, split_lines};
use serde::Serialize as _;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value, json};

use crate::data;
use crate::error::{CliError, Result};

/// Tag of the cell whose values a caller may replace.
const PARAMETERS: &str = "parameters";
/// Tag of the cell that replaces them; an older one is replaced, not added to.
const INJECTED: &str = "injected-parameters";
/// Tag of a cell that is not run.
const SKIP: &str = "skip-execution";
/// Tag of a cell that may fail.
const MAY_FAIL: &str = "raises-exception";

/// A notebook in memory.
#[derive(Clone)]
pub(crate) struct Notebook {
    root: Map<String, Value>,
}

impl Notebook {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| CliError::file("read", path, source))?;
        Self::parse(&bytes).map_err(|reason| CliError::Malformed {
            path: path.to_path_buf(),
            reason,
        })
    }

    /// Reads a notebook's text.
    pub(crate) fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut root: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not a notebook: {error}"))?;
        match root.get("nbformat").and_then(Value::as_u64) {
            Some(4) => {}
            Some(other) => {
                return Err(format!(
                    "nbformat {other} is not supported; open and save it in JupyterLab"
                ));
            }
            None => return Err("it has no nbformat, so it is not a notebook".to_owned()),
        }
        let cells = root
            .get_mut("cells")
            .and_then(Value::as_array_mut)
            .ok_or("it has no list of cells")?;
        if !cells
            .iter()
            .all(|cell| cell.get("cell_type").is_some_and(Value::is_string))
        {
            return Err("a cell has no type".to_owned());
        }
        let mut notebook = Self { root };
        notebook.require_ids();
        Ok(notebook)
    }

    /// One that this program wrote itself: the root of a notebook file with its cells and their ids.
    pub(crate) fn of(root: Value) -> Self {
        let root = match root {
            Value::Object(root) => root,
            _ => Map::new(),
        };
        Self { root }
    }

    /// Puts a cell of code in front of all others, and gives its position.
    pub(crate) fn prepend(&mut self, code: &str) -> usize {
        let cell = json!({
            "cell_type": "code", "id": new_id(), "metadata": {},
            "source": split_lines(code), "outputs": [], "execution_count": null,
        });
        self.cells_mut().insert(0, cell);
        0
    }

    /// Writes the file whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        data::write_public(path, &self.to_bytes())
    }

    /// The file's bytes: one space of indentation and a last newline, as nbformat writes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut serializer =
            serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
        // Writing JSON values into memory has no failure.
        drop(self.root.serialize(&mut serializer));
        bytes.push(b'\n');
        bytes
    }

    /// Positions of the cells to run.
    pub(crate) fn code_cells(&self) -> Vec<usize> {
        let cells = self.cells().iter().enumerate();
        let runs = |cell: &Value| {
            cell["cell_type"] == "code" && !has_tag(cell, SKIP) && !source(cell).trim().is_empty()
        };
        cells
            .filter(|(_, cell)| runs(cell))
            .map(|(index, _)| index)
            .collect()
    }

    /// A cell's text.
    pub(crate) fn source(&self, index: usize) -> String {
        self.cells().get(index).map(source).unwrap_or_default()
    }

    /// Whether the author says that this cell may fail.
    pub(crate) fn may_fail(&self, index: usize) -> bool {
        self.cells()
            .get(index)
            .is_some_and(|cell| has_tag(cell, MAY_FAIL))
    }

    /// Outputs of a cell.
    pub(crate) fn outputs(&self, index: usize) -> &[Value] {
        self.cells()
            .get(index)
            .and_then(|cell| cell["outputs"].as_array())
            .map_or(&[], Vec::as_slice)
    }

    /// The number that a cell got when it ran.
    pub(crate) fn execution_count(&self, index: usize) -> Option<u64> {
        self.cells().get(index)?.get("execution_count")?.as_u64()
    }

    /// Removes the outputs of every code cell, so that none of an earlier run is taken for one of this.
    pub(crate) fn clear(&mut self) {
        for cell in self
            .cells_mut()
            .iter_mut()
            .filter(|cell| cell["cell_type"] == "code")
        {
            cell["outputs"] = json!([]);
            cell["execution_count"] = Value::Null;
        }
    }

    /// Gives a cell its outputs and its number.
    pub(crate) fn set_result(&mut self, index: usize, outputs: Vec<Value>, count: Option<u64>) {
        if let Some(cell) = self.cells_mut().get_mut(index) {
            cell["outputs"] = Value::Array(outputs);
            cell["execution_count"] = count.map_or(Value::Null, Value::from);
        }
    }

    /// Adds a cell that sets variables, after the one tagged `parameters` or before everything.
    pub(crate) fn inject(&mut self, parameters: &[(String, String)]) -> Result<()> {
        if parameters.is_empty() {
            return Ok(());
        }
        let mut lines = vec!["// Parameters".to_owned()];
        for (name, value) in parameters {
            lines.push(assignment(name, value)?);
        }
        let cell = json!({
            "cell_type": "code",
            "execution_count": null,
            "id": new_id(),
            "metadata": {"tags": [INJECTED]},
            "outputs": [],
            "source": split_lines(&lines.join("\n")),
        });
        let cells = self.cells_mut();
        cells.retain(|cell| !has_tag(cell, INJECTED));
        let at = cells
            .iter()
            .position(|cell| has_tag(cell, PARAMETERS))
            .map_or(0, |index| index + 1);
        cells.insert(at, cell);
        Ok(())
    }

    /// Takes the injected values out again, for a notebook that is kept: a token may be among them.
    pub(crate) fn forget_parameters(&mut self) {
        for cell in self.cells_mut().iter_mut().filter(|cell| has_tag(cell, INJECTED)) {
            cell["source"] = split_lines("// Parameters of this run are not kept.");
        }
    }

    /// The JSON after this word at the start of a line that a cell printed: how a notebook tells programs its result.
    pub(crate) fn result_after(&self, word: &str) -> Option<Value> {
        let printed = |output: &Value| (output["name"] == "stdout").then(|| joined_lines(&output["text"]));
        let texts = self
            .code_cells()
            .into_iter()
            .flat_map(|index| self.outputs(index))
            .filter_map(printed);
        let mut found = texts.filter_map(|text| {
            text.lines()
                .find_map(|line| serde_json::from_str(line.strip_prefix(word)?.trim()).ok())
        });
        found.next_back()
    }

    fn cells(&self) -> &[Value] {
        self.root
            .get("cells")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    fn cells_mut(&mut self) -> &mut Vec<Value> {
        let cells = self.root.entry("cells").or_insert_with(|| json!([]));
        if !cells.is_array() {
            *cells = json!([]);
        }
        match cells {
            Value::Array(cells) => cells,
            _ => unreachable!("it was made an array above"),
        }
    }

    /// From minor version 5 every cell has an id; older files are raised to it, as JupyterLab does on saving.
    fn require_ids(&mut self) {
        self.root.insert(
            "nbformat_minor".to_owned(),
            match self.root.get("nbformat_minor").and_then(Value::as_u64) {
                Some(minor) if minor > 5 => minor.into(),
                _ => 5.into(),
            },
        );
        for cell in self.cells_mut() {
            if let Value::Object(cell) = cell
                && !cell.get("id").is_some_and(Value::is_string)
            {
                cell.insert("id".to_owned(), new_id().into());
            }
        }
    }
}

fn source(cell: &Value) -> String {
    joined_lines(&cell["source"])
}

fn has_tag(cell: &Value, tag: &str) -> bool {
    cell["metadata"]["tags"]
        .as_array()
        .is_some_and(|tags| tags.iter().any(|found| found == tag))
}

fn new_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// A Rust statement for `name=value`: numbers and booleans as they are, everything else a `String`.
fn assignment(name: &str, value: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts_well = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(plain) || name == "_" {
        return Err(CliError::Usage {
            message: format!("{name:?} cannot be the name of a parameter"),
            hint: "write --param name=value with a Rust variable name".to_owned(),
        });
    }
    // Types are written out: without `rust-src` the kernel cannot infer them.
    if value == "true" || value == "false" {
        return Ok(format!("let {name}: bool = {value};"));
    }
    if let Ok(number) = value.parse::<i64>() {
        return Ok(format!("let {name}: i64 = {number};"));
    }
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(format!("let {name}: f64 = {number:?};")),
        _ => Ok(format!("let {name}: String = String::from({value:?});")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"cells":[
        {"cell_type":"markdown","metadata":{},"source":"hi","attachments":{"x":1}},
        {"cell_type":"code","execution_count":3,"metadata":{"tags":["parameters"]},"outputs":[{"output_type":"stream","name":"stdout","text":["old"]}],"source":["let a = 1;\n","let b = 2;"]},
        {"cell_type":"code","metadata":{"tags":["skip-execution"]},"outputs":[],"source":"panic!()"},
        {"cell_type":"code","metadata":{},"outputs":[],"source":"  "}
      ],"metadata":{"kernelspec":{"name":"alephlab"},"other":{"kept":true}},"nbformat":4,"nbformat_minor":4,"z":1,"a":2}"#;

    fn small() -> Notebook {
        Notebook::parse(SMALL.as_bytes()).unwrap()
    }

    #[test]
    fn unknown_fields_and_their_order_are_kept() {
        let mut notebook = small();
        notebook.set_result(1, vec![json!({"output_type": "stream"})], Some(7));
        let text = String::from_utf8(notebook.to_bytes()).unwrap();
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["metadata"]["other"]["kept"], true);
        assert_eq!(back["cells"][0]["attachments"]["x"], 1);
        assert_eq!(
            (&back["nbformat_minor"], &back["cells"][1]["execution_count"]),
            (&json!(5), &json!(7))
        );
        assert!(
            back["cells"]
                .as_array()
                .unwrap()
                .iter()
                .all(|cell| cell["id"].is_string())
        );
        let order: Vec<_> = back.as_object().unwrap().keys().collect();
        assert_eq!(
            order,
            ["cells", "metadata", "nbformat", "nbformat_minor", "z", "a"]
        );
        assert!(text.starts_with("{\n \"cells\": [\n") && text.ends_with("}\n"));
    }

    #[test]
    fn only_real_code_is_run() {
        assert_eq!(small().code_cells(), [1]);
    }

    #[test]
    fn parameters_come_after_their_cell_and_replace_older_ones() {
        let mut notebook = small();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        notebook.inject(&[pair("a", "1")]).unwrap();
        notebook
            .inject(&[
                pair("n", "3"),
                pair("x", "1e3"),
                pair("s", "a\"b"),
                pair("t", "true"),
                pair("u", "inf"),
            ])
            .unwrap();
        assert_eq!(notebook.code_cells(), [1, 2]);
        assert_eq!(
            notebook.source(2),
            "// Parameters\nlet n: i64 = 3;\nlet x: f64 = 1000.0;\nlet s: String = String::from(\"a\\\"b\");\n\
             let t: bool = true;\nlet u: String = String::from(\"inf\");"
        );
        assert!(notebook.inject(&[pair("1a", "x")]).is_err());
        assert!(notebook.inject(&[pair("a b", "x")]).is_err());
    }

    #[test]
    fn a_printed_result_is_found_and_injected_values_are_forgotten() {
        let mut notebook = small();
        notebook
            .inject(&[("token".to_owned(), "secret".to_owned())])
            .unwrap();
        let text = json!(["noise\n", "ALEPHLAB_RESULT {\"accuracy\":0.98}\n"]);
        notebook.set_result(
            1,
            vec![json!({"output_type": "stream", "name": "stdout", "text": text})],
            Some(1),
        );
        assert_eq!(
            notebook.result_after("ALEPHLAB_RESULT"),
            Some(json!({"accuracy": 0.98}))
        );
        notebook.forget_parameters();
        assert!(!String::from_utf8(notebook.to_bytes()).unwrap().contains("secret"));
    }

    #[test]
    fn clearing_removes_earlier_results_only() {
        let mut notebook = small();
        notebook.clear();
        assert!(notebook.outputs(1).is_empty());
        assert_eq!(notebook.source(1), "let a = 1;\nlet b = 2;");
    }

    #[test]
    fn what_is_no_notebook_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"nbformat":3,"worksheets":[]}"#,
            r#"{"nbformat":4}"#,
        ] {
            assert!(Notebook::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
