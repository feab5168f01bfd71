"""Models that are sold between accounts by the command: a price, a purchase, the key from the seller's machine, and money back."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_steps_data import CARD, safetensors
from sealed import Network
from support import ALEPHLAB, wait_until
from test_model import ask, files
from test_private import gateway

# Long enough for a purchase and a refund on a slow machine, and for a test to wait for the end of one.
SETTLE = 45


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    os.environ["SETTLE_SECONDS"] = str(SETTLE)
    names = ("operator", "mother", "seller", "buyer", "third")
    running = Network(tmp_path_factory.mktemp("network"), names).start()
    del os.environ["SETTLE_SECONDS"]
    for name in ("buyer", "seller"):
        give(running, name, 1000)
    yield running
    running.stop()


def give(network: Network, to: str, amount: int) -> None:
    os.environ["ALEPHLAB__ACCOUNT__NAME"] = "operator"
    network.run("wallet", "credit", to, amount, "--asset", "aleph", "--gateway", network.gateway)
    del os.environ["ALEPHLAB__ACCOUNT__NAME"]


def aleph(network: Network, account: str) -> float:
    done = network.run("wallet", "balance", account, "--gateway", network.gateway, "--json")
    balances = json.loads(done.stdout)["balances"]
    return sum(int(one["available"]) for one in balances if one["asset"] == "aleph") / 10**18


def keys(network: Network, account: str) -> subprocess.Popen[str]:
    """`alephlab keys` of an account, as a service without a terminal runs it."""
    with (network.folder / f"keys-{account}.log").open("ab") as log:
        process = subprocess.Popen(
            [ALEPHLAB, "keys", *network.as_account(account), "--data", network.folder / "data"],
            env=network.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True,
        )  # fmt: skip
    network.processes.append(process)
    return process


def published(network: Network, account: str, folder: Path, name: str, more: str = "") -> dict:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD.replace("license: mit\n", f"license: mit\n{more}"))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors").write_bytes(safetensors(3, 1 << 20))
    return network.model(account, "publish", folder, "--name", name)


def test_a_model_is_bought_and_its_key_comes_from_the_sellers_machine(network: Network, tmp_path: Path) -> None:
    base = published(network, "mother", tmp_path / "base", "base")
    network.model("mother", "sell", "base", "--royalty", "10%")
    name = f"{network.addresses['seller']}/tuned"
    first = published(network, "seller", tmp_path / "tuned", "tuned", f"base_model: {base['model']}\n")
    assert "not for sale" in network.refused("buyer", "buy", name, "--yes")
    sold = network.model("seller", "sell", "tuned", "--price", "240")
    assert sold["terms"]["price"] == str(240 * 10**18) and not sold["unchanged"]
    assert network.model("seller", "sell", "tuned", "--price", "240")["unchanged"]
    shown = network.run("model", "show", name, *network.as_account("buyer")).stdout
    assert "price      240.00 ALEPH" in shown
    listed = network.run("model", "ls", "--all", *network.as_account("buyer")).stdout
    assert "240.00 ALEPH" in listed
    # Nobody reads it without paying: by the command, at the gateway, at a hub.
    said = network.refused("third", "pull", name, "--to", tmp_path / "no")
    assert "costs 240.00 ALEPH" in said and f"alephlab model buy {name}" in said
    path = f"/{name}/resolve/main/config.json"
    status, headers, body = gateway(network, path)
    assert (status, headers["x-error-code"]) == (402, "GatedRepo")
    assert f"alephlab model buy {name}" in json.loads(body)["error"]
    hub = network.hub("third")
    status, headers, _ = ask(hub, "GET", path, hub.token)
    assert (status, headers["x-error-code"]) == (402, "GatedRepo")
    # Who sells it, and who cannot pay it.
    assert "is yours" in network.refused("seller", "buy", name, "--yes")
    said = network.refused("third", "buy", name, "--yes")
    assert "it costs 240.00 ALEPH, and 0.00 ALEPH are available" in said and "wallet deposit" in said
    assert "--max is 100.00 ALEPH" in network.refused("buyer", "buy", name, "--yes", "--max", "100")
    assert "add --yes" in network.refused("buyer", "buy", name)
    assert aleph(network, "buyer") == 1000
    # The seller's machine is away: paid, and taken back.
    said = network.refused("buyer", "buy", name, "--yes", "--wait", "1")
    assert "goes back by itself" in said and aleph(network, "buyer") == 760
    order = json.loads(network.run("model", "orders", "--json", *network.as_account("buyer")).stdout)
    assert order["state"] == "paid" and not order["claimed"]
    id = order["purchase"]["order"]
    assert network.model("buyer", "refund", id)["state"] == "refunded" and aleph(network, "buyer") == 1000
    # Bought again, and the seller's machine comes while the buyer waits.
    network.refused("buyer", "buy", name, "--yes", "--wait", "1")
    running = keys(network, "seller")
    bought = network.run("model", "buy", name, "--yes", "--json", *network.as_account("buyer"))
    order = json.loads(bought.stdout.splitlines()[-1])["order"]
    assert order["state"] in ("released", "final") and aleph(network, "buyer") == 760, "paid once"
    got = network.model("buyer", "pull", name, "--to", tmp_path / "bought")
    assert got["by"] == "bought" and files(tmp_path / "bought") == files(tmp_path / "tuned")
    hub = network.hub("buyer")
    assert ask(hub, "GET", path, hub.token)[2] == (tmp_path / "tuned" / "config.json").read_bytes()
    assert "has gone out" in network.refused("buyer", "refund", order["purchase"]["order"])
    # What was bought is one revision.
    (tmp_path / "tuned" / "config.json").write_text("{}")
    second = network.model("seller", "publish", tmp_path / "tuned", "--name", "tuned")
    assert "costs 240.00 ALEPH" in network.refused("buyer", "pull", name, "--to", tmp_path / "later")
    again = network.model("buyer", "pull", f"{name}@{first['revision']}", "--to", tmp_path / "again")
    assert again["revision"] == first["revision"] != second["revision"]
    # Final: seller and mother can spend it, and see what it was.
    wait_until(lambda: aleph(network, "seller") == 1204, 3 * SETTLE, "the sale is not final")
    assert aleph(network, "mother") == 24
    earned = json.loads(network.run("model", "earnings", "--json", *network.as_account("mother")).stdout)
    assert [(row["kind"], int(row["earned"])) for row in earned["rows"]] == [("royalty", 24 * 10**18)]
    sales = network.run("model", "orders", "--sold", "--json", *network.as_account("seller")).stdout
    assert sorted(json.loads(line)["state"] for line in sales.splitlines()) == ["final", "refunded"]
    log = (network.folder / "keys-seller.log").read_text()
    assert log.count(f"sold {name}@{first['revision']}") == 1
    running.terminate()
    running.wait(30)


def test_a_price_that_changed_is_not_paid_and_a_stopped_sale_is_over(network: Network, tmp_path: Path) -> None:
    published(network, "seller", tmp_path / "stopped", "stopped")
    name = f"{network.addresses['seller']}/stopped"
    network.model("seller", "sell", "stopped", "--price", "0.5", "--split", f"{network.addresses['third']}=20%")
    give(network, "third", 10)
    assert "paid by its own purchase" in network.refused("third", "buy", name, "--yes")
    network.refused("buyer", "buy", name, "--yes", "--wait", "1")
    # The seller asks more from now on; who paid before is let in at the price that was asked then.
    network.model("seller", "sell", "stopped", "--price", "900")
    running = keys(network, "seller")
    network.run("model", "buy", name, "--yes", *network.as_account("buyer"))
    network.model("seller", "sell", "stopped", "--stop")
    assert "not for sale" in network.refused("third", "buy", name, "--yes")
    assert network.model("buyer", "pull", name, "--to", tmp_path / "mine")["by"] == "bought"
    network.model("seller", "publish", tmp_path / "stopped", "--name", "open", "--public")
    said = network.refused("seller", "sell", "open", "--price", "1")
    assert "public: anyone can read it" in said and "hint: " in said
    running.terminate()
    running.wait(30)


def test_a_deposited_key_is_given_at_once_as_a_share(network: Network, tmp_path: Path) -> None:
    first = published(network, "seller", tmp_path / "kept", "kept")
    name = f"{network.addresses['seller']}/kept"
    said = network.run("model", "sell", "kept", "--price", "12.5", "--release", "deposit", *network.as_account("seller"))
    assert "its operator can read it" in said.stdout
    before = aleph(network, "buyer")
    # No machine of the seller runs.
    done = network.run("model", "buy", name, "--yes", "--json", *network.as_account("buyer"))
    assert "its operator can read this model" in done.stderr
    bought = json.loads(done.stdout.splitlines()[-1])
    assert bought["order"]["state"] == "released" and aleph(network, "buyer") == before - 12.5
    got = network.model("buyer", "pull", bought["share"], "--to", tmp_path / "bought")
    assert (got["by"], got["revision"]) == ("share", first["revision"])
    assert files(tmp_path / "bought") == files(tmp_path / "kept")
    # A token that was lost: the same command gives another one, and takes nothing.
    kept = network.folder / "data" / "accounts" / "buyer" / "shares.json"
    token = json.loads(kept.read_text())[bought["share"]]
    again = network.model("buyer", "buy", name, "--yes")
    assert again["share"] == bought["share"] and aleph(network, "buyer") == before - 12.5
    assert token != json.loads(kept.read_text())[bought["share"]]
    for bearer, status in ((token, 401), (json.loads(kept.read_text())[bought["share"]], 200)):
        assert gateway(network, f"/m/{bought['share']}/resolve/main/config.json", bearer)[0] == status
    # The seller cannot end what a buyer has; the next revision is not deposited by itself.
    assert "has no such share" in network.refused("seller", "revoke", bought["share"])
    (tmp_path / "kept" / "config.json").write_text("{}")
    network.model("seller", "publish", tmp_path / "kept", "--name", "kept")
    assert "not deposited here" in network.refused("buyer", "buy", name, "--yes")
    network.model("seller", "sell", "kept", "--stop")
    assert "not for sale" in network.refused("third", "buy", f"{name}@{first['revision']}", "--yes")
