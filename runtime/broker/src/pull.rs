//! Pulling a model: a share with its token, opened on this side, or through `alephlab keys` one's own by name and a
//! share that was accepted there.
//!
//! A token stays in this process: the gateway gets a value derived from it, which opens nothing.

use alephlab_api::broker::Pulled;
use alephlab_api::{Card, Secret};
use alephlab_vault::share::{ShareTerms, ShareToken, open_share};
use alephlab_vault::{Keys, Reader, SignedHead};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::opened::open_reader;
use crate::report::Report;
use crate::{Broker, BrokerError, Result, now};

impl Broker {
    pub(crate) async fn pull(
        &self,
        reference: &str,
        token: Option<Secret>,
        report: &Report,
    ) -> Result<Pulled> {
        let (reader, name, expires, card) = match (reference.parse::<Uuid>(), token) {
            (Ok(uuid), Some(token)) => self.open_shared(uuid, &token, report).await?,
            (Err(_), Some(_)) => {
                return Err(request("a token belongs to the UUID of a share, not to a name"));
            }
            // One's own by name, or a share whose token `alephlab keys` holds.
            (_, None) => {
                let (reader, name, expires) = self.open_delegated(reference, report).await?;
                (reader, name, Some(expires), None)
            }
        };
        let path = self.opened.open(&reader, &name, expires, report).await?;
        let files = reader
            .entries()
            .iter()
            .filter(|entry| entry.is_file())
            .map(|entry| entry.path.clone());
        let revision = reader.head().revision();
        tracing::info!(model = name, revision, files = reader.files(), "pulled");
        Ok(Pulled {
            path,
            name,
            revision,
            files: files.collect(),
            card,
        })
    }

    async fn open_shared(
        &self,
        uuid: Uuid,
        token: &Secret,
        report: &Report,
    ) -> Result<(Reader, String, Option<u64>, Option<Card>)> {
        let token = ShareToken::parse(token.expose())?;
        report.progress("ask for the share", 0, 0, "");
        let envelope = self
            .gateway
            .share(uuid, &Secret::new(token.auth_hex().as_str()))
            .await?;
        let sealed = STANDARD
            .decode(&envelope.sealed)
            .map_err(|_| BrokerError::Answer {
                reason: "the share's envelope is no base64".to_owned(),
            })?;
        let (model, revision, expires) = (envelope.model, envelope.revision, envelope.expires);
        let terms = ShareTerms {
            uuid,
            model: model.clone(),
            revision: revision.clone(),
            expires,
        };
        let keys = open_share(&token, &terms, &sealed, now())?;
        let head = SignedHead::from_post(&envelope.head)?;
        head.verify()?;
        let owner = model.split('/').next().unwrap_or_default();
        if head.revision() != revision || !head.head.owner.to_string().eq_ignore_ascii_case(owner) {
            let reason = format!("the gateway sent the head of another model than {model} at {revision}");
            return Err(BrokerError::Answer { reason });
        }
        report.progress("fetch the manifest", 0, 0, "");
        let reader = open_reader(self.storage.clone(), head, Keys::Objects(keys)).await?;
        Ok((reader, model, expires, envelope.card))
    }
}

fn request(reason: &str) -> BrokerError {
    BrokerError::Request {
        reason: reason.to_owned(),
    }
}
