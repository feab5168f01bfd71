//! A local chain for these tests: anvil on a port of its own, with the committed contracts, ended with the test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use alephlab_api::money::Amount;
use alephlab_settlement::{Address, B256};
use serde_json::{Value, json};

/// The first two of anvil's own accounts, whose keys everybody has.
pub(crate) const OWNER: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
pub(crate) const OPERATOR: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";
pub(crate) const OPERATOR_KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
pub(crate) const CHAIN_ID: u64 = 31_337;
/// Of 24 hours, in whole tokens.
pub(crate) const LIMIT: u64 = 1_000_000;

/// A running chain with a token and a filled contract.
pub(crate) struct Chain {
    process: Child,
    pub(crate) address: String,
    http: reqwest::Client,
    pub(crate) token: Address,
    pub(crate) contract: Address,
}

impl Drop for Chain {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Chain {
    /// With a token by the name of its artefact.
    pub(crate) async fn start(token: &str) -> Self {
        let mut process = Command::new(anvil())
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = said.find_map(|line| Some(line.unwrap().strip_prefix("Listening on ")?.to_owned()));
        // Read to its end: a program whose words nobody reads stops when the pipe is full.
        std::thread::spawn(move || said.for_each(drop));
        let mut chain = Self {
            process,
            address: format!("http://{}", listening.unwrap()),
            http: reqwest::Client::new(),
            token: Address::ZERO,
            contract: Address::ZERO,
        };
        chain.token = chain.deploy(token, &[]).await;
        chain.deploy_payout().await;
        chain
    }

    /// A filled contract, in place of the one there may be.
    pub(crate) async fn deploy_payout(&mut self) {
        let limit = Amount::from_whole(LIMIT);
        let arguments = [
            self.token.into_word(),
            word_of(OWNER),
            word_of(OPERATOR),
            B256::from(limit.to_bytes()),
        ];
        self.contract = self.deploy("BatchPayout", &arguments).await;
        self.transfer(self.contract, Amount::from_whole(10 * LIMIT)).await;
        // Deep enough that the contract stands in final blocks.
        self.mine(10).await;
    }

    pub(crate) async fn ask(&self, method: &str, parameters: Value) -> Value {
        let answer = self.answer(method, parameters).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    async fn answer(&self, method: &str, parameters: Value) -> Value {
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters});
        let answer = self
            .http
            .post(&self.address)
            .json(&question)
            .send()
            .await
            .unwrap();
        answer.json().await.unwrap()
    }

    /// Sends from one of anvil's accounts, and gives the receipt.
    async fn send(&self, from: &str, to: Option<Address>, data: String) -> Value {
        let mut transaction = json!({"from": from, "data": data});
        if let Some(to) = to {
            transaction["to"] = json!(to);
        }
        let hash = self.ask("eth_sendTransaction", json!([transaction])).await;
        loop {
            let receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await;
            if receipt.is_object() {
                assert_eq!(receipt["status"], "0x1");
                return receipt;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn deploy(&self, name: &str, arguments: &[B256]) -> Address {
        let path = root().join("contracts/artifacts").join(format!("{name}.json"));
        let artifact: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let code = artifact["bytecode"].as_str().unwrap();
        let receipt = self
            .send(OWNER, None, format!("{code}{}", words(arguments)))
            .await;
        receipt["contractAddress"].as_str().unwrap().parse().unwrap()
    }

    /// Calls a function of the owner's by its signature.
    pub(crate) async fn owner_calls(&self, to: Address, signature: &str, arguments: &[B256]) {
        let data = format!("0x{}{}", selector(signature), words(arguments));
        self.send(OWNER, Some(to), data).await;
    }

    /// The owner's tokens to somebody.
    pub(crate) async fn transfer(&self, to: Address, amount: Amount) {
        let arguments = [to.into_word(), B256::from(amount.to_bytes())];
        self.owner_calls(self.token, "transfer(address,uint256)", &arguments)
            .await;
    }

    pub(crate) async fn read(&self, from: Address, signature: &str, arguments: &[B256]) -> B256 {
        let data = format!("0x{}{}", selector(signature), words(arguments));
        let answer = self
            .ask("eth_call", json!([{"to": from, "data": data}, "latest"]))
            .await;
        answer.as_str().unwrap().parse().unwrap()
    }

    pub(crate) async fn has(&self, account: Address) -> Amount {
        let word = self
            .read(self.token, "balanceOf(address)", &[account.into_word()])
            .await;
        Amount::from_bytes(word.0)
    }

    pub(crate) async fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([format!("{blocks:#x}")])).await;
    }

    pub(crate) async fn reorg(&self, depth: u64) {
        let answer = self.answer("anvil_reorg", json!([depth, []])).await;
        // Anvil now and then has not the state of the block that it is to go back to; then the chain stays as it is.
        let is_not_kept = answer["error"]["code"] == json!(-32_001);
        assert!(answer.get("error").is_none() || is_not_kept, "{answer}");
    }
}

fn word_of(address: &str) -> B256 {
    address.parse::<Address>().unwrap().into_word()
}

pub(crate) fn words(arguments: &[B256]) -> String {
    arguments
        .iter()
        .map(|word| word.to_string().trim_start_matches("0x").to_owned())
        .collect()
}

pub(crate) fn selector(signature: &str) -> String {
    alloy_primitives::hex::encode(&alloy_primitives::keccak256(signature)[..4])
}

/// The project's folder, from whichever crate's tests this is.
fn root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut with_contracts = crates.filter(|folder| folder.join("contracts/artifacts").is_dir());
    with_contracts.next().unwrap().to_owned()
}

/// anvil, installed by npm where the contracts' other tests have it, once for each list of packages.
fn anvil() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let (from, into) = (root().join("contracts"), root().join("target/contracts"));
            let wanted = fs::read_to_string(from.join("package-lock.json")).unwrap();
            if fs::read_to_string(into.join("done")).ok().as_ref() != Some(&wanted) {
                fs::create_dir_all(&into).unwrap();
                for name in ["package.json", "package-lock.json"] {
                    fs::copy(from.join(name), into.join(name)).unwrap();
                }
                let done = Command::new("npm")
                    .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
                    .current_dir(&into)
                    .status();
                assert!(
                    done.is_ok_and(|status| status.success()),
                    "anvil comes by npm: apt-get install npm"
                );
                fs::write(into.join("done"), wanted).unwrap();
            }
            let packages = fs::read_dir(into.join("node_modules/@foundry-rs")).unwrap();
            packages
                .map(|package| package.unwrap().path().join("bin/anvil"))
                .find(|program| program.is_file())
                .unwrap()
        })
        .clone()
}
