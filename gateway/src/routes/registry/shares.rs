//! Shares: the account's own, how one is ended, and how one is used by who was given it.

use alephlab_api::share::ShareInfo;
use askama::Template;
use uuid::Uuid;

use super::model::Notice;
use super::snippets::Snippet;
use super::{Visitor, short_name};
use crate::routes::words::{self, Day, short_hash};

#[derive(Template)]
#[template(path = "shares.html")]
pub(crate) struct SharesPage {
    version: &'static str,
    visitor: Visitor,
    done: Option<&'static str>,
    shares: Vec<Row>,
    summary: String,
}

/// One share.
pub(crate) struct Row {
    uuid: Uuid,
    uuid_short: String,
    model: String,
    model_short: String,
    revision: String,
    revision_short: String,
    ends: Day,
    over: Option<&'static str>,
    pulls: String,
    bytes: String,
    per_minute: Option<u32>,
    used: Day,
    made: Day,
}

impl Row {
    fn of(share: &ShareInfo, now: u64) -> Self {
        let of = |used: String, most: Option<String>| match most {
            Some(most) => format!("{used} of {most}"),
            None => used,
        };
        Self {
            uuid: share.uuid,
            uuid_short: short_hash(&share.uuid.to_string(), 8),
            model_short: short_name(&share.model),
            model: share.model.clone(),
            revision_short: short_hash(&share.revision, 8),
            revision: share.revision.clone(),
            ends: Day::of_end(share.expires),
            over: over(share, now),
            pulls: of(
                words::grouped(share.used.downloads),
                share.limits.downloads.map(words::grouped),
            ),
            bytes: of(
                words::bytes(share.used.bytes),
                share.limits.bytes.map(words::bytes),
            ),
            per_minute: share.limits.per_minute,
            used: Day::of_use(share.used.last),
            made: Day::at(share.created),
        }
    }
}

/// Why a share opens nothing any more, if so.
fn over(share: &ShareInfo, now: u64) -> Option<&'static str> {
    let spent = |used: u64, most: Option<u64>| most.is_some_and(|most| used >= most);
    if share.expires.is_some_and(|end| end < now) {
        Some("Ended")
    } else if spent(share.used.downloads, share.limits.downloads) {
        Some("Pulls used up")
    } else if spent(share.used.bytes, share.limits.bytes) {
        Some("Bytes used up")
    } else {
        None
    }
}

impl SharesPage {
    /// The account's shares.
    pub(crate) fn of(visitor: Visitor, shares: &[ShareInfo], now: u64, revoked: bool) -> Self {
        let rows: Vec<_> = shares.iter().map(|share| Row::of(share, now)).collect();
        let open = rows.iter().filter(|row| row.over.is_none()).count();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            done: revoked.then_some("The share is revoked. From now on it opens nothing here; who opened it before can keep that."),
            summary: match rows.len() {
                0 => "None of your models is shared by this gateway.".to_owned(),
                _ => format!("{} open, of {}.", words::grouped(open as u64), words::counted(rows.len() as u64, "share", "shares")),
            },
            shares: rows,
        }
    }
}

#[derive(Template)]
#[template(path = "share_revoke.html")]
pub(crate) struct RevokePage {
    version: &'static str,
    visitor: Visitor,
    share: Row,
}

impl RevokePage {
    pub(crate) fn of(visitor: Visitor, share: &ShareInfo, now: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            share: Row::of(share, now),
        }
    }
}

/// How a share is used. Nothing is looked up for it: the page of a wrong UUID is that of a right one.
#[derive(Template)]
#[template(path = "share.html")]
pub(crate) struct SharePage {
    version: &'static str,
    visitor: Visitor,
    uuid: Uuid,
    snippets: Vec<Snippet>,
    has_lab: bool,
    /// Who can read what runs where no other machine is chosen.
    trust: String,
    notice: Option<Notice>,
}

impl SharePage {
    pub(crate) fn of(
        visitor: Visitor,
        uuid: Uuid,
        gateway: &str,
        (has_lab, trust): (bool, &str),
        notice: Option<Notice>,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            visitor,
            uuid,
            snippets: snippets(uuid, gateway),
            has_lab,
            trust: trust.to_owned(),
            notice,
        }
    }

    /// What is said when there was a token in the address, where logs keep it.
    pub(crate) fn leaked() -> Notice {
        Notice {
            is_bad: true,
            text: "A token stood in this page's address. Addresses are kept in logs and histories, so somebody else may have it. \
                   Ask the owner to revoke the share and to make another."
                .to_owned(),
        }
    }

    /// A snippet's parts around the places where the token stands.
    fn parts<'a>(&self, snippet: &'a Snippet) -> Vec<&'a str> {
        snippet.text.split(TOKEN).collect()
    }
}

/// Where the token belongs in a snippet: a character that no address and no code has.
const TOKEN: &str = "\u{1}";

fn snippets(uuid: Uuid, gateway: &str) -> Vec<Snippet> {
    let snippet = |client, title, language, note, text| Snippet {
        client,
        title,
        language,
        text,
        note,
    };
    vec![
        snippet(
            "alephlab",
            "alephlab",
            "Shell",
            "With the token on your machine, as above. The files are opened there.",
            format!("alephlab model pull {uuid}"),
        ),
        snippet(
            "hf",
            "hf",
            "Shell",
            "Sends the whole token here: this gateway could keep it and read this revision.",
            format!("export HF_ENDPOINT={gateway} HF_TOKEN={TOKEN}\nhf download m/{uuid}"),
        ),
        snippet(
            "transformers",
            "transformers",
            "Python",
            "Sends the whole token here, as hf does.",
            format!(
                "import os\nos.environ[\"HF_ENDPOINT\"] = \"{gateway}\"\n\nfrom transformers import AutoModel\n\
                 model = AutoModel.from_pretrained(\n    \"m/{uuid}\", token=\"{TOKEN}\",\n)"
            ),
        ),
        snippet(
            "candle",
            "candle, hf-hub",
            "Rust",
            "Sends the whole token here, as hf does.",
            format!(
                "// HF_ENDPOINT={gateway} in the environment\nlet api = hf_hub::api::sync::ApiBuilder::from_env()\n    \
                 .with_token(Some(\"{TOKEN}\".into())).build()?;\nlet file = api.model(\"m/{uuid}\".into())\n    \
                 .get(\"model.safetensors\")?;"
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use alephlab_api::share::{ShareLimits, ShareUse};

    use super::*;

    #[test]
    fn a_share_says_what_is_left_and_why_it_is_over() {
        let share = ShareInfo {
            uuid: Uuid::nil(),
            model: "0xAb/digits".into(),
            revision: "a".repeat(40),
            expires: Some(100),
            created: 1,
            limits: ShareLimits {
                downloads: Some(10),
                bytes: None,
                per_minute: Some(5),
            },
            used: ShareUse {
                downloads: 3,
                bytes: 2_000_000_000,
                last: None,
            },
        };
        let row = Row::of(&share, 50);
        assert_eq!(
            (row.pulls.as_str(), row.bytes.as_str(), row.over),
            ("3 of 10", "2.0 GB", None)
        );
        assert_eq!(Row::of(&share, 101).over, Some("Ended"));
        let used = ShareUse {
            downloads: 10,
            ..share.used
        };
        assert_eq!(
            Row::of(&ShareInfo { used, ..share }, 50).over,
            Some("Pulls used up")
        );
    }

    #[test]
    fn how_to_use_a_share_is_the_same_for_every_uuid() {
        let page = |uuid: Uuid| {
            let page = SharePage::of(
                Visitor::new(None, "/models"),
                uuid,
                "https://lab.example",
                (true, "Host can read memory"),
                None,
            );
            page.render().unwrap().replace(&uuid.to_string(), "UUID")
        };
        let html = page(Uuid::nil());
        assert_eq!(html, page(Uuid::from_u128(7)));
        assert!(html.contains("Host can read memory") && !html.contains("cannot read the files"));
        assert_eq!(html.matches("data-token").count(), 4);
        assert!(!html.contains("name=\"t\"") && !html.contains("name=\"token\""));
    }
}
