//! The cap of a kernel that costs something.

use reqwest::Method;
use uuid::Uuid;

use super::{ClientError, GatewayClient};
use crate::ledger::{KernelCap, NewCap};
use crate::money::Amount;

impl GatewayClient {
    /// What is set aside for a kernel, and how long it lasts.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cap(&self, kernel: Uuid) -> Result<KernelCap, ClientError> {
        self.get(&format!("v1/kernels/{kernel}/cap")).await
    }

    /// Raises the cap of a kernel that runs to this whole amount, in credits.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is lower than now, more than there is, or too late.
    pub async fn raise_cap(&self, kernel: Uuid, cap: Amount) -> Result<KernelCap, ClientError> {
        let path = format!("v1/kernels/{kernel}/cap");
        self.send(Method::PUT, &path, Some(&NewCap { cap })).await
    }
}
