//! Secrets that the kernel's account stored with the gateway: asked for with the kernel's token each time, and kept nowhere
//! here, so that one that was changed or removed is so for the next cell.

use alephlab_api::Secret;
use alephlab_api::secrets::SecretName;

use crate::{Broker, Result};

impl Broker {
    /// The value of a secret of the kernel's account.
    pub(crate) async fn secret(&self, name: &SecretName) -> Result<Secret> {
        Ok(self.gateway.kernel_secret(name).await?)
    }
}
