//! What comes from the chain and goes to it, and ALEPH that becomes credits.

use reqwest::Method;
use uuid::Uuid;

use super::{ClientError, GatewayClient};
use crate::payout::{
    Conversion, Conversions, DepositPlace, Moved, NewConversion, NewWithdrawal, Settlement, Withdrawal,
    Withdrawals,
};

impl GatewayClient {
    /// Withdrawals of the account, and what holds for the next one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn withdrawals(&self) -> Result<Withdrawals, ClientError> {
        self.get("v1/withdrawals").await
    }

    /// Has ALEPH sent to the account's own address.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn withdraw(&self, new: &NewWithdrawal) -> Result<Withdrawal, ClientError> {
        self.send(Method::POST, "v1/withdrawals", Some(new)).await
    }

    /// Takes a withdrawal back that is in no batch yet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn take_withdrawal_back(&self, id: Uuid) -> Result<Withdrawal, ClientError> {
        self.send::<(), _>(Method::DELETE, &format!("v1/withdrawals/{id}"), None)
            .await
    }

    /// Where ALEPH is sent to.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn deposit_place(&self) -> Result<DepositPlace, ClientError> {
        self.get("v1/deposit").await
    }

    /// Conversions of the account, and the rate of the next one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn conversions(&self) -> Result<Conversions, ClientError> {
        self.get("v1/conversions").await
    }

    /// Turns ALEPH into credits.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn convert(&self, new: &NewConversion) -> Result<Conversion, ClientError> {
        self.send(Method::POST, "v1/conversions", Some(new)).await
    }

    /// How settlement stands; for the operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn settlement(&self) -> Result<Settlement, ClientError> {
        self.get("v1/settlement").await
    }

    /// Records tokens that the owner put in or took out; for the operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn moved(&self, moved: &Moved) -> Result<Settlement, ClientError> {
        self.send(Method::POST, "v1/settlement/moves", Some(moved)).await
    }

    /// Has withdrawals go on after a stop; for the operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resume_settlement(&self) -> Result<Settlement, ClientError> {
        self.send::<(), _>(Method::POST, "v1/settlement/resume", None)
            .await
    }
}
