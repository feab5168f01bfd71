//! Models: telling a gateway of signed messages, and what its index has.

use reqwest::Method;

use super::{ClientError, GatewayClient};
use crate::Problem;
use crate::model::{IndexedModel, ModelPage, NewModel, PublicFile, RegistryRebuild, is_name};

impl GatewayClient {
    /// Tells the gateway of a signed record on Aleph.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_model(&self, record: &str) -> Result<IndexedModel, ClientError> {
        self.send(Method::POST, "v1/models", Some(&new(record))).await
    }

    /// Tells the gateway of tags, a withdrawal or evidence on Aleph.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_model_message(&self, message: &str) -> Result<(), ClientError> {
        let told: Result<serde_json::Value, _> =
            self.send(Method::POST, "v1/models", Some(&new(message))).await;
        told.map(drop)
    }

    /// Which public models have a file of this SHA-256, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn public_files(&self, sha256: &str) -> Result<Vec<PublicFile>, ClientError> {
        self.get(&format!("v1/files/{sha256}")).await
    }

    /// The account's models, newest revision first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn models(&self) -> Result<Vec<IndexedModel>, ClientError> {
        self.get("v1/models").await
    }

    /// Has the gateway read all messages of models from Aleph; for its operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rebuild_registry(&self) -> Result<RegistryRebuild, ClientError> {
        self.send(Method::POST, "v1/registry/rebuild", None::<&()>).await
    }

    /// How far it is with that.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn registry_rebuild(&self) -> Result<RegistryRebuild, ClientError> {
        self.get("v1/registry/rebuild").await
    }

    /// All that the index knows of the model `owner/name`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 where there is none, or none that this account may see.
    pub async fn model(&self, name: &str) -> Result<ModelPage, ClientError> {
        // Whoever says a name must not choose another route of the gateway with it.
        if !name
            .split_once('/')
            .is_some_and(|(owner, name)| is_name(owner) && is_name(name))
        {
            let problem = Problem::new("model_unknown", format!("{name:?} cannot be the name of a model"));
            return Err(ClientError::Refused { status: 404, problem });
        }
        self.get(&format!("v1/models/{name}")).await
    }

    /// The same, or nothing where this gateway shows none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn model_if_any(&self, name: &str) -> Result<Option<ModelPage>, ClientError> {
        match self.model(name).await {
            Ok(page) => Ok(Some(page)),
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn new(message: &str) -> NewModel {
    NewModel {
        record: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_name_of_a_model_is_not_asked_for() {
        // Nobody listens there: a request would fail in another way.
        let gateway = GatewayClient::new("http://127.0.0.1:1", None).unwrap();
        for name in [
            "",
            "a",
            "a/..",
            "a/../../kernel-secrets/KEY",
            "a/b/c",
            "a/b?c",
            "../b",
            "a/b#c",
            "a/%2e%2e",
        ] {
            assert!(gateway.model_if_any(name).await.unwrap().is_none(), "{name}");
        }
        assert!(gateway.model_if_any("a/b").await.is_err());
    }
}
