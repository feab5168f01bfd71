//! Which outputs of a notebook may bring scripts and pictures that are programs (SVG), as Jupyter's notary decides: those of cells
//! that the reader ran. What a file says of itself counts for nothing; a file that was saved by a page in which all its cells were
//! trusted is known by its hash ([`crate::store`]), and its cells are marked when it is opened again.

use serde_json::{Map, Value};

/// What every client may show, whoever made it.
const HARMLESS: [&str; 2] = ["text/plain", "image/png"];

/// Whether a page says of each cell with outputs that may do something that it is trusted.
pub(super) fn is_claimed(notebook: &Value) -> bool {
    let cells = notebook["cells"].as_array();
    cells.into_iter().flatten().all(|cell| {
        cell["cell_type"] != "code"
            || cell["metadata"]["trusted"] == true
            || cell["outputs"].as_array().into_iter().flatten().all(is_harmless)
    })
}

/// Marks the cells of a notebook that is trusted.
pub(crate) fn mark(notebook: &mut Value) {
    let cells = notebook.get_mut("cells").and_then(Value::as_array_mut);
    for cell in cells
        .into_iter()
        .flatten()
        .filter(|cell| cell["cell_type"] == "code")
    {
        let Some(cell) = cell.as_object_mut() else {
            continue;
        };
        let metadata = cell.entry("metadata").or_insert_with(|| Map::new().into());
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("trusted".to_owned(), true.into());
        }
    }
}

fn is_harmless(output: &Value) -> bool {
    match output["output_type"].as_str() {
        Some("stream" | "error") => true,
        _ => output["data"]
            .as_object()
            .is_none_or(|data| data.keys().all(|kind| HARMLESS.contains(&kind.as_str()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_cell_that_nobody_ran_keeps_trust_from_all() {
        let svg = json!([{ "output_type": "display_data", "data": { "image/svg+xml": "<svg/>" } }]);
        let text = json!([{ "output_type": "execute_result", "data": { "text/plain": "1" } },
                          { "output_type": "stream", "text": "x" }]);
        let cell = |outputs: &Value, trusted: bool| json!({ "cell_type": "code", "metadata": { "trusted": trusted }, "outputs": outputs });
        let mut notebook =
            json!({ "cells": [cell(&svg, true), cell(&text, false), { "cell_type": "markdown" }] });
        assert!(is_claimed(&notebook));
        notebook["cells"][0]["metadata"]["trusted"] = false.into();
        assert!(!is_claimed(&notebook));
        mark(&mut notebook);
        assert!(is_claimed(&notebook));
        assert!(notebook["cells"][2].get("metadata").is_none());
    }
}
