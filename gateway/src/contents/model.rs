//! What clients see of a file: the contents API's model.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::SystemTime;

use alephlab_api::time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::place::{Place, absent, failed};
use crate::error::{GatewayError, Result};
use crate::outputs::join_notebook;
use crate::store::sha256;

/// Largest file whose content is put into an answer, bytes; larger ones are downloaded.
const MAX_CONTENT: u64 = 512 << 20;

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Directory,
    Notebook,
    File,
}

/// How content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Json,
    Text,
    Base64,
}

/// What a client wants to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) content: bool,
    pub(crate) hash: bool,
    pub(crate) kind: Option<Kind>,
    pub(crate) format: Option<Format>,
}

/// Content of a file or folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Folder(Vec<Model>),
    Notebook(Value),
    Text(String),
}

/// A file or folder. Field sets and nulls as in Jupyter's own server: clients check them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) last_modified: String,
    pub(crate) created: String,
    pub(crate) content: Option<Content>,
    pub(crate) format: Option<Format>,
    pub(crate) mimetype: Option<String>,
    pub(crate) size: Option<u64>,
    pub(crate) writable: bool,
    /// SHA-256 in hex.
    pub(crate) hash: Option<String>,
    pub(crate) hash_algorithm: Option<&'static str>,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
}

impl Model {
    /// The file's SHA-256, where it was asked for.
    pub(crate) fn sha256(&self) -> Option<[u8; 32]> {
        hex::decode(self.hash.as_ref()?).ok()?.try_into().ok()
    }

    /// Its notebook, where there is one.
    pub(crate) fn notebook_mut(&mut self) -> Option<&mut Value> {
        match &mut self.content {
            Some(Content::Notebook(notebook)) => Some(notebook),
            _ => None,
        }
    }
}

/// The model of what lies at `path`.
pub(crate) fn describe(place: &Place, path: &Path, asked: &Asked) -> Result<Model> {
    let meta = fs::metadata(path).map_err(|error| failed("read", &place.path(), &error))?;
    if !meta.is_file() && !meta.is_dir() {
        // A pipe would have its reader wait.
        return Err(absent(&place.path()));
    }
    let mut model = outline(place, &meta);
    match (asked.kind, model.kind) {
        (Some(Kind::Directory), Kind::Notebook | Kind::File) => {
            let message = format!("`{}` is a file, not a folder", place.path());
            return Err(GatewayError::bad_request("not_a_folder", message));
        }
        (Some(Kind::Notebook | Kind::File), Kind::Directory) => {
            let message = format!("`{}` is a folder, not a file", place.path());
            return Err(GatewayError::bad_request("not_a_file", message));
        }
        // A notebook can be asked for as a file, and a file as a notebook.
        (Some(kind), _) => model.kind = kind,
        (None, _) => {}
    }
    if asked.content || (asked.hash && model.kind != Kind::Directory) {
        fill(&mut model, place, path, asked)?;
    }
    Ok(model)
}

fn outline(place: &Place, meta: &Metadata) -> Model {
    let moment = |moment: std::io::Result<SystemTime>| time::format(moment.unwrap_or(SystemTime::UNIX_EPOCH));
    let modified = moment(meta.modified());
    let kind = match place.name() {
        _ if meta.is_dir() => Kind::Directory,
        name if name.ends_with(".ipynb") => Kind::Notebook,
        _ => Kind::File,
    };
    let guess = || {
        mime_guess::from_path(place.name())
            .first()
            .map(|mime| mime.to_string())
    };
    Model {
        name: place.name().to_owned(),
        path: place.path(),
        created: modified.clone(),
        last_modified: modified,
        content: None,
        format: None,
        mimetype: (kind == Kind::File).then(guess).flatten(),
        size: (kind != Kind::Directory).then_some(meta.len()),
        writable: !meta.permissions().readonly(),
        hash: None,
        hash_algorithm: None,
        kind,
    }
}

fn fill(model: &mut Model, place: &Place, path: &Path, asked: &Asked) -> Result<()> {
    if model.kind == Kind::Directory {
        model.content = Some(Content::Folder(list(place, path)?));
        model.format = Some(Format::Json);
        return Ok(());
    }
    if model.size.is_some_and(|size| size > MAX_CONTENT) {
        let message = format!("`{}` is larger than 512 MiB", place.path());
        return Err(
            GatewayError::bad_request("file_large", message).with_hint("download it instead of opening it")
        );
    }
    let bytes = fs::read(path).map_err(|error| failed("read", &place.path(), &error))?;
    if asked.hash {
        model.hash = Some(hex::encode(sha256(&bytes)));
        model.hash_algorithm = Some("sha256");
    }
    if asked.content {
        let (content, format) = content(model, bytes, asked.format)?;
        model.content = Some(content);
        model.format = Some(format);
        if model.kind == Kind::File && model.mimetype.is_none() {
            let guess = if format == Format::Text {
                "text/plain"
            } else {
                "application/octet-stream"
            };
            model.mimetype = Some(guess.to_owned());
        }
    }
    Ok(())
}

fn content(model: &Model, bytes: Vec<u8>, wanted: Option<Format>) -> Result<(Content, Format)> {
    let path = &model.path;
    if model.kind == Kind::Notebook {
        let mut notebook = serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("`{path}` is not a notebook: {error}");
            GatewayError::bad_request("notebook_unreadable", message)
                .with_hint("open it with the text editor to see what is in it")
        })?;
        join_notebook(&mut notebook);
        return Ok((Content::Notebook(notebook), Format::Json));
    }
    if wanted == Some(Format::Base64) {
        return Ok((Content::Text(STANDARD.encode(bytes)), Format::Base64));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((Content::Text(text), Format::Text)),
        Err(_) if wanted == Some(Format::Text) => {
            let message = format!("`{path}` is not text in UTF-8");
            Err(GatewayError::bad_request("not_text", message))
        }
        Err(error) => Ok((Content::Text(STANDARD.encode(error.into_bytes())), Format::Base64)),
    }
}

/// What is in a folder, without content; what is hidden, or a link that leads elsewhere, is not shown.
fn list(place: &Place, path: &Path) -> Result<Vec<Model>> {
    let failed = |error| failed("read", &place.path(), &error);
    let mut models = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(inside) = place.join(&entry.file_name().to_string_lossy()) else {
            continue;
        };
        let link_out = entry.file_type().is_ok_and(|kind| kind.is_symlink())
            && !fs::canonicalize(entry.path()).is_ok_and(|target| target.starts_with(path));
        // A file that went meanwhile is not there.
        if let (Ok(meta), false) = (fs::metadata(entry.path()), link_out) {
            models.push(outline(&inside, &meta));
        }
    }
    models.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(models)
}

fn kind_named(name: &str) -> Option<Kind> {
    match name {
        "directory" => Some(Kind::Directory),
        "notebook" => Some(Kind::Notebook),
        "file" => Some(Kind::File),
        _ => None,
    }
}

impl Asked {
    /// From the query of a GET: content is given unless it says `content=0`.
    pub(crate) fn of_query(query: &[(String, String)]) -> Self {
        let find = |name: &str| {
            let pair = query.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.as_str())
        };
        Self {
            content: find("content") != Some("0"),
            hash: find("hash") == Some("1"),
            kind: find("type").and_then(kind_named),
            format: match find("format") {
                Some("text") => Some(Format::Text),
                Some("base64") => Some(Format::Base64),
                _ => None,
            },
        }
    }
}

/// What is not there, as a model's error.
pub(super) fn is_there(place: &Place, path: &Path) -> Result<()> {
    match path.exists() {
        true => Ok(()),
        false => Err(absent(&place.path())),
    }
}
