//! Pulling a model: a share with its token, opened on this side, or through `alephlab keys` one's own by name and a
//! share that was accepted there.
//!
//! A token stays in this process: the gateway gets a value derived from it, which opens nothing.

use alephlab_api::broker::Pulled;
use alephlab_api::model::{MODEL_RECORD_TYPE, ModelRecord};
use alephlab_api::{Card, Secret};
use alephlab_vault::share::{ShareEnvelope, ShareToken, open_envelope};
use alephlab_vault::storage::PostQuery;
use alephlab_vault::{Keys, Reader, SignedHead};
use uuid::Uuid;

use crate::hub::{Audience, Held};
use crate::opened::{Way, open_reader};
use crate::report::Report;
use crate::{Broker, BrokerError, Result, now};

impl Broker {
    pub(crate) async fn pull(
        &self,
        reference: &str,
        token: Option<Secret>,
        peer: Option<i32>,
        report: &Report,
    ) -> Result<Pulled> {
        let (reader, name, expires, card) = match (reference.parse::<Uuid>(), token) {
            (Ok(uuid), Some(token)) => {
                let token = ShareToken::parse(token.expose())?;
                self.open_shared(uuid, &token, report).await?
            }
            (Err(_), Some(_)) => {
                return Err(request("a token belongs to the UUID of a share, not to a name"));
            }
            // One's own by name, or a share whose token `alephlab keys` holds.
            (_, None) => {
                let (reader, name, expires) = self.open_delegated(reference, peer, report).await?;
                (reader, name, Some(expires), None)
            }
        };
        let opened = self.opened.open(&reader, &name, expires, Way::Copy, report);
        let (path, _) = opened.await?;
        let files = reader
            .entries()
            .iter()
            .filter(|entry| entry.is_file())
            .map(|entry| entry.path.clone());
        let revision = reader.head().revision();
        self.show_in_hub(reference, &name, expires, &card, &reader);
        tracing::info!(model = name, revision, files = reader.files(), "pulled");
        Ok(Pulled {
            path,
            name,
            revision,
            files: files.collect(),
            card,
        })
    }

    /// What was pulled is in the kernel's hub, too, under its whole name, and a share as `m/UUID`.
    fn show_in_hub(
        &self,
        reference: &str,
        name: &str,
        expires: Option<u64>,
        card: &Option<Card>,
        reader: &Reader,
    ) {
        let share = reference.parse::<Uuid>().ok();
        let revision = reference.split_once('@').map_or("main", |(_, revision)| revision);
        self.readers.keep(Held {
            id: share.map_or_else(|| name.to_owned(), |share| format!("m/{share}")),
            asked: revision.to_owned(),
            audience: Audience::Kernel,
            expires,
            card: card.clone(),
            reader: reader.clone(),
        });
    }

    /// Opens what a share's token opens: reader, name, until when, and the card if its gateway has one.
    pub(crate) async fn open_shared(
        &self,
        uuid: Uuid,
        token: &ShareToken,
        report: &Report,
    ) -> Result<(Reader, String, Option<u64>, Option<Card>)> {
        report.progress("ask for the share", 0, 0, "");
        let envelope = self
            .gateway
            .share(uuid, &Secret::new(token.auth_hex().as_str()))
            .await?;
        let sent = ShareEnvelope {
            model: &envelope.model,
            revision: &envelope.revision,
            expires: envelope.expires,
            sealed: &envelope.sealed,
            head: &envelope.head,
        };
        let opened = open_envelope(token, uuid, &sent, now())?;
        if let Some(card) = &envelope.card {
            self.check_card(card, &opened.head, &envelope.model).await?;
        }
        report.progress("fetch the manifest", 0, 0, "");
        let keys = Keys::Objects(opened.keys);
        let reader = open_reader(self.storage.clone(), opened.head, keys).await?;
        Ok((reader, envelope.model, envelope.expires, envelope.card))
    }

    /// Refuses a card that does not stand in the record which the owner signed for this revision: the share's
    /// envelope is the gateway's word, and a card makes claims in the owner's name.
    async fn check_card(&self, card: &Card, head: &SignedHead, model: &str) -> Result<()> {
        let owner = head.head.owner.to_string();
        let query = PostQuery {
            addresses: vec![owner.clone()],
            types: vec![MODEL_RECORD_TYPE.to_owned()],
            ..PostQuery::default()
        };
        let revision = head.revision();
        let records = self.storage.posts(query).await?;
        let signed = records
            .into_iter()
            .filter(|post| post.address.eq_ignore_ascii_case(&owner))
            .filter_map(|post| serde_json::from_value::<ModelRecord>(post.content).ok())
            .any(|record| {
                record.commit == revision && record.name.eq_ignore_ascii_case(model) && record.card == *card
            });
        if signed {
            return Ok(());
        }
        Err(BrokerError::Answer {
            reason: format!("the model card is not one that {owner} signed for {model} at {revision}"),
        })
    }
}

fn request(reason: &str) -> BrokerError {
    BrokerError::Request {
        reason: reason.to_owned(),
    }
}
