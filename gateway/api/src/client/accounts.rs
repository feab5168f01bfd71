//! Accounts as operators see them.

use reqwest::Method;

use super::{ClientError, GatewayClient};
use crate::account::{AccountChange, AccountInfo};

impl GatewayClient {
    /// All accounts: those that wait first, the newest of them before others, then the rest, oldest first. For operators.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn accounts(&self) -> Result<Vec<AccountInfo>, ClientError> {
        self.get("v1/accounts").await
    }

    /// Changes an account, named by its id or its address. For operators.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change_account(
        &self,
        named: &str,
        change: &AccountChange,
    ) -> Result<AccountInfo, ClientError> {
        self.send(Method::PATCH, &format!("v1/accounts/{named}"), Some(change))
            .await
    }
}
