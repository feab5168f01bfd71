//! `model ls` and `model show`.

use std::path::Path;
use std::process::ExitCode;

use alephlab_api::model::{ModelPage, Visibility, is_hex};
use alephlab_api::time;
use alephlab_registry::{RepoInfo, Search};
use serde_json::{Value, json};

use super::market::asks_in_words;
use super::{ModelCommand, counted};
use crate::error::Result;
use crate::models::{Found, Model, Reference, Registry, Revision, hash_of, listed};
use crate::progress::{Reporter, printable};

/// Models that are asked of the gateway at a time.
const LISTED_MAX: usize = 1000;

impl ModelCommand {
    pub(super) async fn list(&self, registry: &Registry, all: bool, search: Option<&str>) -> Result<()> {
        let wanted = search.map(str::to_lowercase);
        let matches = |name: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| name.to_lowercase().contains(wanted))
        };
        let own = registry.own().await?;
        for model in own.values() {
            if let Some(newest) = model.newest().filter(|newest| matches(&newest.record.name)) {
                self.listed(model, newest, "own");
            }
        }
        if !all {
            return Ok(());
        }
        let address = registry.account().address();
        let mut seen = std::collections::BTreeSet::new();
        for model in registry.granted().await? {
            if let Some(newest) = model.newest().filter(|newest| matches(&newest.record.name)) {
                seen.insert(newest.record.name.clone());
                self.listed(&model, newest, "granted");
            }
        }
        let Some(gateway) = registry.gateway_if_any() else {
            return Ok(());
        };
        let asked = Search {
            text: wanted.clone(),
            limit: LISTED_MAX,
            ..Search::default()
        };
        match listed(gateway, &asked).await {
            Ok(others) => {
                let new = |info: &&RepoInfo| info.author != address && !seen.contains(&info.id);
                others.iter().filter(new).for_each(|info| self.listed_there(info));
            }
            Err(error) => {
                Reporter::new().line(&format!("the gateway lists no models of others: {error}"));
            }
        }
        Ok(())
    }

    /// Ends with 1 where none has it. Of models that are not public nobody is told.
    pub(super) async fn which(&self, registry: &Registry, file: &str) -> Result<ExitCode> {
        let gateway = registry.gateway()?;
        let hash = file.to_ascii_lowercase();
        let sha256 = match is_hex(&hash, 64) {
            true => hash,
            false => hash_of(Path::new(file)).await?,
        };
        let found = gateway.public_files(&sha256).await?;
        for one in &found {
            self.print(
                &json!({ "model": one.model, "revision": one.revision, "path": one.path, "bytes": one.size }),
                &format!(
                    "{}@{}  {}  {} bytes",
                    one.model,
                    one.revision,
                    printable(&one.path),
                    one.size
                ),
            );
        }
        Ok(match found.is_empty() {
            true => {
                Reporter::new().line(&format!("no public model of this gateway has {sha256}"));
                ExitCode::FAILURE
            }
            false => ExitCode::SUCCESS,
        })
    }

    fn listed(&self, model: &Model, newest: &Revision, by: &str) {
        let record = &newest.record;
        let bytes: u64 = record.files.iter().map(|file| file.size).sum();
        let tags: Vec<&String> = model.tags.keys().collect();
        let (visibility, made) = (record.visibility.word(), time::hub(record.created));
        self.print(
            &json!({ "model": record.name, "revision": record.commit, "uuid": record.uuid, "by": by,
                "visibility": visibility, "revisions": model.revisions.len(), "tags": tags,
                "files": record.files.len(), "bytes": bytes, "created": record.created,
                "price": model.asks().and_then(|terms| terms.price) }),
            &format!(
                "{}  {}  {visibility}{}  {}, {bytes} bytes  {made}",
                record.name,
                short(&record.commit),
                cost(model),
                counted(record.files.len() as u64, "file", "files")
            ),
        );
    }

    fn listed_there(&self, info: &RepoInfo) {
        let gated = info.gated != alephlab_registry::Gated::No;
        let visibility = if gated { "sealed" } else { "public" };
        let said = info.aleph.as_ref().and_then(|aleph| aleph["price"].as_str());
        // A sealed model that nobody sells is not free.
        let price = said.or((!gated).then_some("free"));
        self.print(
            &json!({ "model": info.id, "revision": info.revision, "by": "listed", "visibility": visibility,
                "downloads": info.downloads, "created": info.modified, "price": price }),
            &format!(
                "{}  {}  {visibility}  {}  {} downloads",
                printable(&info.id),
                short(&info.revision),
                printable(price.unwrap_or("not for sale")),
                info.downloads
            ),
        );
    }

    pub(super) async fn show(&self, registry: &Registry, text: &str) -> Result<()> {
        let (owner, name, at) = match Reference::parse(text)? {
            Reference::Model {
                owner,
                name,
                revision,
            } => (owner, name, revision),
            Reference::Share(share) => return self.show_share(registry, share).await,
        };
        let found = registry.find(owner, &name, at.as_deref()).await?;
        // No gateway is told the name of a private model.
        let is_private = found.revision.record.visibility == Visibility::Private;
        let page = match registry.gateway_if_any().filter(|_| !is_private) {
            // What a gateway adds is its own word: without it the model is shown all the same.
            Some(gateway) => gateway.model(&found.name).await.ok(),
            None => None,
        };
        if self.json {
            println!("{}", described(&found, page.as_ref()));
        } else {
            print_all(&found, page.as_ref());
        }
        Ok(())
    }

    async fn show_share(&self, registry: &Registry, share: uuid::Uuid) -> Result<()> {
        let opened = registry.open_share(share).await?;
        let value = json!({ "share": share, "model": opened.model, "revision": opened.revision,
            "card": opened.card, "files": opened.files });
        if self.json {
            println!("{value}");
            return Ok(());
        }
        println!("share      {share}");
        println!("model      {}", printable(&opened.model));
        println!("revision   {}", opened.revision);
        for file in &opened.files {
            println!("file       {:>12}  {}", file.size, printable(&file.path));
        }
        Ok(())
    }
}

fn described(found: &Found, page: Option<&ModelPage>) -> Value {
    let record = &found.revision.record;
    let revisions: Vec<Value> = found
        .model
        .revisions
        .iter()
        .rev()
        .map(|one| {
            json!({ "revision": one.record.commit, "visibility": one.record.visibility.word(),
            "created": one.record.created, "files": one.record.files.len() })
        })
        .collect();
    json!({ "model": found.name, "revision": record.commit, "uuid": record.uuid, "parent": record.parent,
        "visibility": record.visibility.word(), "created": record.created, "record": found.revision.message,
        "head": record.head, "card": record.card, "files": record.files, "tags": found.model.tags,
        "revisions": revisions, "downloads": page.map(|page| page.downloads),
        "evidence": page.map(|page| &page.evidence), "terms": found.model.asks() })
}

fn print_all(found: &Found, page: Option<&ModelPage>) {
    let record = &found.revision.record;
    let line = |key: &str, value: &str| {
        if !value.is_empty() {
            println!("{key:<10} {}", printable(value));
        }
    };
    line("model", &found.name);
    line("revision", &record.commit);
    line("made", &time::hub(record.created));
    line(
        "open to",
        match record.visibility {
            Visibility::Public => "anyone: its keys are in its record",
            Visibility::Sealed => "whom its owner grants it to or shares it with",
            Visibility::Private => "whom its owner grants it to or shares it with, who alone know of it",
        },
    );
    let asks = found.model.asks().and_then(asks_in_words);
    line("price", &asks.unwrap_or_default());
    let card = &record.card;
    line("title", &card.title);
    line("licence", &card.licence);
    line("task", card.task.as_deref().unwrap_or_default());
    line("library", card.library.as_deref().unwrap_or_default());
    line("made from", card.base_model.as_deref().unwrap_or_default());
    line("words", &card.tags.join(", "));
    for file in &record.files {
        println!("file       {:>12}  {}", file.size, printable(&file.path));
    }
    for one in found.model.revisions.iter().rev() {
        let tags = found
            .model
            .tags
            .iter()
            .filter(|(_, commit)| **commit == one.record.commit);
        let tags: Vec<&str> = tags.map(|(tag, _)| tag.as_str()).collect();
        let (commit, made) = (&one.record.commit, time::hub(one.record.created));
        println!(
            "version    {commit}  {made}  {}  {}",
            one.record.visibility.word(),
            tags.join(" ")
        );
    }
    let Some(page) = page else { return };
    println!("downloads  {}", page.downloads);
    for one in page
        .evidence
        .iter()
        .filter(|one| one.evidence.commit == record.commit)
    {
        let verified = one.evidence.report["verified"].as_bool().unwrap_or(false);
        let word = match (one.counts, verified) {
            (true, true) => "Verified",
            (false, true) => "says verified; this gateway does not take its word",
            (_, false) => "not verified",
        };
        println!(
            "evidence   {word}, by {} on {}",
            one.evidence.verifier,
            time::hub(one.evidence.created)
        );
    }
}

/// What a model costs, behind what is said of it.
fn cost(model: &Model) -> String {
    let terms = model.asks();
    let price = terms.and_then(|terms| Some(terms.price?.of(terms.asset)));
    price.map_or_else(String::new, |price| format!("  {price}"))
}

/// As much of a revision as tells it from others.
fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
