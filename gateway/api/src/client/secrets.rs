//! Secrets of the account, and the one that a kernel reads by name.

use reqwest::Method;

use super::{ClientError, GatewayClient};
use crate::secret::Secret;
use crate::secrets::{SecretInfo, SecretName, SecretValue};

impl GatewayClient {
    /// Names and dates of the account's secrets, by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn secrets(&self) -> Result<Vec<SecretInfo>, ClientError> {
        self.get("v1/secrets").await
    }

    /// Stores a secret of the account, or gives one that is there another value.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_secret(&self, name: &SecretName, value: Secret) -> Result<SecretInfo, ClientError> {
        let body = SecretValue { value };
        self.send(Method::PUT, &format!("v1/secrets/{name}"), Some(&body))
            .await
    }

    /// Removes a secret of the account.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_secret(&self, name: &SecretName) -> Result<(), ClientError> {
        self.quiet(Method::DELETE, &format!("v1/secrets/{name}")).await
    }

    /// The value of a secret, with a kernel's own token.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kernel_secret(&self, name: &SecretName) -> Result<Secret, ClientError> {
        let path = format!("v1/kernel-secrets/{name}");
        let (_, mut bytes) = self.answer::<()>(Method::GET, &path, None, 40).await?;
        let read = serde_json::from_slice::<SecretValue>(&bytes);
        bytes.fill(0);
        // serde's message could repeat a value, so only the place is told.
        let read = read.map_err(|error| ClientError::Answer {
            gateway: self.base.to_string(),
            call: "GET v1/kernel-secrets".to_owned(),
            reason: format!("line {}, column {}", error.line(), error.column()),
        })?;
        Ok(read.value)
    }
}
