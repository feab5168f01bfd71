"""The registry's pages in Chromium: a model is found and opened, a share is used and ended, commands are prepared; without script
where nothing needs one, at three widths, light and dark, read by axe."""

import json
import os
import re
import urllib.request
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from support import CHROMIUM, ROOT, Stack, run_alephlab

ARTIFACTS = Path(os.environ.get("ALEPHLAB_ARTIFACTS", ROOT / "target" / "test-artifacts"))
WIDTHS = [1440, 900, 390]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# How far things moved after they were shown.
SHIFTS = """window.shifted = 0;
new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shifted += entry.value; })
    .observe({ type: "layout-shift", buffered: true });"""
# Boxes whose content is cut off: sideways, and not by a scroll bar of their own.
CUT = """[...document.querySelectorAll(".card, .t-wrap, .m, .badge, .btn, .chip")]
    .filter((box) => box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "auto")
    .map((box) => `${box.className}: ${box.textContent.slice(0, 40)}`)"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


def context(browser: Browser, **options) -> BrowserContext:
    return browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})


def signed_in(opened: BrowserContext, stack: Stack) -> Page:
    page = opened.new_page()
    page.goto(f"{stack.gateway_url}/?next=/models")
    page.get_by_label("Access token").fill(stack.token)
    page.get_by_role("button", name="Sign in with token").click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    return page


def contents_of(stack: Stack, path: str) -> dict:
    request = urllib.request.Request(f"{stack.gateway_url}/api/contents/{path}")
    request.add_header("authorization", f"Bearer {stack.token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_model_is_found_read_and_opened_in_a_notebook_without_script(stack: Stack, browser: Browser) -> None:
    name, revision = stack.result["model"], stack.result["revision"]
    own = name.split("/")[1]
    page = signed_in(context(browser, java_script_enabled=False), stack)
    page.get_by_role("searchbox", name="Search models").fill(own)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^\d+ match"))
    page.get_by_role("article").locator(f'a[href="/models/{name}"]').click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(own)
    for tab, shown in [
        ("Files", "model.safetensors"),
        ("Revisions", revision[:8]),
        ("Verification", "Signed by the owner"),
        ("Use", "Who can open it"),
        ("Card", "Use this model"),
    ]:
        page.get_by_role("navigation", name="Model").get_by_role("link", name=re.compile(f"^{tab}")).click()
        expect(page.get_by_text(shown).first).to_be_visible()
    # From a page of JupyterLab, where the gateway has one; else it says where the notebook is.
    page.get_by_role("button", name="Open in notebook").first.click()
    assert re.search(rf"/lab/tree/{own}\d*\.ipynb$|\?made={own}\d*\.ipynb$", page.url), page.url
    made = re.split(r"[/=]", page.url)[-1]
    cells = "".join(str(cell["source"]) for cell in contents_of(stack, made)["content"]["cells"])
    # At its newest revision, which another test may have made.
    assert re.search(rf'pull\("{name}@[0-9a-f]{{40}}"', cells), cells


def test_who_is_not_signed_in_sees_models_and_is_asked_before_more(stack: Stack, browser: Browser) -> None:
    page = context(browser).new_page()
    page.goto(f"{stack.gateway_url}/models/{stack.result['model']}")
    page.get_by_role("link", name="Sign in to open it").first.click()
    expect(page.get_by_role("heading", name="Sign in to this gateway")).to_be_visible()
    answer = page.goto(f"{stack.gateway_url}/models/{stack.result['model']}x")
    assert answer.status == 404
    expect(page.get_by_role("heading", name="There is nothing at this address")).to_be_visible()


def test_the_token_of_a_share_link_stays_in_the_browser(stack: Stack, browser: Browser) -> None:
    uuid, token = stack.result["share_uuid"], stack.result["share_token"]
    page = context(browser).new_page()
    asked = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.post_data} {request.headers}"))
    page.goto(f"{stack.gateway_url}/m/{uuid}#t={token}")
    expect(page.get_by_text(f"HF_TOKEN={token}")).to_be_visible()
    assert page.url == f"{stack.gateway_url}/m/{uuid}"
    page.get_by_role("link", name="Models").first.click()
    page.go_back()
    assert token not in page.url and not any(token in request for request in asked)
    page.goto(f"{stack.gateway_url}/m/{uuid}#t=<b>x</b>")
    expect(page.get_by_text("HF_TOKEN=TOKEN")).to_be_visible()


def test_a_share_is_revoked_without_script_and_opens_nothing(stack: Stack, browser: Browser) -> None:
    made = run_alephlab("share", "create", stack.result["model"].split("/")[1], "--json", "--data", stack.data)
    assert made.returncode == 0, made.stderr
    share = json.loads(made.stdout)
    page = signed_in(context(browser, java_script_enabled=False), stack)
    page.goto(f"{stack.gateway_url}/shares")
    page.locator(f'a[href="/shares/{share["uuid"]}/revoke"]').click()
    expect(page.get_by_text("can keep it")).to_be_visible()
    page.get_by_role("button", name="Revoke share").click()
    expect(page.get_by_text("The share is revoked.")).to_be_visible()
    assert page.locator(f'a[href="/shares/{share["uuid"]}/revoke"]').count() == 0
    listed = run_alephlab("share", "list", "--json", "--data", stack.data)
    assert share["uuid"] not in listed.stdout


def test_a_command_is_prepared_and_copied(stack: Stack, browser: Browser) -> None:
    opened = context(browser, permissions=["clipboard-read", "clipboard-write"])
    page = opened.new_page()
    page.goto(f"{stack.gateway_url}/publish")
    page.get_by_label("Folder").fill("my models/digits")
    page.get_by_label("Tag").fill("main")
    page.get_by_role("radio", name=re.compile("^Public")).check()
    page.get_by_role("button", name="Prepare the command").click()
    expect(page.get_by_role("alert")).to_contain_text("not main")
    expect(page.get_by_label("Folder")).to_have_value("my models/digits")
    page.get_by_label("Tag").fill("v1.0")
    page.get_by_role("button", name="Prepare the command").click()
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "alephlab model publish 'my models/digits' --public --tag v1.0"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_moves_nothing_and_can_be_read_by_all(
    stack: Stack, browser: Browser, width: int, theme: str
) -> None:
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    opened = context(browser, viewport={"width": width, "height": 900}, color_scheme=theme)
    opened.add_init_script(SHIFTS)
    page = signed_in(opened, stack)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    model = f"/models/{stack.result['model']}"
    pages = {
        "models": "/models",
        "models-nothing": "/models?q=zebra&trust=verified",
        "model": model,
        "model-files": f"{model}/files",
        "model-revisions": f"{model}/revisions",
        "model-verification": f"{model}/verification",
        "model-use": f"{model}/use",
        "share": f"/m/{stack.result['share_uuid']}",
        "shares": "/shares",
        "share-new": "/shares/new",
        "publish": "/publish",
        "datasets": "/datasets",
    }
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for name, path in pages.items():
        page.goto(f"{stack.gateway_url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(CUT) == [], name
        assert page.evaluate("window.shifted") < 0.05, name
        # A picture of the whole page makes the window larger, which moves things.
        page.screenshot(path=ARTIFACTS / f"registry-{name}-{width}-{theme}.png", full_page=True)
        page.evaluate(axe)
        found = page.evaluate("(rules) => axe.run(document, { runOnly: rules })", RULES)
        told = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
        assert told == [], name
        assert said == [], name
