//! A notebook that begins with a model: made in the account's folder, opened in JupyterLab.

use alephlab_api::model::{ModelRecord, Visibility};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::contents::{Files, Place, Sent};
use crate::error::Result;

/// Longest name of a file that is made of a model's name, characters.
const NAME_MAX: usize = 80;

/// Shows what is in a model.
const TENSORS: &str = "let tensors = model.tensors(&device()?)?;\n\
     let mut names: Vec<String> = tensors.keys().cloned().collect();\nnames.sort();\n\
     for name in names.iter().take(20) {\n    println!(\"{name:50} {:?}\", tensors[name].dims());\n}";

/// Writes it under a name that is free; its path.
pub(crate) fn write(files: &Files, record: &ModelRecord, page: &str) -> Result<String> {
    let (_, own) = record.name.split_once('/').unwrap_or(("", &record.name));
    let stem: String = match record.visibility {
        Visibility::Private => "private-model".to_owned(),
        _ => own.chars().take(NAME_MAX).collect(),
    };
    let place = files.free_name(&Place::parse("")?, &stem, ".ipynb")?;
    let (model, _) = files.save(&place, &Sent::notebook(cells(record, page)))?;
    Ok(model.path)
}

/// Writes one that pulls what a share opens; its path.
pub(crate) fn write_share(files: &Files, share: Uuid, page: &str) -> Result<String> {
    let place = files.free_name(&Place::parse("")?, "shared-model", ".ipynb")?;
    let (model, _) = files.save(&place, &Sent::notebook(share_cells(share, page)))?;
    Ok(model.path)
}

/// The token is not in it: a notebook is kept, and passed on.
fn share_cells(share: Uuid, page: &str) -> Value {
    let about = format!(
        "# A shared model\n\n[Share `{share}`]({page}). Its first cell asks `alephlab keys` on your machine, which has the share's \
         token after\n\n```sh\nalephlab share accept {share}\n```"
    );
    notebook(&[
        markdown("about", &about),
        code(
            "pull",
            &format!("let model = pull(\"{share}\", None)?;\nmodel.clone()"),
        ),
        code("tensors", TENSORS),
    ])
}

/// The notebook: what it is, the model, what is in it, and the data that it was trained on.
fn cells(record: &ModelRecord, page: &str) -> Value {
    let name = &record.name;
    let (owner, own) = name.split_once('/').unwrap_or(("", name));
    // A card's words are data: they go into the text as they are, and Markdown of a notebook runs nothing.
    let title = match record.card.title.trim() {
        "" if record.visibility == Visibility::Private => "A private model",
        "" => own,
        title => title,
    };
    let asks = match record.visibility {
        Visibility::Private => "Its first cell asks `alephlab keys` on your machine, which knows what it is.",
        _ => {
            "Its first cell asks `alephlab keys` on your machine if the model is sealed; a public one opens at once."
        }
    };
    let about = format!(
        "# {}\n\n[{own}]({page}) by `{owner}`, revision `{}`. {asks}",
        title.split_whitespace().collect::<Vec<_>>().join(" "),
        record.commit.get(..12).unwrap_or(&record.commit)
    );
    let mut cells = vec![
        markdown("about", &about),
        code(
            "pull",
            &format!(
                "let model = pull(\"{name}@{}\", None)?;\nmodel.clone()",
                record.commit
            ),
        ),
    ];
    // Of a private model no file is known: the cell says itself where there are none.
    let has_tensors = record.visibility == Visibility::Private
        || record
            .files
            .iter()
            .any(|file| file.path.ends_with(".safetensors"));
    if has_tensors {
        cells.push(code("tensors", TENSORS));
    }
    if let Some(dataset) = record
        .card
        .dataset
        .as_deref()
        .filter(|dataset| is_reference(dataset))
    {
        cells.push(markdown(
            "data",
            &format!(
                "The card says that it was trained on `{dataset}`. If it is yours or was granted to you:"
            ),
        ));
        cells.push(code("mount", &format!("// let data = mount(\"{dataset}\")?;")));
    }
    notebook(&cells)
}

fn notebook(cells: &[Value]) -> Value {
    json!({
        "cells": cells,
        "metadata": {
            "kernelspec": { "display_name": "Rust (Alephlab)", "language": "rust", "name": "alephlab" },
            "language_info": { "name": "rust", "file_extension": ".rs", "mimetype": "text/rust" },
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    })
}

/// Whether a name that an owner wrote may stand between quotes in a cell.
fn is_reference(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/@ ".contains(c);
    !name.is_empty() && name.len() <= 200 && name.chars().all(plain)
}

fn markdown(id: &str, text: &str) -> Value {
    json!({ "cell_type": "markdown", "id": id, "metadata": {}, "source": text })
}

fn code(id: &str, text: &str) -> Value {
    json!({ "cell_type": "code", "id": id, "metadata": {}, "source": text, "outputs": [], "execution_count": null })
}

#[cfg(test)]
mod tests {
    use alephlab_api::Card;
    use alephlab_api::model::RecordFile;

    use super::*;
    use crate::contents::Contents;

    fn record(dataset: &str) -> ModelRecord {
        ModelRecord {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            commit: "a".repeat(40),
            card: Card {
                title: "Digits\n\n```\nevil".into(),
                dataset: Some(dataset.into()),
                ..Card::default()
            },
            price: "free".into(),
            files: vec![RecordFile {
                path: "model.safetensors".into(),
                size: 1,
                sha256: "b".repeat(64),
            }],
            head: "c".repeat(64),
            created: 1,
            ..ModelRecord::default()
        }
    }

    #[test]
    fn a_notebook_pulls_the_revision_and_no_word_of_a_card_becomes_code() {
        let text =
            |dataset: &str| cells(&record(dataset), "https://lab.example/models/0xAb/digits").to_string();
        let plain = text("ada/flowers");
        assert!(plain.contains(&format!("pull(\\\"0xAb/digits@{}\\\", None)?", "a".repeat(40))));
        assert!(plain.contains("mount(\\\"ada/flowers\\\")") && plain.contains("# Digits ``` evil"));
        let hostile = text("x\"); std::process::exit(0); (\"");
        assert!(!hostile.contains("mount("), "{hostile}");
    }

    #[test]
    fn another_notebook_of_the_same_model_has_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let files = Contents::new(folder.path().to_owned(), None).of("0xAb").unwrap();
        let write = || write(&files, &record("x"), "https://lab.example").unwrap();
        assert_eq!(
            (write(), write()),
            ("digits.ipynb".into(), "digits1.ipynb".into())
        );
    }
}
