//! Who this agent is: the key that it made, and the token with which the gateway comes to know it.

use alephlab_api::Secret;
use alephlab_api::agent::Proof;
use ed25519_dalek::{Signer as _, SigningKey};
use uuid::Uuid;

/// The key never leaves this process.
pub(crate) struct Identity {
    lease: Uuid,
    key: SigningKey,
    /// Gone once the gateway knows the key.
    token: Option<Secret>,
}

impl Identity {
    pub(crate) fn new(lease: Uuid, token: Secret) -> Self {
        Self {
            lease,
            key: SigningKey::from_bytes(&rand::random()),
            token: Some(token),
        }
    }

    /// The answer to a gateway's challenge.
    pub(crate) fn prove(&self, nonce: &str) -> Proof {
        Proof {
            token: self.token.clone(),
            key: hex::encode(self.key.verifying_key().as_bytes()),
            signature: hex::encode(self.key.sign(&Proof::text(self.lease, nonce)).to_bytes()),
        }
    }

    /// The gateway has accepted the key: the token has done its work.
    pub(crate) fn is_known(&mut self) {
        self.token = None;
    }
}
