"""A local chain for the contracts' tests: anvil on a port of its own, the committed contracts, and what a batch is."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eth_account import Account
from eth_utils import keccak
from web3 import Web3
from web3.contract import Contract
from web3.exceptions import ContractCustomError
from web3.logs import DISCARD
from web3.types import TxReceipt

from support import ROOT, installed

CONTRACTS = ROOT / "contracts"
ARTIFACTS = CONTRACTS / "artifacts"
FOREVER = 2**64
DAY = 24 * 3600
SLICE = 3 * 3600
ALEPH = 10**18
LIMIT = 1_000_000 * ALEPH
# No chain that pays anything has these keys: they are anvil's own, made from a phrase that is printed when it starts.
OPERATOR_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"

Payouts = Sequence[tuple[str, int]]


def packages() -> Path:
    """The compiler, its library and anvil, in a copy of the contracts' folder."""
    return installed(CONTRACTS, ROOT / "target" / "contracts")


def artifact(name: str) -> dict:
    return json.loads((ARTIFACTS / f"{name}.json").read_text())


def batch_id(name: object) -> bytes:
    return keccak(text=str(name))


def digest(payouts: Payouts) -> bytes:
    """As the contract makes it: two words a payout."""
    words = (int(to, 16).to_bytes(32, "big") + amount.to_bytes(32, "big") for to, amount in payouts)
    return keccak(b"".join(words))


def account(name: object) -> str:
    """An address that nothing was ever sent to, made from a name."""
    return Web3.to_checksum_address(keccak(text=f"account {name}")[-20:])


class Chain:
    """One anvil, which mines a block for each transaction unless it is told otherwise."""

    def __init__(self) -> None:
        [program] = (packages() / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil")
        self.process = subprocess.Popen([program, "--port", "0"], stdout=subprocess.PIPE, text=True)
        address = next(line.split()[-1] for line in self.process.stdout if line.startswith("Listening"))
        # Nobody reads on: a full pipe would stop it.
        self.w3 = Web3(Web3.HTTPProvider(f"http://{address}", request_kwargs={"timeout": 60}))
        self.rpc("anvil_setLoggingEnabled", False)
        self.owner, self.operator, self.stranger, self.other = self.w3.eth.accounts[:4]
        assert Account.from_key(OPERATOR_KEY).address == self.operator

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)

    def rpc(self, method: str, *parameters: object) -> object:
        answer = self.w3.provider.make_request(method, list(parameters))
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def deploy(self, name: str, *arguments: object) -> Contract:
        made = artifact(name)
        factory = self.w3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
        receipt = self.send(factory.constructor(*arguments), self.owner)
        return self.w3.eth.contract(address=receipt["contractAddress"], abi=made["abi"])

    def send(self, call, sender: str, **options: object) -> TxReceipt:
        """Sends a call in a block of its own; with `gas` also one that will revert."""
        return self.w3.eth.wait_for_transaction_receipt(call.transact({"from": sender, **options}), 60, 0.01)

    def signed(self, call, nonce: int, fee_gwei: int = 10, key: str = OPERATOR_KEY) -> bytes:
        """The bytes of a transaction: the same however often they are sent."""
        transaction = call.build_transaction(
            {
                "from": Account.from_key(key).address,
                "nonce": nonce,
                "gas": 3_000_000,
                "maxFeePerGas": fee_gwei * 10**9,
                "maxPriorityFeePerGas": fee_gwei * 10**9,
                "chainId": self.w3.eth.chain_id,
            }
        )
        return Account.sign_transaction(transaction, key).raw_transaction

    def receipt(self, raw: bytes) -> TxReceipt:
        return self.w3.eth.get_transaction_receipt(keccak(raw))

    def nonce(self, sender: str) -> int:
        return self.w3.eth.get_transaction_count(sender)

    def now(self) -> int:
        return self.w3.eth.get_block("latest")["timestamp"]

    def at(self, time: int) -> None:
        """The next block is mined at this second."""
        self.rpc("evm_setNextBlockTimestamp", time)

    def mine(self) -> None:
        self.rpc("evm_mine")

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Transactions wait until a block is mined by hand."""
        self.rpc("evm_setAutomine", False)
        try:
            yield
        finally:
            self.rpc("evm_setAutomine", True)


@dataclass
class Deployed:
    """A contract that is filled, with its token."""

    chain: Chain
    token: Contract
    contract: Contract

    def pay(self, batch: object, payouts: Payouts, deadline: int = FOREVER):
        return self.contract.functions.pay(batch_id(batch), deadline, payouts)

    def paid(self, batch: object, payouts: Payouts, **options: object):
        """Sends a batch, which is mined, and gives its receipt."""
        receipt = self.chain.send(self.pay(batch, payouts), self.chain.operator, **options)
        assert receipt["status"] == 1
        return receipt

    def refuses(self, error: str, batch: object, payouts: Payouts, deadline: int = FOREVER, sender: str | None = None) -> None:
        with refused(self.contract, error):
            self.chain.send(self.pay(batch, payouts, deadline), sender or self.chain.operator)

    def owner_does(self, function: str, *arguments: object) -> None:
        self.chain.send(self.contract.functions[function](*arguments), self.chain.owner)

    def has(self, address: str) -> int:
        return self.token.functions.balanceOf(address).call()

    def left(self) -> int:
        return self.contract.functions.leftToday().call()

    def not_paid(self, receipt) -> list[tuple[int, str, int]]:
        logs = self.contract.events.NotPaid().process_receipt(receipt, errors=DISCARD)
        return [(log.args["index"], log.args["to"], log.args["amount"]) for log in logs]

    def batch_paid(self, receipt):
        [log] = self.contract.events.BatchPaid().process_receipt(receipt, errors=DISCARD)
        return log.args


def deployed(chain: Chain, token: str = "AlephLike", filled: int = 10 * LIMIT, limit: int = LIMIT) -> Deployed:
    made = chain.deploy(token)
    contract = chain.deploy("BatchPayout", made.address, chain.owner, chain.operator, limit)
    chain.send(made.functions.transfer(contract.address, filled), chain.owner)
    return Deployed(chain, made, contract)


def selector(contract: Contract, error: str) -> str:
    """The first four bytes of what the contract reverts with."""
    [described] = [one for one in contract.abi if one["type"] == "error" and one["name"] == error]
    return "0x" + keccak(text=f"{error}({','.join(each['type'] for each in described['inputs'])})")[:4].hex()


@contextmanager
def refused(contract: Contract, error: str) -> Iterator[None]:
    """What is done inside reverts with this error of the contract."""
    try:
        yield
    except ContractCustomError as revert:
        assert str(revert.data).startswith(selector(contract, error)), f"{revert.data} is not {error}"
    else:
        raise AssertionError(f"{error} was expected, and nothing reverted")
