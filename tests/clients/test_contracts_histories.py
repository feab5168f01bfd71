"""The contract that pays withdrawals out, where transactions race, blocks go, and histories are random: nothing is paid twice."""

import copy
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from eth_utils import keccak

from chain import ALEPH, DAY, LIMIT, SLICE, Chain, Deployed, account, batch_id, deployed, digest
from test_contracts import REVERT, TRUE

# So many that every kind of step meets every other; the whole file stays within a minute.
HISTORIES, STEPS = 6, 40


def test_two_transactions_with_one_batch_pay_it_once(payer: Deployed) -> None:
    chain = payer.chain
    payouts = [(account("raced"), ALEPH)]
    nonce = chain.nonce(chain.operator)
    with chain.collecting():
        # A stranger copies what waits and pays ten times as much to be first.
        copied = payer.pay("raced", payouts).transact(
            {"from": chain.stranger, "gas": 1_000_000, "maxFeePerGas": 100 * 10**9, "maxPriorityFeePerGas": 100 * 10**9}
        )
        first = chain.signed(payer.pay("raced", payouts), nonce)
        second = chain.signed(payer.pay("raced", payouts), nonce + 1, fee_gwei=20)
        for raw in (first, second):
            chain.w3.eth.send_raw_transaction(raw)
        chain.mine()
    block = chain.w3.eth.get_block("latest")
    assert block["transactions"][0] == copied and len(block["transactions"]) == 3
    assert chain.w3.eth.get_transaction_receipt(copied)["status"] == 0
    assert (chain.receipt(first)["status"], chain.receipt(second)["status"]) == (1, 0)
    assert payer.has(account("raced")) == ALEPH


def test_a_replacement_with_a_higher_fee_pays_once(payer: Deployed) -> None:
    chain = payer.chain
    payouts = [(account("replaced"), ALEPH)]
    nonce = chain.nonce(chain.operator)
    with chain.collecting():
        slow = chain.signed(payer.pay("replaced", payouts), nonce)
        fast = chain.signed(payer.pay("replaced", payouts), nonce, fee_gwei=20)
        for raw in (slow, fast):
            chain.w3.eth.send_raw_transaction(raw)
        chain.mine()
    assert chain.receipt(fast)["status"] == 1
    with pytest.raises(Exception, match="not found"):
        chain.receipt(slow)
    with pytest.raises(Exception, match="nonce too low"):
        chain.w3.eth.send_raw_transaction(slow)
    assert payer.has(account("replaced")) == ALEPH


def test_with_whatever_gas_everything_is_paid_or_nothing(payer: Deployed) -> None:
    chain = payer.chain
    payouts = [(account(f"gas {i}"), ALEPH) for i in range(20)]
    enough = payer.pay("gas", payouts).estimate_gas({"from": chain.operator})
    paid = 0
    for gas in range(60_000, enough + 80_000, 40_000):
        before = chain.rpc("evm_snapshot")
        receipt = chain.send(payer.pay("gas", payouts), chain.operator, gas=gas)
        assert payer.not_paid(receipt) == []
        each = {payer.has(to) for to, _ in payouts}
        assert each == ({ALEPH} if receipt["status"] else {0})
        paid += receipt["status"]
        chain.rpc("evm_revert", before)
    assert paid > 0


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_a_batch_whose_block_goes_is_paid_once_by_the_same_bytes_or_others(payer: Deployed, depth: int) -> None:
    chain = payer.chain
    payouts = [(account(f"reorged {depth}"), ALEPH), (account("also"), 1)]
    nonce = chain.nonce(chain.operator)
    first = chain.signed(payer.pay("reorged", payouts), nonce)
    chain.w3.eth.send_raw_transaction(first)
    assert chain.w3.eth.wait_for_transaction_receipt(keccak(first), 60, 0.01)["status"] == 1
    for _ in range(depth - 1):
        chain.mine()
    chain.rpc("anvil_reorg", depth, [])
    assert payer.has(payouts[0][0]) == 0 and payer.contract.functions.digestOf(batch_id("reorged")).call() == bytes(32)
    assert payer.left() == LIMIT
    # Here one sends the old bytes again, there one with more fee; whatever is mined, it is one.
    with chain.collecting():
        for raw in (first, chain.signed(payer.pay("reorged", payouts), nonce + 1, fee_gwei=30)):
            chain.w3.eth.send_raw_transaction(raw)
        chain.mine()
    statuses = [chain.w3.eth.get_transaction_receipt(each)["status"] for each in chain.w3.eth.get_block("latest")["transactions"]]
    assert sorted(statuses) == [0, 1]
    assert payer.has(payouts[0][0]) == ALEPH
    assert payer.left() == LIMIT - ALEPH - 1


@dataclass
class Model:
    """What the contract must do, in few words of another language."""

    held: int
    limit: int = LIMIT
    paused: bool = False
    balances: dict[str, int] = field(default_factory=dict)
    batches: dict[int, bytes] = field(default_factory=dict)
    spent: list[tuple[int, int]] = field(default_factory=list)
    blocked: frozenset[str] = frozenset()

    def left(self, now: int) -> int:
        return max(0, self.limit - sum(amount for time, amount in self.spent if time // SLICE >= now // SLICE - 8))

    def pays(self, now: int, batch: int, deadline: int, payouts: list[tuple[str, int]]) -> bool:
        """Whether the batch is carried out; if so, that it was."""
        total = sum(amount for _, amount in payouts)
        if self.paused or batch in self.batches or now > deadline or not payouts or total > min(self.left(now), self.held):
            return False
        self.batches[batch] = digest(payouts)
        for to, amount in payouts:
            if to not in self.blocked:
                self.spent.append((now, amount))
                self.held -= amount
                self.balances[to] = self.balances.get(to, 0) + amount
        return True


class History:
    """A random history of one contract beside its model."""

    def __init__(self, seed: int, payer: Deployed) -> None:
        self.dice, self.payer, self.chain = random.Random(seed), payer, payer.chain
        self.people = [account(f"{seed} {i}") for i in range(12)]
        self.model = Model(held=payer.has(payer.contract.address))
        self.tried: list[tuple[int, list[tuple[str, int]]]] = []
        self.counts = dict.fromkeys(["paid", "refused", "replays", "reverts", "reorgs"], 0)

    def step(self) -> None:
        does = [self.pay, self.replay, self.block, self.pause, self.change_limit, self.fill, self.revert, self.reorg]
        # A contract that is paused or may pay nothing does little: that is seldom, and soon over.
        stopped = self.model.paused or self.model.limit == 0
        self.dice.choices(does, weights=[3, 2, 1, 6, 6, 3, 1, 1] if stopped else [14, 6, 3, 1, 1, 3, 2, 2])[0]()

    def payouts(self) -> list[tuple[str, int]]:
        most = LIMIT // self.dice.choice([3, 20, 100, 10**6])
        return [(self.dice.choice(self.people), self.dice.randrange(most)) for _ in range(self.dice.randrange(9))]

    def pay(self) -> None:
        batch = (self.dice.randrange(10**9), self.payouts())
        self.tried.append(batch)
        self.send(*batch)

    def replay(self) -> None:
        """An earlier batch, paid or not, with the same content or with another."""
        if self.tried:
            batch, payouts = self.dice.choice(self.tried)
            self.counts["replays"] += batch in self.model.batches
            self.send(batch, payouts if self.dice.random() < 0.7 else self.payouts())

    def send(self, batch: int, payouts: list[tuple[str, int]]) -> None:
        now = self.chain.now() + self.dice.choice([1, 60, 3600, 5 * 3600, DAY, 3 * DAY])
        deadline = now + self.dice.choice([-1, 0, 0, 3600])
        self.chain.at(now)
        receipt = self.chain.send(self.payer.pay(batch, payouts, deadline), self.chain.operator, gas=2_000_000)
        is_paid = self.model.pays(now, batch, deadline, payouts)
        assert receipt["status"] == is_paid
        refused = [(i, to, amount) for i, (to, amount) in enumerate(payouts) if to in self.model.blocked]
        assert self.payer.not_paid(receipt) == (refused if is_paid else [])
        self.counts["paid" if is_paid else "refused"] += 1

    def block(self) -> None:
        """Another part of the people cannot be paid from now on."""
        before, self.model.blocked = self.model.blocked, frozenset(self.dice.sample(self.people, self.dice.randrange(4)))
        for person in sorted(before ^ self.model.blocked):
            answer = REVERT if person in self.model.blocked else TRUE
            self.chain.send(self.payer.token.functions.setAnswer(person, answer), self.chain.owner)

    def pause(self) -> None:
        self.payer.owner_does("unpause" if self.model.paused else "pause")
        self.model.paused = not self.model.paused

    def change_limit(self) -> None:
        self.model.limit = self.dice.choice([LIMIT, LIMIT, LIMIT // 2, 0])
        self.payer.owner_does("setDailyLimit", self.model.limit)

    def fill(self) -> None:
        amount = self.dice.randrange(LIMIT)
        self.chain.send(self.payer.token.functions.transfer(self.payer.contract.address, amount), self.chain.owner)
        self.model.held += amount

    def revert(self) -> None:
        """The chain goes back to where it was some steps ago, as if those had never been."""
        before, model = self.chain.rpc("evm_snapshot"), copy.deepcopy(self.model)
        for _ in range(self.dice.randrange(1, 5)):
            self.dice.choice([self.pay, self.replay])()
        assert self.chain.rpc("evm_revert", before)
        self.model = model
        self.counts["reverts"] += 1

    def reorg(self) -> None:
        """The newest blocks, a transaction each, are replaced by empty ones."""
        model, depth = copy.deepcopy(self.model), self.dice.randrange(1, 5)
        for _ in range(depth):
            self.dice.choice([self.pay, self.replay])()
        self.chain.rpc("anvil_reorg", depth, [])
        self.model = model
        self.counts["reorgs"] += 1

    def check(self) -> None:
        """Everything that can be asked is as the model says, and no 24 hours saw more than the highest limit."""
        contract, balance_of, model = self.payer.contract.functions, self.payer.token.functions.balanceOf, self.model
        expected = [
            (contract.leftToday(), model.left(self.chain.now())),
            (balance_of(self.payer.contract.address), model.held),
            *((balance_of(each), model.balances.get(each, 0)) for each in self.people),
            *((contract.digestOf(batch_id(batch)), model.batches.get(batch, bytes(32))) for batch, _ in self.tried),
        ]
        with self.chain.w3.batch_requests() as asked:
            for call, _ in expected:
                asked.add(call)
            answers = asked.execute()
        assert answers == [value for _, value in expected]
        for end, _ in model.spent:
            assert sum(amount for time, amount in model.spent if end - DAY < time <= end) <= LIMIT


def test_random_histories_with_replays_limits_and_blocks_that_go_pay_nothing_twice(chain: Chain) -> None:
    total = Counter()
    for seed in range(HISTORIES):
        history = History(seed, deployed(chain, "HostileToken", filled=4 * LIMIT))
        for _ in range(STEPS):
            history.step()
            history.check()
        total.update(history.counts)
    print(f"{HISTORIES} histories of {STEPS} steps: {dict(total)}")
    assert all(total[what] > 0 for what in history.counts)
