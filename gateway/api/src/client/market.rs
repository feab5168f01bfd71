//! Calls of buyers and sellers.

use reqwest::Method;
use uuid::Uuid;

use super::{ClientError, GatewayClient};
use crate::Problem;
use crate::market::{
    AskedPurchase, Bought, Earnings, MarketInfo, NewDeposit, NewOrder, Order, Released, Sale, SaleQuote,
};

impl GatewayClient {
    /// What the gateway asks of sales.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn market(&self) -> Result<MarketInfo, ClientError> {
        self.get("v1/market").await
    }

    /// Gives the gateway the key of a revision that it sells.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn deposit(&self, deposit: &NewDeposit) -> Result<(), ClientError> {
        self.answer(Method::PUT, "v1/deposits", Some(deposit), 60)
            .await
            .map(drop)
    }

    /// Has the gateway forget the keys of a model of the account; buyers keep their shares.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn forget_deposits(&self, name: &str) -> Result<(), ClientError> {
        self.quiet(Method::DELETE, &format!("v1/deposits/{name}")).await
    }

    /// What a revision costs now; the newest where none is named.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sale_quote(&self, model: &str, revision: Option<&str>) -> Result<SaleQuote, ClientError> {
        let query = revision.map_or(String::new(), |revision| format!("?revision={revision}"));
        self.get(&format!("v1/market/{model}{query}")).await
    }

    /// Pays for a revision; the same order again changes nothing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn buy(&self, order: &NewOrder) -> Result<Bought, ClientError> {
        self.send(Method::POST, "v1/orders", Some(order)).await
    }

    /// What somebody in a browser wants to buy, and waits for this account's wallet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn purchases(&self) -> Result<Vec<AskedPurchase>, ClientError> {
        self.get("v1/purchases").await
    }

    /// Says that one of these is not bought, and why.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn refuse_purchase(&self, id: Uuid, why: &Problem) -> Result<Vec<AskedPurchase>, ClientError> {
        self.send(Method::POST, &format!("v1/purchases/{id}/refuse"), Some(why))
            .await
    }

    /// The account's orders, newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn orders(&self) -> Result<Vec<Order>, ClientError> {
        self.get("v1/orders").await
    }

    /// One of them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn order(&self, id: Uuid) -> Result<Order, ClientError> {
        self.get(&format!("v1/orders/{id}")).await
    }

    /// Takes back what was paid, while no key came.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn refund(&self, id: Uuid) -> Result<Order, ClientError> {
        self.send::<(), _>(Method::POST, &format!("v1/orders/{id}/refund"), None)
            .await
    }

    /// What the account has sold, newest first; only what waits for its key where that is asked.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sales(&self, waiting: bool) -> Result<Vec<Sale>, ClientError> {
        self.get(&format!("v1/sales?waiting={waiting}")).await
    }

    /// Says that the key of an order is about to go out: its buyer cannot take back what was paid any more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn claim_sale(&self, id: Uuid) -> Result<Order, ClientError> {
        self.send::<(), _>(Method::POST, &format!("v1/sales/{id}/claim"), None)
            .await
    }

    /// Says where the key went out.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sale_released(&self, id: Uuid, released: &Released) -> Result<Order, ClientError> {
        self.send(Method::POST, &format!("v1/sales/{id}/release"), Some(released))
            .await
    }

    /// What sales have brought.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn earnings(&self) -> Result<Earnings, ClientError> {
        self.get("v1/earnings").await
    }
}
