"""What was paid, checked by others: receipts and the roots of all of them by eth_account and hashlib, and by the command without an account."""

import hashlib
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_utils import keccak

from support import ALEPHLAB, run_alephlab, wait_until
from test_cli import notebook, refused

DOMAIN = {"name": "Alephlab receipt", "version": "2"}
TYPES = {
    "Receipt": (
        "string id,address payer,address payee,string kind,string subject,string model,string commit,uint256 units,"
        "string unit,uint256 unitPrice,uint256 amount,string asset,uint256 sequence,uint256 entry,bytes32 previous,"
        "uint256 time"
    ),
    "Head": "uint256 size,bytes32 root,address poster,string previous",
}


class Lab:
    """A gateway whose kernels cost something, which posts roots as soon as there is something new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.run = {}

    def alephlab(self, *words: object) -> subprocess.CompletedProcess:
        return run_alephlab(*words, "--data", self.data)

    def stranger(self, *words: object) -> subprocess.CompletedProcess:
        """The command on another machine, where there is no account."""
        return run_alephlab("receipt", "verify", *words, "--data", self.folder / "nobody")

    def pay(self, name: str) -> None:
        """A kernel that runs for more than a second."""
        cell = "std::thread::sleep(std::time::Duration::from_millis(1500)); 6 * 7"
        (self.folder / name).mkdir()
        ran = self.alephlab("run", notebook(self.folder / name, cell))
        assert ran.returncode == 0, ran.stderr

    def receipts(self) -> list[dict]:
        return [json.loads(line) for line in self.alephlab("receipt", "list", "--json").stdout.splitlines()]

    def show(self, number: int) -> dict:
        return json.loads(self.alephlab("receipt", "show", self.receipts()[number]["id"]).stdout)

    def posted(self, number: int) -> dict:
        """A receipt as it can be handed on, once it is under a root."""
        wait_until(lambda: "proof" in self.show(number), 60, "the next root is posted")
        return self.show(number)

    def message(self, item_hash: str) -> dict:
        """What the Aleph node has under this hash."""
        with urllib.request.urlopen(f"{self.run['aleph_url']}/api/v0/messages/{item_hash}", timeout=10) as answer:
            return json.load(answer)["message"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("receipts"))
    environment = {
        **os.environ, "ALEPHLAB__GATEWAY__KERNEL_PRICE": "7200", "ALEPHLAB__RECEIPTS__POST_SECONDS": "1",
    }  # fmt: skip
    command = [ALEPHLAB, "up", "--port", "0", "--no-browser", "--data", lab.data]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
        try:
            wait_until((lab.data / "run.json").exists, 90, "up has started")
            lab.run = json.loads((lab.data / "run.json").read_text())
            yield lab
        finally:
            up.terminate()


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


def test_a_kernel_that_costs_is_paid_from_what_the_operator_gave(lab: Lab, tmp_path: Path) -> None:
    first = notebook(tmp_path, "6 * 7")
    refused(lab.alephlab("run", first), "1200 credits have to be set aside", "ask the gateway's operator")
    assert "nothing" in refused(lab.alephlab("wallet", "credit", "owner", "0"))
    assert "no amount" in lab.alephlab("wallet", "credit", "owner", "many").stderr
    given = lab.alephlab("wallet", "credit", "owner", "5000.5", "--memo", "welcome")
    assert "5000.5 credit: 5000.5 available" in given.stdout, given.stderr
    lab.pay("first")
    balance = json.loads(lab.alephlab("wallet", "balance", "owner", "--json").stdout)["balances"][0]
    spent = 5_000_500_000_000_000_000_000 - int(balance["total"])
    # Two credits a second; the kernel ran for less than a minute.
    assert 2 * 10**18 <= spent < 120 * 10**18 and balance["held"] == "0"
    statement = lab.alephlab("wallet", "statement", "owner").stdout
    assert "+5000.5 credit  welcome" in statement
    audited = lab.alephlab("audit", "ledger")
    assert re.match(r"\d+ entries add up to what \d+ purses have", audited.stdout), audited.stderr
    listed = lab.alephlab("receipt", "list")
    signer = re.search(r"signed by (0x[0-9a-fA-F]{40})", listed.stdout)[1]
    receipts = lab.receipts()
    assert sum(int(one["amount"]) for one in receipts) == spent
    assert [receipt_by(receipt)[0] for receipt in receipts] == [signer]
    file = tmp_path / "receipts.jsonl"
    text = lab.alephlab("receipt", "list", "--json").stdout
    file.write_text(text)
    assert "complete" in lab.stranger(file, "--signer", signer).stdout
    refused(lab.stranger(file), "do not say who signed", "--signer")
    file.write_text(text.replace('"units":', '"units":1', 1))
    refused(lab.stranger(file, "--signer", signer), "was changed")
    file.write_text("no receipt\n")
    refused(lab.stranger(file, "--signer", signer), "a line is no receipt")


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
    return lab.stranger(path, "--node", lab.run["aleph_url"], *words)


def test_the_command_checks_a_receipt_without_an_account_and_says_what_is_wrong(lab: Lab) -> None:
    file = lab.posted(0)
    here = ("--gateway", lab.run["gateway_url"])
    done = checked(lab, file, *here)
    assert done.returncode == 0, done.stderr
    for part in (f"signed by {file['signer']}", f"under the root {file['proof']['root']}", "newest root"):
        assert part in done.stdout, done.stdout
    alone = checked(lab, file)
    assert alone.returncode == 0 and "not checked" in alone.stdout, alone.stderr
    without = checked(lab, file, change=lambda one: one.pop("proof"))
    assert without.returncode == 0 and "the file has no proof" in without.stdout, without.stderr
    fetched = checked(lab, file, *here, change=lambda one: one.pop("proof"))
    assert f"under the root {file['proof']['root']}" in fetched.stdout, fetched.stderr
    other = f"0x{'ab' * 20}"
    for change, words, said in (
        (lambda one: one["receipt"].update(amount="1"), (), "was changed"),
        (lambda one: one["receipt"].update(version=3), (), "version 3"),
        (lambda one: one.update(signer=other), (), "not signed by"),
        (lambda _: None, ("--signer", other), f"not of {other}"),
        (lambda one: one["proof"].update(root="ab" * 32), (), "of another root"),
        (lambda one: one["proof"].update(path=["ab" * 32]), (), "does not lead"),
        (lambda one: one["proof"].update(message="ab" * 32), (), "the node does not have the message"),
    ):
        refused(checked(lab, file, *words, change=change), said)
    lab.pay("second")
    newer = lab.posted(1)
    assert newer["proof"]["size"] == 2 and newer["proof"]["message"] != file["proof"]["message"]
    done = checked(lab, file, *here)
    assert "the newest root, of 2 receipts, continues it" in done.stdout, done.stdout + done.stderr
    # A proof under another receipt's name.
    swapped = lambda one: one.update(receipt=newer["receipt"])  # noqa: E731
    refused(checked(lab, file, change=swapped), "does not lead")
