//! Names of revisions, and who may read them: `model tag`, `untag`, `share`, `revoke`, `grant` and `withdraw`.

use std::collections::BTreeSet;
use std::path::Path;

use alephlab_api::model::Visibility;
use alephlab_api::time::unix_now;
use alephlab_vault::{Address, GrantTerms};
use serde_json::json;
use uuid::Uuid;

use super::{ModelCommand, say_untold};
use crate::commands::confirm::{Loss, confirm};
use crate::commands::share::{Terms, created};
use crate::data::write_public;
use crate::error::{CliError, Result};
use crate::models::{Found, New, Origin, Reference, Registry, Revision};
use crate::progress::Reporter;
use crate::shares;

const LOSS: Loss = Loss {
    becomes: "not be offered any more",
    done: "withdrawn",
    verb: "withdraw",
};

impl ModelCommand {
    pub(super) async fn tag(&self, registry: &Registry, model: &str, tag: &str) -> Result<()> {
        let (name, found) = registry.find_own(&Reference::parse(model)?).await?;
        let commit = &found.revision.record.commit;
        let posted = registry.tag(&name, tag, commit).await?;
        say_untold(
            &Reporter::new(),
            posted.as_ref().and_then(|posted| posted.untold.as_ref()),
        );
        self.print(
            &json!({ "model": found.name, "tag": tag, "revision": commit, "unchanged": posted.is_none(),
                "message": posted.as_ref().map(|posted| &posted.message) }),
            &format!("{}@{tag} is {commit}", found.name),
        );
        Ok(())
    }

    pub(super) async fn untag(&self, registry: &Registry, model: &str, tag: &str) -> Result<()> {
        let (name, found) = registry.find_own(&Reference::parse(model)?).await?;
        let posted = registry.untag(&name, tag).await?;
        say_untold(
            &Reporter::new(),
            posted.as_ref().and_then(|posted| posted.untold.as_ref()),
        );
        self.print(
            &json!({ "model": found.name, "tag": tag, "message": posted.as_ref().map(|posted| &posted.message) }),
            &format!("{} has no tag {tag} any more", found.name),
        );
        Ok(())
    }

    pub(super) async fn share(&self, registry: &Registry, model: &str, terms: &Terms) -> Result<()> {
        let (name, found) = registry.find_own(&Reference::parse(model)?).await?;
        registry.learn(&name, &found.model).await?;
        let reference = format!("{}@{}", found.name, found.revision.record.commit);
        let (expires, limits) = (terms.end(), terms.limits());
        let shared = shares::create(&registry.engine()?, &reference, expires, limits).await?;
        created(&shared, (expires, limits), self.json);
        Ok(())
    }

    pub(super) async fn sign(
        &self,
        registry: &Registry,
        model: &str,
        (out, public_key): (&Path, Option<&Path>),
        key: Option<&Path>,
    ) -> Result<()> {
        let (_, found) = registry.find_own(&Reference::parse(model)?).await?;
        let record = &found.revision.record;
        let signed = registry.sign_files(record, key).await?;
        write_public(out, &signed.bundle)?;
        if let Some(file) = public_key {
            write_public(file, signed.key.as_bytes())?;
        }
        if let Some(message) = &signed.delegated {
            Reporter::new().line(&format!(
                "your wallet said on Aleph that the key is yours: {message}"
            ));
        }
        self.print(
            &json!({ "model": found.name, "revision": record.commit, "signature": out, "key": signed.key,
                "delegated": signed.delegated, "files": record.files.len() }),
            &format!("{}: the files of {}@{}", out.display(), found.name, record.commit),
        );
        Ok(())
    }

    pub(super) async fn end_key(&self, registry: &Registry, key: Option<&Path>) -> Result<()> {
        let message = registry.end_publishing_key(key).await?;
        self.print(
            &json!({ "message": message, "ended": true }),
            "what the key signed does not count from now on",
        );
        Ok(())
    }

    pub(super) async fn revoke(&self, registry: &Registry, share: Uuid, reseal: bool) -> Result<()> {
        let gateway = registry.gateway()?;
        let shared = match reseal {
            false => None,
            true => {
                let all = gateway.shares().await?;
                let found = all.into_iter().find(|one| one.uuid == share);
                let found = found.ok_or_else(|| CliError::Usage {
                    message: format!("this account has no share {share} at this gateway"),
                    hint: "`alephlab share list` lists them".to_owned(),
                })?;
                Some(resealable(registry, found).await?)
            }
        };
        gateway.revoke_share(share).await?;
        let Some((name, commit, found)) = shared else {
            self.print(
                &json!({ "share": share, "revoked": true }),
                &format!("{share} opens nothing from now on; who opened it before can keep what it opened"),
            );
            return Ok(());
        };
        let reporter = Reporter::new();
        let phase = reporter.phase("model", "sealing the newest revision anew");
        let kept = found.revision.record.files.iter();
        let new = New {
            name: name.clone(),
            files: kept
                .map(|file| (file.path.clone(), Origin::Kept(file.path.clone())))
                .collect(),
            anew: true,
            ..New::default()
        };
        let shown = |done, total, text: &str| phase.progress(done, total, text);
        let published = registry.publish(new, &shown).await?;
        let revision = published.record.commit.clone();
        phase.finish(&format!(
            "revision {revision}: {} bytes encrypted",
            published.uploaded
        ));
        say_untold(&reporter, published.untold.as_ref());
        // Names of what is the same in both.
        let old = &found.revision.record.commit;
        for (tag, _) in found.model.tags.iter().filter(|(_, commit)| *commit == old) {
            registry.tag(&name, tag, &revision).await?;
        }
        for gone in BTreeSet::from([&commit, old]) {
            let withdrawn = registry.withdraw(&name, Some(gone)).await?;
            say_untold(&reporter, withdrawn.untold.as_ref());
        }
        self.print(
            &json!({ "share": share, "revoked": true, "model": found.name, "withdrawn": commit,
                "revision": revision, "uploaded": published.uploaded }),
            &format!(
                "{share} opens nothing from now on; {} is {revision}, of which no kept key opens anything",
                found.name
            ),
        );
        Ok(())
    }

    pub(super) async fn grant(
        &self,
        registry: &Registry,
        model: &str,
        reader: Address,
        expires: Option<u64>,
    ) -> Result<()> {
        let (_, found) = registry.find_own(&Reference::parse(model)?).await?;
        let end = expires.map(|term| unix_now().saturating_add(term));
        let terms = GrantTerms {
            not_after: end,
            ..GrantTerms::default()
        };
        registry.grant(&found.revision.record, reader, terms).await?;
        let commit = &found.revision.record.commit;
        self.print(
            &json!({ "model": found.name, "revision": commit, "reader": reader.to_string(), "expires": end }),
            &format!(
                "{reader} can now pull {}@{commit}, and what it opened it can keep",
                found.name
            ),
        );
        Ok(())
    }

    pub(super) async fn withdraw(&self, registry: &Registry, model: &str, yes: bool) -> Result<()> {
        let reference = Reference::parse(model)?;
        let is_one = matches!(
            &reference,
            Reference::Model {
                revision: Some(_),
                ..
            }
        );
        let (name, found) = registry.find_own(&reference).await?;
        let commit = is_one.then(|| found.revision.record.commit.clone());
        let of = match &commit {
            Some(commit) => format!("revision {commit} of {name}"),
            None => format!("all {} revisions of {name}", found.model.revisions.len()),
        };
        if !yes {
            confirm(&of, &name, &LOSS)?;
        }
        let posted = registry.withdraw(&name, commit.as_deref()).await?;
        say_untold(&Reporter::new(), posted.untold.as_ref());
        self.print(
            &json!({ "model": found.name, "revision": commit, "message": posted.message }),
            &format!("{of} is not offered any more; who opened it before can keep it"),
        );
        Ok(())
    }
}

/// The plain name and the revision of a share whose model can be sealed anew, and its newest revision.
async fn resealable(
    registry: &Registry,
    share: alephlab_api::share::ShareInfo,
) -> Result<(String, String, Found)> {
    let (name, found) = registry.find_own(&Reference::parse(&share.model)?).await?;
    if found.revision.record.visibility == Visibility::Public {
        return Err(CliError::Usage {
            message: format!("{} is public: sealing it anew keeps nobody out", found.name),
            hint: "end the share without --reseal, or publish it --sealed first".to_owned(),
        });
    }
    // The gateway says of which revision it is.
    let is_of_it = |one: &Revision| one.record.commit == share.revision;
    if !found.model.ever().any(is_of_it) {
        return Err(CliError::Usage {
            message: format!(
                "the gateway says that the share is of {}, which is no revision of {}",
                share.revision, found.name
            ),
            hint: "end the share without --reseal".to_owned(),
        });
    }
    Ok((name, share.revision, found))
}
