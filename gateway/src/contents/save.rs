//! Writing files: whole ones in one step, large ones in the pieces that JupyterLab sends.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::model::{Asked, Format, Kind, Model, describe};
use super::place::{Place, failed};
use super::room::bytes_of;
use super::{Files, exists, trust};
use crate::error::{GatewayError, Result};
use crate::outputs::split_notebook;

/// The body of a PUT.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Sent {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    format: Option<Format>,
    content: Option<Value>,
    /// Number of a piece from 1; -1 is the last.
    chunk: Option<i64>,
    /// Said by JupyterLab of a file that is uploaded, and not of one that it has open.
    name: Option<String>,
}

impl Sent {
    pub(super) fn directory() -> Self {
        Self {
            kind: Some(Kind::Directory),
            ..Self::default()
        }
    }

    pub(super) fn text(text: String) -> Self {
        Self {
            kind: Some(Kind::File),
            format: Some(Format::Text),
            content: Some(text.into()),
            ..Self::default()
        }
    }

    pub(super) fn empty_notebook() -> Self {
        Self::notebook(json!({ "cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5 }))
    }

    /// A whole notebook.
    pub(crate) fn notebook(content: Value) -> Self {
        Self {
            kind: Some(Kind::Notebook),
            format: Some(Format::Json),
            content: Some(content),
            ..Self::default()
        }
    }

    /// Whether its reader has run all that may do something in it, as the page says that has it open. Not of a file that is
    /// uploaded: there it is the file's own word.
    pub(crate) fn is_trusted(&self) -> bool {
        self.kind == Some(Kind::Notebook)
            && self.name.is_none()
            && self.content.as_ref().is_some_and(trust::is_claimed)
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let bad = |reason: &str| {
            let message = format!("`{path}` cannot be saved: {reason}");
            GatewayError::bad_request("content_bad", message)
        };
        let Some(content) = &self.content else {
            return Err(bad("no content was sent"));
        };
        if self.kind == Some(Kind::Notebook) {
            if !content["cells"].is_array() && !content["worksheets"].is_array() {
                return Err(bad("a notebook has cells"));
            }
            return notebook(content).map_err(|error| bad(&error.to_string()));
        }
        match (content, self.format) {
            (Value::String(text), Some(Format::Base64)) => STANDARD
                .decode(text.replace(['\n', '\r'], ""))
                .map_err(|_| bad("its content is not base64")),
            (Value::String(text), _) => Ok(text.clone().into_bytes()),
            (other, Some(Format::Json)) => serde_json::to_vec(other).map_err(|error| bad(&error.to_string())),
            _ => Err(bad("the content of a file is a text")),
        }
    }
}

/// As nbformat writes it: texts as lists of lines, one space for each level, a line feed at the end.
pub(super) fn notebook(content: &Value) -> serde_json::Result<Vec<u8>> {
    use serde::Serialize as _;
    let mut content = content.clone();
    split_notebook(&mut content);
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    content.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))?;
    bytes.push(b'\n');
    Ok(bytes)
}

impl Files {
    /// Writes a file, or makes a folder; tells whether it is new.
    pub(crate) fn save(&self, place: &Place, sent: &Sent) -> Result<(Model, bool)> {
        let _one = self.change();
        let path = place.on_disk(&self.root)?;
        let is_new = !path.exists();
        let error = |error: std::io::Error| failed("saved", &place.path(), &error);
        match sent.kind {
            Some(Kind::Directory) => {
                match fs::create_dir(&path) {
                    Err(found) if found.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
                    Err(found) if found.kind() == std::io::ErrorKind::AlreadyExists => {
                        return Err(exists(place));
                    }
                    made => made.map_err(error)?,
                };
            }
            _ if path.is_dir() => {
                let message = format!("`{}` is a folder", place.path());
                return Err(GatewayError::bad_request("not_a_file", message));
            }
            _ => {
                let (bytes, before) = (sent.bytes(&place.path())?, bytes_of(&path));
                let new = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let is_first = matches!(sent.chunk, None | Some(1));
                let after = if is_first { new } else { before.saturating_add(new) };
                self.has_room(place, before, after)?;
                match is_first {
                    true => replace(&path, &bytes),
                    false => append(&path, &bytes),
                }
                .map_err(error)?;
                self.moved(before, after);
            }
        }
        Ok((describe(place, &path, &Asked::default())?, is_new))
    }
}

/// Writes beside the old file and puts it in its place; its permissions stay.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".saving-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    let permissions = match fs::metadata(path) {
        Ok(meta) => meta.permissions(),
        Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
    };
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_data()?;
    // A link keeps leading to what is written.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    file.persist(target)?;
    Ok(())
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(bytes)
}

/// A copy by content, for checkpoints.
pub(super) fn copy_over(from: &Path, to: &Path) -> std::io::Result<()> {
    replace(to, &fs::read(from)?)
}
