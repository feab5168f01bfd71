"""What was paid, checked by others: receipts and the roots of all of them by eth_account and hashlib, and by the command without an account."""

import hashlib
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_utils import keccak

from sealed import EXAMPLES
from support import PROGRAMS, run_alephlab, wait_until
from test_cli import refused

DOMAIN = {"name": "Alephlab receipt", "version": "2"}
TYPES = {
    "Receipt": (
        "string id,address payer,address payee,string kind,string subject,string model,string commit,uint256 units,"
        "string unit,uint256 unitPrice,uint256 amount,string asset,uint256 sequence,uint256 entry,bytes32 previous,"
        "uint256 time"
    ),
    "Head": "uint256 size,bytes32 root,address poster,string previous",
}


@dataclass
class Lab:
    """A node, and a gateway that posts roots of receipts there; its kernels cost two credits a second and compute nothing."""

    folder: Path
    node: str = ""
    gateway: str = ""
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self) -> "Lab":
        made = self.alephlab("wallet", "new", "owner", "--no-passphrase")
        self.node = self.program("localnet", "--port", "0", "--data", self.folder / "node")
        here = {**os.environ, "PAID_ON": self.node, "OPERATOR": made.stdout.strip()}
        echo = EXAMPLES / "echo_kernel"
        self.gateway = self.program("any_kernel", PROGRAMS, self.folder / "gateway", echo, "{connection_file}", env=here)
        credit = {"address": made.stdout.strip(), "amount": str(10**22), "asset": "credit", "key": "first"}
        self.call("POST", "/v1/credits", credit)
        return self

    def program(self, name: str, *arguments: object, env: dict | None = None) -> str:
        """Starts an example, which prints its address."""
        command = [EXAMPLES / name, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.processes.append(process)
        return process.stdout.readline().strip().rstrip("/")

    def call(self, method: str, path: str, body: object = None, base: str = "") -> object:
        headers = {"Authorization": "Bearer bench-operator-token", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request((base or self.gateway) + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def alephlab(self, *words: object) -> subprocess.CompletedProcess:
        return run_alephlab(*words, "--data", self.folder / "data")

    def receipt(self, *words: object) -> str:
        """What the command prints for the owner, who signs in by the wallet."""
        done = self.alephlab("receipt", *words, "--gateway", self.gateway, "--account", "owner")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stranger(self, *words: object) -> subprocess.CompletedProcess:
        """The command on another machine, where there is no account."""
        return run_alephlab("receipt", "verify", *words, "--data", self.folder / "nobody")

    def pay(self) -> None:
        """A kernel that can be used for more than a second."""
        before = len(self.receipts())
        kernel = self.call("POST", "/api/kernels", {})["id"]
        wait_until(lambda: self.call("GET", f"/api/kernels/{kernel}")["execution_state"] == "idle", 60, "a kernel")
        end = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > end, 60, "a second and a half")
        self.call("DELETE", f"/api/kernels/{kernel}")
        wait_until(lambda: len(self.receipts()) == before + 1, 60, "its receipt")

    def receipts(self) -> list[dict]:
        return self.call("GET", "/v1/receipts")["receipts"]

    def show(self, number: int) -> dict:
        return json.loads(self.receipt("show", self.receipts()[number]["id"]))

    def posted(self, number: int) -> dict:
        """A receipt as it can be handed on, once it is under a root."""
        wait_until(lambda: "proof" in self.show(number), 60, "the next root is posted")
        return self.show(number)

    def message(self, item_hash: str) -> dict:
        """What the Aleph node has under this hash."""
        return self.call("GET", f"/api/v0/messages/{item_hash}", base=self.node)["message"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("receipts"))
    try:
        lab.start().pay()
        yield lab
    finally:
        for process in lab.processes:
            process.terminate()
            process.wait(30)


def signed_by(kind: str, fields: dict, signature: str) -> tuple[str, bytes]:
    """Who signed this as typed data, and the hash that was signed."""
    types = [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in TYPES[kind].split(",")]
    message = encode_typed_data(DOMAIN, {kind: types}, {one["name"]: fields[one["name"]] for one in types})
    digest = keccak(b"\x19" + message.version + message.header + message.body)
    return Account.recover_message(message, signature=signature), digest


def receipt_by(receipt: dict) -> tuple[str, bytes]:
    """The same of a receipt."""
    fields = {"model": "", "commit": "", **receipt}
    fields |= {
        "unitPrice": int(receipt["unit_price"]), "amount": int(receipt["amount"]),
        "previous": bytes.fromhex(receipt["previous"]),
    }  # fmt: skip
    return signed_by("Receipt", fields, receipt["signature"])


def root(leaves: list[bytes]) -> bytes:
    """As RFC 9162 has it."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()


def test_a_payer_has_a_chain_that_anybody_with_the_signers_address_can_check(lab: Lab, tmp_path: Path) -> None:
    signer = re.search(r"signed by (0x[0-9a-fA-F]{40})", lab.receipt("list"))[1]
    text = lab.receipt("list", "--json")
    receipts = [json.loads(line) for line in text.splitlines()]
    assert {receipt_by(receipt)[0] for receipt in receipts} == {signer}
    balance = lab.call("GET", "/v1/balance")["balances"][0]
    assert sum(int(one["amount"]) for one in receipts) == 10**22 - int(balance["total"])
    file = tmp_path / "receipts.jsonl"
    file.write_text(text)
    assert "complete" in lab.stranger(file, "--signer", signer).stdout
    refused(lab.stranger(file), "do not say who signed", "--signer")
    assert "complete" in lab.stranger(file, "--gateway", lab.gateway).stdout
    file.write_text(text.replace('"units":', '"units":1', 1))
    refused(lab.stranger(file, "--signer", signer), "was changed")
    file.write_text("no receipt\n")
    refused(lab.stranger(file, "--signer", signer), "a line is no receipt")
    file.write_text("\n")
    refused(lab.stranger(file, "--signer", signer), "there is no receipt in it")
    # A damaged file of `show` is told as one.
    file.write_text(json.dumps({"signer": signer, "receipt": {}}, indent=1))
    refused(lab.stranger(file, "--signer", signer), "it is no receipt of `show`")
    audited = lab.alephlab("audit", "ledger", "--gateway", lab.gateway, "--account", "owner")
    assert re.match(r"\d+ entries add up to what \d+ purses have", audited.stdout), audited.stderr


def test_a_third_party_finds_a_receipt_under_the_root_on_aleph(lab: Lab) -> None:
    file = lab.posted(0)
    proof = file["proof"]
    message = lab.message(proof["message"])
    # The message is signed by its poster, as all of the network's are.
    text = "\n".join([message["chain"], message["sender"], message["type"], message["item_hash"]])
    assert Account.recover_message(encode_defunct(text=text), signature=message["signature"]) == message["sender"]
    assert hashlib.sha256(message["item_content"].encode()).hexdigest() == proof["message"]
    posted = json.loads(message["item_content"])
    assert posted["type"] == "alephlab-receipts" and message["sender"] == proof["poster"] != file["signer"]
    head = posted["content"]
    fields = {
        "size": head["size"], "root": bytes.fromhex(head["root"]), "poster": proof["poster"],
        "previous": head.get("previous", ""),
    }  # fmt: skip
    assert signed_by("Head", fields, head["signature"])[0] == head["signer"] == file["signer"]
    # All receipts are the owner's here, so the whole log is known.
    leaves = [receipt_by(receipt)[1] for receipt in lab.receipts()]
    assert root(leaves[: head["size"]]).hex() == head["root"] == proof["root"]


def checked(lab: Lab, file: dict, *words: object, change: Callable[[dict], object] = lambda _: None):
    """What a stranger is told of a receipt from a file, after this change to it."""
    file = json.loads(json.dumps(file))
    change(file)
    path = lab.folder / "receipt.json"
    path.write_text(json.dumps(file))
    return lab.stranger(path, "--node", lab.node, *words)


def test_the_command_checks_a_receipt_without_an_account_and_says_what_is_wrong(lab: Lab) -> None:
    file = lab.posted(0)
    here = ("--gateway", lab.gateway)
    done = checked(lab, file, *here)
    assert done.returncode == 0, done.stderr
    for part in (f"signed by {file['signer']}", f"under the root {file['proof']['root']}", "newest root"):
        assert part in done.stdout, done.stdout
    signer = ("--signer", file["signer"])
    alone = checked(lab, file, *signer)
    assert alone.returncode == 0 and "not checked" in alone.stdout, alone.stderr
    without = checked(lab, file, *signer, change=lambda one: one.pop("proof"))
    assert without.returncode == 0 and "the file has no proof" in without.stdout, without.stderr
    # Whose key it is, a file cannot say.
    refused(checked(lab, file), f"not checked: that {file['signer']} is the key", "--signer")
    fetched = checked(lab, file, *here, change=lambda one: one.pop("proof"))
    assert f"under the root {file['proof']['root']}" in fetched.stdout, fetched.stderr
    other = f"0x{'ab' * 20}"
    for change, words, said in (
        (lambda one: one["receipt"].update(amount="1"), (), "was changed"),
        (lambda one: one["receipt"].update(version=3), (), "version 3"),
        (lambda one: one.update(signer=other), (), "not signed by"),
        (lambda _: None, ("--signer", other), f"not of {other}"),
        (lambda one: one.update(signer=other), here, f"one of {other}, not of"),
        (lambda one: one["proof"].update(poster=other), signer, f"the file says that {other} posted"),
        (lambda one: one["proof"].update(root="ab" * 32), (), "of another root"),
        (lambda one: one["proof"].update(path=["ab" * 32]), (), "does not lead"),
        (lambda one: one["proof"].update(message="ab" * 32), (), f"the node {lab.node} does not have the message"),
    ):
        refused(checked(lab, file, *words, change=change), said)
    lab.pay()
    newer = lab.posted(1)
    assert newer["proof"]["size"] == 2 and newer["proof"]["message"] != file["proof"]["message"]
    done = checked(lab, file, *here)
    assert "the newest root, of 2 receipts, continues it" in done.stdout, done.stdout + done.stderr
    # A proof under another receipt's name.
    swapped = lambda one: one.update(receipt=newer["receipt"])  # noqa: E731
    refused(checked(lab, file, change=swapped), "does not lead")
