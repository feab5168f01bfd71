//! The Hub's own routes of a gateway, as far as our programs ask them.

use url::form_urlencoded::Serializer;

use super::{ClientError, GatewayClient};

impl GatewayClient {
    /// `GET /api/models`: the first page of model objects for the words of a query.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn hub_models(&self, query: &[(&str, String)]) -> Result<Vec<serde_json::Value>, ClientError> {
        let query = Serializer::new(String::new()).extend_pairs(query).finish();
        self.get(&format!("api/models?{query}")).await
    }
}
