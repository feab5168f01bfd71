//! Who may read a dataset: `grant`, `revoke` and `readers`.

use std::collections::BTreeSet;

use alephlab_api::broker::WALLS;
use alephlab_vault::{Address, Forget, GrantTerms, Policy, Progress, Revoke};
use serde_json::json;

use super::Dataset;
use crate::datasets::Library;
use crate::error::Result;
use crate::progress::Reporter;

/// What `--require` takes beside a wall.
const ATTESTED: &str = "attested";

/// Everything that `--require` takes.
pub(super) fn requirements() -> Vec<&'static str> {
    WALLS.into_iter().chain([ATTESTED]).collect()
}

/// The policy of a grant; `require` holds words of [`requirements`]. None when nothing is said of it.
pub(super) fn policy(require: &[String], max_term: Option<u64>, any_host: bool) -> Option<Policy> {
    if require.is_empty() && max_term.is_none() && !any_host {
        return None;
    }
    let (attested, walls): (BTreeSet<String>, BTreeSet<String>) =
        require.iter().cloned().partition(|word| word == ATTESTED);
    Some(Policy {
        attested: !attested.is_empty(),
        walls,
        max_term,
    })
}

impl Dataset {
    pub(super) async fn grant(
        &self,
        library: &Library,
        name: &str,
        reader: Address,
        expires: Option<u64>,
        policy: Option<Policy>,
    ) -> Result<()> {
        let found = library.find(name).await?;
        // What was asked of this reader's hosts before stays, unless something else is said.
        let policy = match policy {
            Some(policy) => policy,
            None => {
                let epoch = found.head.head.epoch;
                let before = library.readers(&found).await?.into_iter().rev();
                let mut theirs =
                    before.filter(|one| one.grant.recipient == reader && one.grant.epoch == epoch);
                theirs.next().and_then(|one| one.grant.policy).unwrap_or_default()
            }
        };
        let end = expires.map(|term| alephlab_api::time::unix_now().saturating_add(term));
        let asked = policy.in_words();
        let terms = GrantTerms {
            not_after: end,
            policy: Some(policy.clone()),
            ..GrantTerms::default()
        };
        library.grant(&found, reader, terms).await?;
        let owner = found.head.head.owner;
        let theirs = format!("{owner}/{}", found.name);
        self.print(
            &json!({ "name": found.name, "reader": reader.to_string(), "expires": end, "reference": theirs,
                "policy": policy }),
            &match policy.is_empty() {
                true => format!("{reader} can now mount {theirs:?}"),
                false => format!("{reader} can now mount {theirs:?}; asked of hosts: {asked}"),
            },
        );
        Ok(())
    }

    pub(super) async fn revoke(
        &self,
        library: &Library,
        name: &str,
        reader: Address,
        how: Revoke,
    ) -> Result<()> {
        let found = library.find(name).await?;
        let reporter = Reporter::new();
        let phase = reporter.phase("dataset", "sealing the next version under a new secret");
        let shown = |step: Progress| phase.progress(step.done, step.total, step.phase);
        let put = library.revoke(&found, reader, how, &shown).await?;
        phase.finish(&format!(
            "version {}: {} bytes encrypted",
            put.version, put.uploaded
        ));
        for account in &put.without_key {
            reporter.line(&format!(
                "{account} has registered no key any more and cannot read from now on"
            ));
        }
        if how == Revoke::Eager {
            let newest = library.find(name).await?;
            // The reader is shut out, whatever becomes of what was sealed before.
            match library.forget(&newest, Forget::Older, &|_, _| {}).await {
                Ok(done) => reporter.line(&format!("{} objects of older versions are forgotten", done.objects)),
                Err(error) => reporter.line(&format!(
                    "older versions are not all forgotten ({error}): `alephlab dataset forget {name} --older` goes on"
                )),
            }
        }
        self.print(
            &json!({ "name": found.name, "reader": reader.to_string(), "version": put.version,
                "epoch": put.head.head.epoch, "uploaded": put.uploaded }),
            &format!(
                "{reader} cannot open version {} or later; what was read before can be kept",
                put.version
            ),
        );
        Ok(())
    }

    pub(super) async fn readers(&self, library: &Library, name: &str) -> Result<()> {
        let found = library.find(name).await?;
        let now = alephlab_api::time::unix_now();
        for one in library.readers(&found).await? {
            if !one.holds(found.head.head.epoch, now) {
                continue;
            }
            let end = one.grant.not_after;
            let until = end.map_or_else(|| "no end".to_owned(), alephlab_api::time::hub);
            let policy = one.grant.policy.as_ref();
            let asked = policy.map_or_else(String::new, |policy| {
                format!("  asked of hosts: {}", policy.in_words())
            });
            self.print(
                &json!({ "reader": one.grant.recipient.to_string(), "expires": end,
                    "is_owner": one.grant.recipient == found.head.head.owner, "policy": policy }),
                &format!("{}  {until}{asked}", one.grant.recipient),
            );
        }
        Ok(())
    }
}
