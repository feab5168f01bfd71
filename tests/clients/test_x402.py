"""A deposited model is bought by the published x402 client, paid on a real local chain, with no account and no command of ours."""

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from x402 import x402ClientSync
from x402.http.clients import x402_requests
from x402.mechanisms.evm.exact import ExactEvmScheme

from chain import ALEPH, OPERATOR_KEY, Chain, Deployed, deployed
from sealed import Network
from support import wait_until
from test_market import published

PRICE = 25


@dataclass
class Shop:
    """A gateway with a chain, on which a model with a deposited key is sold."""

    network: Network
    payer: Deployed
    url: str
    files: Path
    gateway: subprocess.Popen

    def buyer(self, tokens: int = 2 * PRICE) -> LocalAccount:
        """A wallet with tokens and no ether."""
        made = Account.create()
        self.payer.chain.send(self.payer.token.functions.transfer(made.address, tokens * ALEPH), self.payer.chain.owner)
        return made

    def session(self, wallet: LocalAccount) -> requests.Session:
        client = x402ClientSync()
        network = f"eip155:{self.payer.chain.w3.eth.chain_id}"
        client.register(network, ExactEvmScheme(signer=wallet))
        # The client pays by itself in dollars only; its owner says which other tokens, and up to how much.
        most = {"network": network, "asset": self.payer.token.address, "max_amount_per_payment": str(PRICE * ALEPH)}
        client.set_spend_controls({"allowed_assets": [most]})
        return x402_requests(client)

    def file(self, name: str) -> str:
        return f"{self.url}/{self.model}/resolve/main/{name}"

    @property
    def model(self) -> str:
        return f"{self.network.addresses['seller']}/kept"

    def header(self, wallet: LocalAccount, **changes: object) -> str:
        """What a payment client would send, with changes to what is signed."""
        asked = decoded(requests.get(self.file("config.json")).headers["PAYMENT-REQUIRED"])["accepts"][0]
        now = int(time.time())
        signed = {
            "from": wallet.address, "to": asked["payTo"], "value": int(asked["amount"]), "validAfter": 0,
            "validBefore": now + 600, "nonce": os.urandom(32), **changes,
        }  # fmt: skip
        domain = {
            "name": asked["extra"]["name"], "version": asked["extra"]["version"],
            "chainId": int(asked["network"].split(":")[1]), "verifyingContract": asked["asset"],
        }  # fmt: skip
        kinds = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
        types = {"TransferWithAuthorization": [{"name": name, "type": kind} for name, kind in zip(signed, kinds, strict=True)]}
        signature = wallet.sign_typed_data(domain, types, signed).signature.to_0x_hex()
        words = {name: str(value) for name, value in signed.items()} | {"nonce": "0x" + signed["nonce"].hex()}
        body = {"x402Version": 2, "accepted": asked, "payload": {"signature": signature, "authorization": words}}
        return base64.b64encode(json.dumps(body).encode()).decode()

    def get(self, header: str, name: str = "config.json") -> requests.Response:
        return requests.get(self.file(name), headers={"PAYMENT-SIGNATURE": header}, timeout=180)

    def refused(self, header: str) -> str:
        answer = self.get(header)
        assert answer.status_code == 402, answer.text
        assert answer.headers["X-Error-Code"] == "GatedRepo"
        return answer.json()["error"]


def decoded(header: str) -> dict:
    return json.loads(base64.b64decode(header))


def serve(network: Network, payer: Deployed) -> tuple[str, subprocess.Popen]:
    w3 = payer.chain.w3
    os.environ["CHAIN"] = f"{w3.provider.endpoint_uri} {w3.eth.chain_id} {payer.token.address} {payer.contract.address}"
    url = network.program("registry_gateway", network.node, network.folder / "gateway", *network.addresses.values())
    del os.environ["CHAIN"]
    return url, network.processes[-1]


def gas(network: Network, chain: Chain) -> None:
    key = (network.folder / "gateway" / "x402.key").read_text().strip()
    chain.rpc("anvil_setBalance", Account.from_key(key).address, hex(10**19))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    chain = Chain()
    payer = deployed(chain, "AuthorizedAleph")
    folder = tmp_path_factory.mktemp("x402")
    data = folder / "gateway"
    data.mkdir()
    for name, key in (("payout.key", OPERATOR_KEY), ("x402.key", "0x" + os.urandom(32).hex())):
        (data / name).write_text(key)
        (data / name).chmod(0o600)
    network = Network(folder, ("operator", "seller"))
    gas(network, chain)
    # Blocks come by themselves, as on any chain.
    chain.rpc("evm_setIntervalMining", 1)
    w3 = chain.w3
    os.environ["CHAIN"] = f"{w3.provider.endpoint_uri} {w3.eth.chain_id} {payer.token.address} {payer.contract.address}"
    network.start()
    del os.environ["CHAIN"]
    made = Shop(network, payer, network.gateway, folder / "kept", network.processes[-1])
    published(network, "seller", made.files, "kept")
    network.model("seller", "sell", "kept", "--price", PRICE, "--release", "deposit")

    def is_offered() -> bool:
        return "PAYMENT-REQUIRED" in requests.get(made.file("config.json")).headers

    wait_until(is_offered, 90, "payments are taken")
    yield made
    network.stop()
    chain.stop()


def test_the_published_client_pays_once_and_reads_every_file(shop: Shop) -> None:
    wallet = shop.buyer()
    session = shop.session(wallet)
    told = requests.get(shop.file("config.json"))
    assert told.status_code == 402 and f"alephlab model buy {shop.model}" in told.json()["error"]
    asked = decoded(told.headers["PAYMENT-REQUIRED"])["accepts"][0]
    assert int(asked["amount"]) == PRICE * ALEPH and asked["scheme"] == "exact"
    got = session.get(shop.file("model.safetensors"), timeout=180)
    assert got.status_code == 200, got.text
    weights = (shop.files / "model.safetensors").read_bytes()
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(weights).digest()
    said = decoded(got.headers["PAYMENT-RESPONSE"])
    assert said["success"] and said["payer"] == wallet.address
    assert shop.payer.has(wallet.address) == PRICE * ALEPH
    receipt = shop.payer.chain.w3.eth.get_transaction_receipt(said["transaction"])
    assert receipt["status"] == 1 and Web3.to_checksum_address(receipt["to"]) == shop.payer.token.address
    # The rest by the share, and by another payment that is not charged.
    share, token = got.headers["X-Share-Id"], got.headers["X-Share-Token"]
    assert (share, token) == (said["extra"]["share"], said["extra"]["token"])
    rest = requests.get(f"{shop.url}/{share}/resolve/main/config.json", headers={"Authorization": f"Bearer {token}"})
    assert rest.content == (shop.files / "config.json").read_bytes()
    again = session.get(shop.file("config.json"), timeout=180)
    assert again.status_code == 200 and again.headers["X-Share-Token"] == token
    assert shop.payer.has(wallet.address) == PRICE * ALEPH, "paid once"
    # What is on the chain opens nothing: everybody can read it.
    tx = shop.payer.chain.w3.eth.get_transaction(said["transaction"])
    _, on_chain = shop.payer.token.decode_function_input(tx["input"])
    words = {name: str(on_chain[name]) for name in ("from", "to", "value", "validAfter", "validBefore")}
    words["nonce"] = "0x" + on_chain["nonce"].hex()
    signature = "0x" + on_chain["r"].hex() + on_chain["s"].hex() + bytes([on_chain["v"]]).hex()
    copied = {"x402Version": 2, "accepted": asked, "payload": {"signature": signature, "authorization": words}}
    assert "came before" in shop.refused(base64.b64encode(json.dumps(copied).encode()).decode())


def test_what_is_not_what_was_asked_for_is_not_sent(shop: Shop) -> None:
    wallet, poor = shop.buyer(), Account.create()
    now = int(time.time())
    assert "another amount or recipient" in shop.refused(shop.header(wallet, value=PRICE * ALEPH - 1))
    assert "another amount or recipient" in shop.refused(shop.header(wallet, to=wallet.address))
    assert "ends too soon" in shop.refused(shop.header(wallet, validBefore=now - 1))
    assert "does not hold yet" in shop.refused(shop.header(wallet, validAfter=now + 300))
    assert "not signed by who" in shop.refused(shop.header(wallet, **{"from": poor.address}))
    assert "not paid" in shop.refused(shop.header(poor))
    assert "not base64" in shop.refused("!")
    missing = shop.get(shop.header(wallet), "none.bin")
    assert missing.status_code == 404
    assert shop.payer.has(wallet.address) == 2 * PRICE * ALEPH


def test_two_at_once_and_one_signature_twice_pay_once(shop: Shop) -> None:
    wallet = shop.buyer()
    first, second = shop.header(wallet), shop.header(wallet)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(shop.get, (first, second, first)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 402]
    assert shop.payer.has(wallet.address) == PRICE * ALEPH
    assert "came before" in shop.refused(first)


def test_a_gateway_that_is_killed_before_it_answers_is_not_paid_twice(shop: Shop) -> None:
    wallet, chain = shop.buyer(), shop.payer.chain
    # Nothing is mined: the payment is sent, and its answer waits.
    chain.rpc("evm_setIntervalMining", 0)
    with chain.collecting(), ThreadPoolExecutor() as pool:
        cut = pool.submit(shop.get, shop.header(wallet))

        def is_sent() -> bool:
            return int(chain.rpc("txpool_status")["pending"], 16) > 0

        wait_until(is_sent, 60, "the payment is sent")
        shop.gateway.kill()
        shop.gateway.wait(30)
        with pytest.raises(requests.ConnectionError):
            cut.result(60)
    chain.rpc("evm_setIntervalMining", 1)
    shop.url, shop.gateway = serve(shop.network, shop.payer)

    def is_offered() -> bool:
        return "PAYMENT-REQUIRED" in requests.get(shop.file("config.json")).headers

    wait_until(is_offered, 90, "payments are taken again")
    got = shop.session(wallet).get(shop.file("config.json"), timeout=180)
    assert got.status_code == 200, got.text
    assert got.content == (shop.files / "config.json").read_bytes()
    assert shop.payer.has(wallet.address) == PRICE * ALEPH
