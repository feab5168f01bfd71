//! A token that ended is got anew: programs that run for weeks outlive the one that they began with.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use super::GatewayClient;
use crate::secret::Secret;

/// Gets another token of the same account at this gateway, when the one at hand has ended; none where there is no way to.
pub type Renewal =
    Arc<dyn Fn(GatewayClient) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send>> + Send + Sync>;

impl GatewayClient {
    /// The same, that gets another token when the gateway does not take the one that it has.
    #[must_use]
    pub fn renewed_by(self, renewal: Renewal) -> Self {
        Self {
            renewal: Some(renewal),
            ..self
        }
    }

    pub(super) fn token(&self) -> Option<Secret> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another token than `ended`: the one that somebody else has got meanwhile, or a new one.
    pub(super) async fn renewed(&self, ended: Option<&Secret>) -> Option<Secret> {
        let renewal = self.renewal.as_ref()?;
        let is_ended = |token: &Secret| ended.is_some_and(|ended| ended.expose() == token.expose());
        if let Some(other) = self.token().filter(|token| !is_ended(token)) {
            return Some(other);
        }
        let plain = Self {
            renewal: None,
            ..self.clone()
        };
        let token = renewal(plain).await.filter(|token| !is_ended(token))?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Some(token)
    }
}
