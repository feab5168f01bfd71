//! What these tests alone do by hand with the chain; [`super::anvil`] is the gateway's tests', too.

use alephlab_settlement::{Address, B256};
use serde_json::json;

use super::anvil::{Chain, OWNER, selector, words};

impl Chain {
    /// As [`Chain::owner_calls`], while transactions wait: at a fee that is before all others in the block.
    pub(crate) async fn owner_calls_first(&self, to: Address, signature: &str, arguments: &[B256]) {
        let data = format!("0x{}{}", selector(signature), words(arguments));
        let fee = "0x174876e800";
        let transaction = json!({"from": OWNER, "to": to, "data": data, "gas": "0x30000",
            "maxFeePerGas": fee, "maxPriorityFeePerGas": fee});
        self.ask("eth_sendTransaction", json!([transaction])).await;
    }

    pub(crate) async fn is_paused(&self) -> bool {
        !self.read(self.contract, "paused()", &[]).await.is_zero()
    }

    /// Transactions wait until a block is mined by hand.
    pub(crate) async fn collect(&self) {
        self.ask("evm_setAutomine", json!([false])).await;
    }

    pub(crate) async fn time(&self) -> u64 {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await;
        u64::from_str_radix(block["timestamp"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }
}
