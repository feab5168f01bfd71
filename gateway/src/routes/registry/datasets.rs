//! Datasets of an account, as far as its public messages say: versions and readers, and no name, content or size.

use std::collections::{BTreeMap, BTreeSet};

use alephlab_vault::storage::StoredPost;
use alephlab_vault::{
    DatasetId, GRANT_POST_TYPE, Grant, HEAD_POST_TYPE, REVOKE_POST_TYPE, Revocation, SignedHead,
};
use askama::Template;

use super::command::Command;
use super::{Visitor, short};
use crate::routes::words::{Day, short_hash};

/// Datasets that are shown.
const ROWS: usize = 200;
/// Terms that the form offers.
const TERMS: [(&str, &str); 4] = [
    ("7d", "In 7 days"),
    ("30d", "In 30 days"),
    ("365d", "In a year"),
    ("", "No end"),
];

/// What the network says of an account's datasets.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) datasets: Vec<Dataset>,
    /// Granted by others: id and who.
    pub(crate) granted: Vec<(String, String)>,
}

/// One dataset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dataset {
    pub(crate) id: String,
    pub(crate) version: u64,
    pub(crate) epoch: u32,
    pub(crate) changed: u64,
    pub(crate) readers: Vec<Reader>,
}

/// Who may read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) address: String,
    pub(crate) ends: Option<u64>,
    pub(crate) asks_of_hosts: bool,
}

/// Reads an owner's posts, oldest first: the newest head of each dataset that is not among `models`, the heads of models by
/// the item hashes of their posts, and the grants that hold at `now`.
pub(crate) fn read(owner: &str, posts: Vec<StoredPost>, models: &BTreeSet<String>, now: u64) -> Vec<Dataset> {
    let mut heads: BTreeMap<DatasetId, SignedHead> = BTreeMap::new();
    let mut of_models = BTreeSet::new();
    let (mut grants, mut ended) = (Vec::new(), BTreeSet::new());
    for post in posts {
        if !post.sender.eq_ignore_ascii_case(owner) {
            continue;
        }
        match post.post_type.as_str() {
            HEAD_POST_TYPE => {
                let Ok(head) = SignedHead::from_post(&post.content) else {
                    continue;
                };
                if !head.head.owner.to_string().eq_ignore_ascii_case(owner) || head.verify().is_err() {
                    continue;
                }
                let id = head.head.dataset_id;
                if models.contains(&post.item_hash) {
                    of_models.insert(id);
                }
                let newer = heads
                    .get(&id)
                    .is_none_or(|known| known.head.version < head.head.version);
                if newer {
                    heads.insert(id, head);
                }
            }
            GRANT_POST_TYPE => grants.extend(serde_json::from_value::<Grant>(post.content).ok()),
            REVOKE_POST_TYPE => {
                ended.extend(
                    serde_json::from_value::<Revocation>(post.content)
                        .map(|one| one.grant_id)
                        .ok(),
                );
            }
            _ => {}
        }
    }
    heads.retain(|id, _| !of_models.contains(id));
    let mut datasets: Vec<_> = heads
        .into_values()
        .map(|head| {
            let mut readers: BTreeMap<String, Reader> = BTreeMap::new();
            for grant in grants
                .iter()
                .filter(|grant| grant.dataset_id == head.head.dataset_id)
            {
                let address = grant.recipient.to_string();
                let holds = grant.epoch == head.head.epoch
                    && !ended.contains(&grant.grant_id)
                    && grant.not_before <= now
                    && grant.not_after.is_none_or(|end| now <= end);
                // They come oldest first: the newest of each account decides.
                match holds && !address.eq_ignore_ascii_case(owner) {
                    true => readers.insert(
                        address.clone(),
                        Reader {
                            address,
                            ends: grant.not_after,
                            asks_of_hosts: grant.policy.is_some(),
                        },
                    ),
                    false => readers.remove(&address),
                };
            }
            Dataset {
                id: head.head.dataset_id.to_string(),
                version: head.head.version,
                epoch: head.head.epoch,
                changed: head.head.created,
                readers: readers.into_values().collect(),
            }
        })
        .collect();
    datasets.sort_by(|one, other| (other.changed, &one.id).cmp(&(one.changed, &other.id)));
    datasets
}

/// What was typed into the form that lets somebody read.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct GrantForm {
    pub(crate) dataset: String,
    pub(crate) reader: String,
    pub(crate) expires: String,
    pub(crate) attested: String,
    /// `grant` or `revoke`.
    pub(crate) what: String,
}

#[derive(Template)]
#[template(path = "datasets.html")]
pub(crate) struct DatasetsPage {
    version: &'static str,
    visitor: Visitor,
    rows: Vec<Row>,
    left_out: usize,
    granted: Vec<(String, String, String, String)>,
    /// Why the network's answer is missing.
    trouble: Option<String>,
    has_address: bool,
    form: GrantForm,
    name_trouble: Option<&'static str>,
    reader_trouble: Option<&'static str>,
    command: Option<String>,
    is_revoke: bool,
}

struct Row {
    id: String,
    id_short: String,
    version: u64,
    changed: Day,
    readers: Vec<(String, String, Day, bool)>,
}

impl DatasetsPage {
    pub(crate) fn of(
        visitor: Visitor,
        known: Known,
        trouble: Option<String>,
        form: Option<GrantForm>,
    ) -> Self {
        let has_address = visitor.account.as_ref().is_some_and(|who| who.address.is_some());
        let left_out = known.datasets.len().saturating_sub(ROWS);
        let rows = known.datasets.into_iter().take(ROWS).map(|dataset| Row {
            id_short: short_hash(&dataset.id, 12),
            version: dataset.version,
            changed: Day::at(dataset.changed),
            readers: dataset
                .readers
                .into_iter()
                .map(|reader| {
                    (
                        short(&reader.address),
                        reader.address,
                        Day::of_end(reader.ends),
                        reader.asks_of_hosts,
                    )
                })
                .collect(),
            id: dataset.id,
        });
        let mut page = Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            rows: rows.collect(),
            left_out,
            granted: known
                .granted
                .into_iter()
                .map(|(id, owner)| (short_hash(&id, 12), id, short(&owner), owner))
                .collect(),
            trouble,
            has_address,
            form: GrantForm::default(),
            name_trouble: None,
            reader_trouble: None,
            command: None,
            is_revoke: false,
        };
        match form {
            Some(form) => page.prepare(form),
            None => page.form.expires = "30d".to_owned(),
        }
        page
    }

    fn prepare(&mut self, form: GrantForm) {
        let (name, reader) = (form.dataset.trim(), form.reader.trim());
        self.is_revoke = form.what == "revoke";
        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) || name.starts_with('-')
        {
            self.name_trouble = Some("Write the name that alephlab dataset ls shows, such as flowers.");
        }
        if !is_address(reader) {
            self.reader_trouble = Some("Write an address: 0x and 40 hex digits.");
        }
        if self.name_trouble.is_none() && self.reader_trouble.is_none() {
            let verb = if self.is_revoke { "revoke" } else { "grant" };
            let command = Command::new(&format!("alephlab dataset {verb}"))
                .word(name)
                .word(reader);
            let expires = TERMS
                .iter()
                .map(|(term, _)| *term)
                .find(|term| *term == form.expires);
            self.command = Some(match self.is_revoke {
                true => command.text(),
                false => {
                    let command = command.flag("--expires", expires.unwrap_or_default());
                    let attested = if form.attested == "yes" { "attested" } else { "" };
                    command.flag("--require", attested).text()
                }
            });
        }
        self.form = form;
    }

    fn terms(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        TERMS
            .iter()
            .map(|(term, title)| (*term, *title, *term == self.form.expires))
    }
}

/// `0x` and 40 hex digits.
pub(super) fn is_address(text: &str) -> bool {
    text.len() == 42 && text.starts_with("0x") && text.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(form: GrantForm) -> DatasetsPage {
        DatasetsPage::of(
            Visitor::new(None, "/datasets"),
            Known::default(),
            None,
            Some(form),
        )
    }

    #[test]
    fn a_command_is_prepared_of_what_can_be_one() {
        let reader = format!("0x{}", "aB".repeat(20));
        let form = |dataset: &str, what: &str| GrantForm {
            dataset: dataset.into(),
            reader: reader.clone(),
            expires: "30d".into(),
            attested: "yes".into(),
            what: what.into(),
        };
        let command = prepared(form("my flowers", "grant")).command.unwrap();
        assert_eq!(
            command,
            format!(
                "alephlab dataset grant 'my flowers' {reader} \\\n    --expires 30d \\\n    --require attested"
            )
        );
        let command = prepared(form("flowers", "revoke")).command.unwrap();
        assert_eq!(command, format!("alephlab dataset revoke flowers {reader}"));
        let page = prepared(GrantForm {
            reader: "ada".into(),
            ..form("--yes", "grant")
        });
        assert!(page.command.is_none() && page.name_trouble.is_some() && page.reader_trouble.is_some());
        assert!(page.render().unwrap().contains("aria-invalid"));
    }
}
