//! A button with which a person hands files of their own machine to the code.

use std::sync::Arc;

use serde_json::{Value, json};

use super::controls::{described, object};
use super::model::Model;
use crate::display::{Bundle, Rich};

/// A button that opens the client's file chooser. The files come to the kernel's memory, not to its disk: for more than
/// some tens of MiB a dataset is the better way.
#[derive(Debug, Clone)]
pub struct FileUpload {
    model: Arc<Model>,
}

/// A file that a person has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedFile {
    /// Its name, without folders.
    pub name: String,
    /// Its media type, as the browser says; may be empty.
    pub media_type: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A button with which a person chooses a file.
pub fn file_upload(label: impl Into<String>) -> FileUpload {
    let state = object(
        json!({ "description": label.into(), "accept": "", "multiple": false, "value": [], "error": "",
        "icon": "upload", "button_style": "", "tooltip": null, "disabled": false }),
    );
    FileUpload {
        model: Model::open("FileUploadModel", "ButtonStyleModel", state),
    }
}

impl FileUpload {
    /// What was chosen last; nothing before the first choice.
    pub fn files(&self) -> Vec<UploadedFile> {
        self.model.look(|state, binary| {
            let chosen = state.get("value").and_then(Value::as_array).into_iter().flatten();
            let files = chosen.enumerate().filter_map(|(place, file)| {
                let path = [json!(place), json!("content")];
                let bytes = binary.iter().find_map(|part| part.at("value", &path))?;
                let text = |name: &str| file[name].as_str().unwrap_or_default().to_owned();
                Some(UploadedFile {
                    name: text("name"),
                    media_type: text("type"),
                    bytes: bytes.to_vec(),
                })
            });
            files.collect()
        })
    }

    /// Waits until something is chosen, and returns it. An interrupt ends the wait and the cell.
    pub fn wait(&self) -> Vec<UploadedFile> {
        let is_chosen = |value: &Value| value.as_array().is_some_and(|files| !files.is_empty());
        self.model
            .wait_until(|state| state.get("value").is_some_and(is_chosen));
        self.files()
    }

    /// Lets more than one file be chosen.
    #[must_use]
    pub fn multiple(self) -> Self {
        self.model.set("multiple", json!(true));
        self
    }

    /// Which files the chooser offers, as in HTML: `.csv,image/*`.
    #[must_use]
    pub fn accept(self, kinds: &str) -> Self {
        self.model.set("accept", json!(kinds));
        self
    }

    /// Calls `callback` with the files whenever a person has chosen, also while a cell runs.
    pub fn on_change(&self, callback: impl Fn(&[UploadedFile]) + Send + Sync + 'static) {
        // Weak: the model has the callback.
        let model = Arc::downgrade(&self.model);
        self.model.on_change(move |_| {
            if let Some(model) = model.upgrade() {
                callback(&FileUpload { model }.files());
            }
        });
    }
}

impl Rich for FileUpload {
    fn bundle(&self) -> Bundle {
        let names: Vec<_> = self.files().into_iter().map(|file| file.name).collect();
        let chosen = if names.is_empty() {
            "nothing chosen".to_owned()
        } else {
            names.join(", ")
        };
        described(&self.model, "file upload", &chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_in_buffers_are_the_files() {
        let upload = file_upload("data").multiple().accept(".csv");
        assert_eq!(
            upload.bundle().as_text(),
            Some("data: nothing chosen (file upload)")
        );
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        upload.on_change(move |files| tell.lock().unwrap().extend(files.to_vec()));
        let file = |name: &str| json!({ "name": name, "type": "text/csv", "size": 2, "last_modified": 1 });
        let data = json!({ "method": "update", "state": { "value": [file("a.csv"), file("b.csv")] },
            "buffer_paths": [["value", 0, "content"], ["value", 1, "content"]] });
        upload.model.hear(&data, vec![b"1,2".to_vec(), vec![0xff]]);
        let files = upload.wait();
        assert_eq!(files[0].bytes, b"1,2");
        assert_eq!(
            (files[1].name.as_str(), files[1].bytes.as_slice()),
            ("b.csv", &[0xff][..])
        );
        assert_eq!(*told.lock().unwrap(), files);
        // The next choice replaces the first, parts and all.
        let data = json!({ "method": "update", "state": { "value": [file("c.csv")] },
            "buffer_paths": [["value", 0, "content"]] });
        upload.model.hear(&data, vec![b"3".to_vec()]);
        assert_eq!(upload.files().len(), 1);
        assert_eq!(upload.bundle().as_text(), Some("data: c.csv (file upload)"));
    }
}
