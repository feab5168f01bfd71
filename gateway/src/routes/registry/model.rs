//! One model as its page shows it, at one of its revisions.

use alephlab_api::model::{IndexedModel, ModelPage, ModelRecord, Visibility, private_uuid};
use askama::Template;
use uuid::Uuid;

use super::browse;
use super::evidence::{self, CheckRow, Said, Verdict};
use super::print::Print;
use super::rows::{self, FileRow, ROWS, RevisionRow};
use super::snippets::{self, Snippet, Used};
use super::{Visitor, markdown, short, short_name, shown_name};
use crate::index::Badge as Verdicts;
use crate::models::Standing;
use crate::routes::shop::PriceBox;
use crate::routes::words::{self, Day, short_hash};

/// Parts of a model's page, each with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Card,
    Files,
    Revisions,
    Verification,
    Use,
}

impl Tab {
    const ALL: [Self; 5] = [
        Self::Card,
        Self::Files,
        Self::Revisions,
        Self::Verification,
        Self::Use,
    ];

    /// Of the last part of an address.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|tab| *tab != Self::Card && tab.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Card => "",
            Self::Files => "files",
            Self::Revisions => "revisions",
            Self::Verification => "verification",
            Self::Use => "use",
        }
    }

    /// Whether there is anything to say here of what nobody but its owner knows.
    fn is_of_private(self) -> bool {
        matches!(self, Self::Card | Self::Revisions | Self::Use)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Card => "Card",
            Self::Files => "Files",
            Self::Revisions => "Revisions",
            Self::Verification => "Verification",
            Self::Use => "Use",
        }
    }
}

/// What is known of a model and asked of its page.
pub(crate) struct Asked<'a> {
    pub(crate) visitor: Visitor,
    pub(crate) tab: Tab,
    pub(crate) known: &'a ModelPage,
    /// Revision or tag of the address; none for the newest.
    pub(crate) revision: Option<&'a str>,
    /// Client of the address.
    pub(crate) client: &'a str,
    /// Models made from this one.
    pub(crate) children: usize,
    /// Whether the model that it was made from is here.
    pub(crate) has_base: bool,
    pub(crate) has_lab: bool,
    pub(crate) gateway: &'a str,
    pub(crate) notice: Option<Notice>,
    pub(crate) price: PriceBox,
}

/// What a form of the page did, or why not.
pub(crate) struct Notice {
    pub(crate) is_bad: bool,
    pub(crate) text: String,
}

#[derive(Template)]
#[template(path = "model.html")]
pub(crate) struct ModelView {
    version: &'static str,
    visitor: Visitor,
    notice: Option<Notice>,
    tab: Tab,
    tabs: Vec<TabLink>,
    name: String,
    owner: String,
    owner_short: String,
    own: String,
    own_shown: String,
    sentence: String,
    print: Print,
    task: Option<(String, String)>,
    plain: Vec<String>,
    badge: Badge,
    standing: Standing,
    is_refused: bool,
    public: bool,
    /// Of one that only its owner sees here, and of which nothing is known.
    private: Option<Uuid>,
    is_owner: bool,
    is_newest: bool,
    commit: String,
    commit_short: String,
    /// The revision as addresses of this page say it; empty for the newest.
    query: String,
    reference: String,
    has_lab: bool,
    price: PriceBox,
    facts: Facts,
    base: Option<(String, String, bool)>,
    children: Option<(String, String)>,
    // Each tab fills its own.
    card: String,
    metrics: Vec<(String, String)>,
    dataset: Option<String>,
    files: Vec<FileRow>,
    files_left: usize,
    size: String,
    count: String,
    revisions: Vec<RevisionRow>,
    said: Vec<Said>,
    unmade: Vec<CheckRow>,
    snippets: Vec<Snippet>,
    client: &'static str,
}

struct TabLink {
    title: &'static str,
    address: String,
    count: String,
    here: bool,
}

/// What stands in a badge.
pub(in crate::routes) struct Badge {
    pub(in crate::routes) class: &'static str,
    pub(in crate::routes) icon: &'static str,
    pub(in crate::routes) words: String,
}

struct Facts {
    licence: String,
    dataset: Option<String>,
    library: Option<String>,
    published: Day,
    updated: Day,
    pulls: String,
    message: String,
    message_short: String,
}

/// The revision that an address means: none is the newest, then tags, then whole revisions.
pub(crate) fn find<'a>(known: &'a ModelPage, asked: Option<&str>) -> Option<&'a IndexedModel> {
    let Some(asked) = asked.filter(|asked| *asked != "main") else {
        return known.revisions.first();
    };
    let commit = known.tags.get(asked).map_or(asked, String::as_str);
    known.revisions.iter().find(|one| one.record.commit == commit)
}

impl ModelView {
    /// None where there is no such revision.
    pub(crate) fn of(asked: Asked<'_>) -> Option<Self> {
        let Asked {
            visitor,
            tab,
            known,
            revision,
            gateway,
            ..
        } = asked;
        let chosen = find(known, revision)?;
        let private = private_uuid(&chosen.record.name);
        if private.is_some() && !tab.is_of_private() {
            return None;
        }
        let newest = known.revisions.first()?;
        let first = known.revisions.last()?;
        let record = &chosen.record;
        let (owner, own) = record.name.split_once('/')?;
        let is_newest = chosen.record.commit == newest.record.commit;
        let tag = known
            .tags
            .iter()
            .rev()
            .find(|(_, commit)| **commit == record.commit)
            .map(|(tag, _)| tag.as_str());
        // A tag says more than digits; the newest without one needs neither.
        let named = tag.or_else(|| (!is_newest).then_some(record.commit.as_str()));
        let query = match revision.filter(|_| !is_newest || revision == tag) {
            Some(revision) => format!("?rev={revision}"),
            None => String::new(),
        };
        let said = evidence::of_revision(&known.evidence, record);
        let standing = crate::models::standing(record, &known.evidence);
        let bytes = record
            .files
            .iter()
            .fold(0_u64, |sum, file| sum.saturating_add(file.size));
        let card = &record.card;
        let mut snippets = snippets::all(Used {
            name: &record.name,
            revision: named,
            visibility: record.visibility,
            file: weights(record),
            gateway,
        });
        let client = snippets
            .iter()
            .find(|snippet| snippet.client == asked.client)
            .map_or("notebook", |snippet| snippet.client);
        if tab != Tab::Use {
            snippets.retain(|snippet| snippet.client == client);
        }
        let mut plain = Vec::new();
        plain.extend(record.parameters_total().map(words::parameters));
        plain.push(browse::said(
            "format",
            crate::index::Format::of(&record.files).word(),
        ));
        plain.extend(Some(card.licence.clone()).filter(|licence| !licence.is_empty()));
        plain.retain(|word| word != "Other");
        Some(Self {
            version: env!("CARGO_PKG_VERSION"),
            notice: asked.notice,
            tabs: tabs(tab, known, record, &said, &query),
            print: Print::square(&record.commit, card.task.as_deref()),
            task: card
                .task
                .as_ref()
                .map(|task| (browse::task(task), browse::Browse::of_task(task).at_page(1))),
            plain,
            is_refused: matches!(standing.badge, Verdicts::Refused(_)),
            badge: badge(standing.badge),
            standing,
            public: record.visibility == Visibility::Public,
            private,
            is_owner: visitor.is(owner),
            is_newest,
            // Of a card without a description its title is all that there is to say.
            sentence: match crate::index::sentence(&card.description) {
                _ if private.is_some() => {
                    "Only you see this page. Name, card, tags and files are sealed, and this gateway cannot open them.".to_owned()
                }
                sentence if sentence.is_empty() => card.title.clone(),
                sentence => sentence,
            },
            facts: Facts {
                licence: card.licence.clone(),
                dataset: card.dataset.clone(),
                library: card.library.clone(),
                published: Day::at(first.record.created),
                updated: Day::at(newest.record.created),
                pulls: words::grouped(known.downloads),
                message_short: short_hash(&chosen.message, 8),
                message: chosen.message.clone(),
            },
            base: card
                .base_model
                .as_ref()
                .map(|base| (base.clone(), short_name(base), asked.has_base)),
            children: (asked.children > 0).then(|| {
                let count =
                    words::counted(asked.children as u64, "model made from it", "models made from it");
                (count, browse::Browse::of_base(&record.name).at_page(1))
            }),
            card: match tab {
                Tab::Card => markdown::html(&card.description),
                _ => String::new(),
            },
            metrics: card
                .metrics
                .iter()
                .map(|(name, value)| (browse::capital(&name.replace('_', " ")), figure(*value)))
                .collect(),
            dataset: card.dataset.clone(),
            files: match tab {
                Tab::Files => rows::files(record),
                _ => Vec::new(),
            },
            files_left: record.files.len().saturating_sub(ROWS),
            size: words::bytes(bytes),
            count: words::counted(record.files.len() as u64, "file", "files"),
            revisions: match tab {
                Tab::Revisions => rows::revisions(known, &record.commit),
                _ => Vec::new(),
            },
            unmade: match said.is_empty() {
                true => evidence::unmade(),
                false => Vec::new(),
            },
            said,
            snippets,
            client,
            reference: named.map_or_else(|| record.name.clone(), |named| format!("{}@{named}", record.name)),
            commit_short: short_hash(&record.commit, 8),
            commit: record.commit.clone(),
            owner_short: short(owner),
            owner: owner.to_owned(),
            own_shown: shown_name(own),
            own: own.to_owned(),
            name: record.name.clone(),
            query,
            has_lab: asked.has_lab,
            price: asked.price,
            visitor,
            tab,
        })
    }

    fn client_address(&self, client: &str) -> String {
        let tab = match self.tab {
            Tab::Card => String::new(),
            tab => format!("/{}", tab.word()),
        };
        let start = if self.query.is_empty() { "?" } else { "&" };
        format!("/models/{}{tab}{}{start}client={client}", self.name, self.query)
    }

    fn clients() -> [(&'static str, &'static str); 4] {
        [
            ("notebook", "Notebook"),
            ("hf", "hf"),
            ("transformers", "transformers"),
            ("candle", "candle"),
        ]
    }
}

fn tabs(here: Tab, known: &ModelPage, record: &ModelRecord, said: &[Said], query: &str) -> Vec<TabLink> {
    let count = |tab: Tab| match tab {
        Tab::Files => words::grouped(record.files.len() as u64),
        Tab::Revisions => words::grouped(known.revisions.len() as u64),
        Tab::Verification => said
            .first()
            .filter(|said| said.verdict != Verdict::Unusable)
            .map_or_else(String::new, |said| format!("{} of 8", said.passed)),
        Tab::Card | Tab::Use => String::new(),
    };
    let is_private = private_uuid(&record.name).is_some();
    Tab::ALL
        .into_iter()
        .filter(|tab| !is_private || tab.is_of_private())
        .map(|tab| TabLink {
            title: tab.title(),
            address: match tab {
                Tab::Card => format!("/models/{}{query}", record.name),
                _ => format!("/models/{}/{}{query}", record.name, tab.word()),
            },
            count: count(tab),
            here: tab == here,
        })
        .collect()
}

/// What the gateway's own list says of this revision.
pub(in crate::routes) fn badge(verdict: Verdicts) -> Badge {
    let (class, icon, words) = match verdict {
        Verdicts::Unchecked => ("plain", "i-clock", "Not verified".to_owned()),
        Verdicts::Verified(at) => ("good", "i-shield", format!("Verified {}", Day::at(at).text)),
        Verdicts::Refused(at) => ("bad", "i-x", format!("Refused {}", Day::at(at).text)),
    };
    Badge { class, icon, words }
}

/// The file that a snippet loads.
fn weights(record: &ModelRecord) -> &str {
    let ends = |end: &str| record.files.iter().find(|file| file.path.ends_with(end));
    ends(".safetensors")
        .or_else(|| ends(".gguf"))
        .or_else(|| record.files.first())
        .map_or("model.safetensors", |file| file.path.as_str())
}

/// Up to four digits after the point, without zeros at the end.
fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "not a number".to_owned();
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alephlab_api::Card;
    use alephlab_api::model::RecordFile;

    use super::*;

    fn known() -> ModelPage {
        let file = |path: &str, hash: char| RecordFile {
            path: path.into(),
            size: 1_000,
            sha256: hash.to_string().repeat(64),
        };
        let record = |commit: char, parent: Option<char>, files| ModelRecord {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            commit: commit.to_string().repeat(40),
            parent: parent.map(|parent| parent.to_string().repeat(40)),
            card: Card {
                title: "<b>Digits</b>".into(),
                description: "Reads digits.\n\n<script>alert(1)</script>".into(),
                metrics: BTreeMap::from([("accuracy".to_owned(), 0.981)]),
                ..Card::default()
            },
            price: "free".into(),
            visibility: Visibility::Public,
            keys: None,
            sealed: None,
            files,
            head: "c".repeat(64),
            created: 1_795_370_760,
            ..ModelRecord::default()
        };
        let page = |record| IndexedModel {
            record,
            message: "d".repeat(64),
        };
        ModelPage {
            revisions: vec![
                page(record(
                    'b',
                    Some('a'),
                    vec![file("README.md", '1'), file("a b/model.safetensors", '3')],
                )),
                page(record(
                    'a',
                    None,
                    vec![file("README.md", '1'), file("a b/model.safetensors", '2')],
                )),
            ],
            tags: BTreeMap::from([("v1".to_owned(), "a".repeat(40))]),
            tags_serial: 1,
            evidence: vec![],
            downloads: 1_284,
            terms: None,
        }
    }

    fn shown(known: &ModelPage, tab: Tab, revision: Option<&str>) -> Option<String> {
        let view = ModelView::of(Asked {
            visitor: Visitor::new(None, "/models"),
            tab,
            known,
            revision,
            client: "hf",
            children: 2,
            has_base: false,
            has_lab: true,
            gateway: "https://lab.example",
            notice: None,
            price: PriceBox::default(),
        });
        view.map(|view| view.render().unwrap())
    }

    #[test]
    fn each_tab_shows_its_part_and_nothing_an_owner_wrote_as_markup() {
        let known = known();
        let card = shown(&known, Tab::Card, None).unwrap();
        assert!(card.contains("Reads digits.") && card.contains("0.981") && !card.contains("alert(1)"));
        assert!(!card.contains("<b>Digits"));
        let files = shown(&known, Tab::Files, None).unwrap();
        assert!(
            files.contains(&format!(
                "/0xAb/digits/resolve/{}/a%20b/model.safetensors",
                "b".repeat(40)
            )),
            "{files}"
        );
        assert!(files.contains(&"3".repeat(64)));
        let revisions = shown(&known, Tab::Revisions, None).unwrap();
        assert!(revisions.contains("Files: 1 changed") && revisions.contains("The first"));
        assert!(
            shown(&known, Tab::Verification, None)
                .unwrap()
                .contains("Nobody has checked this revision")
        );
        assert!(
            shown(&known, Tab::Use, None)
                .unwrap()
                .contains("HF_ENDPOINT=https://lab.example")
        );
    }

    #[test]
    fn a_revision_is_found_by_tag_and_whole_and_another_is_not_there() {
        let known = known();
        for (asked, commit) in [
            (None, "b"),
            (Some("main"), "b"),
            (Some("v1"), "a"),
            (Some(&*"a".repeat(40)), "a"),
        ] {
            assert_eq!(find(&known, asked).unwrap().record.commit, commit.repeat(40));
        }
        assert!(shown(&known, Tab::Card, Some("v2")).is_none());
        let old = shown(&known, Tab::Card, Some("v1")).unwrap();
        assert!(old.contains("--revision v1") && old.contains("?rev=v1"), "{old}");
    }

    #[test]
    fn figures_have_no_zeros_at_the_end() {
        assert_eq!(
            [0.981, 8.0, 0.00004, f64::NAN].map(figure),
            ["0.981", "8", "0", "not a number"]
        );
    }
}
