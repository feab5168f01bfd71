"""The contract that pays withdrawals out, on a real local chain: what it pays, what it refuses, and what a payout costs."""

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from chain import (
    ALEPH, ARTIFACTS, CONTRACTS, DAY, LIMIT, SLICE, Chain, Deployed, account, batch_id, deployed, digest, packages, refused, selector,
)  # fmt: skip

GAS_PER_PAYOUT_MAX = 30_000
# How HostileToken answers, in its order.
TRUE, NOTHING, FALSE, TWO, SHORT, REVERT, BURN_GAS, HUGE, HUGE_REVERT, NEEDS_GAS = range(10)


@pytest.fixture
def hostile(chain: Chain) -> Deployed:
    return deployed(chain, "HostileToken")


def test_the_compiler_makes_the_committed_bytecode(tmp_path: Path) -> None:
    subprocess.run(["node", packages() / "compile.mjs", CONTRACTS, tmp_path], check=True, timeout=120)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in ARTIFACTS.iterdir()}
    assert made == committed, "contracts/README.md says how the artefacts are made anew"


def test_a_batch_pays_each_account_and_is_paid_once(payer: Deployed) -> None:
    payouts = [(account("ada"), 3 * ALEPH), (account("bob"), 1), (account("ada"), ALEPH)]
    assert payer.pay("first", payouts).call({"from": payer.chain.operator}) == 0
    said = payer.batch_paid(payer.paid("first", payouts))
    assert (said["batch"], said["digest"], said["paid"], said["unpaid"]) == (
        batch_id("first"), digest(payouts), 4 * ALEPH + 1, 0,
    )  # fmt: skip
    assert payer.contract.functions.digestOf(batch_id("first")).call() == digest(payouts)
    # Neither the same content nor another.
    payer.refuses("AlreadyPaid", "first", payouts)
    payer.refuses("AlreadyPaid", "first", [(account("eve"), 1)])
    assert (payer.has(account("ada")), payer.has(account("bob")), payer.has(account("eve"))) == (4 * ALEPH, 1, 0)
    assert payer.has(payer.contract.address) == 10 * LIMIT - 4 * ALEPH - 1
    assert payer.left() == LIMIT - 4 * ALEPH - 1


def test_two_hundred_payouts_cost_at_most_30000_gas_each(payer: Deployed) -> None:
    def gas(batch: str, names: list[str]) -> float:
        amounts = random.Random(batch)
        payouts = [(account(name), amounts.randrange(ALEPH, 1000 * ALEPH)) for name in names]
        receipt = payer.paid(batch, payouts)
        assert payer.not_paid(receipt) == []
        return receipt["gasUsed"] / len(payouts)

    recipients = [f"recipient {i}" for i in range(400)]
    costs = {
        "200, all for the first time": gas("fresh", recipients[:200]),
        "200, all known to the token": gas("known", recipients[:200]),
        "200, one in two": gas("mixed", recipients[100:300]),
        "1, for the first time, in a slice that has batches": gas("one", recipients[300:301]),
        "1, known to the token": gas("one known", recipients[300:301]),
    }
    # The first batch of three hours writes a slice of the limit that was zero.
    start = (payer.chain.now() // SLICE + 2) * SLICE
    payer.chain.at(start)
    costs["1, for the first time, first of its slice"] = gas("first of its slice", recipients[301:302])
    payer.chain.at(start + SLICE)
    costs["1, known to the token, first of its slice"] = gas("known, first of its slice", recipients[301:302])
    plain = payer.chain.send(payer.token.functions.transfer(account("plain"), ALEPH), payer.chain.owner)["gasUsed"]
    costs["a plain transfer, for the first time"] = plain
    for what, each in costs.items():
        print(f"gas a payout, {what}: {each:,.0f}")
    assert costs["200, all for the first time"] <= GAS_PER_PAYOUT_MAX
    assert costs["200, all known to the token"] < costs["200, one in two"] < costs["200, all for the first time"]


def test_what_the_token_refuses_stops_no_batch_and_is_not_paid_later(hostile: Deployed) -> None:
    chain, token = hostile.chain, hostile.token
    # In this order "short", which is 31 bytes of nothing, comes behind an answer that left a 1 where answers are read.
    answers = {"nothing": NOTHING, "true": TRUE, "huge": HUGE}
    refusals = {
        "false": FALSE, "two": TWO, "short": SHORT, "revert": REVERT, "burns gas": BURN_GAS, "huge revert": HUGE_REVERT,
    }  # fmt: skip
    names = [name for pair in zip(refusals, [*answers, *answers], strict=True) for name in pair]
    for name, answer in {**answers, **refusals}.items():
        chain.send(token.functions.setAnswer(account(name), answer), chain.owner)
    payouts = [(account(name), (i + 1) * ALEPH) for i, name in enumerate(names)]
    unpaid = [(i, to, amount) for i, (to, amount) in enumerate(payouts) if names[i] in refusals]
    total_unpaid = sum(amount for _, _, amount in unpaid)
    total = sum(amount for _, amount in payouts)
    assert hostile.pay("mixed", payouts).call({"from": chain.operator}) == total_unpaid
    receipt = hostile.paid("mixed", payouts)
    assert hostile.not_paid(receipt) == unpaid
    said = hostile.batch_paid(receipt)
    assert (said["paid"], said["unpaid"]) == (total - total_unpaid, total_unpaid)
    # One that wastes what it gets costs a batch just that.
    assert receipt["gasUsed"] < 250_000 + 13 * 60_000 + 100_000
    assert hostile.has(hostile.contract.address) == 10 * LIMIT - (total - total_unpaid)
    # Later they could be paid, and are not.
    for name in refusals:
        assert hostile.has(account(name)) == 0
        chain.send(token.functions.setAnswer(account(name), TRUE), chain.owner)
    hostile.refuses("AlreadyPaid", "mixed", payouts)
    assert all(hostile.has(account(name)) == 0 for name in refusals)
    # What was refused uses no limit: it did not leave.
    assert hostile.left() == LIMIT - (total - total_unpaid)
    again = hostile.paid("another", [(to, amount) for _, to, amount in unpaid])
    assert hostile.not_paid(again) == []
    assert sum(hostile.has(account(name)) for name in refusals) == total_unpaid


def test_who_cannot_be_paid_uses_up_nobodys_limit(hostile: Deployed) -> None:
    chain = hostile.chain
    barred, other = account("barred"), account("other")
    chain.send(hostile.token.functions.setAnswer(barred, REVERT), chain.owner)
    for attempt in range(3):
        hostile.paid(f"barred {attempt}", [(barred, LIMIT // 2), (other, 1)])
    assert hostile.left() == LIMIT - 3
    hostile.paid("the rest", [(other, LIMIT - 3)])
    hostile.refuses("AboveDailyLimit", "more", [(other, 1)])


def test_what_nobody_would_have_stays_here_and_is_called_not_paid(payer: Deployed) -> None:
    contract, token = payer.contract.address, payer.token.address
    receipt = payer.paid("lost", [(contract, 5), (account("found"), 6), (token, 7)])
    assert payer.not_paid(receipt) == [(0, contract, 5), (2, token, 7)]
    assert (payer.has(contract), payer.has(account("found")), payer.has(token)) == (10 * LIMIT - 6, 6, 0)


def test_a_transfer_gets_all_its_gas_or_the_batch_reverts(hostile: Deployed) -> None:
    chain = hostile.chain
    payouts = [(account("needs gas"), 1), (account("needs gas, too"), 2)]
    for to, _ in payouts:
        chain.send(hostile.token.functions.setAnswer(to, NEEDS_GAS), chain.owner)
    outcomes = Counter()
    # From less than the first one needs to more than both do, in steps that are a tenth of what the rule of 63/64 keeps back.
    for gas in range(250_000, 800_000, 400):
        try:
            outcomes[hostile.pay("gas", payouts).call({"from": chain.operator, "gas": gas})] += 1
        except Exception as error:  # noqa: BLE001 (its own error, or that of a chain that has no gas left: both pay nobody)
            outcomes[type(error).__name__] += 1
    assert outcomes[0] > 0 and outcomes["ContractCustomError"] > 0
    assert {each for each in outcomes if isinstance(each, int)} == {0}, outcomes


def test_a_batch_that_cannot_be_paid_is_refused_whole_and_may_be_sent_again(payer: Deployed) -> None:
    chain, contract = payer.chain, payer.contract
    payouts = [(account("patient"), LIMIT // 2)]
    payer.refuses("EmptyBatch", "b", [])
    payer.refuses("Expired", "b", payouts, deadline=chain.now() - 1)
    payer.refuses("AboveDailyLimit", "b", [*payouts, (account("patient"), LIMIT // 2 + 1)])
    with pytest.raises(Exception, match="overflow|revert|panic"):
        chain.send(payer.pay("b", [(account("a"), 2**256 - 1), (account("b"), 2)]), chain.operator)
    payer.owner_does("withdraw", payer.token.address, chain.owner, 10 * LIMIT - LIMIT // 2 + 1)
    payer.refuses("NotFunded", "b", payouts)
    chain.send(payer.token.functions.transfer(contract.address, 1), chain.owner)
    chain.send(contract.functions.pause(), chain.operator)
    payer.refuses("EnforcedPause", "b", payouts)
    assert payer.has(account("patient")) == 0 and payer.left() == LIMIT
    payer.owner_does("unpause")
    # In the last second that it has.
    chain.at(last := chain.now() + 1000)
    receipt = chain.send(payer.pay("b", payouts, last), chain.operator, gas=1_000_000)
    assert receipt["status"] == 1 and chain.now() == last
    assert payer.has(account("patient")) == LIMIT // 2


def test_no_24_hours_see_more_than_the_limit(payer: Deployed) -> None:
    chain = payer.chain
    someone = account("someone")
    # A slice begins, so that the times below are what they say.
    start = (chain.now() // SLICE + 2) * SLICE
    chain.at(start)
    payer.paid("morning", [(someone, LIMIT - 10)], gas=1_000_000)
    chain.at(start + 23 * 3600)
    payer.paid("evening", [(someone, 10)], gas=1_000_000)
    payer.refuses("AboveDailyLimit", "more", [(someone, 1)])
    # Midnight changes nothing, nor does the 24th hour of the second one.
    chain.at(start + DAY)
    chain.mine()
    assert payer.left() == 0
    chain.at(start + DAY + SLICE)
    chain.mine()
    assert payer.left() == LIMIT - 10
    payer.refuses("AboveDailyLimit", "more", [(someone, LIMIT - 9)])
    payer.paid("more", [(someone, LIMIT - 10)])
    # The owner moves it, at once and both ways.
    payer.owner_does("setDailyLimit", LIMIT // 2)
    assert payer.left() == 0
    payer.owner_does("setDailyLimit", LIMIT + 5)
    assert payer.left() == 5
    payer.owner_does("setDailyLimit", 0)
    payer.refuses("AboveDailyLimit", "nothing", [(someone, 1)])


def test_each_may_do_what_is_theirs(payer: Deployed) -> None:
    chain, contract = payer.chain, payer.contract
    functions = contract.functions
    for_owner = {
        "unpause": (), "setOperator": (chain.stranger,), "setDailyLimit": (2**255,), "transferOwnership": (chain.stranger,),
        "renounceOwnership": (), "withdraw": (payer.token.address, chain.stranger, 1),
    }  # fmt: skip
    payouts = [(account("someone"), 1)]
    for sender in (chain.stranger, chain.operator):
        for name, arguments in for_owner.items():
            with refused(contract, "OwnableUnauthorizedAccount"):
                chain.send(functions[name](*arguments), sender)
        with refused(contract, "OwnableUnauthorizedAccount"):
            chain.send(functions.acceptOwnership(), sender)
    payer.refuses("NotAllowed", "b", payouts, sender=chain.stranger)
    payer.refuses("NotAllowed", "b", payouts, sender=chain.owner)
    with refused(contract, "NotAllowed"):
        chain.send(functions.pause(), chain.stranger)
    with refused(contract, "OwnerIsNeeded"):
        chain.send(functions.renounceOwnership(), chain.owner)
    # The list above is all there is to call that writes.
    writing = {one["name"] for one in contract.abi if one["type"] == "function" and one["stateMutability"] != "view"}
    assert writing | {"renounceOwnership"} == {*for_owner, "pay", "pause", "acceptOwnership"}


def test_the_contract_is_handed_over_in_two_steps_and_a_lost_operator_is_shut_out_at_once(payer: Deployed) -> None:
    chain, contract = payer.chain, payer.contract
    payouts = [(account("someone"), 1)]
    payer.owner_does("transferOwnership", chain.other)
    assert contract.functions.owner().call() == chain.owner
    payer.owner_does("setDailyLimit", LIMIT - 1)
    chain.send(contract.functions.acceptOwnership(), chain.other)
    for name, arguments in {"setDailyLimit": (1,), "withdraw": (payer.token.address, chain.owner, 1)}.items():
        with refused(contract, "OwnableUnauthorizedAccount"):
            chain.send(contract.functions[name](*arguments), chain.owner)
    # What the old operator has under way comes too late, though it was sent first.
    with chain.collecting():
        nonce = chain.nonce(chain.operator)
        change = contract.functions.setOperator(chain.stranger).transact(
            {"from": chain.other, "gas": 100_000, "maxFeePerGas": 50 * 10**9, "maxPriorityFeePerGas": 50 * 10**9}
        )
        late = chain.signed(payer.pay("late", payouts), nonce)
        chain.w3.eth.send_raw_transaction(late)
        chain.mine()
    assert chain.w3.eth.get_transaction_receipt(change)["status"] == 1
    assert chain.receipt(late)["status"] == 0
    chain.send(payer.pay("late", payouts), chain.stranger)
    assert payer.has(account("someone")) >= 1


def test_code_that_a_transfer_runs_finds_the_batch_paid_and_the_limit_used(hostile: Deployed) -> None:
    chain, token, contract = hostile.chain, hostile.token, hostile.contract
    payouts = [(account("reached"), LIMIT // 2), (account("also reached"), LIMIT // 2 - 10)]

    def call_back(call) -> None:
        chain.send(token.functions.callBack(contract.address, call._encode_transaction_data()), chain.owner)

    def answered() -> tuple[bool, str]:
        return token.functions.called().call(), "0x" + token.functions.result().call().hex()[:8]

    # As anybody, while it is paid by the operator.
    call_back(hostile.pay("first", payouts))
    hostile.paid("first", payouts)
    assert answered() == (False, selector(contract, "NotAllowed"))
    # As the operator itself, which is the worst that a token could be: the same batch, one above what is left, one that would fit.
    inner_ones = [("second", 1, "AlreadyPaid"), ("inner", 7, "AboveDailyLimit"), ("inner", 4, "TooLittleGas")]
    hostile.owner_does("setOperator", token.address)
    chain.rpc("anvil_impersonateAccount", token.address)
    chain.rpc("anvil_setBalance", token.address, hex(10**18))
    for outer, (inner, amount, error) in zip(["second", "third", "fourth"], inner_ones, strict=True):
        call_back(hostile.pay(inner, [(account("inner"), amount)]))
        receipt = chain.send(hostile.pay(outer, [(account("outer"), 2)]), token.address, gas=3_000_000)
        assert receipt["status"] == 1 and hostile.not_paid(receipt) == []
        assert answered() == (False, selector(contract, error))
    assert (hostile.has(account("inner")), hostile.has(account("outer"))) == (0, 6)
    assert hostile.left() == 4
