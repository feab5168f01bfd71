//! Receipts, what shows that they stand under a root on Aleph, and the audit of the ledger.

use uuid::Uuid;

use super::{ClientError, GatewayClient};
use crate::ledger::LedgerAudit;
use crate::receipt::{Consistency, ReceiptFile, ReceiptLog, ReceiptProof, Receipts};

impl GatewayClient {
    /// The account's receipts after the one with this sequence, in order; a page of them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn receipts(&self, after: u64) -> Result<Receipts, ClientError> {
        self.get(&format!("v1/receipts?after={after}")).await
    }

    /// A receipt that the account paid or was paid by, with its proof.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn receipt(&self, id: Uuid) -> Result<ReceiptFile, ClientError> {
        self.get(&format!("v1/receipts/{id}")).await
    }

    /// That a receipt stands under a posted root; asks for no account.
    ///
    /// # Errors
    /// [`ClientError::Refused`] where the receipt is not known, or not under a posted root yet.
    pub async fn receipt_proof(&self, id: Uuid) -> Result<ReceiptProof, ClientError> {
        self.get(&format!("v1/receipts/{id}/proof")).await
    }

    /// Who signs the gateway's receipts, and the newest root that it has posted; asks for no account.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn receipt_log(&self) -> Result<ReceiptLog, ClientError> {
        self.get("v1/receipts/head").await
    }

    /// That one root continues another; asks for no account.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for sizes beyond the newest root.
    pub async fn receipt_consistency(&self, from: u64, to: u64) -> Result<Consistency, ClientError> {
        self.get(&format!("v1/receipts/consistency?from={from}&to={to}"))
            .await
    }

    /// Adds the whole ledger up again; for the operator.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn audit_ledger(&self) -> Result<LedgerAudit, ClientError> {
        self.get("v1/ledger/audit").await
    }
}
