"""The market's pages in Chromium: a second account finds a model that costs something, pays it by its own `alephlab keys`, and opens it
in a notebook with one click; its owner sees what it brought and turns some of it into compute. Without script where nothing needs one,
at three widths, light and dark, read by axe. The same with a chain, and in JupyterLab: `test_market_shown.py`. In this module's order: each test goes on where the one before it ended."""

import json
import os
import re
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pexpect
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from hub_steps_data import CARD, safetensors
from sealed import Network
from support import ALEPHLAB, CHROMIUM, ROOT, wait_until
from test_market import give
from test_market import keys as service
from test_models_pages import CUT, RULES

ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
SECONDS = 120
WIDTHS = [1280, 768, 390]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


@dataclass
class Market:
    """A gateway with a rate of ALEPH, where one account sells and another buys."""

    network: Network
    names: list[str]

    @property
    def url(self) -> str:
        return self.network.gateway

    def token(self, account: str) -> str:
        made = self.network.run("token", "create", f"browser-{secrets.token_hex(4)}", "--scope", "admin", "--json", *self.network.as_account(account))
        return json.loads(made.stdout)["token"]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    os.environ["ALEPH_RATE"] = "52000"
    network = Network(tmp_path_factory.mktemp("market"), ("operator", "owner", "bob")).start()
    del os.environ["ALEPH_RATE"]
    names = [published(network, tmp_path_factory.mktemp(own), own, price) for own, price in (("tide-asr", "240"), ("lichen", "12.5"))]
    give(network, "bob", 100)
    # The seller's machine, without a terminal: signed terms are its consent.
    service(network, "owner")
    yield Market(network, names)
    network.stop()


def published(network: Network, folder: Path, own: str, price: str) -> str:
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors").write_bytes(safetensors(len(own), 1 << 16))
    name = network.model("owner", "publish", folder, "--name", own)["model"]
    network.model("owner", "sell", own, "--price", price)
    return name


def signed_in(market: Market, opened: BrowserContext, account: str) -> Page:
    page = opened.new_page()
    page.goto(f"{market.url}/?next=/models")
    page.get_by_label("Access token").fill(market.token(account))
    page.get_by_role("button", name="Sign in with token").click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    return page


def context(browser: Browser, **options) -> BrowserContext:
    return browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})


@pytest.fixture(scope="module")
def bob(market: Market, browser: Browser) -> Page:
    return signed_in(market, context(browser), "bob")


@pytest.fixture(scope="module")
def seller(market: Market, browser: Browser) -> Page:
    return signed_in(market, context(browser), "owner")


@contextmanager
def keys(market: Market, account: str) -> Iterator[pexpect.spawn]:
    """`alephlab keys` of an account at a terminal, as a person runs it."""
    command = ["keys", *market.network.as_account(account), "--data", str(market.network.folder / "data")]
    running = pexpect.spawn(
        str(ALEPHLAB), command, env=market.network.environment, encoding="utf-8", timeout=SECONDS, dimensions=(40, 160)
    )
    running.logfile_read = sys.stdout
    running.expect("answer http")
    yield running
    running.sendintr()
    running.expect(pexpect.EOF)


def test_prices_are_seen_and_too_little_says_what_is_missing(market: Market, bob: Page) -> None:
    bob.goto(f"{market.url}/models?sort=price")
    articles = bob.get_by_role("article")
    expect(articles).to_have_count(2)
    expect(articles.first).to_contain_text("12.50 ALEPH")
    bob.get_by_role("checkbox", name=re.compile("^100 to 1,000 ALEPH")).check()
    expect(articles).to_have_count(1)
    articles.get_by_role("link").click()
    price = bob.get_by_label("Price", exact=True)
    expect(price).to_contain_text("240.00 ALEPH")
    expect(price).to_contain_text(re.compile(r"12\.48 USD at 0\.0520 USD, \d\d:\d\d UTC"))
    expect(price).to_contain_text("operator cannot read it")
    price.get_by_role("link", name="Review and buy").click()
    expect(bob.get_by_role("heading", name="Buy this model")).to_be_visible()
    expect(bob.get_by_text("owner, 95 %")).to_be_visible()
    expect(bob.get_by_text("140.00 ALEPH", exact=True)).to_be_visible()
    expect(bob.get_by_role("button", name=re.compile("^Pay"))).to_have_count(0)
    expect(bob.get_by_role("link", name="where, and how long it takes")).to_be_visible()
    give(market.network, "bob", 400)
    bob.reload()
    expect(bob.get_by_text("260.00 ALEPH", exact=True)).to_be_visible()
    assert f"alephlab model buy {market.names[0]}@" in bob.locator("#command-text").inner_text().replace(" \\\n", "")


def test_a_file_that_is_for_sale_says_so_to_a_browser_and_to_programs(market: Market, bob: Page) -> None:
    path = f"{market.url}/{market.names[0]}/resolve/main/model.safetensors"
    answer = bob.goto(path)
    assert answer.status == 402
    expect(bob.get_by_text("402, payment needed")).to_be_visible()
    expect(bob.get_by_text("model.safetensors")).to_be_visible()
    expect(bob.get_by_text("260.00 ALEPH", exact=True)).to_be_visible()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(path, timeout=60)
    assert refused.value.status == 402 and refused.value.headers["x-error-code"] == "GatedRepo"
    assert "alephlab model buy" in json.loads(refused.value.read())["error"]
    bob.get_by_role("link", name="Review and buy").click()


def test_it_is_paid_by_the_buyers_machine_and_the_page_follows(market: Market, bob: Page) -> None:
    said: list[str] = []
    bob.on("console", lambda message: said.append(message.text))
    bob.on("pageerror", lambda error: said.append(str(error)))
    bob.get_by_role("button", name="Pay 240.00 ALEPH").click()
    expect(bob.get_by_role("heading", name="Answer on your machine")).to_be_visible()
    expect(bob.get_by_text("No machine of yours is connected.")).to_be_visible()
    with keys(market, "bob") as own:
        # What was asked for before it came.
        own.expect("wants to buy")
        own.expect(f"{market.names[0]}@")
        own.expect("240.00 ALEPH")
        own.expect("228.00 ALEPH to 0x")
        own.expect("pay")
        own.sendline("y")
        own.expect("bought")
        # The page follows without being loaded again.
        expect(bob.get_by_role("heading", name="You own tide-asr")).to_be_visible(timeout=SECONDS * 1000)
        expect(bob.get_by_text("240000000000000000000")).to_be_visible()
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        bob.screenshot(path=ARTIFACTS / "market-owned.png", full_page=True)
        assert said == []
    bob.goto(f"{market.url}/models/{market.names[0]}")
    price = bob.get_by_label("Price", exact=True)
    expect(price).to_contain_text("Bought for 240.00 ALEPH")
    price.get_by_role("link", name="Receipt").click()
    expect(bob.get_by_role("heading", name="You own tide-asr")).to_be_visible()
    # This gateway has no JupyterLab: the notebook is in the folder, and pulls what was bought.
    bob.get_by_role("button", name="Open in notebook").click()
    expect(bob.get_by_role("status").first).to_contain_text("The notebook tide-asr.ipynb is in your folder")
    order = bob.request.get(f"{market.url}/v1/orders").json()[0]["purchase"]
    notebook = bob.request.get(f"{market.url}/api/contents/tide-asr.ipynb").json()
    assert f"{market.names[0]}@{order['revision']}" in json.dumps(notebook["content"])


def test_a_no_pays_nothing_and_all_of_it_works_without_script(market: Market, browser: Browser) -> None:
    opened = context(browser, java_script_enabled=False)
    page = signed_in(market, opened, "bob")
    for ends_by in ("machine", "browser"):
        page.goto(f"{market.url}/buy/{market.names[1]}")
        page.get_by_role("button", name="Pay 12.50 ALEPH").click()
        expect(page.get_by_role("heading", name="Answer on your machine")).to_be_visible()
        if ends_by == "browser":
            page.get_by_role("button", name="Do not buy it").click()
            expect(page.get_by_text("You ended it in this browser.")).to_be_visible()
            continue
        with keys(market, "bob") as own:
            own.expect("wants to buy")
            own.expect("pay")
            own.sendline("n")
            heading = page.get_by_role("heading", name="Not bought")
            wait_until(lambda: bool(page.reload()) and heading.count() == 1, SECONDS, "the no is seen")
        expect(page.get_by_text("Nothing was paid. The person at the machine said no.")).to_be_visible()
    page.goto(f"{market.url}/receipts")
    expect(page.get_by_role("row", name=re.compile("tide-asr"))).to_have_count(1)
    expect(page.get_by_role("row", name=re.compile("lichen"))).to_have_count(0)
    page.goto(f"{market.url}/wallet")
    expect(page.get_by_text("260.00 ALEPH").first).to_be_visible()
    # No chain is set, and the page says so.
    expect(page.get_by_text("takes and pays no ALEPH")).to_be_visible()
    opened.close()


def test_the_seller_sees_what_it_brought_and_turns_aleph_into_compute(market: Market, seller: Page) -> None:
    gateway = market.url
    seller.goto(f"{gateway}/models/{market.names[0]}")
    expect(seller.get_by_role("link", name=re.compile("buy", re.IGNORECASE))).to_have_count(0)
    seller.get_by_role("link", name="Change the price").click()
    seller.get_by_label("Price of a revision").fill("300")
    seller.get_by_label("Who has a part of what you get").fill(f"{market.network.addresses['bob']}=20%")
    seller.get_by_role("button", name="Prepare the command").click()
    command = seller.locator("#command-text").inner_text()
    assert "alephlab model sell tide-asr" in command and "--price 300" in command and "=20%" in command
    expect(seller.get_by_text("57.00", exact=True)).to_be_visible()
    seller.get_by_label("Price of a revision").fill("nothing")
    seller.get_by_role("button", name="Prepare it again").click()
    expect(seller.get_by_role("alert")).to_contain_text("No command yet")
    give(market.network, "owner", 30)
    seller.get_by_role("link", name="Earnings", exact=True).click()
    pending = seller.locator(".tile", has_text="Pending")
    expect(pending).to_contain_text("228.00 ALEPH")
    expect(pending).to_contain_text("Settled from 20")
    expect(seller.get_by_role("row", name=re.compile("The key went out"))).to_contain_text("228.00 ALEPH")
    expect(seller.get_by_role("img", name="Earnings by day and model")).to_be_visible()
    expect(seller.get_by_role("row", name=re.compile("tide-asr"))).to_contain_text("228.00 ALEPH")
    spend = seller.locator("#spend")
    spend.get_by_label("Amount").fill("500")
    spend.get_by_role("button", name="Show what arrives").click()
    expect(spend.get_by_role("alert")).to_contain_text("30.00 ALEPH are available")
    spend.get_by_label("Amount").fill("10")
    spend.get_by_role("button", name="Show what arrives").click()
    spend.get_by_role("button", name="Convert 10.00 ALEPH to 0.52 USD").click()
    expect(seller.get_by_text("Converted. The credits")).to_be_visible()
    expect(seller.get_by_role("row", name=re.compile("Converted to compute"))).to_contain_text("10.00 ALEPH")
    expect(seller.locator("#withdraw")).to_contain_text("takes and pays no ALEPH")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_can_be_read_by_all(market: Market, browser: Browser, width: int, theme: str) -> None:
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    opened = {name: context(browser, viewport={"width": width, "height": 900}, color_scheme=theme) for name in ("bob", "owner")}
    pages = {name: signed_in(market, one, name) for name, one in opened.items()}
    sold, other = market.names
    orders = pages["bob"].request.get(f"{market.url}/v1/orders").json()
    order = f"/orders/{orders[0]['purchase']['order']}"
    looks = [
        ("bob", "models", "/models?price=100-1000"),
        ("bob", "model", f"/models/{other}"),
        ("bob", "model-owned", f"/models/{sold}"),
        ("owner", "model-own", f"/models/{sold}"),
        ("bob", "buy", f"/buy/{other}"),
        ("owner", "sell", f"/sell/{sold}"),
        ("bob", "order", order),
        ("owner", "order-sold", order),
        ("bob", "payment", f"/{other}/resolve/main/config.json"),
        ("owner", "earnings", "/earnings"),
        ("owner", "earnings-trouble", "/earnings?do=spend&amount=x"),
        ("owner", "earnings-quote", "/earnings?do=spend&amount=5"),
        ("bob", "earnings-none", "/earnings"),
        ("bob", "receipts", "/receipts"),
        ("owner", "wallet", "/wallet"),
    ]
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for account, name, path in looks:
        page = pages[account]
        page.goto(f"{market.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(CUT) == [], name
        page.screenshot(path=ARTIFACTS / f"market-{name}-{width}-{theme}.png", full_page=True)
        page.evaluate(axe)
        found = page.evaluate("(rules) => axe.run(document, { runOnly: rules })", RULES)
        told = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
        assert told == [], name
    for one in opened.values():
        one.close()
