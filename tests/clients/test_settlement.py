"""ALEPH comes in on a real local chain, becomes compute, and goes out again, whatever happens to the gateway meanwhile."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from web3 import Web3

from chain import ALEPH, LIMIT, OPERATOR_KEY, Deployed
from support import Stack, run_alephlab, stop_stack, up, wait_until
from test_cli import notebook, refused

CONFIRMATIONS = 3
# A second of a kernel costs two credits.
KERNEL_PRICE = 7_200
RATE = 60_000


@dataclass
class Lab:
    """A gateway with a chain, whose operator has an address on it."""

    data: Path
    log: Path
    payer: Deployed
    stacks: list[Stack] = field(default_factory=list)

    def up(self) -> None:
        self.stacks.append(up(self.data, self.log))

    def kill(self) -> None:
        """As when its machine is cut off."""
        process = self.stacks[-1].process
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    def alephlab(self, *words: object):
        return run_alephlab(*words, "--data", self.data)

    def said(self, *words: object) -> dict:
        done = self.alephlab(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[0])

    def has(self, asset: str) -> int:
        balances = self.said("wallet", "balance", "owner")["balances"]
        return next((int(one["available"]) for one in balances if one["asset"] == asset), 0)

    def newest(self, kind: str) -> dict:
        return self.said("wallet", kind, "--list")

    def until(self, kind: str, state: str, mining: bool = True) -> dict:
        """Waits until the newest one is so far; blocks come meanwhile."""

        def is_so() -> bool:
            if mining:
                self.payer.chain.mine()
            return self.newest(kind)["state"] == state

        wait_until(is_so, 90, f"{kind}: {state}")
        return self.newest(kind)

    @property
    def address(self) -> str:
        return self.alephlab("wallet", "address", "owner").stdout.strip()


def on_chain(payer: Deployed, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway that is started in this folder pays from this contract, and its kernels cost something."""
    gateway = data / "gateway"
    gateway.mkdir(parents=True)
    (gateway / "payout.key").write_text(OPERATOR_KEY)
    (gateway / "payout.key").chmod(0o600)
    settings = {
        "SETTLEMENT__NODE": payer.chain.w3.provider.endpoint_uri,
        "SETTLEMENT__CHAIN_ID": payer.chain.w3.eth.chain_id,
        "SETTLEMENT__TOKEN": payer.token.address,
        "SETTLEMENT__CONTRACT": payer.contract.address,
        "SETTLEMENT__CONFIRMATIONS": CONFIRMATIONS,
        "SETTLEMENT__EVERY_SECONDS": 1,
        "SETTLEMENT__RATE": RATE,
        "GATEWAY__KERNEL_PRICE": KERNEL_PRICE,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"ALEPHLAB__{name}", str(value))


@pytest.fixture
def lab(folder: Path, payer: Deployed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    on_chain(payer, folder / "data", monkeypatch)
    made = Lab(folder / "data", folder / "up.log", payer)
    made.up()
    yield made
    stop_stack(made.stacks[-1])


def send(payer: Deployed, own: str, to: str, amount: int) -> None:
    """From somebody's own address, which gets the amount before; anvil signs for it."""
    chain, token = payer.chain, payer.token
    chain.rpc("anvil_impersonateAccount", own)
    chain.rpc("anvil_setBalance", own, hex(10**18))
    chain.send(token.functions.transfer(own, amount), chain.owner)
    chain.send(token.functions.transfer(Web3.to_checksum_address(to), amount), own)


def deposited(lab: Lab, amount: int) -> None:
    place = lab.said("wallet", "deposit")
    assert place["from"] == lab.address and place["confirmations"] == CONFIRMATIONS
    before = lab.has("aleph")
    send(lab.payer, lab.address, place["address"], amount)

    def is_there() -> bool:
        lab.payer.chain.mine()
        return lab.has("aleph") == before + amount

    wait_until(is_there, 60, "the deposit is booked")


def test_what_is_earned_buys_compute_and_the_rest_is_at_the_address(lab: Lab, tmp_path: Path) -> None:
    stands = lab.said("wallet", "settlement")
    assert stands["payout_key"] == lab.payer.chain.operator and "stopped" not in stands
    deposited(lab, 30 * ALEPH)
    # It runs for some seconds, since seconds are what is paid.
    first = notebook(tmp_path, "std::thread::sleep(std::time::Duration::from_secs(2)); 6 * 7")
    refused(lab.alephlab("run", first), "credits have to be set aside")
    assert "no way back" in lab.alephlab("wallet", "convert", 1, "--yes").stdout
    done = lab.said("wallet", "convert", 9, "--yes")
    assert (done["state"], int(done["credits"])) == ("done", 9 * RATE * ALEPH)
    assert (lab.has("credit"), lab.has("aleph")) == (10 * RATE * ALEPH, 20 * ALEPH)
    ran = lab.alephlab("run", first)
    assert ran.returncode == 0, ran.stderr
    wait_until(lambda: lab.has("credit") < 10 * RATE * ALEPH, 30, "the kernel is charged")
    # Less than the least, and more than there is.
    refused(lab.alephlab("wallet", "withdraw", 1, "--yes"), "10.00 ALEPH")
    refused(lab.alephlab("wallet", "withdraw", 21, "--yes"), "20.00 ALEPH are available")
    before = lab.payer.has(lab.address)
    asked = lab.alephlab("wallet", "withdraw", 20, "--yes")
    assert "20.00 ALEPH arrive" in asked.stdout and lab.address in asked.stdout, asked.stderr
    lab.kill()
    lab.up()
    paid = lab.until("withdraw", "paid")
    assert paid["transaction"].startswith("0x") and lab.payer.has(lab.address) == before + 20 * ALEPH
    assert lab.has("aleph") == 0
    statement = lab.alephlab("wallet", "statement", "owner").stdout
    for line in ("+30.00 ALEPH  deposit of", "-9.00 ALEPH  converted", "-20.00 ALEPH  withdrawal to"):
        assert line in statement, statement
    assert lab.said("wallet", "settlement", "--put-in", 10 * LIMIT // ALEPH)["contract"] == lab.payer.contract.address

    def is_even() -> bool:
        compared = lab.said("wallet", "settlement").get("compared", {})
        return compared.get("missing") == "0" and compared.get("unbooked") == "0"

    wait_until(is_even, 60, "tokens and books agree")


def test_a_gateway_that_is_killed_at_every_stage_pays_once(lab: Lab) -> None:
    deposited(lab, 60 * ALEPH)
    chain, before = lab.payer.chain, lab.payer.has(lab.address)
    with chain.collecting():
        lab.said("wallet", "withdraw", 60, "--yes")
        for stage in ("sent", "mined"):
            lab.until("withdraw", stage, mining=False)
            lab.kill()
            lab.up()
            if stage == "sent":
                chain.mine()
        lab.until("withdraw", "paid")
    assert lab.payer.has(lab.address) == before + 60 * ALEPH
    for _ in range(5):
        chain.mine()
        lab.kill()
        lab.up()
    assert lab.payer.has(lab.address) == before + 60 * ALEPH and lab.has("aleph") == 0
    stands = lab.said("wallet", "settlement")
    assert "stopped" not in stands and "batch" not in stands and stands["asked"] == 0


def test_credits_go_to_the_accounts_own_address_on_the_network(lab: Lab) -> None:
    deposited(lab, 3 * ALEPH)
    asked = lab.said("wallet", "convert", "2.5", "--to", "network", "--yes")
    assert int(asked["credits"]) == 150_000 * ALEPH
    sent = lab.until("convert", "seen")
    assert sent["message"] and sent["address"] == lab.address
    assert lab.has("credit") == 0 and lab.has("aleph") == ALEPH // 2


def test_a_gateway_without_a_chain_says_so(folder: Path) -> None:
    stack = up(folder / "data", folder / "up.log")
    try:
        for words in (["deposit"], ["withdraw", "10", "--yes"], ["settlement"]):
            refused(run_alephlab("wallet", *words, "--data", stack.data), "settlement.node")
        refused(run_alephlab("wallet", "convert", "1", "--yes", "--data", stack.data), "no rate")
    finally:
        stop_stack(stack)
