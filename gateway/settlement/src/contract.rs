//! What is called on the chain and read from its logs; a test compares it with the committed artefacts.

use alloy_sol_types::sol;

sol! {
    /// One account's withdrawal.
    struct PayoutArgument {
        address to;
        uint256 amount;
    }

    interface BatchPayout {
        function pay(bytes32 batch, uint256 deadline, PayoutArgument[] calldata payouts) external returns (uint256 unpaid);
        function digestOf(bytes32 batch) external view returns (bytes32 digest);
        function operator() external view returns (address);
        function token() external view returns (address);
        function leftToday() external view returns (uint256);
        function paused() external view returns (bool);

        event BatchPaid(bytes32 indexed batch, bytes32 digest, uint256 paid, uint256 unpaid);
        event NotPaid(bytes32 indexed batch, uint256 index, address indexed to, uint256 amount);

        error NotAllowed(address caller);
        error AlreadyPaid(bytes32 batch);
        error Expired(uint256 deadline);
        error EmptyBatch();
        error AboveDailyLimit(uint256 asked, uint256 left);
        error NotFunded(uint256 asked, uint256 held);
        error TooLittleGas();
        error EnforcedPause();
    }

    interface Token {
        function balanceOf(address account) external view returns (uint256);

        event Transfer(address indexed from, address indexed to, uint256 value);
    }

    /// What a payer signs (EIP-3009).
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    interface Authorizing {
        function name() external view returns (string memory);
        function version() external view returns (string memory);
        function DOMAIN_SEPARATOR() external view returns (bytes32);
        function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;

        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use alloy_primitives::hex;
    use alloy_sol_types::{SolCall, SolError, SolEvent, SolInterface as _};

    use super::*;

    /// `name(types)` of everything in an artefact's ABI, by kind.
    fn signatures(artifact: &str) -> HashSet<(String, String)> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../contracts/artifacts")
            .join(artifact);
        let artifact: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let described = artifact["abi"].as_array().unwrap().iter();
        described
            .filter(|one| one["name"].is_string())
            .map(|one| {
                let types: Vec<String> = one["inputs"].as_array().unwrap().iter().map(type_of).collect();
                let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                (
                    text(&one["type"]),
                    format!("{}({})", text(&one["name"]), types.join(",")),
                )
            })
            .collect()
    }

    fn type_of(input: &serde_json::Value) -> String {
        let name = input["type"].as_str().unwrap();
        name.strip_prefix("tuple").map_or(name.to_owned(), |list| {
            let parts: Vec<String> = input["components"]
                .as_array()
                .unwrap()
                .iter()
                .map(type_of)
                .collect();
            format!("({}){list}", parts.join(","))
        })
    }

    #[test]
    fn everything_named_here_is_in_the_contracts_that_were_compiled() {
        let (payout, token) = (signatures("BatchPayout.json"), signatures("AlephLike.json"));
        let has =
            |kind: &str, name: &str| assert!(payout.contains(&(kind.into(), name.into())), "{kind} {name}");
        for name in [
            BatchPayout::payCall::SIGNATURE,
            BatchPayout::digestOfCall::SIGNATURE,
            BatchPayout::operatorCall::SIGNATURE,
            BatchPayout::tokenCall::SIGNATURE,
            BatchPayout::leftTodayCall::SIGNATURE,
            BatchPayout::pausedCall::SIGNATURE,
        ] {
            has("function", name);
        }
        for name in [BatchPayout::BatchPaid::SIGNATURE, BatchPayout::NotPaid::SIGNATURE] {
            has("event", name);
        }
        assert!(token.contains(&("event".into(), Token::Transfer::SIGNATURE.into())));
        assert!(token.contains(&("function".into(), Token::balanceOfCall::SIGNATURE.into())));
        let paying = signatures("AuthorizedAleph.json");
        for name in [
            Authorizing::nameCall::SIGNATURE,
            Authorizing::versionCall::SIGNATURE,
            Authorizing::DOMAIN_SEPARATORCall::SIGNATURE,
            Authorizing::authorizationStateCall::SIGNATURE,
            Authorizing::transferWithAuthorizationCall::SIGNATURE,
        ] {
            assert!(paying.contains(&("function".into(), name.into())), "{name}");
        }
        assert!(paying.contains(&("event".into(), Authorizing::AuthorizationUsed::SIGNATURE.into())));
        let errors = BatchPayout::BatchPayoutErrors::selectors().count();
        let named = payout.iter().filter(|(kind, _)| kind == "error");
        let known = named
            .filter(|(_, name)| {
                let selector = &alloy_primitives::keccak256(name)[..4];
                BatchPayout::BatchPayoutErrors::valid_selector(selector.try_into().unwrap())
            })
            .count();
        assert_eq!(known, errors, "an error here is not the contract's");
        assert_eq!(hex::encode(BatchPayout::EnforcedPause::SELECTOR), "d93c0665");
    }
}
