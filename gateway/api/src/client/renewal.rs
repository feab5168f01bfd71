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
        let _turn = self.renewing.lock().await;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn of_many_that_find_their_token_ended_one_gets_another() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let renewal: Renewal = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                tokio::task::yield_now().await;
                Some(Secret::new("new"))
            })
        });
        let client = GatewayClient::new("http://127.0.0.1:1", Some(Secret::new("old"))).unwrap();
        let client = client.renewed_by(renewal);
        let renewing = (0..8).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.renewed(Some(&Secret::new("old"))).await })
        });
        for renewed in renewing.collect::<Vec<_>>() {
            assert_eq!(renewed.await.unwrap().unwrap().expose(), "new");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
