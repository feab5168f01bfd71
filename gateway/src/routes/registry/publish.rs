//! Forms that prepare one command: to publish a folder as a model, and to share a model. What was typed stays in the answer to
//! the form: a folder of somebody's machine belongs in no address.

use alephlab_api::model::{is_name, is_tag};
use askama::Template;
use serde::Deserialize;

use super::Visitor;
use super::command::Command;
use super::datasets::is_address;

/// Longest text of a field that is not checked otherwise, characters.
const TEXT_MAX: usize = 200;
/// Licences that are offered; others are typed.
pub(super) const LICENCES: [&str; 9] = [
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "openrail",
    "other",
];
/// Tasks likewise.
pub(super) const TASKS: [&str; 12] = [
    "text-generation",
    "text-classification",
    "feature-extraction",
    "translation",
    "summarization",
    "image-classification",
    "object-detection",
    "image-segmentation",
    "depth-estimation",
    "automatic-speech-recognition",
    "tabular-classification",
    "time-series-forecasting",
];
/// Ends of a share that are offered.
const TERMS: [(&str, &str); 5] = [
    ("1d", "In a day"),
    ("7d", "In 7 days"),
    ("30d", "In 30 days"),
    ("365d", "In a year"),
    ("", "No end"),
];

/// What is wrong with a field, and which.
pub(crate) struct Trouble {
    field: &'static str,
    /// What the page calls it.
    label: &'static str,
    text: String,
}

/// What was typed about a model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PublishForm {
    folder: String,
    name: String,
    open: String,
    tag: String,
    title: String,
    task: String,
    licence: String,
    dataset: String,
    base: String,
}

#[derive(Template)]
#[template(path = "publish.html")]
pub(crate) struct PublishPage {
    version: &'static str,
    visitor: Visitor,
    form: PublishForm,
    troubles: Vec<Trouble>,
    command: Option<String>,
}

impl PublishPage {
    /// Before anything was typed.
    pub(crate) fn new(visitor: Visitor) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            form: PublishForm {
                open: "sealed".to_owned(),
                ..PublishForm::default()
            },
            troubles: Vec::new(),
            command: None,
        }
    }

    /// With what was typed: the command, or what is wrong.
    pub(crate) fn of(visitor: Visitor, typed: PublishForm) -> Self {
        let form = typed.trimmed();
        let troubles = form.troubles();
        Self {
            command: troubles.is_empty().then(|| form.command()),
            troubles,
            form,
            ..Self::new(visitor)
        }
    }

    fn trouble(&self, field: &str) -> Option<&str> {
        trouble(&self.troubles, field)
    }
}

impl PublishForm {
    fn trimmed(self) -> Self {
        let trim = |text: String| text.trim().to_owned();
        Self {
            folder: trim(self.folder),
            name: trim(self.name),
            open: if self.open == "public" { "public" } else { "sealed" }.to_owned(),
            tag: trim(self.tag),
            title: trim(self.title),
            task: trim(self.task),
            licence: trim(self.licence),
            dataset: trim(self.dataset),
            base: trim(self.base),
        }
    }

    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut check = |field, fine, text| troubles.extend(Trouble::unless(fine, field, text));
        check(
            "folder",
            is_plain(&self.folder) && !self.folder.is_empty() && self.folder.len() <= 1_000,
            "Write the folder that has the files, such as models/digits.",
        );
        check(
            "name",
            self.name.is_empty() || is_name(&self.name),
            "A name has letters, digits, dots, _ and - inside it, at most 96. Leave it empty for the folder's.",
        );
        check(
            "tag",
            self.tag.is_empty() || is_tag(&self.tag),
            "A tag is one word such as v1.0: letters, digits, dots, _ and -, at most 64, and not main.",
        );
        for (field, value) in [
            ("title", &self.title),
            ("task", &self.task),
            ("licence", &self.licence),
            ("dataset", &self.dataset),
        ] {
            check(
                field,
                is_plain(value),
                "This is one line of at most 200 characters that does not begin with -.",
            );
        }
        check(
            "base",
            self.base.is_empty() || is_model(&self.base),
            "Write the model as its page names it: 0x and 40 hex digits, a slash, its name.",
        );
        troubles
    }

    fn command(&self) -> String {
        let open = if self.open == "public" {
            "--public"
        } else {
            "--sealed"
        };
        Command::new("alephlab model publish")
            .word(&self.folder)
            .flag("--name", &self.name)
            .bare(open)
            .flag("--tag", &self.tag)
            .flag("--card-title", &self.title)
            .flag("--card-task", &self.task)
            .flag("--card-licence", &self.licence)
            .flag("--card-dataset", &self.dataset)
            .flag("--card-base-model", &self.base)
            .text()
    }
}

/// What was typed about a share.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ShareForm {
    pub(crate) model: String,
    expires: String,
    downloads: String,
    bytes: String,
    per_minute: String,
}

#[derive(Template)]
#[template(path = "share_new.html")]
pub(crate) struct ShareNewPage {
    version: &'static str,
    visitor: Visitor,
    form: ShareForm,
    troubles: Vec<Trouble>,
    command: Option<String>,
}

impl ShareNewPage {
    /// Before anything was typed but, maybe, the model.
    pub(crate) fn new(visitor: Visitor, model: &str) -> Self {
        let model = if is_reference(model) { model } else { "" };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            form: ShareForm {
                model: model.to_owned(),
                expires: "7d".to_owned(),
                ..ShareForm::default()
            },
            troubles: Vec::new(),
            command: None,
        }
    }

    /// With what was typed: the command, or what is wrong.
    pub(crate) fn of(visitor: Visitor, typed: ShareForm) -> Self {
        let form = ShareForm {
            model: typed.model.trim().to_owned(),
            expires: typed.expires,
            downloads: typed.downloads.trim().to_owned(),
            bytes: typed.bytes.trim().to_owned(),
            per_minute: typed.per_minute.trim().to_owned(),
        };
        let troubles = form.troubles();
        Self {
            command: troubles.is_empty().then(|| form.command()),
            troubles,
            form,
            ..Self::new(visitor, "")
        }
    }

    fn trouble(&self, field: &str) -> Option<&str> {
        trouble(&self.troubles, field)
    }

    fn terms(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        TERMS
            .iter()
            .map(|(term, title)| (*term, *title, *term == self.form.expires))
    }
}

impl Trouble {
    fn unless(fine: bool, field: &'static str, text: &str) -> Option<Self> {
        (!fine).then(|| Self {
            field,
            label: label(field),
            text: text.to_owned(),
        })
    }
}

impl ShareForm {
    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut check = |field, fine, text| troubles.extend(Trouble::unless(fine, field, text));
        check(
            "model",
            is_reference(&self.model),
            "Write the name of a model of yours, alone or with @ and a tag or revision: digits@v1.0.",
        );
        check(
            "downloads",
            is_count(&self.downloads),
            "Write a number from 1, or nothing for no limit.",
        );
        check(
            "bytes",
            is_size(&self.bytes),
            "Write a size such as 500M or 20G, or nothing for no limit.",
        );
        check(
            "per_minute",
            is_count(&self.per_minute),
            "Write a number from 1, or nothing for no limit.",
        );
        check(
            "expires",
            TERMS.iter().any(|(term, _)| *term == self.expires),
            "Choose when it ends.",
        );
        troubles
    }

    fn command(&self) -> String {
        Command::new("alephlab model share")
            .word(&self.model)
            .flag("--expires", &self.expires)
            .flag("--downloads", &self.downloads)
            .flag("--bytes", &self.bytes)
            .flag("--per-minute", &self.per_minute)
            .text()
    }
}

/// What the pages call a field.
fn label(field: &str) -> &'static str {
    match field {
        "folder" => "Folder",
        "name" => "Name",
        "tag" => "Tag",
        "title" => "Title",
        "task" => "Task",
        "licence" => "Licence",
        "dataset" => "Trained on",
        "base" => "Made from",
        "model" => "Model",
        "downloads" => "Pulls",
        "bytes" => "Bytes",
        "per_minute" => "Requests a minute",
        _ => "Ends",
    }
}

fn trouble<'a>(troubles: &'a [Trouble], field: &str) -> Option<&'a str> {
    let found = troubles.iter().find(|trouble| trouble.field == field);
    found.map(|trouble| trouble.text.as_str())
}

fn is_plain(text: &str) -> bool {
    text.chars().count() <= TEXT_MAX && !text.starts_with('-') && !text.chars().any(char::is_control)
}

/// `owner/name`.
fn is_model(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(owner, name)| is_address(owner) && is_name(name))
}

/// A model's name, with its owner or not, and maybe a tag or revision.
fn is_reference(text: &str) -> bool {
    let (model, revision) = text.split_once('@').unwrap_or((text, "main"));
    let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_name(model) || is_model(model)) && (revision == "main" || is_commit || is_tag(revision))
}

/// Nothing, or a number from 1.
fn is_count(text: &str) -> bool {
    text.is_empty() || text.parse::<u32>().is_ok_and(|count| count > 0)
}

/// Nothing, or bytes with a unit.
fn is_size(text: &str) -> bool {
    let number = text.strip_suffix(['k', 'M', 'G', 'T']).unwrap_or(text);
    text.is_empty()
        || (number.len() <= 12
            && number.parse::<u64>().is_ok_and(|size| size > 0)
            && !number.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor() -> Visitor {
        Visitor::new(None, "/publish")
    }

    #[test]
    fn a_folder_becomes_a_command_that_a_shell_reads_as_it_was_typed() {
        let form = PublishForm {
            folder: " my models/digits ".into(),
            name: "digits".into(),
            open: "public".into(),
            tag: "v1.0".into(),
            title: "Ada's digits".into(),
            licence: "mit".into(),
            ..PublishForm::default()
        };
        let page = PublishPage::of(visitor(), form);
        assert_eq!(
            page.command.as_deref(),
            Some(
                "alephlab model publish 'my models/digits' \\\n    --name digits \\\n    --public \\\n    --tag v1.0 \\\n    \
                 --card-title 'Ada'\\''s digits' \\\n    --card-licence mit"
            )
        );
    }

    #[test]
    fn each_field_says_what_is_wrong_with_it_and_keeps_what_was_typed() {
        let form = PublishForm {
            folder: "--force".into(),
            name: "a b".into(),
            tag: "main".into(),
            base: "digits".into(),
            title: "x".repeat(300),
            ..PublishForm::default()
        };
        let page = PublishPage::of(visitor(), form);
        assert!(page.command.is_none());
        let html = page.render().unwrap();
        assert_eq!(html.matches("aria-invalid").count(), 5, "{html}");
        assert!(html.contains("value=\"--force\""));
    }

    #[test]
    fn a_share_has_limits_that_the_command_takes() {
        let form = |bytes: &str, downloads: &str| ShareForm {
            model: "digits@v1.0".into(),
            expires: "7d".into(),
            downloads: downloads.into(),
            bytes: bytes.into(),
            per_minute: String::new(),
        };
        let page = ShareNewPage::of(visitor(), form("20G", "10"));
        assert_eq!(
            page.command.as_deref(),
            Some("alephlab model share digits@v1.0 --expires 7d --downloads 10 --bytes 20G")
        );
        for (bytes, downloads) in [("20 GB", "1"), ("1.5G", "1"), ("+1", "1"), ("", "0"), ("", "-1")] {
            assert!(
                ShareNewPage::of(visitor(), form(bytes, downloads))
                    .command
                    .is_none(),
                "{bytes} {downloads}"
            );
        }
        assert_eq!(ShareNewPage::new(visitor(), "$(reboot)").form.model, "");
    }
}
