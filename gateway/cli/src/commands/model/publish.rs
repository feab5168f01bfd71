//! `model publish`: which files, which card, and what is said before and after.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alephlab_api::Card;
use alephlab_api::model::{ModelRecord, Visibility, is_path};
use alephlab_registry::{README_MAX, read_card};
use alephlab_vault::{Source, walk};
use alephlab_verify::{CheckId, Outcome};
use clap::Args;
use serde_json::json;

use super::{ModelCommand, counted, say_untold};
use crate::error::{CliError, Result};
use crate::models::{Checked, Model, New, Origin, Registry, check_files, refusal};
use crate::progress::Reporter;

/// Left out of a folder at its top: git's own, and what Hub clients and `model pull` keep beside what they download.
pub(super) const LEFT_OUT: [&str; 3] = [".git", ".cache", ".alephlab-parts"];

/// What to publish, and what is said about it.
#[derive(Args)]
pub(super) struct Publish {
    /// A folder, which becomes the whole revision; or files.
    #[arg(required = true, value_name = "FOLDER|FILE")]
    files: Vec<PathBuf>,
    /// What to call it [default: the name of the folder or the only file].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Anyone may open it: its keys are published with it, for good.
    #[arg(long, conflicts_with = "sealed")]
    public: bool,
    /// Only who it is granted to or shared with may open it; name, card, and paths, sizes and hashes of files are public. This
    /// is so unless the revision before is public or private.
    #[arg(long)]
    sealed: bool,
    /// Nobody but you and who it is granted to or shared with knows of it: its record is sealed, too. Earlier revisions that
    /// are not private are withdrawn.
    #[arg(long, conflicts_with_all = ["public", "sealed"])]
    private: bool,
    /// A name for the revision, such as v1; it moves if it is there.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Keep the files of the newest revision that are not given.
    #[arg(long)]
    add: bool,
    /// Publish also files of a format that can run code, or that are not what their names say. It will not be Verified.
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    card: CardFlags,
}

/// What becomes `README.md`, where there is none among the files.
#[derive(Args)]
struct CardFlags {
    /// Name for people.
    #[arg(long, value_name = "TEXT")]
    card_title: Option<String>,
    /// Text about it, in Markdown.
    #[arg(long, value_name = "TEXT")]
    card_description: Option<String>,
    /// Its licence, such as mit or apache-2.0.
    #[arg(long, value_name = "SPDX")]
    card_licence: Option<String>,
    /// What it does, such as image-classification.
    #[arg(long, value_name = "TASK")]
    card_task: Option<String>,
    /// The library that loads it, such as candle.
    #[arg(long, value_name = "NAME")]
    card_library: Option<String>,
    /// The dataset that it was trained on.
    #[arg(long, value_name = "NAME")]
    card_dataset: Option<String>,
    /// The model that it was made from.
    #[arg(long, value_name = "OWNER/NAME")]
    card_base_model: Option<String>,
    /// A word to find it by; can be given more than once.
    #[arg(long, value_name = "WORD")]
    card_tag: Vec<String>,
    /// A measured value, such as accuracy=0.98; can be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_metric)]
    card_metric: Vec<(String, f64)>,
}

impl CardFlags {
    /// None when nothing is said.
    fn card(&self, name: &str) -> Option<Card> {
        let said = Card {
            title: self.card_title.clone().unwrap_or_default(),
            description: self.card_description.clone().unwrap_or_default(),
            licence: self.card_licence.clone().unwrap_or_default(),
            tags: self.card_tag.clone(),
            task: self.card_task.clone(),
            dataset: self.card_dataset.clone(),
            metrics: self.card_metric.iter().cloned().collect::<BTreeMap<_, _>>(),
            library: self.card_library.clone(),
            base_model: self.card_base_model.clone(),
            private: false,
        };
        let title = Some(said.title.clone()).filter(|title| !title.is_empty());
        (said != Card::default()).then(|| Card {
            title: title.unwrap_or_else(|| name.to_owned()),
            ..said
        })
    }
}

/// Files of this machine by their paths in the revision.
type Files = Vec<(String, PathBuf)>;

impl ModelCommand {
    pub(super) async fn publish(&self, registry: &Registry, publish: &Publish) -> Result<()> {
        let name = publish.name()?;
        let files = publish.files()?;
        let reporter = Reporter::new();
        if !publish.unchecked {
            check(&files).await?;
        }
        let owner = registry.account().wallet().owner();
        let before = registry.model(owner, &name).await?;
        let newest = before.as_ref().and_then(Model::newest);
        let visibility = newest.map(|newest| newest.record.visibility);
        let new = publish.revision(&name, files, before.as_ref())?;
        if let Some(said) = made_public(&new, newest.map(|newest| &*newest.record)) {
            reporter.line(&said);
        }
        let count = new.files.len() as u64;
        let phase = reporter.phase("model", &format!("sealing {}", counted(count, "file", "files")));
        let shown = |done, total, text: &str| phase.progress(done, total, text);
        let published = registry.publish(new, &shown).await?;
        let (commit, word) = (
            published.record.commit.clone(),
            published.record.visibility.word(),
        );
        phase.finish(&match published.unchanged {
            true => format!("revision {commit} is this already"),
            false => format!("revision {commit}: {} bytes encrypted", published.uploaded),
        });
        let mut untold = published.untold;
        if let Some(tag) = &publish.tag {
            let posted = registry.tag(&name, tag, &commit).await?;
            untold = posted.and_then(|posted| posted.untold).or(untold);
        }
        say_untold(&reporter, untold.as_ref());
        let is = published.record.visibility;
        if let Some(was) = visibility.filter(|was| *was != is) {
            reporter.line(&format!(
                "{name} was {} and is {word}: {}",
                was.word(),
                is.consequence(was)
            ));
        }
        let bytes: u64 = published.record.files.iter().map(|file| file.size).sum();
        self.print(
            &json!({ "model": published.record.name, "revision": commit, "uuid": published.record.uuid,
                "visibility": word, "tag": publish.tag, "record": published.message, "head": published.record.head,
                "files": published.record.files.len(), "bytes": bytes, "uploaded": published.uploaded,
                "unchanged": published.unchanged, "told": untold.is_none() }),
            &format!("{}@{commit}  {word}, {}", published.record.name, counted(count, "file", "files")),
        );
        Ok(())
    }
}

impl Publish {
    fn name(&self) -> Result<String> {
        let unnamed = |path: &Path| CliError::Usage {
            message: format!("{} gives no name that a model could have", path.display()),
            hint: "choose one with --name".to_owned(),
        };
        match (&self.name, self.files.as_slice()) {
            (Some(name), _) => Ok(name.clone()),
            (None, [one]) => {
                let whole =
                    std::fs::canonicalize(one).map_err(|source| CliError::file("read", one, source))?;
                let name = if whole.is_dir() {
                    whole.file_name()
                } else {
                    whole.file_stem()
                };
                let name = name.and_then(|name| name.to_str());
                let name = name.filter(|name| alephlab_api::model::is_name(name));
                name.map(str::to_owned).ok_or_else(|| unnamed(one))
            }
            (None, _) => Err(CliError::Usage {
                message: "several files have no name in common".to_owned(),
                hint: "choose one with --name".to_owned(),
            }),
        }
    }

    /// All files that are given, by path.
    fn files(&self) -> Result<Files> {
        let mut found: Files = Vec::new();
        for given in &self.files {
            if given.is_dir() && self.files.len() > 1 {
                return Err(CliError::Usage {
                    message: format!("{} is a folder among other files", given.display()),
                    hint: "give one folder, or files only".to_owned(),
                });
            }
            let walked =
                walk(given).map_err(|error| CliError::vault("the files cannot be published", &error))?;
            for file in walked {
                let top = file.path.split('/').next().unwrap_or_default();
                let is_left_out = given.is_dir() && LEFT_OUT.contains(&top);
                let Source::Path(place) = file.source else {
                    continue;
                };
                if is_left_out {
                    continue;
                }
                if !is_path(&file.path) || file.path.contains(char::is_control) {
                    return Err(CliError::Usage {
                        message: format!("{:?} is a path that a model cannot have", file.path),
                        hint: "rename it: no control characters, backslashes or .git folders".to_owned(),
                    });
                }
                if found.iter().any(|(path, _)| *path == file.path) {
                    return Err(CliError::Usage {
                        message: format!("two of the files are called {}", file.path),
                        hint: "publish a folder that has them under different paths".to_owned(),
                    });
                }
                found.push((file.path, place));
            }
        }
        if found.is_empty() {
            return Err(CliError::Usage {
                message: "there is nothing to publish: no files were found".to_owned(),
                hint: "name a folder with files, or files".to_owned(),
            });
        }
        Ok(found)
    }

    /// The revision to be.
    fn revision(&self, name: &str, files: Files, before: Option<&Model>) -> Result<New> {
        let flags = self.card.card(name);
        let newest = before.and_then(Model::newest).map(|newest| &newest.record);
        let readme = files
            .iter()
            .find(|(path, _)| path == "README.md")
            .map(|(_, place)| place.clone());
        let mut all: BTreeMap<String, Origin> = BTreeMap::new();
        if let Some(newest) = newest.filter(|_| self.add) {
            let kept = newest.files.iter();
            all.extend(kept.map(|file| (file.path.clone(), Origin::Kept(file.path.clone()))));
        }
        all.extend(files.into_iter().map(|(path, place)| (path, Origin::File(place))));
        let card = match (readme, flags) {
            (Some(readme), None) => Some(card_of(&readme)?),
            (Some(_), Some(_)) => {
                return Err(CliError::Usage {
                    message: "the card stands in README.md, and options say another one".to_owned(),
                    hint: "change README.md, or leave out --card-…".to_owned(),
                });
            }
            (None, Some(card)) => {
                all.insert("README.md".to_owned(), Origin::Bytes(card.to_markdown().into()));
                Some(card)
            }
            // The whole revision is given, and it has no card.
            (None, None) if !self.add => Some(Card::default()),
            (None, None) => None,
        };
        let visibility = match (self.public, self.sealed, self.private) {
            (true, ..) => Some(Visibility::Public),
            (_, true, _) => Some(Visibility::Sealed),
            (.., true) => Some(Visibility::Private),
            _ => None,
        };
        Ok(New {
            name: name.to_owned(),
            files: all.into_iter().collect(),
            card,
            visibility,
            ..New::default()
        })
    }
}

/// What of a sealed model is public beside its files' names: the text of its card, said before it is posted.
fn made_public(new: &New, newest: Option<&ModelRecord>) -> Option<String> {
    let visibility = new.visibility.or(newest.map(|newest| newest.visibility));
    if visibility.unwrap_or_default() != Visibility::Sealed {
        return None;
    }
    let text = &new.card.as_ref()?.description;
    let was = newest.filter(|newest| newest.visibility == Visibility::Sealed);
    if text.is_empty() || was.is_some_and(|was| was.card.description == *text) {
        return None;
    }
    Some(format!(
        "the card's text ({}) is public, for good, also of a sealed model; --private publishes none of it",
        counted(text.len() as u64, "byte", "bytes")
    ))
}

/// The card that a file is.
fn card_of(readme: &Path) -> Result<Card> {
    let failed = |source| CliError::file("read", readme, source);
    if std::fs::metadata(readme).map_err(failed)?.len() > README_MAX {
        return Err(CliError::Usage {
            message: format!("{} is larger than {README_MAX} bytes", readme.display()),
            hint: "a card is text: put data into other files".to_owned(),
        });
    }
    let bytes = std::fs::read(readme).map_err(failed)?;
    Ok(read_card(&String::from_utf8_lossy(&bytes)))
}

/// Refuses files that can run code, and those that are not what their names say.
async fn check(files: &Files) -> Result<()> {
    let what = Checked::Files {
        files: files.clone(),
        signed: None,
        by_owner: false,
    };
    let report = check_files(what, None).await?;
    let of = |id| report.check(id).filter(|check| check.outcome == Outcome::Failed);
    let failed = [CheckId::V3, CheckId::V4].into_iter().filter_map(of);
    let way = "; or publish it as it is, never to be Verified, with --unchecked";
    refusal(failed.flat_map(|check| &check.findings), way).map_or(Ok(()), Err)
}

/// `name=0.98`.
fn parse_metric(text: &str) -> std::result::Result<(String, f64), String> {
    let wrong = || "write NAME=VALUE, such as accuracy=0.98".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let value: f64 = value.parse().map_err(|_| wrong())?;
    (!name.is_empty() && value.is_finite())
        .then(|| (name.to_owned(), value))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_a_sealed_model_makes_public_is_said_before() {
        let new = |visibility| New {
            card: Some(Card {
                description: "Remarks.".to_owned(),
                ..Card::default()
            }),
            visibility,
            ..New::default()
        };
        let said = made_public(&new(None), None).unwrap();
        assert!(said.contains("8 bytes") && said.contains("--private"), "{said}");
        assert_eq!(made_public(&new(Some(Visibility::Private)), None), None);
        assert_eq!(made_public(&New::default(), None), None);
    }

    #[test]
    fn metrics_are_names_with_numbers() {
        assert_eq!(parse_metric("accuracy=0.98"), Ok(("accuracy".to_owned(), 0.98)));
        for text in ["", "accuracy", "=1", "a=x", "a=NaN", "a=inf"] {
            assert!(parse_metric(text).is_err(), "{text}");
        }
    }
}
