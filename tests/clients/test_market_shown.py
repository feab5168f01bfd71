"""The whole market once, in two browsers with two accounts, over a local Aleph node and a local chain: the second account pays ALEPH in,
buys and uses a model, the first sees what it earned, computes with a part of it and has the rest paid out, and who has no account checks
the receipt. Both have their wallets at `alephlab keys` of their own."""

import json
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from chain import ALEPH, Deployed
from sealed import Network
from support import CHROMIUM, run_alephlab, stop_stack, up, wait_until
from test_market import keys as service
from test_market_pages import ARTIFACTS, SECONDS, Market, context, keys, signed_in
from test_models_pages import CUT, RULES
from test_settlement import on_chain, send

# Long enough for what is pending to be seen on a slow machine.
SETTLE = 75
PRICE = 240
# Of what is made from it.
CARD = "---\nlicense: mit\npipeline_tag: tabular-regression\n{more}---\n\n# {title}\n\nTwo numbers in, one out.\n"
# What the model says of 1 and 2 is 1·1 + 2·3.
PREDICT = """let weight = model.tensors(&device()?)?["line.weight"].clone();
Tensor::new(&[[1f32, 2.]], &device()?)?.matmul(&weight)?.to_vec2::<f32>()?"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


@dataclass
class Shop(Market):
    """A gateway with a chain and with JupyterLab; its operator neither buys nor sells."""

    payer: Deployed

    @property
    def of(self) -> dict[str, str]:
        return self.network.addresses

    def mining(self, done: Callable[[], bool], what: str) -> None:
        """Waits while blocks come."""

        def is_done() -> bool:
            self.payer.chain.mine()
            return done()

        wait_until(is_done, SECONDS, what)


@pytest.fixture
def shop(tmp_path: Path, payer: Deployed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    installed = run_alephlab("lab", "install", timeout=600, env={**os.environ, "PATH": path})
    assert installed.returncode == 0, installed.stderr
    network = Network(tmp_path, ("owner", "mother", "ann", "bob"))
    for name in network.names:
        network.addresses[name] = network.run("wallet", "new", name, "--no-passphrase").stdout.strip()
    on_chain(payer, network.folder / "data", monkeypatch)
    monkeypatch.setenv("ALEPHLAB__MARKET__SETTLE_SECONDS", str(SETTLE))
    monkeypatch.setenv("ALEPHLAB__RECEIPTS__POST_SECONDS", "1")
    stack = up(network.folder / "data", network.folder / "up.log")
    network.node, network.gateway = stack.aleph_url, stack.gateway_url
    base = published(network, "mother", "line", "")
    network.model("mother", "sell", "line", "--royalty", "10%")
    child = published(network, "ann", "tide", f"base_model: {base}\n")
    network.model("ann", "sell", "tide", "--price", PRICE)
    yield Shop(network, [child], payer)
    network.stop()
    stop_stack(stack)


def published(network: Network, account: str, own: str, more: str) -> str:
    folder = network.folder / own
    folder.mkdir()
    (folder / "README.md").write_text(CARD.format(more=more, title=own.capitalize()))
    weight = json.dumps({"line.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(weight)) + weight + struct.pack("<2f", 1, 3))
    return network.model(account, "publish", folder, "--name", own)["model"]


def look(page: Page, name: str) -> None:
    """The page as it stands, at two widths, light and dark: nothing is cut off, everybody can read it, and there are pictures."""
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.evaluate(axe)
    for width in (390, 1280):
        for theme in ("dark", "light"):
            page.set_viewport_size({"width": width, "height": 900})
            # Without motion: a colour that is on its way is none of ours.
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert page.evaluate(CUT) == [], name
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=ARTIFACTS / f"shown-{name}-{width}-{theme}.png", full_page=True)
            found = page.evaluate("(rules) => axe.run(document, { runOnly: rules })", RULES)
            told = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
            assert told == [], name


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile", has=page.get_by_text(name, exact=True))


def converted(page: Page, amount: str, gives: str) -> None:
    spend = page.locator("#spend")
    spend.get_by_label("Amount").fill(amount)
    spend.get_by_role("button", name=re.compile("^Show")).click()
    spend.get_by_role("button", name=f"Convert {gives}").click()
    expect(page.get_by_role("status").first).to_contain_text("Converted.")


def ask(page: Page, path: str) -> dict:
    answer = page.request.get(path)
    assert answer.ok, answer.text()
    return answer.json()


@contextmanager
def in_notebook(page: Page) -> Iterator[Page]:
    """JupyterLab, opened by the one button of the page that is there, until its kernel is stopped."""
    page.get_by_role("button", name="Open in notebook").click()
    expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text("Rust (Alephlab)", timeout=60_000)
    # JupyterLab runs nothing before it has a session, whatever is pressed.
    ready = page.locator(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator")
    expect(ready).to_have_attribute("data-status", "idle", timeout=SECONDS * 1000)
    yield page
    gateway = page.url.split("/lab")[0]
    page.goto(f"{gateway}/kernels")
    page.get_by_role("link", name=re.compile("^Stop")).click()
    page.get_by_role("button", name="Stop the kernel").click()
    expect(page.get_by_role("heading", name="Kernels")).to_be_visible()


def run_cell(page: Page, text: str) -> Locator:
    """Writes a cell at the end of the notebook and runs it; what it puts out."""
    page.locator(".jp-NotebookPanel .jp-CodeCell").last.locator(".jp-InputPrompt").click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text(text)
    page.keyboard.press("Shift+Enter")
    cells = page.locator(".jp-NotebookPanel .jp-CodeCell", has_text=text.splitlines()[0])
    return cells.locator(".jp-OutputArea-output").last


def test_a_model_is_sold_used_and_what_it_earns_is_spent_and_paid_out(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    network, name = shop.network, shop.names[0]
    bob, ann = (signed_in(shop, context(browser), account) for account in ("bob", "ann"))
    nobody_reads_it(shop, tmp_path)
    pays_in(shop, bob)
    with keys(shop, "bob") as own:
        takes_back(shop, bob, own)
        service(network, "ann")
        buys(shop, bob, own)
        sees_pending(shop, ann)
        uses(shop, bob, own)
    shop.mining(lambda: ask(ann, f"{shop.url}/v1/earnings")["earned"] != "0", "the sale is final")
    spends_and_withdraws(shop, ann)
    assert "is yours" in network.refused("ann", "buy", name, "--yes")
    mother = ask(signed_in(shop, context(browser), "mother"), f"{shop.url}/v1/earnings")
    assert [(row["kind"], row["model"], int(row["earned"])) for row in mother["rows"]] == [("royalty", name, 24 * ALEPH)]
    verified(shop, bob, tmp_path)
    signed_out(shop, bob)


def nobody_reads_it(shop: Shop, tmp_path: Path) -> None:
    """The Hub's command, without an account: our text, and nothing of the model."""
    env = {**os.environ, "HF_ENDPOINT": shop.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    hf = Path(sys.executable).with_name("hf")
    command = [hf, "download", shop.names[0], "model.safetensors", "--local-dir", tmp_path / "no"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and not (tmp_path / "no" / "model.safetensors").exists()
    assert "costs 240.00 ALEPH" in said and f"alephlab model buy {shop.names[0]}" in said, said


def pays_in(shop: Shop, bob: Page) -> None:
    bob.goto(f"{shop.url}/wallet")
    look(bob, "deposit")
    send(shop.payer, shop.of["bob"], bob.locator("#deposit-to").inner_text(), 250 * ALEPH)
    shop.mining(lambda: bool(bob.reload()) and bob.get_by_text("250.00 ALEPH").count() > 0, "the deposit is booked")
    bob.goto(f"{shop.url}/earnings")
    converted(bob, "4", "4.00 ALEPH to 0.24 USD")


def takes_back(shop: Shop, bob: Page, own) -> None:
    """The seller's machine is away: paid, and back within the day."""
    bob.goto(f"{shop.url}/models/{shop.names[0]}")
    look(bob, "model")
    bob.get_by_label("Price", exact=True).get_by_role("link", name="Review and buy").click()
    look(bob, "buy")
    bob.get_by_role("button", name="Pay 240.00 ALEPH").click()
    agrees(own)
    bob.get_by_role("button", name="Take 240.00 ALEPH back").click(timeout=SECONDS * 1000)
    expect(bob.get_by_role("heading", name="Paid back")).to_be_visible()
    look(bob, "paid-back")


def agrees(own) -> None:
    own.expect("wants to buy")
    own.expect("pay")
    own.sendline("y")


def buys(shop: Shop, bob: Page, own) -> None:
    bob.get_by_role("link", name="Review and buy again").click()
    bob.get_by_role("button", name="Pay 240.00 ALEPH").click()
    agrees(own)
    expect(bob.get_by_role("heading", name="You own tide")).to_be_visible(timeout=SECONDS * 1000)
    look(bob, "owned")


def uses(shop: Shop, bob: Page, own) -> None:
    with in_notebook(bob):
        bob.get_by_role("menuitem", name="Run", exact=True).click()
        bob.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        own.expect("wants to open")
        own.expect("allow")
        own.sendline("y")
        expect(bob.locator(".jp-OutputArea-output", has_text="line.weight")).to_be_visible(timeout=SECONDS * 1000)
        expect(run_cell(bob, PREDICT)).to_contain_text("7.0", timeout=60_000)
        bob.screenshot(path=ARTIFACTS / "shown-notebook.png")


def sees_pending(shop: Shop, ann: Page) -> None:
    # Who sells it cannot buy it.
    ann.goto(f"{shop.url}/buy/{shop.names[0]}")
    expect(ann).to_have_url(f"{shop.url}/models/{shop.names[0]}")
    ann.get_by_role("link", name="Earnings", exact=True).click()
    expect(tile(ann, "Pending")).to_contain_text("204.00 ALEPH")
    look(ann, "pending")


def spends_and_withdraws(shop: Shop, ann: Page) -> None:
    ann.goto(f"{shop.url}/earnings")
    expect(tile(ann, "Available")).to_contain_text("204.00 ALEPH")
    ann.goto(f"{shop.url}/earnings?do=spend&amount=4")
    look(ann, "convert")
    converted(ann, "4", "4.00 ALEPH to 0.24 USD")
    # What was converted pays for a kernel, by whole seconds.
    ann.goto(f"{shop.url}/models/{shop.names[0]}")
    with in_notebook(ann):
        work = "std::thread::sleep(std::time::Duration::from_secs(2)); 6 * 7"
        expect(run_cell(ann, work)).to_contain_text("42", timeout=60_000)
    wait_until(lambda: bool(ann.goto(f"{shop.url}/wallet")) and ann.get_by_role("row", name=re.compile("Kernel")).count() > 0, 60, "the charge")
    expect(ann.get_by_role("row", name=re.compile("Kernel"))).to_contain_text(re.compile(r"−0\.0000\d+ USD"))
    expect(ann.get_by_role("row", name=re.compile("Converted"))).to_have_count(2)
    look(ann, "statement")
    types_wrong(shop, ann)
    before = shop.payer.has(shop.of["ann"])
    pressed = by_keyboard(ann, "200", "Withdraw 200.00 ALEPH")
    expect(ann.get_by_role("status").first).to_contain_text("Asked.")
    look(ann, "asked")
    # Pressed again, and gone back to: there is one withdrawal.
    again = ann.request.post(f"{shop.url}/earnings/withdraw", form=pressed, headers={"Origin": shop.url})
    assert "Asked. It goes out" in again.text()
    ann.go_back()
    expect(ann.locator("#withdraw").get_by_role("alert")).to_contain_text("0.00 ALEPH are available")
    row = ann.get_by_role("row", name=re.compile("Withdrawal"))
    shop.mining(lambda: bool(ann.goto(f"{shop.url}/earnings")) and "Final" in row.inner_text(), "the withdrawal is final")
    assert shop.payer.has(shop.of["ann"]) == before + 200 * ALEPH
    for name, figure in (("Pending", "0.00"), ("Available", "0.00"), ("Paid out", "204.00")):
        expect(tile(ann, name)).to_contain_text(f"{figure} ALEPH")
    look(ann, "paid-out")


def types_wrong(shop: Shop, ann: Page) -> None:
    """What is typed stays there, with what is wrong about it."""
    for typed, said in (
        ("-5", "less than nothing"),
        ("1e5", "is no amount"),
        ("1,5", "can be read in two ways"),
        ("0.0000000000000000001", "more digits behind the point"),
        ("5", "smallest withdrawal is 10.00 ALEPH"),
        ("201", "200.00 ALEPH are available"),
    ):
        ann.goto(f"{shop.url}/earnings?do=withdraw&amount={typed}")
        field = ann.locator("#withdraw").get_by_label("Amount")
        expect(field).to_have_value(typed)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(ann.locator("#withdraw").get_by_role("alert")).to_contain_text(said)
    look(ann, "trouble")


def by_keyboard(page: Page, amount: str, button: str) -> dict[str, str]:
    """An amount and Enter, then the next buttons and Enter; what the form sends."""
    page.locator("#withdraw").get_by_label("Amount").fill(amount)
    page.keyboard.press("Enter")
    decision = page.locator("#withdraw").get_by_role("button", name=button)
    expect(decision).to_be_visible()
    look(page, "withdraw")
    sent = decision.evaluate("button => Object.fromEntries(new FormData(button.form))")
    for _ in range(4):
        page.keyboard.press("Tab")
        if decision.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    return sent


def verified(shop: Shop, bob: Page, tmp_path: Path) -> None:
    """The buyer hands the receipt to somebody who has no account, and the page's own command checks it."""
    bob.goto(f"{shop.url}/receipts")
    bob.get_by_role("link", name=re.compile("tide")).first.click()
    bob.get_by_role("link", name=re.compile("The signed receipt")).click()
    look(bob, "receipt")
    with bob.expect_download() as download:
        bob.get_by_role("link", name="Download").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    said = shlex.split(bob.locator("#rv").inner_text().replace("\\\n", ""))
    assert said[:4] == ["alephlab", "receipt", "verify", file.name]
    done = run_alephlab("receipt", "verify", file, *said[4:], "--data", tmp_path / "nobody")
    assert done.returncode == 0, done.stderr
    assert "paid 240.00 ALEPH" in done.stdout and "on Aleph: receipt" in done.stdout and "not checked" not in done.stdout
    file.write_text(file.read_text().replace(f'"{PRICE * ALEPH}"', f'"{PRICE * ALEPH + 1}"'))
    assert run_alephlab("receipt", "verify", file, *said[4:], "--data", tmp_path / "nobody").returncode != 0


def signed_out(shop: Shop, bob: Page) -> None:
    """A form of a session that has ended meanwhile does nothing, and says what to do."""
    had = ask(bob, f"{shop.url}/v1/balance")
    bob.goto(f"{shop.url}/earnings?do=spend&amount=1")
    other = bob.context.new_page()
    other.goto(f"{shop.url}/settings")
    other.get_by_role("button", name="Sign out", exact=True).click()
    bob.locator("#spend").get_by_role("button", name="Convert 1.00 ALEPH").click()
    expect(bob.get_by_role("alert")).to_contain_text("You were signed out meanwhile.")
    look(bob, "signed-out")
    bob.get_by_label("Access token").fill(shop.token("bob"))
    bob.get_by_role("button", name="Sign in with token").click()
    expect(bob).to_have_url(f"{shop.url}/earnings")
    assert ask(bob, f"{shop.url}/v1/balance") == had
    bob.goto(f"{shop.url}/nowhere")
    expect(bob.get_by_role("heading", name="There is nothing at this address")).to_be_visible()
    look(bob, "nowhere")
